//! What the frames between servers hold, and their limits.

use serde::{Deserialize, Serialize};

use crate::types::{ServerAddress, SnapshotMeta, TypeConfig, Vote};

/// Version of the frames; the transport refuses a server that speaks another.
pub const WIRE_VERSION: u32 = 2;

/// Bytes of entries in one append. gRPC refuses messages over 4 MiB by default.
pub const APPEND_BYTES_MAX: usize = 1024 * 1024;

/// Largest transaction, encoded. An append carries at least one entry, so it must fit into one message with its wrapping.
pub const PROPOSAL_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Bytes of one frame of a snapshot.
pub const SNAPSHOT_FRAME_BYTES: usize = 1024 * 1024;

const _: () = assert!(APPEND_BYTES_MAX <= PROPOSAL_BYTES_MAX && PROPOSAL_BYTES_MAX < 4 * 1024 * 1024);

/// Every request, so that a server that took over another's address does not answer in its name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(serialize = "T: Serialize", deserialize = "T: Deserialize<'de>"))]
pub struct Envelope<T> {
    pub to: u64,
    pub body: T,
}

/// `Method::Vote`.
#[derive(Debug, Serialize, Deserialize)]
pub enum VoteCall {
    Vote(openraft::raft::VoteRequest<TypeConfig>),
    /// Would you vote for me? Answered without remembering anything.
    PreVote(openraft::raft::VoteRequest<TypeConfig>),
}

/// First frame of a snapshot; its bytes follow.
#[derive(Debug, Serialize, Deserialize)]
pub struct SnapshotHead {
    pub vote: Vote,
    pub meta: SnapshotMeta,
    pub bytes: u64,
}

/// A request for the leader, with the time left for it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Forwarded<T> {
    pub timeout_ms: u64,
    pub request: T,
}

/// What became of a request for the leader at one server.
#[derive(Debug, Serialize, Deserialize)]
pub enum Attempt<A, E> {
    /// Done.
    Done(A),
    /// Not done, not even begun: this server is not the leader, or cannot be at the moment.
    Elsewhere(Option<LeaderHint>),
    /// Begun; whether it will be done is not known.
    Unknown(String),
    /// Not done, and trying again is useless.
    Failed(E),
}

/// Who the leader might be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderHint {
    pub id: u64,
    pub server: ServerAddress,
}
