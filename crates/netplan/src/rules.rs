//! The packet rules of a node: virtual addresses, published ports, masquerading, refusals.
//!
//! How a packet passes: `pre_nat` and `out_nat` jump to `services`, which sends a new connection to the chain of its virtual
//! address or published port, and that chain to one ready replica. What still bears a virtual address afterwards has no ready
//! replica and is refused at once (`forward`, `out`); a published port without one is refused in `in`.
//!
//! **Invariant:** a service's chain changes only with its endpoints, so that one transaction of a few commands moves its traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use gantry_model::assignment::ServiceItem;
use gantry_model::spec::{PortMode, PortSpec, Protocol};

use crate::isolation::{self, CONFINED, FIXED_SETS, POLICED, Table};
use crate::{Chain, Key, NodeNetwork, Rule, Ruleset, Set, SetKind, Warning};

/// Virtual address → chain.
const VIPS: &str = "vips";
/// Published port on all addresses of the node → chain.
const PORTS: &str = "ports";
/// Published port on one address of the node → chain.
const PORTS_AT: &str = "ports_at";
/// Published ports without a ready replica.
const CLOSED: &str = "closed";
/// The same on one address.
const CLOSED_AT: &str = "closed_at";
/// Replicas of this node, each paired with itself.
const HAIRPIN: &str = "hairpin";

/// The rules and what came up while making them.
pub(crate) struct Rules {
    pub(crate) ruleset: Ruleset,
    pub(crate) loopback_ports: bool,
    pub(crate) warnings: Vec<Warning>,
    /// Who has which port so far.
    owners: BTreeMap<Key, String>,
}

impl Rules {
    pub(crate) fn build(network: &NodeNetwork) -> Self {
        let mut rules = Self {
            ruleset: Ruleset {
                sets: empty_sets(),
                chains: base_chains(network),
            },
            loopback_ports: false,
            warnings: Vec::new(),
            owners: BTreeMap::new(),
        };
        for replica in network.replicas.values() {
            let pair = Key::Pair(replica.address, replica.address);
            rules.add_element(HAIRPIN, pair, None);
        }
        isolation::isolate(network, &mut rules);
        for service in network.services.values() {
            rules.add_virtual_addresses(service);
            for port in &service.ports {
                rules.add_port(network, service, port);
            }
        }
        rules
    }

    /// The virtual address of each network leads to the replicas that are on it, which are mostly all.
    fn add_virtual_addresses(&mut self, service: &ServiceItem) {
        let all = addresses(service, |_| true);
        for (index, (name, attached)) in service.networks.iter().enumerate() {
            let Some(vip) = attached.vip else { continue };
            let members: BTreeSet<Ipv4Addr> = isolation::members(service, name).collect();
            let to: Vec<Ipv4Addr> = all.iter().copied().filter(|one| members.contains(one)).collect();
            if to.is_empty() {
                continue;
            }
            let mut chain = format!("svc_{}", service.id);
            if to != all {
                chain = format!("{chain}_{index}");
            }
            if !self.ruleset.chains.contains_key(&chain) {
                self.add_balance(chain.clone(), Rule::Balance { to, port: None });
            }
            self.add_element(VIPS, Key::Address(vip), Some(chain));
        }
    }

    fn add_port(&mut self, network: &NodeNetwork, service: &ServiceItem, port: &PortSpec) {
        let Some(published) = port.published else { return };
        let to = match port.mode {
            PortMode::Ingress => addresses(service, |_| true),
            PortMode::Host => addresses(service, |node| node == network.node),
        };
        // A port in host mode belongs to the nodes with a replica; elsewhere it is free for others.
        if to.is_empty() && port.mode == PortMode::Host {
            return;
        }
        let Some(key) = self.claim(service, port, published) else {
            return;
        };
        let at_one_address = matches!(key, Key::AddressPort(..));
        self.loopback_ports |= match key {
            Key::AddressPort(address, ..) => address.is_loopback(),
            Key::Address(_) | Key::Port(..) | Key::Pair(..) => true,
        };
        if to.is_empty() {
            self.add_element(if at_one_address { CLOSED_AT } else { CLOSED }, key, None);
            return;
        }
        let mode = match port.mode {
            PortMode::Ingress => "ingress",
            PortMode::Host => "host",
        };
        let chain = format!("pub_{}_{}_{}_{mode}", service.id, port.protocol, port.target);
        let target = Some((port.protocol, port.target));
        self.add_balance(chain.clone(), Rule::Balance { to, port: target });
        self.add_element(if at_one_address { PORTS_AT } else { PORTS }, key, Some(chain));
    }

    /// The key under which the port is published, unless it cannot be.
    fn claim(&mut self, service: &ServiceItem, port: &PortSpec, published: u16) -> Option<Key> {
        let (namespace, name) = (service.namespace.clone(), service.name.clone());
        let key = match port.host_ip {
            None => Key::Port(port.protocol, published),
            Some(IpAddr::V4(address)) if address.is_unspecified() => Key::Port(port.protocol, published),
            Some(IpAddr::V4(address)) => Key::AddressPort(address, port.protocol, published),
            Some(address @ IpAddr::V6(_)) => {
                self.warnings.push(Warning::HostAddress {
                    port: port.clone(),
                    namespace,
                    service: name,
                    address,
                });
                return None;
            }
        };
        if let Some(owner) = self.owners.get(&key) {
            self.warnings.push(Warning::PortTaken {
                port: port.clone(),
                namespace,
                service: name,
                owner: owner.clone(),
            });
            return None;
        }
        self.owners.insert(key, format!("{namespace}/{name}"));
        Some(key)
    }

    fn add_balance(&mut self, chain: String, rule: Rule) {
        let (hook, rules) = (None, vec![rule]);
        self.ruleset.chains.insert(chain, Chain { hook, rules });
    }

    fn add_element(&mut self, set: &str, key: Key, chain: Option<String>) {
        if let Some(set) = self.ruleset.sets.get_mut(set) {
            set.elements.insert(key, chain);
        }
    }
}

impl Table for Rules {
    fn set(&mut self, name: &str, kind: SetKind) {
        if !self.ruleset.sets.contains_key(name) {
            let elements = BTreeMap::new();
            self.ruleset.sets.insert(name.to_string(), Set { kind, elements });
        }
    }

    fn element(&mut self, set: &str, key: Key, chain: Option<String>) {
        self.add_element(set, key, chain);
    }

    fn chain(&mut self, name: String, rules: Vec<String>) {
        let rules = rules.into_iter().map(Rule::Text).collect();
        self.ruleset.chains.insert(name, Chain { hook: None, rules });
    }
}

/// Ready replicas on the nodes that pass, sorted.
fn addresses(service: &ServiceItem, node: impl Fn(gantry_model::NodeId) -> bool) -> Vec<Ipv4Addr> {
    let endpoints = service.endpoints.iter().filter(|endpoint| node(endpoint.node));
    let addresses: BTreeSet<Ipv4Addr> = endpoints.map(|endpoint| endpoint.address).collect();
    addresses.into_iter().collect()
}

fn empty_sets() -> BTreeMap<String, Set> {
    let declared = [
        (VIPS, "ipv4_addr", true),
        (PORTS, "inet_proto . inet_service", true),
        (PORTS_AT, "ipv4_addr . inet_proto . inet_service", true),
        (CLOSED, "inet_proto . inet_service", false),
        (CLOSED_AT, "ipv4_addr . inet_proto . inet_service", false),
        (HAIRPIN, "ipv4_addr . ipv4_addr", false),
    ];
    let declared = declared.map(|(name, key_type, verdicts)| (name, SetKind { key_type, verdicts }));
    let set = |(name, kind): (&str, SetKind)| {
        let elements = BTreeMap::new();
        (name.to_string(), Set { kind, elements })
    };
    declared.into_iter().chain(FIXED_SETS).map(set).collect()
}

/// Chains that depend on the pools alone.
fn base_chains(network: &NodeNetwork) -> BTreeMap<String, Chain> {
    let (subnet, gateway) = (network.subnet, network.gateway);
    let (replicas, vips) = (network.replica_pool, network.service_pool);
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let chain = |name: &str, hook: Option<&'static str>, rules: &[String]| {
        let rules = rules.iter().cloned().map(Rule::Text).collect();
        (name.to_string(), Chain { hook, rules })
    };
    let text = |text: &str| text.to_string();
    let published = isolation::published(network);
    let mut chains = BTreeMap::from([
        chain(
            "pre_nat",
            Some("type nat hook prerouting priority -100"),
            &[text("jump services")],
        ),
        chain(
            "out_nat",
            Some("type nat hook output priority -100"),
            &[text("jump services")],
        ),
        chain(
            "services",
            None,
            &[
                text("ip daddr vmap @vips"),
                // The name server stays reachable for replicas when a service publishes port 53.
                format!("ip daddr {gateway} meta l4proto {{ {tcp}, {udp} }} th dport 53 return"),
                text("fib daddr type local ip daddr . meta l4proto . th dport vmap @ports_at"),
                text("fib daddr type local meta l4proto . th dport vmap @ports"),
            ],
        ),
        chain(
            "post_nat",
            Some("type nat hook postrouting priority 100"),
            &[
                // A port published at 127.0.0.1: the replica could not answer to that address.
                format!("ip saddr 127.0.0.0/8 ip daddr {replicas} masquerade"),
                // A replica that reaches itself would otherwise see its own address and answer itself directly.
                text("ip saddr . ip daddr @hairpin masquerade"),
                // From outside to a replica of another node: the answer must come back through here.
                format!("ct status dnat ip saddr != {replicas} ip daddr {replicas} ip daddr != {subnet} masquerade"),
                // From a replica by a published port, which is open to all: that node does not know of the port any more.
                format!("{published} ip saddr {replicas} ip daddr {replicas} ip daddr != {subnet} masquerade"),
                format!("ip saddr {subnet} ip daddr != {replicas} ip daddr != {vips} masquerade"),
            ],
        ),
        chain(
            "martians",
            Some("type filter hook prerouting priority -300"),
            // route_localnet, needed for published ports at 127.0.0.1, would let neighbours reach the node's loopback services.
            &[
                text("iifname != \"lo\" ip daddr 127.0.0.0/8 drop"),
                // A replica bears its own address and no other: its link is the only way there.
                text("iifname \"gv*\" fib saddr . iif oif missing drop"),
            ],
        ),
        chain(
            "in",
            Some("type filter hook input priority -10"),
            &[
                text("ct state new ip daddr . meta l4proto . th dport @closed_at goto refuse"),
                text("ct state new meta l4proto . th dport @closed goto refuse"),
                format!("ip saddr @{CONFINED} goto confine"),
            ],
        ),
        chain(
            "forward",
            Some("type filter hook forward priority -10"),
            &[
                format!("ip daddr {vips} goto refuse"),
                text("ct state established,related accept"),
                text("jump egress"),
                text("jump ingress"),
                format!("ip daddr vmap @{POLICED}"),
            ],
        ),
        chain(
            "out",
            Some("type filter hook output priority -10"),
            &[
                format!("ip daddr {vips} goto refuse"),
                // A published port may lead straight back out towards another node; the client must not learn that shortcut,
                // on which nobody would translate its packets.
                text("icmp type redirect ct status dnat drop"),
                // While the agent is started anew nobody serves names. A client that hears of a closed port (53, in the packet that
                // the report quotes) gives up at once; one that hears nothing asks again.
                format!(
                    "ip saddr {gateway} icmp type destination-unreachable icmp code port-unreachable @th,240,16 53 drop"
                ),
            ],
        ),
        chain(
            "refuse",
            None,
            &[
                text("meta l4proto tcp reject with tcp reset"),
                text("reject with icmp type port-unreachable"),
            ],
        ),
    ]);
    for (name, rules) in isolation::base_rules(network) {
        let (name, chain) = chain(name, None, &rules);
        chains.insert(name, chain);
    }
    chains
}
