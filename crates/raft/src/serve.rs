//! The receiving side of the transport.

use std::io::Write;
use std::time::Duration;

use futures::{Stream, StreamExt};
use gantry_model::ServerId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::change::Change;
use crate::codec::{decode, encode};
use crate::leader::LeaderRequest;
use crate::propose::Propose;
use crate::read::ReadIndex;
use crate::replicated::Inner;
use crate::snapshot::{Snapshot, SnapshotFile};
use crate::transport::Method;
use crate::wire::{Envelope, Forwarded, SnapshotHead, VoteCall};
use crate::{HandleError, Replicated};

impl Replicated {
    /// Answers a frame that another server sent with [`crate::Transport::call`].
    ///
    /// # Errors
    /// When nothing was done: see [`HandleError`].
    pub async fn handle(&self, method: Method, payload: Vec<u8>) -> Result<Vec<u8>, HandleError> {
        let (inner, raft) = (&self.inner, &self.inner.raft);
        match method {
            Method::Append => {
                let request = inner.open(&payload)?;
                answer(&raft.append_entries(request).await.map_err(stopped)?)
            }
            Method::Vote => match inner.open(&payload)? {
                VoteCall::Vote(request) => answer(&raft.vote(request).await.map_err(stopped)?),
                VoteCall::PreVote(request) => answer(&raft.pre_vote(request).await.map_err(stopped)?),
            },
            Method::TransferLeader => {
                let request = inner.open(&payload)?;
                answer(&raft.handle_transfer_leader(request).await.map_err(stopped)?)
            }
            Method::Propose => inner.attempt_for::<Propose>(&payload).await,
            Method::ReadIndex => inner.attempt_for::<ReadIndex>(&payload).await,
            Method::ChangeMembers => inner.attempt_for::<Change>(&payload).await,
        }
    }

    /// Receives a snapshot that another server sent with [`crate::Transport::send_snapshot`]. A stream that ends early is
    /// discarded.
    ///
    /// # Errors
    /// When nothing was done: see [`HandleError`].
    pub async fn handle_snapshot<S>(&self, mut frames: S) -> Result<Vec<u8>, HandleError>
    where
        S: Stream<Item = Vec<u8>> + Send + Unpin,
    {
        let missing = || HandleError::Malformed("the snapshot has no first frame".to_string());
        let first = frames.next().await.ok_or_else(missing)?;
        let head: SnapshotHead = self.inner.open(&first)?;
        let received = self.inner.receive(&head, frames).await?;
        let snapshot = Snapshot {
            meta: head.meta,
            snapshot: received,
        };
        let installed = self.inner.raft.install_full_snapshot(head.vote, snapshot).await;
        answer(&installed.map_err(stopped)?)
    }
}

impl Inner {
    fn open<T: DeserializeOwned>(&self, payload: &[u8]) -> Result<T, HandleError> {
        if let Some(reason) = self.stopped() {
            return Err(HandleError::Stopped(reason));
        }
        let envelope: Envelope<T> = decode(payload).map_err(|error| HandleError::Malformed(error.to_string()))?;
        if envelope.to == self.options.id.0 {
            return Ok(envelope.body);
        }
        Err(HandleError::OtherServer {
            this: self.options.id,
            wanted: ServerId(envelope.to),
        })
    }

    /// Tries a forwarded request here, and only here: a request is never forwarded twice, so it cannot go round in circles.
    async fn attempt_for<R: LeaderRequest>(&self, payload: &[u8]) -> Result<Vec<u8>, HandleError> {
        let forwarded: Forwarded<R> = self.open(payload)?;
        let timeout = Duration::from_millis(forwarded.timeout_ms);
        answer(&forwarded.request.attempt(self, timeout).await)
    }

    /// Stores the frames in a temporary file that goes away if it is not installed.
    async fn receive<S>(&self, head: &SnapshotHead, mut frames: S) -> Result<SnapshotFile, HandleError>
    where
        S: Stream<Item = Vec<u8>> + Send + Unpin,
    {
        let failed = |error: std::io::Error| HandleError::Snapshot(error.to_string());
        let mut snapshot = self.snapshots.temporary().map_err(failed)?;
        while let Some(frame) = frames.next().await {
            let file = snapshot.file.clone();
            snapshot.bytes += frame.len() as u64;
            tokio::task::spawn_blocking(move || (&*file).write_all(&frame))
                .await
                .map_err(|error| failed(error.into()))?
                .map_err(failed)?;
        }
        if snapshot.bytes != head.bytes {
            let message = format!("{} of {} bytes arrived", snapshot.bytes, head.bytes);
            return Err(HandleError::Snapshot(message));
        }
        let checked = snapshot.clone();
        tokio::task::spawn_blocking(move || {
            checked.file.sync_all()?;
            checked.check()
        })
        .await
        .map_err(|error| failed(error.into()))?
        .map_err(failed)?;
        Ok(snapshot)
    }
}

fn answer<T: Serialize>(value: &T) -> Result<Vec<u8>, HandleError> {
    encode(value).map_err(|error| HandleError::Malformed(error.to_string()))
}

fn stopped<E: std::fmt::Display>(error: E) -> HandleError {
    HandleError::Stopped(error.to_string())
}
