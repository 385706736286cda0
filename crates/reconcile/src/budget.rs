//! How many replicas may be away for the cluster's own reasons: `x-gantry: {disruption: {max_unavailable}}`.
//!
//! What counts is slots without a replica that serves, whatever the reason. A drain or rollout that starts the successor first
//! takes nothing from the budget; one that has to stop the old replica first does.
//!
//! **Invariant:** a plan takes no replica out of service by which fewer slots would serve than the budget leaves, unless a person
//! asked for it (scaling in, deleting) or it cannot be helped (its node is gone).

use std::collections::BTreeSet;

use gantry_model::object::{NodeStatus, Replica, Service, Slot};
use gantry_model::spec::UpdateOrder;
use gantry_state::State;

use crate::plan::{Wanted, wanted};

/// How a service stands against its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Slots that should serve.
    pub(crate) wanted: u32,
    /// So many of them may be away.
    pub(crate) allowed: u32,
    /// So many serve.
    pub(crate) serving: u32,
}

impl Budget {
    /// The budget of a service that has one.
    pub(crate) fn of(state: &State, service: &Service) -> Option<Self> {
        let budget = service.spec.placement.max_unavailable?;
        if service.spec.mode.is_job() {
            return None;
        }
        let Wanted { slots, .. } = wanted(state, service);
        let serves = |one: &&Replica| slots.contains(&one.slot) && serves(state, one);
        let own = state.replicas_of(service.id).filter(serves);
        let serving: BTreeSet<Slot> = own.map(|one| one.slot).collect();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let wanted = count(slots.len());
        let exclusive = service.spec.stateful.is_some_and(|stateful| stateful.exclusive);
        Some(Self {
            wanted,
            // An exclusive replica has no other beside it: with nothing allowed it could never be replaced.
            allowed: budget.of(wanted).max(u32::from(exclusive)),
            serving: count(serving.len()),
        })
    }

    /// How many more may go now.
    pub(crate) const fn left(self) -> u32 {
        self.serving.saturating_sub(self.wanted.saturating_sub(self.allowed))
    }
}

/// Where no replica may be away, the new one starts first.
pub(crate) const fn order(budget: Option<Budget>, order: UpdateOrder) -> UpdateOrder {
    match budget {
        Some(Budget { allowed: 0, .. }) => UpdateOrder::StartFirst,
        Some(_) | None => order,
    }
}

/// It gets traffic, and its node is there to answer.
pub(crate) fn serves(state: &State, replica: &Replica) -> bool {
    let node = replica.node.and_then(|node| state.node(node));
    replica.is_endpoint() && node.is_some_and(|node| node.status == NodeStatus::Ready)
}

/// What the budget holds up, for people; nothing while it lets another replica go.
pub(crate) fn exhausted(state: &State, service: &Service) -> Option<String> {
    let budget = Budget::of(state, service).filter(|budget| budget.left() == 0)?;
    Some(format!(
        "its disruption budget lets {} of {} replicas be away, and {} serve",
        budget.allowed, budget.wanted, budget.serving
    ))
}
