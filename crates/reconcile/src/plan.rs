//! The way in: a view of the cluster, and the plan for one service.

use std::collections::BTreeSet;

use gantry_model::object::{Replica, Service, Slot};
use gantry_model::spec::Mode;
use gantry_model::{ReplicaId, ServiceId, Timestamp};
use gantry_scheduler::Request;
use gantry_state::{Op, Precondition, State};

use crate::draft::Draft;
use crate::{cron, delete, drain, global, job, reap, replicated, stage, standing};

/// What the nodes that route traffic have acknowledged; the leader's memory.
pub trait Acks {
    /// Whether every live node has acknowledged endpoints without this replica. False when in doubt, as after a change of leader.
    fn drained(&self, replica: &Replica) -> bool;
}

/// What a plan is made from.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The replicated state.
    pub state: &'a State,
    /// The leader's wall clock.
    pub now: Timestamp,
    /// Acknowledged endpoints.
    pub acks: &'a dyn Acks,
}

/// What to do for one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Must still hold when the operations are applied: the service has not been changed meanwhile.
    pub require: Vec<Precondition>,
    /// To be done in this order.
    pub ops: Vec<Op>,
    /// Replicas that need a node, among them those that `ops` creates; to be placed in the same transaction.
    pub place: Vec<Request>,
    /// Look again then, if nothing changes before.
    pub wake_at: Option<Timestamp>,
}

impl ServicePlan {
    /// Whether there is nothing to do and nothing to place.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.place.is_empty()
    }
}

/// Plans the next steps of a service; `ids` makes fresh ids. A service that does not exist has an empty plan.
///
/// To be called again after any change of the service, its replicas, its dependencies (see [`crate::dependants`]) or its nodes,
/// after new acknowledgements while a replica drains, and at `wake_at`.
pub fn reconcile(view: &View<'_>, service: ServiceId, ids: &mut dyn FnMut() -> ReplicaId) -> ServicePlan {
    let Some(service) = view.state.service(service) else {
        return ServicePlan::default();
    };
    let mut draft = Draft::new(view, service, ids);
    if service.deleting {
        delete::delete(&mut draft);
        return draft.finish_plan();
    }
    // What was on a removed node is marked lost first; the next plan, made from that, replaces it.
    if standing::mark_lost(&mut draft) {
        draft.wake(view.now);
        return draft.finish_plan();
    }
    let wanted = wanted(view.state, service);
    match service.spec.mode {
        Mode::Replicated { .. } | Mode::Global => replicated::settle_all(&mut draft, &wanted),
        Mode::ReplicatedJob { .. } | Mode::GlobalJob if let Some(cron) = &service.spec.cron => {
            cron::run(&mut draft, cron);
            job::complete_rollout(&mut draft, &wanted);
        }
        Mode::ReplicatedJob { .. } | Mode::GlobalJob => job::run_all(&mut draft, &wanted),
    }
    stage::admit(&mut draft);
    replicated::dismiss_unwanted(&mut draft, &wanted);
    drain::finish_drained(&mut draft, &wanted);
    reap::reap(&mut draft, &wanted);
    draft.place_pending();
    draft.finish_plan()
}

/// The slots a service should fill, and those to leave as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// To be filled.
    pub(crate) slots: BTreeSet<Slot>,
    /// Slots of nodes that are down or paused: what is there stays.
    pub(crate) left_alone: BTreeSet<Slot>,
}

impl Wanted {
    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.slots.contains(&slot) || self.left_alone.contains(&slot)
    }
}

/// The slots of a service by its mode; a cron job has none of its own.
pub(crate) fn wanted(state: &State, service: &Service) -> Wanted {
    if service.spec.cron.is_some() {
        return Wanted::default();
    }
    match service.spec.mode {
        Mode::Replicated { replicas } => replicated::slots(replicas),
        Mode::ReplicatedJob { completions, .. } => replicated::slots(completions),
        Mode::Global | Mode::GlobalJob => global::slots(state, service),
    }
}
