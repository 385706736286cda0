//! Where a replica can stand. The table of what leads where is in the parent module.

use gantry_model::Timestamp;
use gantry_model::phase::Phase;
use serde::{Deserialize, Serialize};

use crate::health::HealthState;

/// Where a replica stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Nothing was done yet.
    Assigned,
    /// Being made ready.
    Preparing {
        /// Preparations and first starts that failed.
        failures: u32,
        /// When the next one begins; none while one is under way.
        retry_at: Option<Timestamp>,
    },
    /// The container is being started.
    Starting {
        /// Preparations and first starts that failed before.
        failures: u32,
    },
    /// The container runs.
    Running {
        /// Result of its health checks.
        health: HealthState,
    },
    /// Waiting to be started again.
    Backoff {
        /// Until then.
        until: Timestamp,
    },
    /// The stop signal was sent.
    Stopping {
        /// Why.
        cause: StopCause,
        /// When SIGKILL is sent (again).
        kill_at: Timestamp,
    },
    /// The container has ended for good; its network and root are being released.
    Releasing {
        /// What is reported afterwards.
        end: End,
    },
    /// Over; logs remain.
    Ended,
    /// Everything of it is being removed.
    Removing {
        /// When the next try begins; none while one is under way.
        retry_at: Option<Timestamp>,
    },
    /// Nothing is left.
    Gone,
}

/// Why a container is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// The leader wants it.
    Told,
    /// Its health checks failed; it may be started again.
    Unhealthy,
}

/// How a replica ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// A terminal phase.
    pub phase: Phase,
    /// Why.
    pub message: String,
}
