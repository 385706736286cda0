//! The end of a service: its replicas, then its revisions and its record.

use gantry_model::object::{NodeStatus, Replica};
use gantry_model::phase::Desired;
use gantry_state::{Key, Op};

use crate::draft::{Draft, Fate};
use crate::{cron, reap};

/// Removes all replicas; once there are none, the service.
pub(crate) fn delete(draft: &mut Draft<'_>) {
    for run in cron::runs(draft.view.state, draft.service) {
        cron::delete(draft, &run);
    }
    if draft.slots.is_empty() {
        forget_service(draft);
        return;
    }
    for replica in draft.replicas() {
        if on_absent_node(draft, replica) && replica.desired == Desired::Remove {
            // A node that comes back ends whatever the leader does not list; nobody should wait for it.
            draft.forget(replica);
        } else {
            draft.end(replica, "service deleted", Fate::Remove);
        }
    }
    reap::reap_orphans(draft);
}

fn on_absent_node(draft: &Draft<'_>, replica: &Replica) -> bool {
    let node = replica.node.map(|id| draft.view.state.node(id));
    node.is_some_and(|node| node.is_none_or(|node| node.status == NodeStatus::Down))
}

fn forget_service(draft: &mut Draft<'_>) {
    let revisions: Vec<u32> = draft
        .view
        .state
        .revisions_of(draft.service.id)
        .map(|one| one.number)
        .collect();
    draft.require_unchanged_service();
    for number in revisions {
        draft.push(Op::Delete(Key::Revision(draft.service.id, number)));
    }
    draft.push(Op::Delete(Key::Service(draft.service.id)));
    draft.record("deleted", "deleted");
}
