//! How a server takes part in Raft, and the timing that follows from it.

use std::path::PathBuf;

use gantry_model::ServerId;
use openraft::{Config, SnapshotPolicy};

/// Settings of one server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its id, the same for the life of its folder.
    pub id: ServerId,
    /// Where other servers reach it.
    pub address: String,
    /// Its folder; made if it is missing.
    pub dir: PathBuf,
    /// Interval between heartbeats. 150 ms: four fit into the shortest lease, so one lost packet deposes nobody.
    pub heartbeat_ms: u64,
    /// Shortest time without a leader after which a server stands for election, on top of the lease (`election_max_ms`).
    pub election_min_ms: u64,
    /// Longest such time, and the length of the leader's lease. A leader killed at its last heartbeat is followed by another
    /// after lease + election time: 1.25 to 1.5 s with 500 and 750.
    pub election_max_ms: u64,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot, so that a server a little behind needs no snapshot.
    pub keep_entries: u64,
    /// How long a proposal or a linearizable read looks for a leader and waits for a majority.
    pub deadline_ms: u64,
    /// The same for a change of members, which may wait for a server to catch up.
    pub change_deadline_ms: u64,
}

/// Entries of one append between servers; their bytes are bounded by [`crate::wire::APPEND_BYTES_MAX`] as well.
const APPEND_ENTRIES_MAX: u64 = 1000;

/// Entries deleted at once after a snapshot: each purge writes one range deletion.
const PURGE_ENTRIES_MIN: u64 = 256;

/// Retry of an unreachable server: soon, then twice a second, since the last server needed for a majority may be it.
const BACKOFF: &str = "100ms 200ms ...500ms";

/// Longest transfer of one snapshot.
const SNAPSHOT_TRANSFER_MS_MAX: u64 = 600_000;

impl Options {
    /// The defaults for a server.
    #[must_use]
    pub fn new(id: ServerId, address: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        Self {
            id,
            address: address.into(),
            dir: dir.into(),
            heartbeat_ms: 150,
            election_min_ms: 500,
            election_max_ms: 750,
            snapshot_every: 20_000,
            keep_entries: 5_000,
            deadline_ms: 10_000,
            change_deadline_ms: 30_000,
        }
    }

    pub(crate) fn config(&self) -> Result<Config, openraft::ConfigError> {
        Config {
            cluster_name: "gantry".to_string(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            enable_pre_vote: Some(true),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.keep_entries,
            replication_lag_threshold: self.snapshot_every.saturating_add(self.keep_entries),
            purge_batch_size: PURGE_ENTRIES_MIN.min(self.snapshot_every),
            max_payload_entries: APPEND_ENTRIES_MAX,
            install_snapshot_timeout: SNAPSHOT_TRANSFER_MS_MAX,
            backoff: BACKOFF.to_string(),
            ..Config::default()
        }
        .validate()
    }
}
