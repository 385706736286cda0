//! How a service goes from one revision to the next.

use serde::{Deserialize, Serialize};

use crate::DurationMs;

/// Rollout settings, with Swarm's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateConfig {
    /// Replicas replaced at a time; 0 is all at once.
    pub parallelism: u32,
    /// Pause between two batches.
    pub delay: DurationMs,
    /// What a failed rollout does.
    pub failure_action: FailureAction,
    /// A new replica that fails this soon after it was running counts as a failure.
    pub monitor: DurationMs,
    /// The rollout has failed when more than this part of its replicas failed, in thousandths (0 to 1000).
    pub max_failure_permille: u32,
    /// Whether the old replica stops before the new one starts.
    pub order: UpdateOrder,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: DurationMs::ZERO,
            failure_action: FailureAction::Pause,
            monitor: DurationMs::secs(5),
            max_failure_permille: 0,
            order: UpdateOrder::StopFirst,
        }
    }
}

/// What a failed rollout does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureAction {
    /// Stops where it is and waits for a person.
    Pause,
    /// Goes on.
    Continue,
    /// Goes back to the revision before.
    Rollback,
}

/// Order of stop and start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateOrder {
    /// The old replica stops, then the new one starts.
    StopFirst,
    /// The new replica is ready before the old one stops.
    StartFirst,
}
