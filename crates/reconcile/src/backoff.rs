//! When a replica that its node rejected is tried again.
//!
//! The wait follows from when earlier attempts were made, by the leader's clock: twice the time between the last two.

use gantry_model::object::Replica;
use gantry_model::phase::Phase;
use gantry_model::{DurationMs, Timestamp};

/// The wait after the first rejection.
pub const BACKOFF_FIRST: DurationMs = DurationMs::secs(5);
/// The longest wait.
pub const BACKOFF_MAX: DurationMs = DurationMs::secs(5 * 60);

/// The wait after a slot of a job failed for the first time, as in Kubernetes.
const JOB_BACKOFF_FIRST: DurationMs = DurationMs::secs(10);
/// The longest wait of a job, as in Kubernetes.
const JOB_BACKOFF_MAX: DurationMs = DurationMs::secs(6 * 60);

/// When a job's slot may be tried again after it failed; `replicas` are those of the slot, oldest first.
pub(crate) fn job_retry_at(replicas: &[&Replica]) -> Option<Timestamp> {
    let last = replicas.last()?;
    let failed = replicas
        .iter()
        .filter(|one| one.observed.phase == Phase::Failed && one.revision == last.revision)
        .count();
    let doublings = u32::try_from(failed.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let wait = DurationMs(JOB_BACKOFF_FIRST.0 << doublings).min(JOB_BACKOFF_MAX);
    Some(last.created_at.after(wait))
}

/// When the slot may be tried again; `replicas` are those of the slot, oldest first, the last one rejected.
pub(crate) fn retry_at(replicas: &[&Replica]) -> Option<Timestamp> {
    let (last, earlier) = replicas.split_last()?;
    let before = earlier
        .last()
        .filter(|one| one.observed.phase == Phase::Rejected && one.revision == last.revision);
    let wait = before.map_or(BACKOFF_FIRST, |before| {
        let between = last.created_at.since(before.created_at);
        DurationMs(between.0.saturating_mul(2)).clamp(BACKOFF_FIRST, BACKOFF_MAX)
    });
    Some(last.created_at.after(wait))
}
