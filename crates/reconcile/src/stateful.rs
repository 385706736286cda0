//! Slots that come one after the other.
//!
//! **Invariant:** with ordered start, no slot is filled for the first time before all lower ones serve, and none is dismissed
//! before all higher ones are gone. A slot that was filled before is filled again at once: the others depend on it, not on the
//! order in which nodes fail.

use gantry_model::object::{Replica, Service, Slot};
use gantry_model::spec::StartOrder;

use crate::draft::Draft;

/// Whether the service's slots start one after the other.
pub(crate) fn is_ordered(service: &Service) -> bool {
    let stateful = service.spec.stateful;
    stateful.is_some_and(|stateful| stateful.start == StartOrder::Ordered)
}

/// Whether it is the slot's turn: it was filled before, or all lower ones serve.
pub(crate) fn may_fill(draft: &Draft<'_>, slot: Slot, slots: &[Slot]) -> bool {
    if !is_ordered(draft.service) || draft.slots.contains_key(&slot) {
        return true;
    }
    let mut lower = slots.iter().filter(|other| **other < slot);
    lower.all(|other| draft.slot(*other).iter().any(|one| one.is_endpoint()))
}

/// Whether a replica of a slot that is not wanted any more may go: no higher slot holds anything.
pub(crate) fn may_dismiss(draft: &Draft<'_>, replica: &Replica) -> bool {
    if !is_ordered(draft.service) {
        return true;
    }
    let mut higher = draft
        .slots
        .range(replica.slot..)
        .filter(|(slot, _)| **slot > replica.slot);
    !higher.any(|(_, replicas)| replicas.iter().any(|one| one.is_active() || one.holds_resources()))
}
