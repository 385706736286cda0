//! From drained to stopped: once no node routes to a replica any more, it may stop.

use gantry_model::object::Replica;
use gantry_model::phase::Desired;

use crate::draft::{Draft, Fate};
use crate::plan::Wanted;

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

/// Acknowledged by all, or ended by itself.
///
/// Neither a report that it is not ready nor the loss of its node is enough: a node that has not heard of that routes to it
/// still, its connections are to be drained, and a node that comes back is told at once what was decided meanwhile.
fn is_drained(draft: &Draft<'_>, replica: &Replica) -> bool {
    replica.observed.phase.is_terminal() || draft.view.acks.drained(replica)
}
