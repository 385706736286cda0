//! How far a replica has come: a rank that only rises.
//!
//! | phase | set by | means |
//! |---|---|---|
//! | pending | leader | wanted, waiting for a node or for a dependency |
//! | assigned | leader | placed; its node, address and spec never change again |
//! | preparing | agent | accepted; image, volumes and files are being made ready |
//! | starting | agent | its container is being started for the first time |
//! | running | agent | its container has run; restarts in place do not lower the phase |
//! | completed | agent | ended with exit status 0 and is not to be started again |
//! | failed | agent | ended otherwise, and its restart policy gave up |
//! | rejected | agent | could not be prepared or started on this node |
//! | stopped | agent | ended because it was told to |
//! | lost | leader | its node was removed, or left for good |
//!
//! **Invariant:** a report with a lower rank, or an equal one that is not newer, changes nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The phase of a replica; the order of the variants is the rank, with gaps for insertion in [`Phase::rank`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Wanted, waiting for a node or for a dependency.
    #[default]
    Pending,
    /// Placed.
    Assigned,
    /// Image, volumes and files are being made ready.
    Preparing,
    /// The container is being started for the first time.
    Starting,
    /// The container has run; see [`Observed::ready`] for whether it serves.
    Running,
    /// Ended well by itself.
    Completed,
    /// Told to stop, and did.
    Stopped,
    /// Ended badly, and its restart policy gave up.
    Failed,
    /// Could not be prepared or started.
    Rejected,
    /// Its node is gone.
    Lost,
}

impl Phase {
    /// All phases in order of rank.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Assigned,
        Self::Preparing,
        Self::Starting,
        Self::Running,
        Self::Completed,
        Self::Stopped,
        Self::Failed,
        Self::Rejected,
        Self::Lost,
    ];

    /// The rank, with room for phases to come.
    #[must_use]
    pub const fn rank(self) -> u16 {
        match self {
            Self::Pending => 0,
            Self::Assigned => 100,
            Self::Preparing => 200,
            Self::Starting => 300,
            Self::Running => 400,
            Self::Completed => 500,
            Self::Stopped => 510,
            Self::Failed => 520,
            Self::Rejected => 530,
            Self::Lost => 600,
        }
    }

    /// Whether nothing of it runs any more, nor will.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        self.rank() >= Self::Completed.rank()
    }

    /// Whether `self` may be followed by `next`: the rank never falls, and nothing leads out of an end.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        !self.is_terminal() && next.rank() >= self.rank()
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Lost => "lost",
        })
    }
}

/// What the leader wants of a replica; only ever raised, and only by the leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Run and serve.
    #[default]
    Run,
    /// Keep running, but get no new traffic: every node takes it out of its endpoints and acknowledges that.
    Drain,
    /// Stop; keep the record for `ps` and `logs`.
    Stop,
    /// Stop, remove everything on the node, then forget the record.
    Remove,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, or 128 plus the signal's number.
    pub code: i32,
    /// The kernel killed a process of it for lack of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// When it ended.
    pub at: Timestamp,
}

/// The result of health checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// There is no check.
    #[default]
    None,
    /// No result yet.
    Starting,
    /// The last check succeeded.
    Healthy,
    /// As many checks in a row failed as the spec allows.
    Unhealthy,
}

/// What an agent last reported of a replica.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// How far it has come.
    pub phase: Phase,
    /// Counts the agent's reports of this replica; of two reports with the same phase the higher is newer.
    #[serde(default)]
    pub sequence: u64,
    /// Running, and healthy where there is a check: it may get traffic.
    #[serde(default)]
    pub ready: bool,
    /// For people: why it is in this phase.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Process id on the node of the container's first process, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When its present container started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it first was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_since: Option<Timestamp>,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u32,
    /// How its last container ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<Exit>,
    /// Result of the health checks.
    #[serde(default)]
    pub health: Health,
    /// When this was observed, by the agent's clock.
    #[serde(default)]
    pub at: Timestamp,
}

impl Observed {
    /// Takes over `report` if it is newer, and says whether it was.
    pub fn merge(&mut self, report: &Self) -> bool {
        let newer = report.phase > self.phase || report.sequence > self.sequence;
        let allowed = self.phase.may_become(report.phase);
        if newer && allowed {
            *self = report.clone();
        }
        newer && allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_variants_is_order_of_ranks() {
        for pair in Phase::ALL.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].rank() < pair[1].rank(), "{pair:?}");
        }
    }

    #[test]
    fn the_rank_only_rises_over_all_pairs() {
        for from in Phase::ALL {
            for to in Phase::ALL {
                let allowed = from.may_become(to);
                assert_eq!(allowed, !from.is_terminal() && to >= from, "{from} -> {to}");
                let mut observed = Observed {
                    phase: from,
                    sequence: 1,
                    ..Observed::default()
                };
                let report = Observed {
                    phase: to,
                    sequence: 2,
                    ..Observed::default()
                };
                assert_eq!(observed.merge(&report), allowed, "{from} -> {to}");
                assert!(observed.phase >= from);
            }
        }
    }

    #[test]
    fn an_older_report_of_the_same_phase_changes_nothing() {
        let mut observed = Observed {
            phase: Phase::Running,
            sequence: 5,
            ready: true,
            ..Observed::default()
        };
        assert!(!observed.merge(&Observed {
            phase: Phase::Running,
            sequence: 5,
            ..Observed::default()
        }));
        assert!(!observed.merge(&Observed {
            phase: Phase::Running,
            sequence: 4,
            ..Observed::default()
        }));
        assert!(observed.ready);
    }
}
