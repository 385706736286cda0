//! How servers reach each other: implemented outside, over gRPC in production and in memory in tests.

use std::time::Duration;

use futures::future::BoxFuture;
use gantry_model::ServerId;
use tokio::sync::mpsc;

/// Carries opaque frames to another server, whose side of it is [`crate::Replicated::handle`].
///
/// **Invariant:** a frame is delivered at most once; no implementation repeats a call whose fate it does not know.
pub trait Transport: Send + Sync + 'static {
    /// One request, one answer, within `timeout`.
    fn call<'a>(
        &'a self,
        peer: &'a Peer,
        method: Method,
        payload: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, TransportError>>;

    /// Many frames, in order, and one answer; the receiving side is [`crate::Replicated::handle_snapshot`].
    fn send_snapshot<'a>(
        &'a self,
        peer: &'a Peer,
        frames: mpsc::Receiver<Vec<u8>>,
    ) -> BoxFuture<'a, Result<Vec<u8>, TransportError>>;
}

/// Another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: ServerId,
    /// Where it is reached.
    pub address: String,
}

/// What is asked, one RPC of the `Raft` service each (`InstallSnapshot` is [`Transport::send_snapshot`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Entries and heartbeats of the leader.
    Append,
    /// A vote, or whether there would be one.
    Vote,
    /// The leader tells its successor to stand for election at once.
    TransferLeader,
    /// A transaction for the leader.
    Propose,
    /// The index that a linearizable read must have applied, from the leader.
    ReadIndex,
    /// A change of members, for the leader.
    ChangeMembers,
}

/// A frame that brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// Nobody acted on it: it was not sent, or refused before it was looked at ([`crate::HandleError`]).
    #[error("not sent: {0}")]
    NotSent(String),
    /// It was sent; whether anybody acted on it is not known.
    #[error("no answer: {0}")]
    Lost(String),
}
