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
