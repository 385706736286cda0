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
    /// How many of `failed` a person let pass by resuming.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub forgiven: u32,
    /// When a person resumed it: deadlines count from then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_at: Option<Timestamp>,
    /// Stages of a canary or blue-green rollout that are over.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stage: u32,
    /// When the present stage was reached; it is held from then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage_reached_at: Option<Timestamp>,
    /// For people: why it paused or rolled back.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde asks for")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
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
    /// A rollout that begins.
    #[must_use]
    pub const fn new(from: u32, to: u32, kind: RolloutKind, started_at: Timestamp) -> Self {
        Self {
            from,
            to,
            kind,
            state: RolloutState::Running,
            started_at,
            ended_at: None,
            batch_done_at: None,
            failed: Vec::new(),
            forgiven: 0,
            resumed_at: None,
            stage: 0,
            stage_reached_at: None,
            message: String::new(),
        }
    }

    /// Whether it still replaces replicas.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == RolloutState::Running
    }
}
