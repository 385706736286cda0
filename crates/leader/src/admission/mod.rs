//! From what a user asks to one transaction: resolved, checked, all or nothing.
//!
//! **Invariant:** pure. Everything is decided on one view of the state; preconditions make the transaction fail if what it was
//! decided on has changed, and the caller then decides again on a newer view.

mod apply;
mod cron;
mod data;
mod diff;
mod images;
mod ingress;
mod network;
mod operate;
mod steer;

use gantry_env::Env;
use gantry_state::{NewEvent, Op, Precondition, State, Transaction};

pub use apply::{apply, delete};
pub use cron::{SteerCron, steer_cron};
pub use operate::{ServiceEdit, edit_service, rollback, scale};
pub use steer::{Steer, steer};

/// What one service, config or secret goes through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Created, updated, deleted or unchanged.
    pub action: Action,
    /// `service`, `config` or `secret`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// One line per changed field.
    pub details: Vec<String>,
    /// Whether replicas are replaced.
    pub rollout: bool,
}

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Create,
    /// It changes.
    Update,
    /// It goes.
    Delete,
    /// It stays as it is.
    Unchanged,
}

/// A decision: what to write, and what that means to a person.
#[derive(Debug)]
pub struct Decision {
    /// What to write; without operations there is nothing to do.
    pub transaction: Transaction,
    /// In order: configs, secrets, services.
    pub changes: Vec<Change>,
}

/// Collects a transaction while decisions are made.
pub(crate) struct Draft<'a> {
    pub(crate) state: &'a State,
    pub(crate) env: &'a dyn Env,
    pub(crate) require: Vec<Precondition>,
    pub(crate) ops: Vec<Op>,
    pub(crate) changes: Vec<Change>,
    pub(crate) network: network::Addresses,
    pub(crate) ingress: ingress::Taken,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(state: &'a State, env: &'a dyn Env) -> Self {
        Self {
            state,
            env,
            require: Vec::new(),
            ops: Vec::new(),
            changes: Vec::new(),
            network: network::Addresses::of(state),
            ingress: ingress::Taken::of(state),
        }
    }

    pub(crate) fn record(&mut self, object: String, kind: &str, message: String) {
        self.ops.push(Op::Record(NewEvent::new(object, kind, message)));
    }

    pub(crate) fn finish(self) -> Decision {
        Decision {
            transaction: Transaction {
                at: self.env.now(),
                require: self.require,
                ops: self.ops,
            },
            changes: self.changes,
        }
    }
}
