//! How a service goes from one revision to the next.

use serde::{Deserialize, Serialize};

use crate::DurationMs;

/// How long a replica may take to settle before it counts as failed, as Kubernetes' `progressDeadlineSeconds` (600 s).
pub const PROGRESS_DEADLINE: DurationMs = DurationMs::secs(600);

/// Rollout settings, with Swarm's defaults; the progress deadline is Kubernetes'.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateConfig {
    /// Replicas replaced at a time; 0 is all at once.
    pub parallelism: u32,
    /// Replicas replaced at a time in percent of all (1 to 100), instead of `parallelism`; never less than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_percent: Option<u32>,
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
    /// A replica that has not settled after this long counts as failed, so that a rollout always ends; zero waits for ever.
    #[serde(default = "progress_deadline")]
    pub progress_deadline: DurationMs,
    /// In which stages the new revision gets traffic.
    #[serde(default, skip_serializing_if = "RolloutStrategy::is_rolling")]
    pub strategy: RolloutStrategy,
}

const fn progress_deadline() -> DurationMs {
    PROGRESS_DEADLINE
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 1,
            batch_percent: None,
            delay: DurationMs::ZERO,
            failure_action: FailureAction::Pause,
            monitor: DurationMs::secs(5),
            max_failure_permille: 0,
            order: UpdateOrder::StopFirst,
            progress_deadline: PROGRESS_DEADLINE,
            strategy: RolloutStrategy::Rolling,
        }
    }
}

impl UpdateConfig {
    /// How many of `slots` are replaced at a time. A share is rounded so that it errs towards more that serve: down where the
    /// old replica stops first, up where the new one starts first, as Kubernetes rounds `maxUnavailable` and `maxSurge`.
    #[must_use]
    pub fn batch(&self, slots: usize) -> usize {
        match (self.batch_percent, self.parallelism) {
            (Some(percent), _) => {
                let share = slots.saturating_mul(percent as usize);
                let rounded = match self.order {
                    UpdateOrder::StopFirst => share / 100,
                    UpdateOrder::StartFirst => share.div_ceil(100),
                };
                rounded.max(1)
            }
            (None, 0) => slots,
            (None, parallelism) => parallelism as usize,
        }
    }
}

/// In which stages a new revision gets traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStrategy {
    /// Batch by batch until all are replaced.
    #[default]
    Rolling,
    /// A part of the replicas first, then more, each share held for a while or until a person promotes it.
    Canary {
        /// The shares, rising.
        steps: Vec<CanaryStep>,
    },
    /// All new replicas beside the old ones, without traffic until every one is ready; then all traffic at once.
    BlueGreen {
        /// How long the new ones wait without traffic once they are ready; none waits for a person.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hold: Option<DurationMs>,
    },
}

/// One share of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStep {
    /// Replicas of the new revision in percent of all (1 to 100), rounded up; traffic follows replicas.
    pub percent: u32,
    /// How long the share is watched before the next; none waits for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<DurationMs>,
}

impl RolloutStrategy {
    /// Whether there are no stages.
    #[must_use]
    pub const fn is_rolling(&self) -> bool {
        matches!(self, Self::Rolling)
    }

    /// How many stages are held before the new revision has everything.
    #[must_use]
    pub fn stages(&self) -> u32 {
        match self {
            Self::Rolling => 0,
            Self::Canary { steps } => u32::try_from(steps.len()).unwrap_or(u32::MAX),
            Self::BlueGreen { .. } => 1,
        }
    }

    /// How long a stage is held: none waits for a person. Absent when there is no such stage.
    #[must_use]
    pub fn hold(&self, stage: u32) -> Option<Option<DurationMs>> {
        match self {
            Self::Rolling => None,
            Self::Canary { steps } => steps.get(stage as usize).map(|step| step.hold),
            Self::BlueGreen { hold } => (stage == 0).then_some(*hold),
        }
    }

    /// How many of `slots` may have the new revision in a stage.
    #[must_use]
    pub fn share(&self, stage: u32, slots: usize) -> usize {
        match self {
            Self::Rolling | Self::BlueGreen { .. } => slots,
            Self::Canary { steps } => steps.get(stage as usize).map_or(slots, |step| {
                slots.saturating_mul(step.percent as usize).div_ceil(100).min(slots)
            }),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_in_percent_errs_towards_more_that_serve() {
        let batch = |percent, order, slots| {
            UpdateConfig {
                batch_percent: Some(percent),
                order,
                ..UpdateConfig::default()
            }
            .batch(slots)
        };
        for (percent, slots, stop_first, start_first) in [
            (25, 10, 2, 3),
            (1, 10, 1, 1),
            (100, 7, 7, 7),
            (50, 1, 1, 1),
            (34, 3, 1, 2),
        ] {
            assert_eq!(
                batch(percent, UpdateOrder::StopFirst, slots),
                stop_first,
                "{percent} % of {slots}"
            );
            assert_eq!(
                batch(percent, UpdateOrder::StartFirst, slots),
                start_first,
                "{percent} % of {slots}"
            );
        }
        let all = UpdateConfig {
            parallelism: 0,
            ..UpdateConfig::default()
        };
        assert_eq!(all.batch(9), 9);
    }

    #[test]
    fn a_canary_has_at_least_one_replica_and_ends_with_all() {
        let step = |percent| CanaryStep { percent, hold: None };
        let canary = RolloutStrategy::Canary {
            steps: vec![step(1), step(50)],
        };
        let shares: Vec<usize> = (0..3).map(|stage| canary.share(stage, 9)).collect();
        assert_eq!(shares, [1, 5, 9]);
        assert_eq!((canary.stages(), canary.hold(1), canary.hold(2)), (2, Some(None), None));
    }

    #[test]
    fn settings_stored_before_there_were_deadlines_get_one() {
        let text = r#"{"parallelism":1,"delay":0,"failure_action":"pause","monitor":5000,"max_failure_permille":0,"order":"stop_first"}"#;
        let read: UpdateConfig = serde_json::from_str(text).expect("what was stored is read");
        assert_eq!(read, UpdateConfig::default());
    }
}
