//! From drained to stopped: once no node routes to a replica any more, it may stop.

use gantry_model::object::Replica;
use gantry_model::phase::{Desired, Phase};

use crate::draft::{Draft, Fate};
use crate::plan::Wanted;
use crate::standing::node_is_live;

/// Stops replicas that no traffic can reach any more.
pub(crate) fn finish_drained(draft: &mut Draft<'_>, wanted: &Wanted) {
    for replica in draft.replicas() {
        if replica.desired != Desired::Drain || !is_drained(draft, replica) {
            continue;
        }
        let fate = if wanted.contains(replica.slot) {
            Fate::Stop
        } else {
            Fate::Remove
        };
        draft.end(replica, &replica.desired_reason, fate);
    }
}

/// Acknowledged by all, or out of reach of traffic anyway.
fn is_drained(draft: &Draft<'_>, replica: &Replica) -> bool {
    let serves = replica.observed.ready && replica.observed.phase == Phase::Running;
    !serves || !node_is_live(draft.view, replica) || draft.view.acks.drained(replica)
}
