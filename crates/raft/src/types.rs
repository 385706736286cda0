//! What openraft is told about Gantry: the entry, its answer, and who the servers are.

use std::fmt;
use std::sync::Arc;

use gantry_state::{Outcome, Transaction};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// One leader per term (`leader_id_std`): with openraft's default several could share a term, and a precondition on the
    /// term would let a deposed one write.
    pub TypeConfig:
        D = Proposal,
        R = Reply,
        NodeId = u64,
        Node = ServerAddress,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

pub type Entry = openraft::alias::EntryOf<TypeConfig>;
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub type Metrics = openraft::RaftMetrics<TypeConfig>;

/// What an entry of the log carries. A struct, so that later versions can add fields.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Proposal {
    pub transaction: Arc<Transaction>,
}

impl fmt::Display for Proposal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ops = self.transaction.ops.len();
        write!(formatter, "transaction of {ops} operations")
    }
}

/// What applying an entry answers; `None` for those without a transaction.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reply {
    pub outcome: Option<Outcome>,
}

/// How a server is reached by the others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerAddress {
    pub address: String,
}
