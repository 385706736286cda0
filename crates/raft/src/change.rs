//! Changing the members and the leader while the cluster runs.
//!
//! Each change is a wish for a state ("be a voter"), so repeating one is harmless: that is how it survives a change of leader.
//! The leader is never removed or demoted while it leads: it hands over first, and its successor does it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gantry_model::ServerId;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use serde::{Deserialize, Serialize};

use crate::leader::{Deadline, LeaderRequest, Routed, hint_of};
use crate::members::{Members, Voting};
use crate::replicated::Inner;
use crate::transport::Method;
use crate::types::{Metrics, ServerAddress};
use crate::wire::Attempt;
use crate::{ChangeError, Replicated};

/// Entries a learner may lack when it becomes a voter: a fraction of a second of a busy log.
const PROMOTE_BEHIND_MAX: u64 = 1000;

/// Time for a successor to catch up and be elected.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);

type Changed = Attempt<(), ChangeError>;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Change {
    Add { id: u64, address: String },
    Promote { id: u64 },
    Demote { id: u64 },
    Remove { id: u64 },
    Transfer { to: Option<u64>, from: u64 },
}

impl LeaderRequest for Change {
    const METHOD: Method = Method::ChangeMembers;
    const REPEAT_AFTER: Option<Duration> = Some(Duration::from_secs(15));
    type Answer = ();
    type Failure = ChangeError;

    async fn attempt(self, inner: &Inner, timeout: Duration) -> Changed {
        let deadline = Deadline::after(timeout);
        let work = async {
            match inner.raft.as_leader() {
                Err(forward) => Attempt::Elsewhere(hint_of(forward)),
                Ok(_) => inner.change_here(self, deadline).await,
            }
        };
        let unknown = |_| Attempt::Unknown("the servers did not agree in time".to_string());
        tokio::time::timeout(timeout, work).await.unwrap_or_else(unknown)
    }
}

impl Replicated {
    /// Adds a server as a learner, or tells the others its new address.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn add_server(&self, id: ServerId, address: impl Into<String>) -> Result<(), ChangeError> {
        let address = address.into();
        self.change(Change::Add { id: id.0, address }).await
    }

    /// Makes a learner a voter, once it has caught up.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn promote(&self, id: ServerId) -> Result<(), ChangeError> {
        self.change(Change::Promote { id: id.0 }).await
    }

    /// Makes a voter a learner.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn demote(&self, id: ServerId) -> Result<(), ChangeError> {
        self.change(Change::Demote { id: id.0 }).await
    }

    /// Takes a server out of the cluster. One that is no member is gone already.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn remove(&self, id: ServerId) -> Result<(), ChangeError> {
        self.change(Change::Remove { id: id.0 }).await
    }

    /// Makes another voter the leader: the given one, or the one that is furthest.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn transfer_leader(&self, to: Option<ServerId>) -> Result<(), ChangeError> {
        let from = self.inner.known_leader().map_or(0, |leader| leader.id);
        let to = to.map(|to| to.0);
        self.change(Change::Transfer { to, from }).await
    }

    async fn change(&self, change: Change) -> Result<(), ChangeError> {
        let waited_ms = self.inner.options.change_deadline_ms;
        match self.inner.at_leader(change, Duration::from_millis(waited_ms)).await {
            Routed::Done(()) => Ok(()),
            Routed::Failed(error) => Err(error),
            Routed::NoLeader | Routed::Unknown(_) => Err(ChangeError::NoLeader { waited_ms }),
            Routed::Stopped(reason) => Err(ChangeError::Stopped(reason)),
        }
    }
}

impl Inner {
    async fn change_here(&self, change: Change, deadline: Deadline) -> Changed {
        if self.metrics(|metrics| metrics.membership_config.get_joint_config().len() > 1) {
            // Left behind by a leader that was lost half way: finish that change first, then look again.
            let finished = self.write_members(ChangeMembers::AddVoterIds(BTreeSet::new())).await;
            return match finished {
                Attempt::Done(()) => Attempt::Elsewhere(None),
                other => other,
            };
        }
        let members = self.members_now();
        match change {
            Change::Add { id, address } => self.add(&members, id, address).await,
            Change::Promote { id } => self.promote(&members, id, deadline).await,
            Change::Demote { id } => match members.get(ServerId(id)).map(|member| member.voting) {
                None => Attempt::Failed(ChangeError::NotFound(ServerId(id))),
                Some(Voting::Learner) => Attempt::Done(()),
                Some(Voting::Voter) => self.unseat(&members, id, true).await,
            },
            Change::Remove { id } => match members.get(ServerId(id)).map(|member| member.voting) {
                None => Attempt::Done(()),
                Some(Voting::Learner) => self.write_members(ChangeMembers::RemoveNodes([id].into())).await,
                Some(Voting::Voter) => self.unseat(&members, id, false).await,
            },
            // Whoever led when it was asked for does so no more: an earlier try succeeded.
            Change::Transfer { to: None, from } if from != 0 && from != self.options.id.0 => Attempt::Done(()),
            Change::Transfer { to, .. } => self.transfer(&members, to).await,
        }
    }

    async fn add(&self, members: &Members, id: u64, address: String) -> Changed {
        let node = BTreeMap::from([(
            id,
            ServerAddress {
                address: address.clone(),
            },
        )]);
        match members.get(ServerId(id)) {
            Some(member) if member.address == address => Attempt::Done(()),
            Some(_) => self.write_members(ChangeMembers::SetNodes(node)).await,
            None => self.write_members(ChangeMembers::AddNodes(node)).await,
        }
    }

    async fn promote(&self, members: &Members, id: u64, deadline: Deadline) -> Changed {
        let id_shown = ServerId(id);
        match members.get(id_shown).map(|member| member.voting) {
            None => return Attempt::Failed(ChangeError::NotFound(id_shown)),
            Some(Voting::Voter) => return Attempt::Done(()),
            Some(Voting::Learner) => {}
        }
        let near = |metrics: &Metrics| behind(metrics, id).is_none_or(|behind| behind <= PROMOTE_BEHIND_MAX);
        // A little less than what is left, so that the answer still reaches who asked.
        let patience = deadline.left().mul_f32(0.8);
        if !self.wait_for(near, patience).await {
            let behind = self.metrics(|metrics| behind(metrics, id)).unwrap_or_default();
            return Attempt::Failed(ChangeError::Behind { id: id_shown, behind });
        }
        self.write_members(ChangeMembers::AddVoterIds([id].into())).await
    }

    /// Takes a vote away; the server stays as a learner if `retain`.
    async fn unseat(&self, members: &Members, id: u64, retain: bool) -> Changed {
        if members.voters().count() == 1 {
            return Attempt::Failed(ChangeError::LastVoter(ServerId(id)));
        }
        if id == self.options.id.0 {
            return match self.transfer(members, None).await {
                Attempt::Done(()) => Attempt::Elsewhere(self.known_leader()),
                other => other,
            };
        }
        let change = ChangeMembers::RemoveVoters([id].into());
        self.write(change, retain).await
    }

    async fn transfer(&self, members: &Members, to: Option<u64>) -> Changed {
        let this = self.options.id;
        if to == Some(this.0) {
            return Attempt::Done(());
        }
        let successor = match to {
            None => furthest(members, this),
            Some(to) => match members.get(ServerId(to)).map(|member| member.voting) {
                None => return Attempt::Failed(ChangeError::NotFound(ServerId(to))),
                Some(Voting::Learner) => return Attempt::Failed(ChangeError::NotVoter(ServerId(to))),
                Some(Voting::Voter) => members
                    .get(ServerId(to))
                    .filter(|member| member.reachable == Some(true))
                    .map(|_| to),
            },
        };
        let Some(successor) = successor else {
            return Attempt::Failed(ChangeError::NoSuccessor);
        };
        // From here on this leader takes no writes, so the successor must not have far to go.
        let near = |metrics: &Metrics| behind(metrics, successor).is_none_or(|behind| behind <= PROMOTE_BEHIND_MAX);
        if !self.wait_for(near, TRANSFER_TIMEOUT).await {
            return Attempt::Failed(ChangeError::NoSuccessor);
        }
        if let Err(error) = self.raft.trigger().transfer_leader(successor).await {
            return Attempt::Failed(ChangeError::Stopped(error.to_string()));
        }
        let handed_over = |metrics: &Metrics| metrics.current_leader.is_some_and(|leader| leader != this.0);
        if self.wait_for(handed_over, TRANSFER_TIMEOUT).await {
            Attempt::Done(())
        } else {
            Attempt::Failed(ChangeError::NoSuccessor)
        }
    }

    async fn write_members(&self, change: ChangeMembers<u64, ServerAddress>) -> Changed {
        self.write(change, true).await
    }

    async fn write(&self, change: ChangeMembers<u64, ServerAddress>, retain: bool) -> Changed {
        match self.raft.change_membership(change, retain).await {
            Ok(written) => {
                // The next change is decided on the metrics, which may lag behind the answer.
                let seen = |metrics: &Metrics| *metrics.membership_config.log_id() >= Some(written.log_id);
                self.wait_for(seen, TRANSFER_TIMEOUT).await;
                Attempt::Done(())
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Attempt::Elsewhere(hint_of(forward))
            }
            // Another change, or the first entry of this term, is not committed yet.
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
            ))) => Attempt::Elsewhere(None),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                Attempt::Failed(ChangeError::Refused(error.to_string()))
            }
            Err(error) => Attempt::Unknown(error.to_string()),
        }
    }

    /// Waits until the metrics are as wanted; says whether they became so.
    pub async fn wait_for(&self, wanted: impl Fn(&Metrics) -> bool, timeout: Duration) -> bool {
        let mut metrics = self.raft.metrics();
        let work = async {
            loop {
                if wanted(&metrics.borrow_watched()) {
                    return true;
                }
                if metrics.changed().await.is_err() {
                    return false;
                }
            }
        };
        tokio::time::timeout(timeout, work).await.unwrap_or(false)
    }
}

/// Entries that a server lacks; `None` when this server does not lead (any more), so that nobody waits for it.
fn behind(metrics: &Metrics, id: u64) -> Option<u64> {
    let replication = metrics.replication.as_ref()?;
    let matched = replication
        .get(&id)
        .copied()
        .flatten()
        .map_or(0, |matched| matched.index);
    Some(metrics.last_log_index.unwrap_or_default().saturating_sub(matched))
}

fn furthest(members: &Members, this: ServerId) -> Option<u64> {
    let others = members
        .voters()
        .filter(|member| member.id != this && member.reachable == Some(true));
    others.max_by_key(|member| member.matched).map(|member| member.id.0)
}
