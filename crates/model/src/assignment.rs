//! What a server tells an agent: everything its node needs, and nothing more.
//!
//! A session starts with one complete set; increments follow, each naming the set it applies to and the set it results in, so
//! that an agent which missed one asks for a complete set again instead of drifting.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::net::Ipv4Net;
use crate::object::{DataRecord, ServiceNetwork, Slot};
use crate::phase::Desired;
use crate::spec::{EndpointMode, IngressRule, PolicyRule, PortSpec, ServiceSpec};
use crate::{DataId, Name, NodeId, ReplicaId, ServiceId};

/// One item of an agent's set. The tag is not `kind`: configs and secrets have a field of that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "item", rename_all = "snake_case")]
pub enum Item {
    /// The node itself.
    Node(NodeItem),
    /// A replica to run here, or to stop.
    Replica(ReplicaItem),
    /// A service that this node can route to.
    Service(ServiceItem),
    /// Another node and the addresses behind it.
    Peer(PeerItem),
    /// A config or secret that this node uses.
    Data(DataRecord),
}

/// Names an [`Item`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum ItemKey {
    /// The node itself.
    Node,
    /// A replica.
    Replica(ReplicaId),
    /// A service.
    Service(ServiceId),
    /// Another node.
    Peer(NodeId),
    /// A config or secret.
    Data(DataId),
}

impl Item {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> ItemKey {
        match self {
            Self::Node(_) => ItemKey::Node,
            Self::Replica(item) => ItemKey::Replica(item.id),
            Self::Service(item) => ItemKey::Service(item.id),
            Self::Peer(item) => ItemKey::Peer(item.id),
            Self::Data(item) => ItemKey::Data(item.id),
        }
    }
}

/// What the cluster decided about the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeItem {
    /// Its id.
    pub id: NodeId,
    /// Its name in the cluster.
    pub name: String,
    /// Its replicas' addresses; the first usable one is the gateway and name server.
    pub subnet: Ipv4Net,
    /// All replicas' addresses in the cluster: traffic between them is not masqueraded.
    pub replica_pool: Ipv4Net,
    /// All virtual addresses.
    pub service_pool: Ipv4Net,
    /// Labels, for templates.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A replica of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaItem {
    /// Its id.
    pub id: ReplicaId,
    /// Its service.
    pub service: ServiceId,
    /// Namespace of the service.
    pub namespace: Name,
    /// Name of the service.
    pub service_name: Name,
    /// The position it fills.
    pub slot: Slot,
    /// The revision whose spec this is.
    pub revision: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// What the leader wants of it.
    pub desired: Desired,
    /// The spec of its revision.
    pub spec: Arc<ServiceSpec>,
}

impl ReplicaItem {
    /// `web.3`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.service_name, self.slot)
    }
}

/// A service as the data path of a node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceItem {
    /// Its id.
    pub id: ServiceId,
    /// Its namespace.
    pub namespace: Name,
    /// Its name.
    pub name: Name,
    /// How its name resolves.
    pub endpoint_mode: EndpointMode,
    /// Virtual address and names per network.
    #[serde(default)]
    pub networks: BTreeMap<String, ServiceNetwork>,
    /// Published ports, all numbered.
    #[serde(default)]
    pub ports: Vec<PortSpec>,
    /// Replicas that may get traffic, in order of id.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Addresses of replicas that may be alive, ready or not, in order, per network that the replica is attached to: while its
    /// networks change, replicas of one service are on different ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<String, Vec<Ipv4Addr>>,
    /// Who may open connections to it; whoever shares a network when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Vec<PolicyRule>>,
    /// What of it the HTTP ingress of every node serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<ServiceIngress>,
}

/// A replica that may get traffic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id.
    pub replica: ReplicaId,
    /// Where it runs.
    pub node: NodeId,
    /// Its address.
    pub address: Ipv4Addr,
    /// The position it fills.
    pub slot: Slot,
}

/// A service as the HTTP ingress of a node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceIngress {
    /// Which requests are its own.
    pub rules: Vec<IngressRule>,
    /// How requests are split while a canary is tried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<TrafficSplit>,
}

/// A share of the requests for some of the endpoints; the rest is for the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficSplit {
    /// The share in percent (0 to 100), whatever the number of replicas.
    pub percent: u32,
    /// Endpoints that run the new revision.
    pub replicas: Vec<ReplicaId>,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerItem {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// The addresses of its replicas.
    pub subnet: Ipv4Net,
    /// Its address on the network that the nodes share.
    pub address: IpAddr,
    /// Port of its agent.
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::DataKind;
    use crate::{Bytes64, Timestamp};

    #[test]
    fn items_round_trip_with_fields_that_are_named_alike() {
        let item = Item::Data(DataRecord {
            id: DataId(1),
            kind: DataKind::Secret,
            namespace: Name::new("shop").expect("a name"),
            name: Name::new("key").expect("a name"),
            version: 1,
            content: Bytes64(b"hush".to_vec()),
            labels: BTreeMap::new(),
            created_at: Timestamp(1),
        });
        let text = serde_json::to_string(&item).expect("an item is data");
        assert_eq!(serde_json::from_str::<Item>(&text).ok(), Some(item), "{text}");
    }
}
