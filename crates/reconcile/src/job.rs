//! Work that completes: each slot once, at most `parallelism` at a time.
//!
//! A replica that ended well is done for good. One that failed used up its restarts, so its slot stays failed, unless a back-off
//! limit says how often the job may fail as a whole. What was rejected is tried again after a while, what was lost with its
//! node at once. A new revision starts the whole job anew.
//!
//! **Invariant:** once a job has ended (see `job_end`) nothing of it is started until its spec changes.

use gantry_model::object::{Node, Replica, Rollout, RolloutState, Slot};
use gantry_model::phase::Phase;
use gantry_model::spec::{Mode, UpdateOrder};

use crate::draft::{Draft, Fate};
use crate::plan::Wanted;
use crate::slot::{Goal, Verdict, is_leaving, verdict};
use crate::standing::{Standing, may_still_run, node_is_live, standing};
use crate::{backoff, job_end};

/// Starts what may start, ends what is of another revision or has to move.
pub(crate) fn run_all(draft: &mut Draft<'_>, wanted: &Wanted) {
    end_misplaced(draft, wanted);
    if job_end::follow(draft, wanted) {
        start_all(draft, wanted);
    }
    complete_rollout(draft, wanted);
}

fn start_all(draft: &mut Draft<'_>, wanted: &Wanted) {
    let goal = Goal {
        revision: draft.service.revision,
        replacing: Some(UpdateOrder::StopFirst),
    };
    let mut free = match draft.service.spec.mode {
        Mode::ReplicatedJob { parallelism, .. } if parallelism > 0 => parallelism as usize,
        Mode::ReplicatedJob { .. } | Mode::GlobalJob | Mode::Replicated { .. } | Mode::Global => usize::MAX,
    };
    free = free.saturating_sub(busy(draft));
    for &slot in &wanted.slots {
        if free == 0 {
            break;
        }
        if start(draft, slot, goal) {
            free -= 1;
        }
    }
}

/// Replicas that run or are about to.
fn busy(draft: &Draft<'_>) -> usize {
    draft
        .replicas()
        .iter()
        .filter(|replica| occupies(draft, replica))
        .count()
}

/// It runs, may run, or has been told to end but still may: a second one beside it would do the work twice.
pub(crate) fn occupies(draft: &Draft<'_>, replica: &Replica) -> bool {
    let stays = !draft.is_retired(replica) || node_is_live(draft.view, replica);
    let fenced_off = !draft.is_exclusive() || !may_still_run(draft.view, replica);
    (replica.is_active() && stays) || is_leaving(draft, replica) || !fenced_off
}

fn end_misplaced(draft: &mut Draft<'_>, wanted: &Wanted) {
    // With no node to run it again, what is out of reach may as well finish.
    let elsewhere = draft.view.state.nodes().any(Node::takes_replicas) && !draft.is_exclusive();
    for replica in draft.replicas() {
        if !replica.is_active() || !wanted.slots.contains(&replica.slot) {
            continue;
        }
        if replica.revision != draft.service.revision {
            draft.retire(replica, "replaced by a new revision of the job", Fate::Stop);
            continue;
        }
        match standing(draft, replica) {
            Standing::Fit => {}
            Standing::Misplaced(reason) => draft.retire(replica, &reason, Fate::Stop),
            Standing::Down(reason) if elsewhere => draft.end(replica, &reason, Fate::Stop),
            Standing::Down(_) => {}
        }
    }
}

/// Starts a slot if it is its turn; never a second replica beside one that has not ended.
fn start(draft: &mut Draft<'_>, slot: Slot, goal: Goal) -> bool {
    let replicas = draft.slot(slot);
    let completed = |one: &Replica| one.observed.phase == Phase::Completed && one.revision == goal.revision;
    if replicas.iter().any(|one| completed(one) || occupies(draft, one)) {
        return false;
    }
    match job_verdict(draft, &replicas, goal) {
        Verdict::Create => {
            draft.create(slot, goal.revision);
            true
        }
        Verdict::Wait(at) => {
            draft.wake(at);
            false
        }
        Verdict::Rest => false,
    }
}

/// With a back-off limit, a slot that failed is tried again after a while: the limit counts for the job as a whole.
pub(crate) fn job_verdict(draft: &Draft<'_>, replicas: &[&Replica], goal: Goal) -> Verdict {
    let now = draft.view.now;
    let verdict = verdict(replicas, goal, now);
    let limited = draft.service.spec.job.backoff_limit.is_some();
    let failed = replicas.last().is_some_and(|last| last.observed.phase == Phase::Failed);
    if verdict != Verdict::Rest || !limited || !failed {
        return verdict;
    }
    match backoff::job_retry_at(replicas) {
        Some(at) if at > now => Verdict::Wait(at),
        Some(_) | None => Verdict::Create,
    }
}

/// A job's rollout is over once nothing of an earlier revision runs.
pub(crate) fn complete_rollout(draft: &mut Draft<'_>, wanted: &Wanted) {
    let running = draft.service.rollout.as_ref().is_some_and(Rollout::is_running);
    let stale = |one: &Replica| {
        let replaceable = wanted.slots.contains(&one.slot) && !one.observed.phase.is_terminal();
        one.revision != draft.service.revision && replaceable
    };
    if running && !draft.replicas().iter().any(|one| stale(one)) {
        let now = draft.view.now;
        if let Some(rollout) = &mut draft.edit_service().rollout {
            rollout.state = RolloutState::Completed;
            rollout.ended_at = Some(now);
        }
    }
}
