//! What openraft is told about Gantry: the entry, its answer, and who the servers are.

use gantry_state::Outcome;
use serde::{Deserialize, Serialize};

pub use crate::proposal::Proposal;

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
