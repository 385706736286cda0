//! Reading what is certainly current (ReadIndex, Ongaro's dissertation, section 6.4).

use std::time::Duration;

use gantry_state::State;
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use serde::{Deserialize, Serialize};

use crate::leader::{Deadline, LeaderRequest, Routed, hint_of};
use crate::propose::Never;
use crate::replicated::Inner;
use crate::transport::Method;
use crate::wire::Attempt;
use crate::{ReadError, Replicated};

#[derive(Clone, Serialize, Deserialize)]
pub struct ReadIndex {}

impl LeaderRequest for ReadIndex {
    const METHOD: Method = Method::ReadIndex;
    const REPEAT_AFTER: Option<Duration> = Some(Duration::from_secs(2));
    type Answer = u64;
    type Failure = Never;

    /// Never by the lease alone: a majority confirms after the read was asked for, so clocks play no part.
    async fn attempt(self, inner: &Inner, timeout: Duration) -> Attempt<u64, Never> {
        let confirmed = inner.raft.get_read_log_id(ReadPolicy::ReadIndex);
        match tokio::time::timeout(timeout, confirmed).await {
            Ok(Ok((read, _))) => Attempt::Done(read.index()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Attempt::Elsewhere(hint_of(forward))
            }
            Ok(Err(_)) | Err(_) => Attempt::Elsewhere(None),
        }
    }
}

/// How a shared round ended.
#[derive(Debug, Clone)]
pub enum Confirmed {
    Index(u64),
    NoLeader,
    Stopped(String),
}

impl Replicated {
    /// A state that holds everything acknowledged anywhere before this call.
    ///
    /// # Errors
    /// When no leader confirmed it with a majority in time; never a state that may be stale.
    pub async fn linearizable(&self) -> Result<State, ReadError> {
        let waited_ms = self.inner.options.deadline_ms;
        let timeout = Duration::from_millis(waited_ms);
        let deadline = Deadline::after(timeout);
        let late = || ReadError::NoLeader { waited_ms };
        match tokio::time::timeout(timeout, self.confirmed()).await {
            Ok(Confirmed::Index(index)) if self.inner.applied(index, deadline.left()).await => Ok(self.state()),
            Ok(Confirmed::Index(_) | Confirmed::NoLeader) | Err(_) => Err(late()),
            Ok(Confirmed::Stopped(reason)) => Err(ReadError::Stopped { reason }),
        }
    }

    /// The index that a majority confirmed after this call, together with everybody else who asks meanwhile.
    async fn confirmed(&self) -> Confirmed {
        let (answer, runs) = self.inner.rounds.join();
        if runs {
            // A task of its own: the others must not wait for a caller that gives up.
            let inner = self.inner.clone();
            self.inner
                .spawn(async move { inner.rounds.run(|| inner.confirm()).await });
        }
        answer
            .await
            .unwrap_or_else(|_| Confirmed::Stopped("it was shut down".to_string()))
    }
}

impl Inner {
    async fn confirm(&self) -> Confirmed {
        let timeout = Duration::from_millis(self.options.deadline_ms);
        match self.at_leader(ReadIndex {}, timeout).await {
            Routed::Done(index) => Confirmed::Index(index),
            Routed::NoLeader | Routed::Unknown(_) => Confirmed::NoLeader,
            Routed::Failed(never) => match never {},
            Routed::Stopped(reason) => Confirmed::Stopped(reason),
        }
    }
}
