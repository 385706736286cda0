//! What particular services look like in rules, names and warnings.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use gantry_model::assignment::{Endpoint, NodeItem, ServiceItem};
use gantry_model::object::{ServiceNetwork, Slot};
use gantry_model::spec::{EndpointMode, PortMode, PortSpec, Protocol};
use gantry_model::{Name, NodeId, ReplicaId, ServiceId};
use gantry_netplan::{Key, LocalReplica, NodeNetwork, Peer, Warning, diff, render_commands, render_nft};

const HERE: NodeId = NodeId(1);
const ELSEWHERE: NodeId = NodeId(2);

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn network() -> NodeNetwork {
    NodeNetwork::new(&NodeItem {
        id: HERE,
        name: "one".to_string(),
        subnet: "10.128.1.0/24".parse().expect("a network"),
        replica_pool: "10.128.0.0/10".parse().expect("a network"),
        service_pool: "10.192.0.0/16".parse().expect("a network"),
        labels: BTreeMap::new(),
    })
}

fn endpoint(node: NodeId, host: u8) -> Endpoint {
    Endpoint {
        replica: ReplicaId(u64::from(host)),
        node,
        address: Ipv4Addr::new(10, 128, node.0 as u8, host),
        slot: Slot::Index(u32::from(host)),
    }
}

fn service(id: u64, namespace: &str, text: &str, networks: &[&str]) -> ServiceItem {
    let attached = |(index, network): (usize, &&str)| {
        let vip = Some(Ipv4Addr::new(10, 192, index as u8, id as u8));
        let names = vec![text.to_string(), "alias".to_string()];
        (
            network.to_string(),
            ServiceNetwork {
                vip,
                names,
                ..ServiceNetwork::default()
            },
        )
    };
    ServiceItem {
        id: ServiceId(id),
        namespace: name(namespace),
        name: name(text),
        endpoint_mode: EndpointMode::Vip,
        networks: networks.iter().enumerate().map(attached).collect(),
        ports: Vec::new(),
        endpoints: vec![endpoint(HERE, 2), endpoint(ELSEWHERE, 3)],
        members: BTreeMap::new(),
        policy: None,
        ingress: None,
    }
}

fn port(published: u16, mode: PortMode) -> PortSpec {
    PortSpec {
        target: 80,
        published: Some(published),
        protocol: Protocol::Tcp,
        mode,
        host_ip: None,
        name: None,
    }
}

fn rules_of(network: &NodeNetwork, table: &str) -> String {
    render_nft(&network.plan(), table)
}

#[test]
fn the_gateway_is_the_first_usable_address() {
    assert_eq!(network().plan().gateway.address, Ipv4Addr::new(10, 128, 1, 1));
}

#[test]
fn a_virtual_address_leads_to_every_ready_replica() {
    let mut network = network();
    network.add_service(service(7, "shop", "web", &["back", "front"]));
    let rules = rules_of(&network, "t");
    let chain = "svc_0000000000007";
    let expected = [
        format!("add element ip t vips {{ 10.192.0.7 : goto {chain}, 10.192.1.7 : goto {chain} }}"),
        format!("add rule ip t {chain} dnat ip to numgen random mod 2 map {{ 0 : 10.128.1.2, 1 : 10.128.2.3 }}"),
        // For packets under way during a transaction; see the renderer.
        format!("add rule ip t {chain} dnat to 10.128.1.2\n"),
    ];
    for line in expected {
        assert!(rules.contains(&line), "{line}\nis not in\n{rules}");
    }
}

#[test]
fn a_virtual_address_without_ready_replicas_leads_nowhere_and_is_refused() {
    let mut network = network();
    let mut web = service(7, "shop", "web", &["front"]);
    web.endpoints.clear();
    network.add_service(web);
    let plan = network.plan();
    assert!(plan.ruleset.sets["vips"].elements.is_empty());
    assert!(render_nft(&plan, "t").contains("add rule ip t forward ip daddr 10.192.0.0/16 goto refuse"));
}

#[test]
fn ports_are_open_closed_or_absent() {
    struct Case {
        what: &'static str,
        mode: PortMode,
        nodes: &'static [NodeId],
        open_to: &'static [NodeId],
        closed: bool,
    }
    let cases = [
        Case {
            what: "ingress with replicas everywhere",
            mode: PortMode::Ingress,
            nodes: &[HERE, ELSEWHERE],
            open_to: &[HERE, ELSEWHERE],
            closed: false,
        },
        Case {
            what: "ingress without replicas",
            mode: PortMode::Ingress,
            nodes: &[],
            open_to: &[],
            closed: true,
        },
        Case {
            what: "host mode keeps to this node's replicas",
            mode: PortMode::Host,
            nodes: &[HERE, ELSEWHERE],
            open_to: &[HERE],
            closed: false,
        },
        Case {
            what: "host mode without a replica here claims nothing",
            mode: PortMode::Host,
            nodes: &[ELSEWHERE],
            open_to: &[],
            closed: false,
        },
    ];
    for case in cases {
        let mut network = network();
        let mut web = service(7, "shop", "web", &[]);
        web.ports = vec![port(8080, case.mode)];
        web.endpoints = case.nodes.iter().map(|node| endpoint(*node, 9)).collect();
        network.add_service(web);
        let plan = network.plan();
        let key = Key::Port(Protocol::Tcp, 8080);
        let open: BTreeSet<Ipv4Addr> = case.open_to.iter().map(|node| endpoint(*node, 9).address).collect();
        assert_eq!(plan.endpoints(), open, "{}", case.what);
        assert_eq!(
            plan.ruleset.sets["ports"].elements.contains_key(&key),
            !open.is_empty(),
            "{}",
            case.what
        );
        assert_eq!(
            plan.ruleset.sets["closed"].elements.contains_key(&key),
            case.closed,
            "{}",
            case.what
        );
    }
}

#[test]
fn host_addresses_bind_ports() {
    let cases: [(IpAddr, Option<Key>, bool); 4] = [
        (IpAddr::from([0, 0, 0, 0]), Some(Key::Port(Protocol::Tcp, 8080)), true),
        (
            IpAddr::from([127, 0, 0, 1]),
            Some(Key::AddressPort(Ipv4Addr::LOCALHOST, Protocol::Tcp, 8080)),
            true,
        ),
        (
            IpAddr::from([192, 0, 2, 1]),
            Some(Key::AddressPort(Ipv4Addr::new(192, 0, 2, 1), Protocol::Tcp, 8080)),
            false,
        ),
        (IpAddr::from([0u16; 8]), None, false),
    ];
    for (host_ip, expected, loopback) in cases {
        let mut network = network();
        let mut web = service(7, "shop", "web", &[]);
        web.ports = vec![PortSpec {
            host_ip: Some(host_ip),
            ..port(8080, PortMode::Ingress)
        }];
        network.add_service(web);
        let plan = network.plan();
        let keys = ["ports", "ports_at"]
            .into_iter()
            .flat_map(|set| plan.ruleset.sets[set].elements.keys());
        assert_eq!(keys.copied().next(), expected, "{host_ip}");
        assert_eq!(plan.loopback_ports, loopback, "{host_ip}");
        let warned = plan
            .warnings
            .iter()
            .any(|warning| matches!(warning, Warning::HostAddress { .. }));
        assert_eq!(warned, expected.is_none(), "{host_ip}");
    }
}

#[test]
fn the_first_service_keeps_a_contested_port() {
    let mut network = network();
    for (id, text) in [(7, "web"), (8, "api")] {
        let mut service = service(id, "shop", text, &[]);
        service.ports = vec![port(8080, PortMode::Ingress)];
        network.add_service(service);
    }
    let plan = network.plan();
    let chain = plan.ruleset.sets["ports"].elements[&Key::Port(Protocol::Tcp, 8080)].clone();
    assert_eq!(chain.as_deref(), Some("pub_0000000000007_tcp_80_ingress"));
    assert_eq!(
        plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["published port 8080->80/tcp of service shop/api is already taken by service shop/web: publish another port"]
    );
}

#[test]
fn an_endpoint_that_leaves_costs_two_commands() {
    let mut before = network();
    before.add_service(service(7, "shop", "web", &["front"]));
    before.add_service(service(8, "shop", "api", &["front"]));
    let mut after = before.clone();
    let web = after.services.get_mut(&ServiceId(7)).expect("it was added");
    web.endpoints.pop();
    // The other service still sends connections there.
    assert!(diff(&before.plan(), &after.plan()).endpoints_gone.is_empty());
    let api = after.services.get_mut(&ServiceId(8)).expect("it was added");
    api.endpoints.pop();
    before.services.remove(&ServiceId(8));
    after.services.remove(&ServiceId(8));
    let change = diff(&before.plan(), &after.plan());
    assert_eq!(
        render_commands(&change.commands, "t"),
        "flush chain ip t svc_0000000000007\nadd rule ip t svc_0000000000007 dnat to 10.128.1.2\n"
    );
    assert_eq!(change.endpoints_gone, BTreeSet::from([Ipv4Addr::new(10, 128, 2, 3)]));
    assert!(change.zone && !change.links);
}

#[test]
fn nodes_with_one_subnet_are_not_both_routed() {
    let mut network = network();
    let peer = |subnet: &str, host| Peer {
        subnet: subnet.parse().expect("a network"),
        address: IpAddr::from([192, 0, 2, host]),
    };
    network.peers.insert(HERE, peer("10.128.1.0/24", 1));
    network.peers.insert(NodeId(2), peer("10.128.2.0/24", 2));
    network.peers.insert(NodeId(3), peer("10.128.2.0/24", 3));
    network.peers.insert(NodeId(4), peer("10.128.1.0/24", 4));
    let plan = network.plan();
    let routes: Vec<IpAddr> = plan.routes.into_values().collect();
    assert_eq!(routes, [IpAddr::from([192, 0, 2, 2])]);
    assert_eq!(plan.warnings.len(), 2, "nodes 3 and 4");
}

fn with_client(mut network: NodeNetwork, namespace: &str, networks: &[&str]) -> (NodeNetwork, Ipv4Addr) {
    let address = Ipv4Addr::new(10, 128, 1, 50);
    let client = LocalReplica {
        address,
        namespace: name(namespace),
        networks: networks.iter().map(ToString::to_string).collect(),
    };
    network.replicas.insert(ReplicaId(50), client);
    (network, address)
}

#[test]
fn names_resolve_by_network() {
    let (web, tasks) = (
        Ipv4Addr::new(10, 192, 0, 7),
        [[1, 2], [2, 3]].map(|[node, host]| Ipv4Addr::new(10, 128, node, host)),
    );
    let (mut network, client) = with_client(network(), "shop", &["front"]);
    network.add_service(service(7, "shop", "web", &["front"]));
    network.add_service(service(8, "shop", "db", &["back"]));
    let zone = network.plan().zone;
    let cases: [(&str, Option<&[Ipv4Addr]>); 9] = [
        ("web", Some(&[web])),
        ("WEB.", Some(&[web])),
        ("alias", Some(&[web])),
        ("web.shop", Some(&[web])),
        ("tasks.web", Some(&tasks)),
        ("tasks.web.shop", Some(&tasks)),
        ("db", None),
        ("db.shop", None),
        ("web.bank", None),
    ];
    for (name, expected) in cases {
        assert_eq!(zone.lookup(client, name).as_deref(), expected, "{name}");
    }
    assert_eq!(
        zone.lookup(Ipv4Addr::new(10, 128, 1, 51), "web"),
        None,
        "an address that is no replica's"
    );
}

#[test]
fn slots_ports_and_addresses_have_names_on_shared_networks_alone() {
    let (mut network, client) = with_client(network(), "shop", &["front"]);
    let mut web = service(7, "shop", "web", &["front"]);
    web.ports = vec![PortSpec {
        name: Some("http".to_string()),
        ..port(8080, PortMode::Ingress)
    }];
    network.add_service(web);
    network.add_service(service(8, "shop", "db", &["back"]));
    let mut third = service(9, "shop", "third", &["front"]);
    third.endpoints = vec![Endpoint {
        address: Ipv4Addr::new(10, 128, 3, 9),
        ..endpoint(ELSEWHERE, 9)
    }];
    third.members = BTreeMap::from([("back".to_string(), vec![Ipv4Addr::new(10, 128, 3, 9)])]);
    network.add_service(third);
    let zone = network.plan().zone;
    let [here, there] = [[1, 2], [2, 3]].map(|[node, host]| Ipv4Addr::new(10, 128, node, host));
    let slots: [(&str, Option<&[Ipv4Addr]>); 7] = [
        ("web.2", Some(&[here])),
        ("WEB.3.shop.", Some(&[there])),
        ("alias.3", Some(&[there])),
        ("web.4", Some(&[])),
        ("web.x", None),
        ("db.2", None),
        ("tasks.third", Some(&[])),
    ];
    for (name, expected) in slots {
        assert_eq!(zone.lookup(client, name).as_deref(), expected, "{name}");
    }
    for (name, expected) in [
        ("_http._tcp.web", Some(2)),
        ("_80._tcp.web.shop", Some(2)),
        ("_81._tcp.web", Some(0)),
        ("_http._udp.web", Some(0)),
        ("_http._tcp.db", None),
        ("_http.web", None),
    ] {
        let places = zone.places(client, name);
        assert_eq!(places.as_ref().map(Vec::len), expected, "{name}");
        let first = places.into_iter().flatten().next();
        assert!(first.is_none_or(|place| (place.name.as_str(), place.address, place.port) == ("web.2.shop", here, 80)));
    }
    for (address, expected) in [
        (Ipv4Addr::new(10, 192, 0, 7), Some("web.shop")),
        (here, Some("web.2.shop")),
        (Ipv4Addr::new(10, 192, 0, 8), None),
        (Ipv4Addr::new(10, 128, 3, 9), None),
    ] {
        assert_eq!(zone.name_of(client, address).as_deref(), expected, "{address}");
    }
    assert_eq!(
        zone.name_of(Ipv4Addr::new(10, 128, 1, 51), here),
        None,
        "to an address that is no replica's"
    );
}

#[test]
fn names_from_outside_are_for_those_who_can_get_there() {
    for (networks, leads_outside) in [(&["back"][..], false), (&["back", "front"], true), (&["front"], true)] {
        let (mut network, client) = with_client(network(), "shop", networks);
        let mut web = service(7, "shop", "web", &["back", "front"]);
        web.networks.get_mut("back").expect("it is attached").internal = true;
        network.add_service(web);
        let plan = network.plan();
        assert_eq!(plan.zone.leads_outside(client), leads_outside, "{networks:?}");
        let confined = plan.ruleset.sets["confined"]
            .elements
            .contains_key(&Key::Address(client));
        assert_eq!(confined, !leads_outside, "{networks:?}");
    }
}

#[test]
fn round_robin_answers_with_replicas_even_where_there_are_none() {
    let (mut network, client) = with_client(network(), "shop", &["front"]);
    let mut web = service(7, "shop", "web", &["front"]);
    web.endpoint_mode = EndpointMode::Dnsrr;
    network.add_service(web.clone());
    assert_eq!(
        network
            .plan()
            .zone
            .lookup(client, "web")
            .map(|addresses| addresses.len()),
        Some(2)
    );
    web.endpoints.clear();
    network.add_service(web);
    assert_eq!(network.plan().zone.lookup(client, "web"), Some(Vec::new()));
}

#[test]
fn on_a_shared_network_the_own_namespace_wins() {
    let shared = ["shared"];
    for (namespace, expected) in [("shop", vec![7]), ("bank", vec![8]), ("third", vec![7, 8])] {
        let (mut network, client) = with_client(network(), namespace, &shared);
        network.add_service(service(7, "shop", "web", &shared));
        network.add_service(service(8, "bank", "web", &shared));
        let expected: Vec<Ipv4Addr> = expected.into_iter().map(|id| Ipv4Addr::new(10, 192, 0, id)).collect();
        assert_eq!(network.plan().zone.lookup(client, "web"), Some(expected), "{namespace}");
    }
}

#[test]
fn ten_thousand_services_of_ten_replicas_resolve_each_to_their_own() {
    let mut network = network();
    let client = Ipv4Addr::new(10, 128, 1, 2);
    let asks = LocalReplica {
        address: client,
        namespace: name("shop"),
        networks: BTreeSet::from(["front".to_string()]),
    };
    network.replicas.insert(ReplicaId(1), asks);
    let pool = network.replica_pool;
    for id in 1..=10_000 {
        let mut web = service(id, "shop", &format!("web{id}"), &["front"]);
        let attached = web.networks.get_mut("front").expect("it is on that network");
        attached.vip = network.service_pool.address(id + 1);
        let endpoint = web.endpoints[0].clone();
        web.endpoints = (0..10)
            .map(|index| Endpoint {
                replica: ReplicaId(id * 10 + index),
                address: pool.address(1024 + id * 10 + index).expect("the pool is large enough"),
                ..endpoint.clone()
            })
            .collect();
        network.add_service(web);
    }
    let plan = network.plan();
    assert_eq!(plan.endpoints().len(), 100_000);
    for id in [1, 5_000, 10_000] {
        let answer = plan.zone.lookup(client, &format!("WEB{id}.shop."));
        assert_eq!(
            answer,
            network.service_pool.address(id + 1).map(|vip| vec![vip]),
            "web{id}"
        );
        let tasks = plan.zone.lookup(client, &format!("tasks.web{id}")).unwrap_or_default();
        assert_eq!(tasks.len(), 10, "tasks.web{id}");
    }

    // One endpoint less costs one chain and one element, not ten thousand.
    let before = plan;
    let changed = network.services.get_mut(&ServiceId(5_000)).expect("it was added");
    changed.endpoints.pop();
    let change = gantry_netplan::diff(&before, &network.plan());
    assert_eq!(
        change.commands.len(),
        3,
        "its chain and its place on the network: {:?}",
        change.commands
    );
    assert_eq!(change.endpoints_gone.len(), 1);
}
