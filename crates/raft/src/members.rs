//! Who belongs to the cluster, as this server knows it.

use std::time::Duration;

use gantry_model::ServerId;
use openraft::Instant as _;

use crate::types::Metrics;

/// The servers of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// The newest term this server knows of.
    pub term: u64,
    /// The leader of that term, if known.
    pub leader: Option<ServerId>,
    /// Index of the newest entry in the log of this server.
    pub last_index: u64,
    /// In order of id.
    pub servers: Vec<Member>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: ServerId,
    /// Where it is reached.
    pub address: String,
    /// Whether it counts for majorities.
    pub voting: Voting,
    /// Known to the leader only: how far its log is stored, as an index.
    pub matched: Option<u64>,
    /// Known to the leader only: whether it answered within the lease.
    pub reachable: Option<bool>,
}

/// Whether a server counts for majorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voting {
    /// It does.
    Voter,
    /// It only follows.
    Learner,
}

impl Members {
    /// The server with that id.
    #[must_use]
    pub fn get(&self, id: ServerId) -> Option<&Member> {
        self.servers.iter().find(|member| member.id == id)
    }

    /// The servers that vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.servers.iter().filter(|member| member.voting == Voting::Voter)
    }

    /// The servers that only follow.
    pub fn learners(&self) -> impl Iterator<Item = &Member> {
        self.servers.iter().filter(|member| member.voting == Voting::Learner)
    }

    pub(crate) fn observe(metrics: &Metrics, lease: Duration) -> Self {
        let membership = metrics.membership_config.membership();
        let voters: std::collections::BTreeSet<u64> = membership.voter_ids().collect();
        let last_index = metrics.last_log_index.unwrap_or_default();
        let member = |(id, node): (&u64, &crate::types::ServerAddress)| {
            let is_self = *id == metrics.id;
            let matched = metrics.replication.as_ref().and_then(|all| all.get(id).copied());
            let heard = metrics.heartbeat.as_ref().map(|all| all.get(id).copied().flatten());
            Member {
                id: ServerId(*id),
                address: node.address.clone(),
                voting: if voters.contains(id) {
                    Voting::Voter
                } else {
                    Voting::Learner
                },
                matched: match (&metrics.replication, is_self) {
                    (None, _) => None,
                    (Some(_), true) => Some(last_index),
                    (Some(_), false) => Some(matched.flatten().map_or(0, |matched| matched.index)),
                },
                reachable: heard.map(|heard| is_self || heard.is_some_and(|at| at.elapsed() < lease)),
            }
        };
        Self {
            term: metrics.current_term,
            leader: metrics.current_leader.map(ServerId),
            last_index,
            servers: membership.nodes().map(member).collect(),
        }
    }
}
