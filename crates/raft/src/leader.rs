//! Finding the leader, and asking it again where that is harmless.
//!
//! **Invariant:** a request whose fate is unknown is repeated only if it says that repeating does no harm. "Not the leader" is
//! answered before anything is appended, so going on to another server after it never does a thing twice.

use std::future::Future;
use std::time::Duration;

use gantry_env::{Env, System};
use gantry_model::{DurationMs, ServerId};
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::ForwardToLeader;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{decode, encode};
use crate::leadership::address_of;
use crate::replicated::Inner;
use crate::transport::{Method, Peer, TransportError};
use crate::types::{ServerAddress, TypeConfig};
use crate::wire::{Attempt, Envelope, Forwarded, LeaderHint};

/// Pause before the leader is looked for again.
const PAUSE: Duration = Duration::from_millis(20);

/// What only the leader can do.
pub trait LeaderRequest: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    const METHOD: Method;
    /// Set if doing it twice is the same as doing it once: it is asked anew when a leader does not answer for so long.
    const REPEAT_AFTER: Option<Duration>;
    type Answer: Serialize + DeserializeOwned + Send;
    type Failure: Serialize + DeserializeOwned + Send;

    /// Tries it on this server, which may not be the leader.
    fn attempt(
        self,
        inner: &Inner,
        timeout: Duration,
    ) -> impl Future<Output = Attempt<Self::Answer, Self::Failure>> + Send;
}

/// How a request ended for who made it.
pub enum Routed<A, F> {
    Done(A),
    Failed(F),
    /// Surely not done.
    NoLeader,
    Unknown(String),
    /// Surely not done: this server has stopped.
    Stopped(String),
}

/// A point in time after which nothing more is tried.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: DurationMs,
}

impl Deadline {
    pub fn after(duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let at = DurationMs(System.monotonic().0.saturating_add(millis));
        Self { at }
    }

    pub fn left(self) -> Duration {
        Duration::from_millis(self.at.0.saturating_sub(System.monotonic().0))
    }
}

impl Inner {
    /// Brings a request to whoever leads, until it is done, surely fails, or its time is up.
    pub async fn at_leader<R: LeaderRequest>(&self, request: R, timeout: Duration) -> Routed<R::Answer, R::Failure> {
        let deadline = Deadline::after(timeout);
        let mut hint: Option<LeaderHint> = None;
        loop {
            if let Some(reason) = self.stopped() {
                return Routed::Stopped(reason);
            }
            let left = deadline.left();
            if left.is_zero() {
                return Routed::NoLeader;
            }
            let left = R::REPEAT_AFTER.map_or(left, |longest| left.min(longest));
            let hinted = hint.is_some();
            let next = match hint.take().or_else(|| self.known_leader()) {
                None => None,
                Some(leader) => match self.attempt_at(&leader, request.clone(), left).await {
                    Attempt::Done(answer) => return Routed::Done(answer),
                    Attempt::Failed(failure) => return Routed::Failed(failure),
                    Attempt::Unknown(reason) if R::REPEAT_AFTER.is_none() => return Routed::Unknown(reason),
                    Attempt::Unknown(_) => None,
                    // A server that is not leader any more may still name the one before, and that one it: hence only one
                    // hint is followed without a pause.
                    Attempt::Elsewhere(next) => next.filter(|next| !hinted && next.id != leader.id),
                },
            };
            if next.is_none() {
                tokio::time::sleep(PAUSE.min(deadline.left())).await;
            }
            hint = next;
        }
    }

    async fn attempt_at<R: LeaderRequest>(
        &self,
        leader: &LeaderHint,
        request: R,
        timeout: Duration,
    ) -> Attempt<R::Answer, R::Failure> {
        if leader.id == self.options.id.0 {
            return request.attempt(self, timeout).await;
        }
        let peer = Peer {
            id: ServerId(leader.id),
            address: leader.server.address.clone(),
        };
        let body = Forwarded {
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            request,
        };
        let frame = match encode(&Envelope { to: leader.id, body }) {
            Ok(frame) => frame,
            Err(error) => return Attempt::Unknown(error.to_string()),
        };
        let call = self.transport.call(&peer, R::METHOD, frame, timeout);
        match tokio::time::timeout(timeout, call).await {
            Err(_) => Attempt::Unknown(format!("server {} did not answer in time", peer.id)),
            Ok(Err(TransportError::NotSent(_))) => Attempt::Elsewhere(None),
            Ok(Err(TransportError::Lost(reason))) => Attempt::Unknown(reason),
            Ok(Ok(answer)) => decode(&answer).unwrap_or_else(|error| Attempt::Unknown(error.to_string())),
        }
    }

    pub fn known_leader(&self) -> Option<LeaderHint> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader?;
        let address = address_of(&metrics, id)?;
        Some(LeaderHint {
            id,
            server: ServerAddress { address },
        })
    }
}

pub fn hint_of(forward: ForwardToLeader<TypeConfig>) -> Option<LeaderHint> {
    Some(LeaderHint {
        id: forward.leader_id?,
        server: forward.leader_node?,
    })
}
