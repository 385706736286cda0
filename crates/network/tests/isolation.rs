//! Who reaches whom, on real kernels: networks, internal networks, policies, forged addresses. Needs root.

mod lab;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use gantry_model::assignment::ServiceItem;
use gantry_model::object::ServiceNetwork;
use gantry_model::spec::{PolicyPeer, PolicyRule, PortMode, Protocol};
use gantry_model::{Name, ServiceId};
use lab::{
    ANSWER_MAX, Lab, OUTSIDE, REFUSAL_MAX, Replica, ask_tcp, ask_udp, port, service, timed, underlay_address, vip,
};
use tokio::net::UdpSocket;

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

/// A service of `namespace` whose replicas are on all of the networks; its virtual addresses are `vip(id)`, `vip(id + 1)`…
fn service_on(id: u64, namespace: &str, name: &str, networks: &[&str], replicas: &[&Replica]) -> ServiceItem {
    let mut one = service(id, name, replicas);
    one.namespace = Name::new(namespace).expect("a name");
    let mut addresses: Vec<Ipv4Addr> = replicas.iter().map(|replica| replica.address).collect();
    addresses.sort_unstable();
    let attached = |(index, network): (usize, &&str)| {
        let vip = Some(vip(id + index as u64));
        let names = vec![name.to_string()];
        (
            network.to_string(),
            ServiceNetwork {
                vip,
                names,
                ..ServiceNetwork::default()
            },
        )
    };
    one.networks = networks.iter().enumerate().map(attached).collect();
    one.members = networks
        .iter()
        .map(|network| (network.to_string(), addresses.clone()))
        .collect();
    one
}

/// A service and its replicas, one on each node.
struct Side {
    networks: &'static [&'static str],
    service: ServiceItem,
    replicas: [Replica; 2],
}

fn sides(lab: &mut Lab, layout: &[(&'static str, &'static [&'static str])]) -> Vec<Side> {
    let mut sides = Vec::new();
    for (index, (namespace, networks)) in layout.iter().enumerate() {
        let id = 10 * (index as u64 + 1);
        let replicas = [0, 1].map(|node| lab.nodes[node].replica_on(id + node as u64, namespace, networks));
        let both: Vec<&Replica> = replicas.iter().collect();
        let service = service_on(id, namespace, &format!("s{id}"), networks, &both);
        sides.push(Side {
            networks,
            service,
            replicas,
        });
    }
    for side in &sides {
        for node in &mut lab.nodes {
            node.network.services.insert(side.service.id, side.service.clone());
        }
    }
    lab.apply();
    sides
}

/// The client's answer, or how it was refused; a refusal must be one at once.
fn reaches(client: &Replica, to: SocketAddr) -> bool {
    let (took, answer) = client.run(move || timed(ask_tcp(to)));
    match answer {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(
                error.kind(),
                ErrorKind::ConnectionRefused,
                "{} to {to}: {error}",
                client.name
            );
            assert!(took < REFUSAL_MAX, "{} was refused by {to} after {took:?}", client.name);
            false
        }
    }
}

#[test]
fn replicas_reach_each_other_on_a_shared_network_and_not_otherwise() {
    let mut lab = Lab::start(2);
    let layout: [(&str, &[&str]); 4] = [
        ("shop", &["shop_front"]),
        ("shop", &["shop_back", "shop_front"]),
        ("shop", &["shop_back"]),
        ("bank", &["bank_front"]),
    ];
    let sides = sides(&mut lab, &layout);
    for from in &sides {
        for to in &sides {
            let shared = from.networks.iter().any(|network| to.networks.contains(network));
            for client in &from.replicas {
                for server in &to.replicas {
                    let what = format!(
                        "{} ({:?}) to {} ({:?})",
                        client.name, from.networks, server.name, to.networks
                    );
                    assert_eq!(reaches(client, at(server.address, 80)), shared, "{what}");
                    let address = at(server.address, 80);
                    assert_eq!(client.run(move || ask_udp(address)).is_ok(), shared, "UDP, {what}");
                }
                for index in 0..to.networks.len() as u64 {
                    let virtual_address = vip(to.service.id.0 + index);
                    assert_eq!(
                        reaches(client, at(virtual_address, 80)),
                        shared,
                        "{} by its virtual address",
                        to.service.name
                    );
                }
            }
        }
    }
}

#[test]
fn the_node_of_the_server_judges_for_itself() {
    let mut lab = Lab::start(2);
    let sides = sides(&mut lab, &[("shop", &["shop_front"]), ("bank", &["bank_front"])]);
    let (client, server) = (&sides[0].replicas[0], &sides[1].replicas[1]);
    // The client's node is deceived: it takes the other for a member.
    let mut deceived = sides[0].service.clone();
    deceived
        .members
        .entry("shop_front".to_string())
        .or_default()
        .push(server.address);
    let node = &mut lab.nodes[0];
    node.network.services.insert(deceived.id, deceived);
    node.apply();
    let to = at(server.address, 80);
    let error = client.run(move || ask_tcp(to)).expect_err("the server's node drops it");
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
}

#[test]
fn replicas_of_a_revision_on_other_networks_get_no_traffic_of_the_former_ones() {
    let mut lab = Lab::start(1);
    let old = lab.nodes[0].replica_on(11, "shop", &["shop_front"]);
    let new = lab.nodes[0].replica_on(12, "shop", &["shop_back"]);
    let client = lab.nodes[0].replica_on(13, "shop", &["shop_front"]);
    let mut web = service_on(20, "shop", "web", &["shop_back", "shop_front"], &[&old, &new]);
    web.members = BTreeMap::from([
        ("shop_front".to_string(), vec![old.address]),
        ("shop_back".to_string(), vec![new.address]),
    ]);
    lab.publish(&web);
    for _ in 0..20 {
        let to = at(vip(21), 80);
        assert_eq!(
            client.run(move || ask_tcp(to)).expect("the old one answers").0,
            old.name
        );
    }
}

#[test]
fn published_ports_are_open_to_replicas_of_all_networks() {
    let mut lab = Lab::start(2);
    let mut sides = sides(&mut lab, &[("shop", &["shop_front"]), ("bank", &["bank_front"])]);
    let bank = &mut sides[1];
    let there = [(0, 8080), (1, 8081)].map(|(node, published)| {
        let mut one = bank.service.clone();
        one.id = ServiceId(u64::from(published));
        one.networks.clear();
        one.ports = vec![port(published, Protocol::Tcp, PortMode::Ingress)];
        one.endpoints
            .retain(|endpoint| endpoint.replica == bank.replicas[node].id);
        (one, published)
    });
    for (one, _) in &there {
        lab.publish(one);
    }
    for client in &sides[0].replicas {
        for number in [1, 2] {
            for (one, published) in &there {
                let what = format!("{} to port {published} of node {number}", client.name);
                let to = at(underlay_address(number), *published);
                let answer = client.run(move || ask_tcp(to)).expect(&what);
                assert_eq!(
                    one.endpoints[0].replica.0,
                    answer.0[1..].parse::<u64>().expect("a number"),
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn no_way_leads_out_of_an_internal_network() {
    let mut lab = Lab::start(2);
    let mut sides = sides(
        &mut lab,
        &[("shop", &["shop_back"]), ("shop", &["shop_back", "shop_front"])],
    );
    for side in &mut sides {
        let attached = side.service.networks.get_mut("shop_back").expect("it is attached");
        attached.internal = true;
        side.service.ports = vec![port(8000 + side.service.id.0 as u16, Protocol::Tcp, PortMode::Ingress)];
        lab.publish(&side.service);
    }
    let listener = lab
        .outside
        .run(|| async { tokio::net::TcpListener::bind((OUTSIDE, 9000)).await });
    let listener = listener.expect("the port is free");
    lab.outside.spawn(|| async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                continue;
            };
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"out 192.0.2.1").await;
        }
    });
    let own = lab.nodes[0]
        .machine
        .run(|| async { tokio::net::TcpListener::bind("0.0.0.0:9001").await });
    let own = own.expect("a service of the node itself");
    let [confined, open] = [&sides[0].replicas[0], &sides[1].replicas[0]];
    assert!(reaches(open, at(OUTSIDE, 9000)), "its other network leads out");
    assert!(!reaches(confined, at(OUTSIDE, 9000)));
    let to_node = at(underlay_address(1), 9001);
    let connects =
        |client: &Replica| client.run(move || async move { tokio::net::TcpStream::connect(to_node).await.is_ok() });
    assert!(
        connects(open) && !connects(confined),
        "services of the node are outside"
    );
    assert!(
        reaches(confined, at(sides[1].replicas[1].address, 80)),
        "the network itself is there"
    );
    // Its own published port is open, on either node.
    for number in [1, 2] {
        let to = at(underlay_address(number), 8010);
        let answer = lab.outside.run(move || ask_tcp(to)).expect("the way in is open");
        assert!(sides[0].replicas.iter().any(|replica| replica.name == answer.0));
    }
    drop(own);
}

#[test]
fn a_replica_sends_under_no_address_but_its_own() {
    let mut lab = Lab::start(1);
    let (one, forged) = (lab.nodes[0].replica(11), lab.nodes[0].replica(12));
    let target = lab.nodes[0].replica(13);
    let listener = target
        .run(|| async { std::net::UdpSocket::bind("0.0.0.0:81") })
        .expect("the port is free");
    listener.set_nonblocking(true).expect("a socket can be made so");
    let to = at(target.address, 81);
    let outside = Ipv4Addr::new(192, 0, 2, 7);
    let own = one.address;
    let sent = [forged.address, lab.nodes[0].network.gateway, outside, own];
    one.run(move || async move {
        for address in sent {
            // Whoever is root in its own namespace may take any address.
            if address != own {
                let added = std::process::Command::new("ip")
                    .args(["addr", "add", &format!("{address}/32"), "dev", "eth0"])
                    .status();
                assert!(added.expect("ip runs").success());
            }
            let socket = UdpSocket::bind((address, 0)).await.expect("the address is taken");
            socket.send_to(b"?", to).await.expect("it is sent");
        }
    });
    // The honest packet was the last.
    let from = target.run(move || async move {
        let socket = UdpSocket::from_std(listener).expect("the runtime takes it");
        let mut buffer = [0; 4];
        let received = tokio::time::timeout(ANSWER_MAX, socket.recv_from(&mut buffer)).await;
        received.expect("the honest packet arrives").expect("a packet").1
    });
    assert_eq!(from.ip(), IpAddr::V4(own));
}

fn rule(from: &[&str], ports: &[&str]) -> PolicyRule {
    let own = Name::new("shop").expect("a name");
    PolicyRule {
        from: from
            .iter()
            .map(|text| PolicyPeer::parse(text, &own).expect("a peer"))
            .collect(),
        ports: ports.iter().map(|text| text.parse().expect("a port")).collect(),
    }
}

#[test]
fn a_service_is_open_to_those_its_policy_names() {
    let mut lab = Lab::start(2);
    let layout: [(&str, &[&str]); 3] = [("shop", &["shared"]), ("shop", &["shared"]), ("bank", &["shared"])];
    let mut sides = sides(&mut lab, &layout);
    let mut db = sides.remove(0);
    db.service.ports = vec![port(8080, Protocol::Tcp, PortMode::Ingress)];
    let outside_only = format!("{OUTSIDE}");
    struct Case {
        policy: Option<Vec<PolicyRule>>,
        shop: bool,
        bank: bool,
        outside: bool,
    }
    let case = |policy, [shop, bank, outside]: [bool; 3]| Case {
        policy,
        shop,
        bank,
        outside,
    };
    let cases = [
        case(None, [true, true, true]),
        case(Some(vec![]), [false, false, false]),
        case(Some(vec![rule(&["s20"], &[])]), [true, false, false]),
        case(Some(vec![rule(&["s20"], &["81", "80/udp"])]), [false, false, false]),
        case(Some(vec![rule(&["bank/*"], &["79-81"])]), [false, true, false]),
        case(
            Some(vec![rule(&["nobody"], &[]), rule(&[&outside_only], &["80"])]),
            [false, false, true],
        ),
        case(Some(vec![rule(&[], &["80"])]), [true, true, true]),
    ];
    for Case {
        policy,
        shop,
        bank,
        outside,
    } in cases
    {
        db.service.policy = policy;
        lab.publish(&db.service);
        for (side, allowed) in [(&sides[0], shop), (&sides[1], bank)] {
            for client in &side.replicas {
                for server in &db.replicas {
                    let what = format!("{} to {} under {:?}", client.name, server.name, db.service.policy);
                    assert_eq!(reaches(client, at(server.address, 80)), allowed, "{what}");
                }
                assert_eq!(reaches(client, at(vip(db.service.id.0), 80)), allowed);
            }
        }
        for number in [1, 2] {
            let to = at(underlay_address(number), 8080);
            let answer = lab.outside.run(move || ask_tcp(to));
            assert_eq!(
                answer.is_ok(),
                outside,
                "by node {number} under {:?}: {answer:?}",
                db.service.policy
            );
        }
    }
}

#[test]
fn a_network_lets_through_what_its_policy_names() {
    let mut lab = Lab::start(2);
    let layout: [(&str, &[&str]); 3] = [
        ("shop", &["shop_back", "shop_front"]),
        ("shop", &["shop_back"]),
        ("shop", &["shop_back", "shop_front"]),
    ];
    let mut sides = sides(&mut lab, &layout);
    for side in &mut sides {
        let attached = side.service.networks.get_mut("shop_back").expect("it is attached");
        attached.policy = Some(vec![rule(&["s10"], &["80"])]);
        lab.publish(&side.service);
    }
    let expected = [[true, true, true], [false, false, false], [true, false, true]];
    for (from, expected) in sides.iter().zip(expected) {
        for (to, allowed) in sides.iter().zip(expected) {
            for (client, server) in [(0, 1), (1, 0)] {
                let (client, server) = (&from.replicas[client], &to.replicas[server]);
                let what = format!("{} to {}", client.name, server.name);
                assert_eq!(reaches(client, at(server.address, 80)), allowed, "{what}");
            }
        }
    }
}
