//! What must hold of every plan and every change: independence of order, idempotence, and transactions that a kernel would take.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use gantry_model::assignment::{Endpoint, Item, NodeItem, PeerItem, ServiceItem};
use gantry_model::net::Ipv4Net;
use gantry_model::object::{ServiceNetwork, Slot};
use gantry_model::spec::{EndpointMode, PortMode, PortSpec, Protocol};
use gantry_model::{Name, NodeId, ReplicaId, ServiceId};
use gantry_netplan::{
    Chain, Command, LocalReplica, NodeNetwork, Plan, Rule, Ruleset, Set, diff, render_commands, render_nft,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

fn net(text: &str) -> Ipv4Net {
    text.parse().expect("a network")
}

fn node() -> Item {
    Item::Node(NodeItem {
        id: NodeId(1),
        name: "one".to_string(),
        subnet: net("10.128.1.0/24"),
        replica_pool: net("10.128.0.0/10"),
        service_pool: net("10.192.0.0/16"),
        labels: BTreeMap::new(),
    })
}

fn peer(id: u64) -> Item {
    Item::Peer(PeerItem {
        id: NodeId(id),
        name: format!("node{id}"),
        subnet: net(&format!("10.128.{}.0/24", id % 5)),
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, id as u8)),
        port: 7700,
    })
}

prop_compose! {
    fn arb_endpoint()(replica in 1u64..40, node in 1u64..4) -> Endpoint {
        let address = Ipv4Addr::new(10, 128, node as u8, replica as u8 + 1);
        Endpoint { replica: ReplicaId(replica), node: NodeId(node), address, slot: Slot::Index(replica as u32) }
    }
}

prop_compose! {
    fn arb_port()(
        target in 80u16..83,
        published in proptest::option::of(8000u16..8005),
        udp: bool,
        host: bool,
        host_ip in prop_oneof![
            Just(None),
            Just(Some(IpAddr::from([127, 0, 0, 1]))),
            Just(Some(IpAddr::from([0, 0, 0, 0]))),
            Just(Some(IpAddr::from([0u16; 8]))),
        ],
    ) -> PortSpec {
        PortSpec {
            target,
            published,
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            mode: if host { PortMode::Host } else { PortMode::Ingress },
            host_ip,
            name: None,
        }
    }
}

prop_compose! {
    fn arb_service()(
        id in 1u64..8,
        dnsrr: bool,
        networks in btree_set(0u8..3, 0..3),
        ports in vec(arb_port(), 0..3),
        endpoints in btree_map(1u64..40, arb_endpoint(), 0..5),
    ) -> ServiceItem {
        let attached = |network: u8| {
            let vip = (!dnsrr).then(|| Ipv4Addr::new(10, 192, network, id as u8));
            (format!("net{network}"), ServiceNetwork { vip, names: vec![format!("alias{}", id % 2)], ..ServiceNetwork::default() })
        };
        ServiceItem {
            id: ServiceId(id),
            namespace: Name::new(format!("ns{}", id % 2)).expect("a name"),
            name: Name::new(format!("svc{}", id % 3)).expect("a name"),
            endpoint_mode: if dnsrr { EndpointMode::Dnsrr } else { EndpointMode::Vip },
            networks: networks.into_iter().map(attached).collect(),
            ports,
            endpoints: endpoints.into_values().collect(),
            members: BTreeMap::new(),
            policy: None,
            ingress: None,
        }
    }
}

fn arb_items() -> impl Strategy<Value = Vec<Item>> {
    let services = vec(arb_service(), 0..6).prop_map(|services| {
        let unique: BTreeMap<ServiceId, ServiceItem> =
            services.into_iter().map(|service| (service.id, service)).collect();
        unique.into_values().map(Item::Service).collect::<Vec<_>>()
    });
    let peers = btree_set(1u64..12, 0..5).prop_map(|ids| ids.into_iter().map(peer).collect::<Vec<_>>());
    (services, peers).prop_map(|(services, peers)| [vec![node()], services, peers].concat())
}

fn plan(items: &[Item]) -> Plan {
    let mut network = NodeNetwork::from_items(items).expect("the node is among the items");
    for index in 1..3 {
        let replica = LocalReplica {
            address: Ipv4Addr::new(10, 128, 1, index + 1),
            namespace: Name::new("ns0").expect("a name"),
            networks: BTreeSet::from(["net0".to_string()]),
        };
        network.replicas.insert(ReplicaId(u64::from(index)), replica);
    }
    network.plan()
}

/// Applies a transaction as strictly as the kernel does.
fn apply(ruleset: &mut Ruleset, commands: &[Command]) {
    for command in commands {
        match command {
            Command::AddChain(name, hook) => {
                let chain = Chain {
                    hook: *hook,
                    rules: Vec::new(),
                };
                assert!(ruleset.chains.insert(name.clone(), chain).is_none(), "{name} exists");
            }
            Command::AddSet(name, kind) => {
                let set = Set {
                    kind: *kind,
                    elements: BTreeMap::new(),
                };
                assert!(ruleset.sets.insert(name.clone(), set).is_none(), "{name} exists");
            }
            Command::FlushChain(name) => ruleset.chains.get_mut(name).expect("the chain exists").rules.clear(),
            Command::DeleteElements(name, keys) => {
                let set = ruleset.sets.get_mut(name).expect("the set exists");
                for key in keys {
                    set.elements.remove(key).expect("the element exists");
                }
            }
            Command::AddElements(name, elements) => {
                for (key, chain) in elements {
                    let exists = chain.as_ref().is_none_or(|chain| ruleset.chains.contains_key(chain));
                    assert!(exists, "{key} leads nowhere");
                    let set = ruleset.sets.get_mut(name).expect("the set exists");
                    assert!(set.elements.insert(*key, chain.clone()).is_none(), "{key} exists");
                }
            }
            Command::AddRules(name, rules) => {
                let chain = ruleset.chains.get_mut(name).expect("the chain exists");
                chain.rules.extend(rules.iter().cloned());
            }
            Command::DeleteChain(name) => {
                let chain = ruleset.chains.remove(name).expect("the chain exists");
                assert!(chain.rules.is_empty(), "{name} is deleted with rules in it");
                let elements = ruleset.sets.values().flat_map(|set| set.elements.values());
                assert!(
                    elements.flatten().all(|target| target != name),
                    "{name} is deleted while in use"
                );
            }
            Command::DeleteSet(name) => {
                let set = ruleset.sets.remove(name).expect("the set exists");
                assert!(set.elements.is_empty());
            }
        }
    }
}

proptest! {
    #[test]
    fn the_order_of_arrival_leaves_no_trace(
        (items, shuffled) in arb_items().prop_flat_map(|items| (Just(items.clone()), Just(items).prop_shuffle())),
    ) {
        let mut reversed = shuffled;
        for item in &mut reversed {
            if let Item::Service(service) = item {
                service.endpoints.reverse();
            }
        }
        prop_assert_eq!(render_nft(&plan(&items), "t"), render_nft(&plan(&reversed), "t"));
        prop_assert_eq!(plan(&items), plan(&reversed));
    }

    #[test]
    fn no_difference_is_no_change(items in arb_items()) {
        let plan = plan(&items);
        let change = diff(&plan, &plan);
        prop_assert!(change.is_empty());
        prop_assert_eq!(render_commands(&change.commands, "t"), "");
    }

    #[test]
    fn a_change_leads_from_one_plan_to_the_other(before in arb_items(), after in arb_items()) {
        let (before, after) = (plan(&before), plan(&after));
        let change = diff(&before, &after);
        let mut ruleset = Ruleset::default();
        apply(&mut ruleset, &before.ruleset.commands_from(&Ruleset::default()));
        prop_assert_eq!(&ruleset, &before.ruleset);
        apply(&mut ruleset, &change.commands);
        prop_assert_eq!(&ruleset, &after.ruleset);
        let mut routes = before.routes;
        routes.retain(|subnet, _| !change.routes_gone.contains(subnet));
        routes.extend(change.routes_set);
        prop_assert_eq!(routes, after.routes);
    }

    #[test]
    fn new_connections_go_to_ready_replicas_only(items in arb_items()) {
        let plan = plan(&items);
        let services = items.iter().filter_map(|item| match item {
            Item::Service(service) => Some(service),
            Item::Node(_) | Item::Replica(_) | Item::Peer(_) | Item::Data(_) => None,
        });
        let ready: BTreeSet<Ipv4Addr> =
            services.flat_map(|service| &service.endpoints).map(|endpoint| endpoint.address).collect();
        prop_assert!(plan.endpoints().is_subset(&ready));
        for chain in plan.ruleset.chains.values() {
            for rule in &chain.rules {
                if let Rule::Balance { to, .. } = rule {
                    prop_assert!(!to.is_empty() && to.is_sorted());
                }
            }
        }
    }
}
