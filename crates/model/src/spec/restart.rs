//! What happens when a container ends by itself.

use serde::{Deserialize, Serialize};

use crate::DurationMs;

/// When and how often a container is started again, on its node, in its replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// After which ends it is started again.
    pub condition: RestartCondition,
    /// Wait before the first restart; doubled for each further one up to `delay_max`.
    pub delay: DurationMs,
    /// Longest wait; equal to `delay` for a fixed one.
    pub delay_max: DurationMs,
    /// Give up after so many restarts; none is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Only restarts within this time count towards `max_attempts`; zero counts all. A container that ran this long, or 10 s
    /// when zero, starts again with the first delay.
    #[serde(default)]
    pub window: DurationMs,
}

/// After which ends a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartCondition {
    /// Never.
    None,
    /// When it failed: exit status other than 0, killed, or unhealthy.
    OnFailure,
    /// Always.
    Any,
}

impl Default for RestartPolicy {
    /// Any end, Docker's back-off of 100 ms doubling to 1 min, for ever.
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: DurationMs(100),
            delay_max: DurationMs::secs(60),
            max_attempts: None,
            window: DurationMs::ZERO,
        }
    }
}
