//! Who reaches whom: networks, ways to the outside and policies as packet rules.
//!
//! A replica has one address, whatever it is attached to. What a network is, the kernel knows as a set of its members' addresses.
//! A new connection between replicas is judged twice, by the node it comes from (`egress`) and by the node it goes to
//! (`ingress`), each by the networks of its own replica; a policy of the service (`policed`) is judged by both. What belongs to a
//! connection that was let through passes.
//!
//! The node it comes from refuses, so that a client learns it at once. The node it goes to drops: whom it does not know may be a
//! replica that it hears of in a moment, and the client asks again.
//!
//! **Invariant:** connections to published ports are open to all, and judged where they come in: a policy sees the client there.
//! Towards replicas of other nodes they bear the address of the node they came in by.
//! **Invariant:** a replica of this node that is not in the plan reaches nobody and is reached by nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use gantry_model::assignment::ServiceItem;
use gantry_model::spec::{PolicyPeer, PolicyPorts, PolicyRule};
use gantry_model::{QualifiedName, ServiceId};

use crate::network::LocalReplica;
use crate::{Key, NodeNetwork, SetKind};

/// Address of a replica of this node → what it may connect to.
pub(crate) const FROM: &str = "from";
/// Address of a replica of this node → who may connect to it.
pub(crate) const TO: &str = "to";
/// Address of a replica, of this node or another → the policy of its service.
pub(crate) const POLICED: &str = "policed";
/// The other nodes: their own processes, and what comes in by them to a published port.
pub(crate) const NODES: &str = "nodes";
/// Replicas of this node that are on internal networks only.
pub(crate) const CONFINED: &str = "confined";

/// 0.0.0.0 → the chain that drops, for as long as the table is in force. Maps to chains, because only of those are the elements
/// gone from the moment in which a table is deleted; a set keeps its own until it is freed.
const DROPPING: &str = "dropping";
/// The same for the chain that refuses.
const REFUSING: &str = "refusing";

const ADDRESSES: SetKind = SetKind {
    key_type: "ipv4_addr",
    verdicts: false,
};
const CHAINS: SetKind = SetKind {
    key_type: "ipv4_addr",
    verdicts: true,
};

/// The sets that are there whatever the node runs.
pub(crate) const FIXED_SETS: [(&str, SetKind); 7] = [
    (FROM, CHAINS),
    (TO, CHAINS),
    (POLICED, CHAINS),
    (NODES, ADDRESSES),
    (CONFINED, ADDRESSES),
    (DROPPING, CHAINS),
    (REFUSING, CHAINS),
];

/// Where what isolates is put.
pub(crate) trait Table {
    fn set(&mut self, name: &str, kind: SetKind);
    fn element(&mut self, set: &str, key: Key, chain: Option<String>);
    fn chain(&mut self, name: String, rules: Vec<String>);
}

struct Isolation<'a, T> {
    network: &'a NodeNetwork,
    table: &'a mut T,
    /// What the services attached to a network say of it.
    facts: BTreeMap<&'a str, Facts<'a>>,
    ids: BTreeMap<QualifiedName, ServiceId>,
}

#[derive(Default)]
struct Facts<'a> {
    internal: bool,
    policy: Option<Vec<&'a PolicyRule>>,
}

/// Which address of a packet is the other one's.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// Adds what keeps networks apart to the table.
pub(crate) fn isolate(network: &NodeNetwork, table: &mut impl Table) {
    let mut isolation = Isolation {
        network,
        facts: facts(network),
        ids: network
            .services
            .values()
            .map(|service| (name_of(service), service.id))
            .collect(),
        table,
    };
    for (map, chain) in [(DROPPING, "vanish"), (REFUSING, "refuse")] {
        let any = Key::Address(Ipv4Addr::UNSPECIFIED);
        isolation.table.element(map, any, Some(chain.to_string()));
    }
    isolation.add_nodes();
    isolation.add_networks();
    for replica in network.replicas.values().filter(|replica| !replica.networks.is_empty()) {
        isolation.add_replica(replica);
    }
    for service in network.services.values() {
        isolation.add_policy(service);
    }
}

/// The common part of the packet's way; `vips` and `replicas` are the cluster's pools, `subnet` is this node's.
pub(crate) fn base_rules(network: &NodeNetwork) -> [(&'static str, Vec<String>); 6] {
    let (subnet, gateway) = (network.subnet, network.gateway);
    let (replicas, published) = (network.replica_pool, published(network));
    let egress = vec![
        format!("ip saddr vmap @{FROM}"),
        format!("ip saddr {subnet} goto ignore"),
    ];
    let ingress = vec![
        format!("ip daddr != {subnet} return"),
        format!("{published} return"),
        format!("ip saddr != {replicas} return"),
        format!("ip saddr @{NODES} return"),
        format!("ip daddr vmap @{TO}"),
        "goto ignore".to_string(),
    ];
    // Of the node itself they have the name server.
    let confined = vec![
        "ct state established,related return".to_string(),
        format!("ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 return"),
        format!("ip daddr {gateway} icmp type echo-request return"),
        "goto refuse".to_string(),
    ];
    // A packet under way while the table is replaced passes the former rules, but no longer finds what was in its maps: the table
    // that stands in meanwhile judges it.
    let unless_going = |map| vec![format!("ip saddr & 0.0.0.0 vmap @{map}"), "accept".to_string()];
    [
        ("egress", egress),
        ("ingress", ingress),
        ("confine", confined),
        ("forbid", unless_going(REFUSING)),
        ("ignore", unless_going(DROPPING)),
        ("vanish", vec!["drop".to_string()]),
    ]
}

/// Matches what a published port of this node leads to a replica.
pub(crate) fn published(network: &NodeNetwork) -> String {
    format!("ct status dnat ct original ip daddr != {}", network.service_pool)
}

fn name_of(service: &ServiceItem) -> QualifiedName {
    let (namespace, name) = (service.namespace.clone(), service.name.clone());
    QualifiedName { namespace, name }
}

fn facts(network: &NodeNetwork) -> BTreeMap<&str, Facts<'_>> {
    let mut facts: BTreeMap<&str, Facts<'_>> = BTreeMap::new();
    for service in network.services.values() {
        for (name, attached) in &service.networks {
            let known = facts.entry(name).or_default();
            known.internal |= attached.internal;
            if let Some(policy) = &attached.policy {
                known.policy.get_or_insert_default().extend(policy);
            }
        }
    }
    facts
}

/// The networks that lead nowhere outside.
pub(crate) fn internal_networks(network: &NodeNetwork) -> BTreeSet<&str> {
    let facts = facts(network).into_iter();
    facts
        .filter(|(_, facts)| facts.internal)
        .map(|(name, _)| name)
        .collect()
}

/// Addresses on a network. A server of an older release does not tell: then those that get traffic.
pub(crate) fn members<'a>(service: &'a ServiceItem, network: &str) -> impl Iterator<Item = Ipv4Addr> + 'a {
    let told = service.members.get(network).map_or(&[][..], Vec::as_slice);
    let endpoints = if service.members.is_empty() && service.networks.contains_key(network) {
        service.endpoints.as_slice()
    } else {
        &[]
    };
    told.iter()
        .copied()
        .chain(endpoints.iter().map(|endpoint| endpoint.address))
}

fn all_members(service: &ServiceItem) -> BTreeSet<Ipv4Addr> {
    let networks: BTreeSet<&String> = service.networks.keys().chain(service.members.keys()).collect();
    networks
        .into_iter()
        .flat_map(|network| members(service, network))
        .collect()
}

impl<'a, T: Table> Isolation<'a, T> {
    fn add_nodes(&mut self) {
        for peer in self.network.peers.values() {
            if let IpAddr::V4(address) = peer.address {
                self.table.element(NODES, Key::Address(address), None);
            }
            if let Some(gateway) = peer.subnet.address(1) {
                self.table.element(NODES, Key::Address(gateway), None);
            }
        }
    }

    /// The members of every network that a replica of this node is on.
    fn add_networks(&mut self) {
        let network = self.network;
        for replica in network.replicas.values() {
            for name in &replica.networks {
                let set = members_set(name);
                self.table.set(&set, ADDRESSES);
                self.table.element(&set, Key::Address(replica.address), None);
            }
        }
        let here: BTreeSet<&String> = network
            .replicas
            .values()
            .flat_map(|replica| &replica.networks)
            .collect();
        for service in network.services.values() {
            let networks: BTreeSet<&String> = service.networks.keys().chain(service.members.keys()).collect();
            for name in networks.intersection(&here) {
                let set = members_set(name);
                for address in members(service, name) {
                    self.table.element(&set, Key::Address(address), None);
                }
            }
        }
    }

    fn add_replica(&mut self, replica: &LocalReplica) {
        let host = u32::from(replica.address);
        let (from, to) = (format!("from_{host:08x}"), format!("to_{host:08x}"));
        let is_internal = |name: &String| self.facts.get(name.as_str()).is_some_and(|facts| facts.internal);
        let is_confined = replica.networks.iter().all(is_internal);
        let mut outward = Vec::new();
        if !is_confined {
            outward.push(format!("{} return", published(self.network)));
        }
        outward.extend(self.shared(replica, Side::Destination));
        outward.push(format!("ip daddr {} goto forbid", self.network.replica_pool));
        if is_confined {
            outward.push("goto forbid".to_string());
            self.table.element(CONFINED, Key::Address(replica.address), None);
        }
        let mut inward = self.shared(replica, Side::Source);
        inward.push("goto ignore".to_string());
        self.table.chain(from.clone(), outward);
        self.table.chain(to.clone(), inward);
        self.table.element(FROM, Key::Address(replica.address), Some(from));
        self.table.element(TO, Key::Address(replica.address), Some(to));
    }

    /// Lets through whoever is on one of the replica's networks, as far as the network's policy does.
    fn shared(&mut self, replica: &LocalReplica, other: Side) -> Vec<String> {
        let field = match other {
            Side::Source => "saddr",
            Side::Destination => "daddr",
        };
        let mut rules = Vec::new();
        for name in &replica.networks {
            let member = format!("ip {field} @{}", members_set(name));
            let policy = self.facts.get(name.as_str()).and_then(|facts| facts.policy.clone());
            match policy {
                None => rules.push(format!("{member} return")),
                Some(policy) => {
                    let lets_in = self.expand(&policy);
                    rules.extend(lets_in.into_iter().map(|one| format!("{member} {one}return")));
                }
            }
        }
        rules
    }

    fn add_policy(&mut self, service: &ServiceItem) {
        let Some(policy) = &service.policy else { return };
        let rules: Vec<&PolicyRule> = policy.iter().collect();
        let mut lines = vec![format!("ip saddr @{NODES} return")];
        lines.extend(self.expand(&rules).into_iter().map(|one| format!("{one}return")));
        lines.push("goto forbid".to_string());
        let chain = format!("pol_{}", service.id);
        self.table.chain(chain.clone(), lines);
        let endpoints = service.endpoints.iter().map(|endpoint| endpoint.address);
        let addresses: BTreeSet<Ipv4Addr> = all_members(service).into_iter().chain(endpoints).collect();
        for address in addresses {
            self.table.element(POLICED, Key::Address(address), Some(chain.clone()));
        }
    }

    /// What the rules match, one expression for each pair of who and where to; a final space unless empty.
    fn expand(&mut self, policy: &[&PolicyRule]) -> BTreeSet<String> {
        let mut expressions = BTreeSet::new();
        for rule in policy {
            let peers: Vec<String> = match rule.from.as_slice() {
                [] => vec![String::new()],
                from => from.iter().filter_map(|peer| self.peer(peer)).collect(),
            };
            let port = |ports: &PolicyPorts| {
                let (protocol, first, last) = (ports.protocol, ports.first, ports.last);
                if first == last {
                    format!("{protocol} dport {first} ")
                } else {
                    format!("{protocol} dport {first}-{last} ")
                }
            };
            let ports: Vec<String> = match rule.ports.as_slice() {
                [] => vec![String::new()],
                ports => ports.iter().map(port).collect(),
            };
            let pairs = peers
                .iter()
                .flat_map(|peer| ports.iter().map(move |port| format!("{peer}{port}")));
            expressions.extend(pairs);
        }
        expressions
    }

    /// Matches packets of a peer; none for a service that nobody here can be reached by.
    fn peer(&mut self, peer: &PolicyPeer) -> Option<String> {
        let network = self.network;
        let (set, services): (String, Vec<&ServiceItem>) = match peer {
            PolicyPeer::Net(net) => return Some(format!("ip saddr {net} ")),
            PolicyPeer::Service(name) => {
                let id = self.ids.get(name)?;
                (format!("peer_{id}"), network.services.get(id).into_iter().collect())
            }
            PolicyPeer::Namespace(namespace) => {
                let of_it = network
                    .services
                    .values()
                    .filter(|service| service.namespace == *namespace);
                (format!("peers_{namespace}"), of_it.collect())
            }
        };
        self.table.set(&set, ADDRESSES);
        for address in services.into_iter().flat_map(all_members) {
            self.table.element(&set, Key::Address(address), None);
        }
        Some(format!("ip saddr @{set} "))
    }
}

fn members_set(network: &str) -> String {
    format!("net_{network}")
}
