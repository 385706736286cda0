//! The stored, resumable progress from one revision to another.

use serde::{Deserialize, Serialize};

use crate::{ReplicaId, Timestamp};

/// One rollout of a service; at most one is in progress, and a newer revision supersedes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The revision it came from.
    pub from: u32,
    /// The revision it goes to.
    pub to: u32,
    /// Update or rollback.
    pub kind: RolloutKind,
    /// How far it is.
    pub state: RolloutState,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended, or paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// When the last batch was done; the next waits for the configured delay after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_done_at: Option<Timestamp>,
    /// Replicas of the new revision that failed within their monitor time, each counted once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<ReplicaId>,
    /// For people: why it paused or rolled back.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Why a rollout runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutKind {
    /// To a newer revision, by the service's `update` settings.
    Update,
    /// Back to an earlier one, by its `rollback` settings.
    Rollback,
}

/// How far a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Replacing replicas.
    Running,
    /// Stopped by a failure, or by a person.
    Paused,
    /// Every slot runs the new revision.
    Completed,
    /// Gave way to a newer revision, or to its own rollback.
    Superseded,
}

impl Rollout {
    /// Whether it still replaces replicas.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == RolloutState::Running
    }
}
