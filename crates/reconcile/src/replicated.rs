//! Services of n replicas: slots 1 to n, the highest go first when there are fewer.

use std::collections::BTreeSet;

use gantry_model::object::Slot;
use gantry_model::phase::Desired;

use crate::draft::{Draft, Fate};
use crate::plan::Wanted;
use crate::{rollout, slot, stateful};

/// Slots 1 to `count`.
pub(crate) fn slots(count: u32) -> Wanted {
    Wanted {
        slots: (1..=count).map(Slot::Index).collect(),
        left_alone: BTreeSet::new(),
    }
}

/// Brings every wanted slot closer to what the rollout wants of it.
pub(crate) fn settle_all(draft: &mut Draft<'_>, wanted: &Wanted) {
    let slots: Vec<Slot> = wanted.slots.iter().copied().collect();
    for (slot, goal) in rollout::goals(draft, &slots) {
        if stateful::may_fill(draft, slot, &slots) {
            slot::settle(draft, slot, goal);
        }
    }
}

/// Takes down what fills slots that are not wanted any more, and forgets their history.
pub(crate) fn dismiss_unwanted(draft: &mut Draft<'_>, wanted: &Wanted) {
    for replica in draft.replicas() {
        if wanted.contains(replica.slot) {
            continue;
        }
        let reason = match replica.slot {
            Slot::Index(_) => "scaled in",
            Slot::Node(_) => "its node does not run this service any more",
        };
        if replica.is_active() && !stateful::may_dismiss(draft, replica) {
            continue;
        }
        if replica.is_active() {
            draft.retire(replica, reason, Fate::Remove);
        } else if replica.desired != Desired::Drain {
            draft.end(replica, reason, Fate::Remove);
        }
    }
}
