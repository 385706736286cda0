//! The part of a spec that decides about a replica's life.

use gantry_model::DurationMs;
use gantry_model::spec::{HealthCheck, HealthTest, RestartPolicy, ServiceSpec};
use serde::{Deserialize, Serialize};

/// What of a spec matters here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Whether exit status 0 is the goal.
    pub is_job: bool,
    /// What happens when the container ends by itself.
    pub restart: RestartPolicy,
    /// Time between the stop signal and SIGKILL.
    pub stop_grace: DurationMs,
    /// The spec's health check, as given.
    pub health: Option<HealthCheck>,
}

impl Policy {
    /// The policy of a spec.
    #[must_use]
    pub fn of(spec: &ServiceSpec) -> Self {
        Self {
            is_job: spec.mode.is_job(),
            restart: spec.restart.clone(),
            stop_grace: spec.container.stop_grace(),
            health: spec.container.healthcheck.clone(),
        }
    }

    /// The check to run: the spec's before the image's, none when the one that counts is switched off. Zeros mean Docker's
    /// defaults, as they do in an image's configuration.
    #[must_use]
    pub fn effective_health(&self, image: Option<HealthCheck>) -> Option<HealthCheck> {
        let check = self.health.clone().or(image)?;
        if check.test == HealthTest::Disabled {
            return None;
        }
        let default = HealthCheck::with_defaults(HealthTest::Disabled);
        let or = |value: DurationMs, default: DurationMs| if value == DurationMs::ZERO { default } else { value };
        Some(HealthCheck {
            interval: or(check.interval, default.interval),
            timeout: or(check.timeout, default.timeout),
            start_interval: or(check.start_interval, default.start_interval),
            retries: if check.retries == 0 {
                default.retries
            } else {
                check.retries
            },
            ..check
        })
    }
}
