//! Health checks, with Docker's defaults.

use serde::{Deserialize, Serialize};

use crate::DurationMs;

/// How to find out whether a container is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The command; [`HealthTest::Disabled`] also switches off the image's own check.
    pub test: HealthTest,
    /// Time between two checks.
    pub interval: DurationMs,
    /// A check that takes longer has failed.
    pub timeout: DurationMs,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
    /// Failures this soon after the start do not count.
    pub start_period: DurationMs,
    /// Time between two checks during the start period.
    pub start_interval: DurationMs,
}

impl HealthCheck {
    /// A check with Docker's defaults: 30 s interval and timeout, 3 retries, no start period, 5 s start interval.
    #[must_use]
    pub fn with_defaults(test: HealthTest) -> Self {
        Self {
            test,
            interval: DurationMs::secs(30),
            timeout: DurationMs::secs(30),
            retries: 3,
            start_period: DurationMs::ZERO,
            start_interval: DurationMs::secs(5),
        }
    }
}

/// The command of a health check; exit status 0 is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthTest {
    /// No check at all.
    Disabled,
    /// An argument vector, run as it is (`CMD`).
    Exec(Vec<String>),
    /// A line for the container's shell (`CMD-SHELL`).
    Shell(String),
}
