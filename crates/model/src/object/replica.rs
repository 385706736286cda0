//! One copy of a workload.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::explain::Explanation;
use crate::phase::{Desired, Observed, Phase};
use crate::{Name, NodeId, ReplicaId, ServiceId, Timestamp};

/// The stable position that successive replicas fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// 1 to n in a replicated service or job.
    Index(u32),
    /// The node, in a global service or job.
    Node(NodeId),
}

impl Slot {
    /// The position counted from 0; none where nodes are the positions.
    #[must_use]
    pub const fn index(self) -> Option<u32> {
        match self {
            Self::Index(index) => Some(index.saturating_sub(1)),
            Self::Node(_) => None,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(formatter, "{index}"),
            Self::Node(node) => write!(formatter, "{node}"),
        }
    }
}

/// A replica: placed once, on one node, never moved.
///
/// **Invariant:** `node`, `address`, `service`, `slot` and `revision` never change once `node` is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Its id.
    pub id: ReplicaId,
    /// The service it belongs to.
    pub service: ServiceId,
    /// Namespace of the service.
    pub namespace: Name,
    /// Name of the service.
    pub service_name: Name,
    /// The position it fills.
    pub slot: Slot,
    /// The revision of the service whose spec it runs.
    pub revision: u32,
    /// Where it runs, once placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Its address in its node's subnet, once placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// What the leader wants of it.
    #[serde(default)]
    pub desired: Desired,
    /// Why the leader wants it stopped or removed, such as `scaled in` or `node alpha drained`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub desired_reason: String,
    /// It runs without traffic until its rollout switches over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// What its agent last reported.
    #[serde(default)]
    pub observed: Observed,
    /// Why it is still pending, or why it was placed where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
    /// When the leader made it.
    pub created_at: Timestamp,
    /// When it was placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_at: Option<Timestamp>,
    /// When `desired` was last raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_since: Option<Timestamp>,
}

impl Replica {
    /// `web.3`, or `web.NODEID` in a global service.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.service_name, self.slot)
    }

    /// The object part of a message: `replica shop/web.3`.
    #[must_use]
    pub fn object(&self) -> String {
        format!("replica {}/{}", self.namespace, self.name())
    }

    /// Wanted to run, and not at an end.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.desired == Desired::Run && !self.observed.phase.is_terminal()
    }

    /// May get traffic: wanted, running and ready, and not held back.
    #[must_use]
    pub fn is_endpoint(&self) -> bool {
        !self.held && self.is_ready()
    }

    /// Wanted, running and ready; see [`Self::is_endpoint`] for whether it gets traffic.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.desired == Desired::Run && self.observed.ready && self.observed.phase == Phase::Running
    }

    /// Holds its node's resources: placed, and not known to have ended.
    #[must_use]
    pub fn holds_resources(&self) -> bool {
        self.node.is_some() && !self.observed.phase.is_terminal()
    }
}
