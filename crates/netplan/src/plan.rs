//! What a node should hold: gateway address, routes, packet rules and names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use gantry_model::net::Ipv4Net;
use gantry_model::spec::PortSpec;
use gantry_model::{Name, NodeId, ReplicaId};

use crate::rules::Rules;
use crate::{NodeNetwork, Rule, Ruleset, Zone};

/// The wanted state of a node's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Gateway and name server of this node's replicas.
    pub gateway: Gateway,
    /// All virtual addresses; routed to the gateway's link so that the node itself may use them.
    pub service_pool: Ipv4Net,
    /// All replicas' addresses.
    pub replica_pool: Ipv4Net,
    /// Subnets of the other nodes, with the address of the node that leads there.
    pub routes: BTreeMap<Ipv4Net, IpAddr>,
    /// Addresses of this node's replicas, for those of them that have a link here.
    pub replicas: BTreeMap<ReplicaId, Ipv4Addr>,
    /// Packet rules.
    pub ruleset: Ruleset,
    /// Names.
    pub zone: Zone,
    /// Whether a published port must be reachable at a loopback address, from the node itself.
    pub loopback_ports: bool,
    /// What was asked for and cannot be.
    pub warnings: Vec<Warning>,
}

/// The node as its replicas see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// Its address.
    pub address: Ipv4Addr,
    /// The subnet that its replicas' addresses come from.
    pub subnet: Ipv4Net,
}

/// Something asked for that this node cannot give; the rest of the plan stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// Two services publish one port.
    #[error(
        "published port {port} of service {namespace}/{service} is already taken by service {owner}: publish another port"
    )]
    PortTaken {
        /// The port.
        port: PortSpec,
        /// Namespace of the service that lost.
        namespace: Name,
        /// The service that lost.
        service: Name,
        /// The service that keeps it, as `namespace/name`.
        owner: String,
    },
    /// A port bound to an address outside IPv4.
    #[error(
        "published port {port} of service {namespace}/{service} asks for host address {address}: only IPv4 addresses are served"
    )]
    HostAddress {
        /// The port.
        port: PortSpec,
        /// Namespace of the service.
        namespace: Name,
        /// The service.
        service: Name,
        /// The address.
        address: IpAddr,
    },
    /// Two nodes with one subnet.
    #[error("node {node} has the subnet {subnet} of another node: its replicas are unreachable from here")]
    SubnetTaken {
        /// The node that is left out.
        node: NodeId,
        /// The subnet.
        subnet: Ipv4Net,
    },
}

impl NodeNetwork {
    /// The wanted state.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let (routes, mut warnings) = self.routes();
        let rules = Rules::build(self);
        warnings.extend(rules.warnings);
        Plan {
            gateway: Gateway {
                address: self.gateway,
                subnet: self.subnet,
            },
            service_pool: self.service_pool,
            replica_pool: self.replica_pool,
            routes,
            replicas: self
                .replicas
                .iter()
                .map(|(id, replica)| (*id, replica.address))
                .collect(),
            ruleset: rules.ruleset,
            zone: Zone::build(self),
            loopback_ports: rules.loopback_ports,
            warnings,
        }
    }

    fn routes(&self) -> (BTreeMap<Ipv4Net, IpAddr>, Vec<Warning>) {
        let (mut routes, mut warnings) = (BTreeMap::new(), Vec::new());
        for (node, peer) in &self.peers {
            if *node == self.node {
                continue;
            }
            let subnet = peer.subnet;
            if subnet == self.subnet || routes.contains_key(&subnet) {
                warnings.push(Warning::SubnetTaken { node: *node, subnet });
            } else {
                routes.insert(subnet, peer.address);
            }
        }
        (routes, warnings)
    }
}

impl Plan {
    /// Every address that new connections are sent to.
    #[must_use]
    pub fn endpoints(&self) -> BTreeSet<Ipv4Addr> {
        let rules = self.ruleset.chains.values().flat_map(|chain| &chain.rules);
        let targets = rules.filter_map(|rule| match rule {
            Rule::Balance { to, .. } => Some(to),
            Rule::Text(_) => None,
        });
        targets.flatten().copied().collect()
    }
}
