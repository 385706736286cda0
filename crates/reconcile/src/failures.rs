//! Which replicas a rollout counts as failed: those that failed soon after they ran, and those that do not settle.
//!
//! **Invariant:** each replica is counted once; counting is stored with the rollout, and survives a change of leader.

use gantry_model::object::{Replica, Rollout, Slot};
use gantry_model::phase::{Desired, Health, Phase};

use gantry_model::{DurationMs, ReplicaId, Timestamp};

use crate::draft::Draft;
use crate::rollout::{Progress, is_old_and_alive, progress};

/// Replicas made for this rollout that failed within their monitor time and have not been counted yet.
pub(crate) fn new_failures(draft: &Draft<'_>, rollout: &Rollout, monitor: DurationMs) -> Vec<ReplicaId> {
    let made_for_it = |one: &&Replica| one.revision == rollout.to && one.created_at >= rollout.started_at;
    let replicas = draft.replicas().into_iter().filter(made_for_it);
    replicas
        .filter(|one| one.desired == Desired::Run && !rollout.failed.contains(&one.id))
        .filter(|one| failed_within(one, monitor))
        .map(|one| one.id)
        .collect()
}

/// Both times are the agent's, so that its clock does not matter. Before it was ever ready, any failure counts.
fn failed_within(replica: &Replica, monitor: DurationMs) -> bool {
    let observed = &replica.observed;
    let ended_at = observed.last_exit.map_or(observed.at, |exit| exit.at);
    let failed_at = match observed.phase {
        Phase::Failed | Phase::Rejected | Phase::Completed => Some(observed.at),
        Phase::Running if observed.health == Health::Unhealthy => Some(observed.at),
        Phase::Pending | Phase::Assigned | Phase::Preparing | Phase::Starting | Phase::Running => {
            (observed.restarts > 0).then_some(ended_at)
        }
        Phase::Stopped | Phase::Lost => None,
    };
    failed_at.is_some_and(|at| observed.ready_since.is_none_or(|since| at <= since.after(monitor)))
}

/// Replicas that hold up their slot for longer than `deadline`: new ones that do not become ready, old ones that do not end.
/// Wakes the plan for the next that may.
pub(crate) fn stuck(draft: &mut Draft<'_>, slots: &[Slot], rollout: &Rollout, deadline: DurationMs) -> Vec<ReplicaId> {
    if deadline == DurationMs::ZERO {
        return Vec::new();
    }
    let mut stuck = Vec::new();
    for slot in slots {
        if progress(draft, *slot, rollout) != Progress::InFlight {
            continue;
        }
        let Some((replica, since)) = culprit(draft, *slot, rollout) else {
            continue;
        };
        // What was told before this rollout, or before a person resumed it, is not held against it.
        let since = since
            .max(rollout.started_at)
            .max(rollout.resumed_at.unwrap_or_default());
        let due = since.after(deadline);
        if due > draft.view.now {
            draft.wake(due);
        } else {
            stuck.push(replica);
        }
    }
    stuck
}

/// Whom a slot in flight waits for, and since when; all by the leader's clock.
fn culprit(draft: &Draft<'_>, slot: Slot, rollout: &Rollout) -> Option<(ReplicaId, Timestamp)> {
    let replicas = draft.slot(slot);
    let open = |one: &&&Replica| !rollout.failed.contains(&one.id);
    let is_new = |one: &&&Replica| one.revision == rollout.to && one.is_active() && !one.is_ready();
    if let Some(new) = replicas.iter().filter(open).rfind(is_new) {
        return Some((new.id, new.created_at.max(reachable_since(draft, new))));
    }
    let leaving = |one: &&&Replica| {
        let told = one.desired > Desired::Run;
        told && (is_old_and_alive(draft, one, rollout.to) || replicas.last().is_some_and(|last| last.id == one.id))
    };
    let old = replicas.iter().filter(open).find(leaving)?;
    let told_at = old
        .desired_since
        .unwrap_or(old.created_at)
        .max(reachable_since(draft, old));
    let grace = draft.spec_of(old.revision).container.stop_grace();
    Some((old.id, told_at.after(grace)))
}

/// Since when the replica's node has been as it is: what comes back has its time again.
fn reachable_since(draft: &Draft<'_>, replica: &Replica) -> Timestamp {
    let node = replica.node.and_then(|id| draft.view.state.node(id));
    node.map_or(Timestamp::default(), |node| node.status_since)
}
