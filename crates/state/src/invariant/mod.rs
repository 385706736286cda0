//! What must be true after every transaction, checked in debug builds, by tests and by the simulator.
//!
//! One promise per file. [`State::violations_of`] looks at what a transaction changed, [`State::violations`] at everything that is
//! stored, [`State::crowding`] at one node.

mod address;
mod capacity;
mod placement;
mod port;
mod rank;
mod revision;

use std::fmt;

use gantry_model::NodeId;
use gantry_model::object::Replica;

use crate::{Change, Object, State};

/// A broken promise: a defect of Gantry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What is wrong with which object.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

/// Collects violations.
#[derive(Default)]
pub(crate) struct Findings(Vec<Violation>);

impl Findings {
    pub(crate) fn add(&mut self, message: String) {
        self.0.push(Violation { message });
    }

    pub(crate) fn require(&mut self, holds: bool, replica: &Replica, what: &str) {
        if !holds {
            self.add(format!("{} ({}): {what}", replica.object(), replica.id));
        }
    }
}

impl State {
    /// The invariants broken by `changes`; empty when all hold. Costs what the changes cost, not what the state holds.
    #[must_use]
    pub fn violations_of(&self, changes: &[Change]) -> Vec<Violation> {
        let mut findings = Findings::default();
        for change in changes {
            if let (Some(before), Some(after)) = (&change.before, &change.after)
                && let (Object::Replica(before), Object::Replica(after)) = (before.as_ref(), after.as_ref())
            {
                rank::check(before, after, &mut findings);
                placement::check(before, after, &mut findings);
            }
        }
        findings.0
    }

    /// The invariants of the whole state, for tests and for a state that was just loaded.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let mut findings = Findings::default();
        address::check(self, &mut findings);
        revision::check(self, &mut findings);
        findings.0
    }

    /// What a node was given beyond what it has: processor time, memory, other resources, ports of its own.
    ///
    /// It holds for whatever the leader places; not for states made up by tests, nor after a machine came back smaller than it was.
    #[must_use]
    pub fn crowding(&self, node: NodeId) -> Vec<Violation> {
        let mut findings = Findings::default();
        capacity::check(self, node, &mut findings);
        port::check(self, node, &mut findings);
        findings.0
    }
}
