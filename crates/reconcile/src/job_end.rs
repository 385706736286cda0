//! How a job ends: complete, or given up for its deadline, its back-off limit, or a slot that failed for good; and what then.
//!
//! **Invariant:** the end is stored with the service, so that it is the same for every leader, and counts for one revision only.

use gantry_model::object::{JobEnd, JobStatus, Replica, Slot};
use gantry_model::phase::Phase;
use gantry_model::spec::{Mode, UpdateOrder};

use crate::draft::{Draft, Fate};
use crate::job::{job_verdict, occupies};
use crate::plan::Wanted;
use crate::slot::{Goal, Verdict};

/// Follows the job; says whether it goes on.
pub(crate) fn follow(draft: &mut Draft<'_>, wanted: &Wanted) -> bool {
    let mut status = present_status(draft);
    if is_complete(draft, wanted) {
        end(draft, &mut status, None);
    } else if status.ended.as_ref().is_some_and(|end| end.failure.is_none()) {
        // More is wanted of it than was: another node, or more completions.
        status.ended = None;
    }
    if status.ended.is_none()
        && let Some(failure) = failure(draft, wanted, &status)
    {
        end(draft, &mut status, Some(failure));
    }
    let ended = status.ended.clone();
    if status != draft.service.job {
        draft.edit_service().job = status;
    }
    let Some(ended) = ended else { return true };
    if let Some(failure) = &ended.failure {
        stop_all(draft, failure);
    }
    expire(draft, &ended);
    false
}

/// A new revision begins anew.
fn present_status(draft: &Draft<'_>) -> JobStatus {
    let known = &draft.service.job;
    if known.revision == draft.service.revision {
        return known.clone();
    }
    JobStatus {
        revision: draft.service.revision,
        started_at: Some(draft.view.now),
        ended: None,
        ..known.clone()
    }
}

fn end(draft: &mut Draft<'_>, status: &mut JobStatus, failure: Option<String>) {
    if status.ended.is_some() {
        return;
    }
    match &failure {
        None => draft.record("job_completed", "all of it completed"),
        Some(failure) => draft.record("job_failed", failure.clone()),
    }
    let at = draft.view.now;
    status.ended = Some(JobEnd { at, failure });
}

/// Every slot completed. A global job without a node is not.
fn is_complete(draft: &Draft<'_>, wanted: &Wanted) -> bool {
    let empty_is_enough = matches!(draft.service.spec.mode, Mode::ReplicatedJob { .. });
    let slots = &wanted.slots;
    (empty_is_enough || !slots.is_empty()) && slots.iter().all(|slot| has_completed(draft, *slot))
}

fn has_completed(draft: &Draft<'_>, slot: Slot) -> bool {
    let replicas = draft.slot(slot);
    let revision = draft.service.revision;
    replicas
        .iter()
        .any(|one| one.revision == revision && one.observed.phase == Phase::Completed)
}

fn failure(draft: &mut Draft<'_>, wanted: &Wanted, status: &JobStatus) -> Option<String> {
    let limits = draft.service.spec.job.clone();
    if let (Some(deadline), Some(started)) = (limits.deadline, status.started_at) {
        let due = started.after(deadline);
        if due <= draft.view.now {
            return Some(format!("it was not complete after {deadline}"));
        }
        draft.wake(due);
    }
    if let Some(limit) = limits.backoff_limit {
        let failures = failures(draft);
        if failures > limit {
            return Some(format!(
                "it failed {failures} times, {limit} are allowed{}",
                last_words(draft)
            ));
        }
    }
    hopeless(draft, wanted)
}

/// Containers of the present revision that failed: those started again in place, and those that were not.
fn failures(draft: &Draft<'_>) -> u32 {
    let revision = draft.service.revision;
    let replicas = draft.replicas().into_iter().filter(|one| one.revision == revision);
    replicas
        .map(|one| one.observed.restarts + u32::from(one.observed.phase == Phase::Failed))
        .fold(0, u32::saturating_add)
}

fn last_words(draft: &Draft<'_>) -> String {
    let replicas = draft.replicas();
    let said = replicas.iter().filter(|one| !one.observed.message.is_empty());
    said.max_by_key(|one| one.created_at)
        .map(|one| format!("; {}: {}", one.name(), one.observed.message))
        .unwrap_or_default()
}

/// Nothing runs, nothing may start, and not all completed.
fn hopeless(draft: &Draft<'_>, wanted: &Wanted) -> Option<String> {
    let goal = Goal {
        revision: draft.service.revision,
        replacing: Some(UpdateOrder::StopFirst),
    };
    let mut dead = None;
    for &slot in &wanted.slots {
        if has_completed(draft, slot) {
            continue;
        }
        let replicas = draft.slot(slot);
        let rests = job_verdict(draft, &replicas, goal) == Verdict::Rest;
        if !rests || replicas.iter().any(|one| occupies(draft, one)) {
            return None;
        }
        dead = dead.or(replicas.last().copied());
    }
    let one: &Replica = dead?;
    Some(
        format!("{} failed: {}", one.name(), one.observed.message)
            .trim_end_matches(": ")
            .to_string(),
    )
}

fn stop_all(draft: &mut Draft<'_>, failure: &str) {
    let reason = format!("the job failed: {failure}");
    for replica in draft.replicas() {
        if replica.is_active() {
            draft.retire(replica, &reason, Fate::Stop);
        }
    }
}

/// A job that has ended is deleted after its time to live.
fn expire(draft: &mut Draft<'_>, ended: &JobEnd) {
    let Some(ttl) = draft.service.spec.job.ttl else { return };
    let due = ended.at.after(ttl);
    if due > draft.view.now {
        draft.wake(due);
    } else {
        draft.record("deleted", format!("{ttl} after it ended"));
        draft.edit_service().deleting = true;
    }
}
