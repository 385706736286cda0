//! Openraft's side of the network: its requests as frames over the [`Transport`].
//!
//! Every method is implemented: openraft's own default grants every pre-vote and cannot transfer leadership.
//! Deliberately not here: pipelining of appends. Frames of a unary transport may overtake each other; while one append is under
//! way the next gathers what arrives, so throughput follows the batch and latency the round trip.

use std::future::Future;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use gantry_model::ServerId;
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::codec::{decode, encode};
use crate::snapshot::{Snapshot, SnapshotFile};
use crate::transport::{Method, Peer, Transport, TransportError};
use crate::types::{ServerAddress, TypeConfig, Vote};
use crate::wire::{Envelope, SNAPSHOT_FRAME_BYTES, SnapshotHead, VoteCall};

/// Frames of a snapshot read ahead of the network.
const SNAPSHOT_FRAMES_AHEAD: usize = 4;

/// Time for an append that carries entries: a full one over 10 Mbit/s, and its fsync.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for an answer to a vote: the follower writes it to its disk first.
const VOTE_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes one [`Link`] per server and purpose.
#[derive(Clone)]
pub struct Network {
    pub transport: Arc<dyn Transport>,
}

/// The way to one server.
pub struct Link {
    transport: Arc<dyn Transport>,
    peer: Peer,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &ServerAddress) -> Link {
        Link {
            transport: self.transport.clone(),
            peer: Peer {
                id: ServerId(target),
                address: node.address.clone(),
            },
        }
    }
}

impl Link {
    async fn ask<B, A>(&self, method: Method, body: B, timeout: Duration) -> Result<A, RPCError<TypeConfig>>
    where
        B: Serialize,
        A: DeserializeOwned,
    {
        let to = self.peer.id.0;
        let frame = encode(&Envelope { to, body }).map_err(|error| network_error(&error))?;
        // The transport keeps to the timeout; this one is for a transport that hangs.
        let answer = tokio::time::timeout(timeout, self.transport.call(&self.peer, method, frame, timeout))
            .await
            .map_err(|error| network_error(&error))?
            .map_err(|error| rpc_error(&error))?;
        decode(&answer).map_err(|error| network_error(&error))
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let timeout = if request.entries.is_empty() {
            option.hard_ttl()
        } else {
            APPEND_TIMEOUT
        };
        self.ask(Method::Append, request, timeout).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let timeout = option.soft_ttl().max(VOTE_TIMEOUT);
        self.ask(Method::Vote, VoteCall::Vote(request), timeout).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Method::Vote, VoteCall::PreVote(request), option.soft_ttl())
            .await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<openraft::raft::TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Method::TransferLeader, request, option.soft_ttl().max(VOTE_TIMEOUT))
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let head = SnapshotHead {
            vote,
            meta: snapshot.meta,
            bytes: snapshot.snapshot.bytes,
        };
        let to = self.peer.id.0;
        let head = encode(&Envelope { to, body: head }).map_err(|error| network_error(&error))?;
        let (sender, frames) = mpsc::channel(SNAPSHOT_FRAMES_AHEAD);
        // Ends by itself when the receiver is dropped.
        let reader = tokio::task::spawn_blocking(move || send_frames(head, &snapshot.snapshot, &sender));
        let sent = self.transport.send_snapshot(&self.peer, frames);
        let answer = match select(sent, Box::pin(cancel)).await {
            Either::Left((answer, _)) => answer.map_err(|error| rpc_error(&error))?,
            Either::Right((closed, _)) => return Err(closed.into()),
        };
        let read = reader.await.map_err(|error| network_error(&error))?;
        read.map_err(|error| network_error(&error))?;
        Ok(decode(&answer).map_err(|error| network_error(&error))?)
    }
}

/// Sends the head and then the file; stops early when nobody listens any more.
fn send_frames(head: Vec<u8>, snapshot: &SnapshotFile, frames: &mpsc::Sender<Vec<u8>>) -> std::io::Result<()> {
    if frames.blocking_send(head).is_err() {
        return Ok(());
    }
    let mut position = 0;
    while position < snapshot.bytes {
        let length = (snapshot.bytes - position).min(SNAPSHOT_FRAME_BYTES as u64);
        let mut frame = vec![0; length as usize];
        snapshot.file.read_exact_at(&mut frame, position)?;
        position += length;
        if frames.blocking_send(frame).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn network_error<E: std::error::Error + 'static>(error: &E) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(error))
}

fn rpc_error(error: &TransportError) -> RPCError<TypeConfig> {
    match error {
        TransportError::NotSent(_) => RPCError::Unreachable(Unreachable::new(error)),
        TransportError::Lost(_) => RPCError::Network(NetworkError::new(error)),
    }
}
