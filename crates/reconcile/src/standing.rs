//! Whether a replica may stay where it is.

use gantry_model::object::{Availability, Node, NodeStatus, Replica};
use gantry_scheduler::may_stay;

use crate::draft::Draft;
use crate::plan::View;

/// What a replica's node means for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It may stay, or has no node yet.
    Fit,
    /// It is to run elsewhere, and serves until it does.
    Misplaced(String),
    /// It cannot be reached.
    Down(String),
}

pub(crate) fn standing(draft: &Draft<'_>, replica: &Replica) -> Standing {
    let Some(id) = replica.node else {
        return Standing::Fit;
    };
    let Some(node) = draft.view.state.node(id) else {
        return Standing::Down(format!("node {id} was removed"));
    };
    if node.status == NodeStatus::Down {
        return Standing::Down(format!("node {} is down", node.name));
    }
    if node.availability == Availability::Drain {
        return Standing::Misplaced(format!("node {} is drained", node.name));
    }
    match may_stay(node, &draft.spec_of(replica.revision)) {
        Ok(()) => Standing::Fit,
        Err(reason) => Standing::Misplaced(format!("node {} {reason}", node.name)),
    }
}

/// Whether the replica's node is there and alive.
pub(crate) fn node_is_live(view: &View<'_>, replica: &Replica) -> bool {
    let node: Option<&Node> = replica.node.and_then(|id| view.state.node(id));
    node.is_some_and(|node| node.status == NodeStatus::Ready)
}

/// Whether the replica may still run: its end is not known, and its node is one of the cluster, in reach or not.
pub(crate) fn may_still_run(view: &View<'_>, replica: &Replica) -> bool {
    let known = replica.node.is_some_and(|node| view.state.node(node).is_some());
    known && replica.holds_resources()
}

/// Marks what was on removed nodes as lost; says whether there was any.
pub(crate) fn mark_lost(draft: &mut Draft<'_>) -> bool {
    let mut any = false;
    for replica in draft.replicas() {
        let Some(node) = replica.node else { continue };
        if draft.view.state.node(node).is_none() && !replica.observed.phase.is_terminal() {
            draft.lose(replica, format!("node {node} was removed from the cluster"));
            any = true;
        }
    }
    any
}
