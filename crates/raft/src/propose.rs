//! Writing: a transaction becomes an entry of the log.

use std::time::Duration;

use gantry_state::{Outcome, Transaction};
use openraft::errors::{ClientWriteError, RaftError};
use serde::{Deserialize, Serialize};

use crate::leader::{Deadline, LeaderRequest, Routed, hint_of};
use crate::replicated::Inner;
use crate::transport::Method;
use crate::types::Proposal;
use crate::wire::{Attempt, PROPOSAL_BYTES_MAX};
use crate::{ProposeError, Replicated};

/// What became of a proposal that a majority stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Whether the state machine carried it out.
    pub outcome: Outcome,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Propose(Proposal);

/// Nothing fails for good at the leader: a refused transaction is an outcome.
#[derive(Serialize, Deserialize)]
pub enum Never {}

impl LeaderRequest for Propose {
    const METHOD: Method = Method::Propose;
    const REPEAT_AFTER: Option<Duration> = None;
    type Answer = Outcome;
    type Failure = Never;

    async fn attempt(self, inner: &Inner, timeout: Duration) -> Attempt<Outcome, Never> {
        let write = inner.raft.client_write(self.0);
        match tokio::time::timeout(timeout, write).await {
            Err(_) => Attempt::Unknown("no majority of the servers stored it in time".to_string()),
            Ok(Ok(written)) => match written.data.outcome {
                Some(outcome) => Attempt::Done(outcome),
                None => Attempt::Unknown("its entry was applied without an outcome".to_string()),
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Attempt::Elsewhere(hint_of(forward))
            }
            Ok(Err(error)) => Attempt::Unknown(error.to_string()),
        }
    }
}

impl Replicated {
    /// Writes a transaction, at the leader wherever it is. When this returns an outcome, [`Replicated::state`] of this server
    /// holds its effects too, unless this server lags behind until the deadline.
    ///
    /// # Errors
    /// See [`ProposeError`]: every variant says whether the transaction may have been done.
    pub async fn propose(&self, transaction: Transaction) -> Result<Proposed, ProposeError> {
        let proposal = encoded(transaction)?;
        let timeout = Duration::from_millis(self.inner.options.deadline_ms);
        let deadline = Deadline::after(timeout);
        match self.inner.at_leader(Propose(proposal), timeout).await {
            Routed::Done(outcome) => {
                if let Outcome::Committed { revision } = outcome {
                    self.inner.applied(revision, deadline.left()).await;
                }
                Ok(Proposed { outcome })
            }
            Routed::Failed(never) => match never {},
            Routed::NoLeader => Err(ProposeError::NoLeader {
                waited_ms: self.inner.options.deadline_ms,
            }),
            Routed::Unknown(reason) => Err(ProposeError::Unknown { reason }),
            Routed::Stopped(reason) => Err(ProposeError::Stopped { reason }),
        }
    }
}

fn encoded(transaction: Transaction) -> Result<Proposal, ProposeError> {
    // Encoding into memory fails for nothing but a type that cannot be encoded, which none of the state's is.
    let proposal = Proposal::new(transaction).map_err(|_| ProposeError::TooLarge { bytes: 0 })?;
    match proposal.bytes() {
        bytes if bytes > PROPOSAL_BYTES_MAX => Err(ProposeError::TooLarge { bytes }),
        _ => Ok(proposal),
    }
}
