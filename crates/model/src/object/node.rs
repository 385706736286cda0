//! Machines that run replicas.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::net::Ipv4Net;
use crate::spec::GenericResource;
use crate::{ByteSize, MilliCpu, NodeId, Timestamp};

/// One machine with an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id, from its certificate.
    pub id: NodeId,
    /// Its host name, or the name given to its agent; unique in the cluster.
    pub name: String,
    /// Where other nodes and servers reach its agent, `address:port`.
    pub address: String,
    /// Where its replicas get their addresses.
    pub subnet: Ipv4Net,
    /// Labels given by `gantry node update`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What a person wants of it.
    #[serde(default)]
    pub availability: Availability,
    /// Whether its lease is alive, written by the leader when that changes.
    pub status: NodeStatus,
    /// Since when it has that status.
    pub status_since: Timestamp,
    /// What its agent said of it at the start of its session.
    pub facts: NodeFacts,
    /// When it joined.
    pub joined_at: Timestamp,
}

/// What an agent says of its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, as in image platforms.
    pub arch: String,
    /// Kernel release.
    pub kernel: String,
    /// Version of the agent.
    pub version: String,
    /// Processor time that replicas may reserve.
    pub cpu: MilliCpu,
    /// Memory that replicas may reserve.
    pub memory: ByteSize,
    /// Further things it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generic: Vec<GenericResource>,
    /// Labels of the agent's own configuration (`engine.labels.*`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The machine also runs a server (`node.role == manager`).
    #[serde(default)]
    pub runs_server: bool,
}

/// What a person wants of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// Takes replicas.
    #[default]
    Active,
    /// Keeps what it has, takes no more.
    Pause,
    /// Gives its replicas to other nodes.
    Drain,
}

impl fmt::Display for Availability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
        })
    }
}

/// Whether a node's lease is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// Its agent sends heartbeats.
    Ready,
    /// Its lease has run out.
    Down,
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Ready => "ready",
            Self::Down => "down",
        })
    }
}

impl Node {
    /// Whether the scheduler may place new replicas here.
    #[must_use]
    pub fn takes_replicas(&self) -> bool {
        self.status == NodeStatus::Ready && self.availability == Availability::Active
    }
}
