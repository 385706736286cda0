//! What a node knows about the network: itself, its peers, the services it can route to, the replicas it runs.
//!
//! **Invariant:** everything is keyed and sorted, so the order of arrival leaves no trace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use gantry_model::assignment::{Item, NodeItem, PeerItem, ReplicaItem, ServiceItem};
use gantry_model::net::Ipv4Net;
use gantry_model::{Name, NodeId, ReplicaId, ServiceId};

/// Input of a [`Plan`](crate::Plan).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNetwork {
    /// This node.
    pub node: NodeId,
    /// Addresses of this node's replicas.
    pub subnet: Ipv4Net,
    /// The node's own address in its subnet: gateway and name server of its replicas.
    pub gateway: Ipv4Addr,
    /// Addresses of all replicas in the cluster.
    pub replica_pool: Ipv4Net,
    /// All virtual addresses in the cluster.
    pub service_pool: Ipv4Net,
    /// The other nodes.
    pub peers: BTreeMap<NodeId, Peer>,
    /// Services this node can route to.
    pub services: BTreeMap<ServiceId, ServiceItem>,
    /// Replicas of this node.
    pub replicas: BTreeMap<ReplicaId, LocalReplica>,
}

/// Another node as the data path sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Addresses of its replicas.
    pub subnet: Ipv4Net,
    /// Its address on the network that the nodes share.
    pub address: IpAddr,
}

/// A replica of this node as the data path sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalReplica {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its namespace; names of that namespace win over equal names of another on a shared network.
    pub namespace: Name,
    /// Networks whose names it may resolve.
    pub networks: BTreeSet<String>,
}

impl NodeNetwork {
    /// A node alone, with neither peers nor services.
    #[must_use]
    pub fn new(node: &NodeItem) -> Self {
        Self {
            node: node.id,
            subnet: node.subnet,
            gateway: node.subnet.address(1).unwrap_or_else(|| node.subnet.base()),
            replica_pool: node.replica_pool,
            service_pool: node.service_pool,
            peers: BTreeMap::new(),
            services: BTreeMap::new(),
            replicas: BTreeMap::new(),
        }
    }

    /// Gathers an agent's items; none while the set does not hold the node itself yet.
    #[must_use]
    pub fn from_items<'a>(items: impl IntoIterator<Item = &'a Item> + Clone) -> Option<Self> {
        let node = items.clone().into_iter().find_map(|item| match item {
            Item::Node(node) => Some(node),
            Item::Replica(_) | Item::Service(_) | Item::Peer(_) | Item::Data(_) => None,
        })?;
        let mut network = Self::new(node);
        for item in items {
            match item {
                Item::Replica(replica) => network.add_replica(replica),
                Item::Service(service) => network.add_service(service.clone()),
                Item::Peer(peer) => network.add_peer(peer),
                Item::Node(_) | Item::Data(_) => {}
            }
        }
        Some(network)
    }

    /// Adds or replaces a replica of this node.
    pub fn add_replica(&mut self, replica: &ReplicaItem) {
        self.replicas.insert(replica.id, LocalReplica::from(replica));
    }

    /// Adds or replaces a service.
    pub fn add_service(&mut self, service: ServiceItem) {
        self.services.insert(service.id, service);
    }

    /// Adds or replaces another node.
    pub fn add_peer(&mut self, peer: &PeerItem) {
        let (subnet, address) = (peer.subnet, peer.address);
        self.peers.insert(peer.id, Peer { subnet, address });
    }
}

impl From<&ReplicaItem> for LocalReplica {
    fn from(replica: &ReplicaItem) -> Self {
        let networks = replica.spec.networks.iter();
        let names = networks.map(|(key, attachment)| attachment.name_in(&replica.namespace, key));
        Self {
            address: replica.address,
            namespace: replica.namespace.clone(),
            networks: names.collect(),
        }
    }
}
