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

impl Replicated {
    /// A state that holds everything acknowledged anywhere before this call.
    ///
    /// # Errors
    /// When no leader confirmed it with a majority in time; never a state that may be stale.
    pub async fn linearizable(&self) -> Result<State, ReadError> {
        let waited_ms = self.inner.options.deadline_ms;
        let timeout = Duration::from_millis(waited_ms);
        let deadline = Deadline::after(timeout);
        match self.inner.at_leader(ReadIndex {}, timeout).await {
            Routed::Done(index) if self.inner.applied(index, deadline.left()).await => Ok(self.state()),
            Routed::Done(_) | Routed::NoLeader | Routed::Unknown(_) => Err(ReadError::NoLeader { waited_ms }),
            Routed::Failed(never) => match never {},
            Routed::Stopped(reason) => Err(ReadError::Stopped { reason }),
        }
    }
}
