//! The data path on real kernels: machines are namespaces, packets are packets. Needs root.

mod lab;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_model::ReplicaId;
use gantry_model::spec::{PortMode, Protocol};
use gantry_network::NodeDatapath;
use lab::{
    Lab, NETWORK, OUTSIDE, REFUSAL_MAX, ask_tcp, ask_udp, ask_udp_from, eventually, port, service, timed,
    underlay_address, vip,
};
use tokio::net::UdpSocket;

/// Enough new connections that both of two endpoints are met with all but certainty (2⁻³⁹).
const BALANCED_TRIES: usize = 40;

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

/// Rules without their order: a table that grew has its chains in another one than a table made at once.
fn sorted_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn replicas_of_different_nodes_reach_each_other_under_their_own_addresses() {
    let mut lab = Lab::start(2);
    let one = lab.nodes[0].replica(11);
    let same = lab.nodes[0].replica(12);
    let other = lab.nodes[1].replica(21);
    for to in [&same, &other] {
        let address = at(to.address, 80);
        let answer = one.run(move || ask_tcp(address)).expect("the replica answers");
        assert_eq!(answer, (to.name.clone(), IpAddr::V4(one.address)));
    }
}

#[test]
fn a_virtual_address_is_balanced_over_all_endpoints_from_replicas_and_nodes() {
    let mut lab = Lab::start(2);
    let (one, two) = (lab.nodes[0].replica(11), lab.nodes[1].replica(21));
    let client = lab.nodes[0].replica(12);
    lab.publish(&service(1, "web", &[&one, &two]));
    let to = at(vip(1), 80);
    let both = BTreeSet::from([one.name.clone(), two.name.clone()]);
    let ask = move || async move {
        let mut names = BTreeSet::new();
        for _ in 0..BALANCED_TRIES {
            names.insert(ask_tcp(to).await.expect("TCP answers").0);
        }
        for _ in 0..BALANCED_TRIES {
            ask_udp(to).await.expect("UDP answers");
        }
        names
    };
    assert_eq!(client.run(ask), both);
    assert_eq!(lab.nodes[0].machine.run(ask), both);
    let seen = client.run(move || ask_tcp(to)).expect("it answers").1;
    assert_eq!(seen, IpAddr::V4(client.address), "the client's address is kept");
}

#[test]
fn a_replica_reaches_itself_through_its_virtual_address() {
    let mut lab = Lab::start(1);
    let only = lab.nodes[0].replica(11);
    lab.publish(&service(1, "web", &[&only]));
    let answer = only.run(move || ask_tcp(at(vip(1), 80))).expect("it answers");
    assert_eq!(answer.0, only.name);
}

#[test]
fn no_new_connection_fails_while_endpoints_come_and_go() {
    let mut lab = Lab::start(2);
    let (one, two) = (lab.nodes[0].replica(11), lab.nodes[1].replica(21));
    let client = lab.nodes[0].replica(12);
    let mut web = service(1, "web", &[&one, &two]);
    web.ports = vec![port(8080, Protocol::Tcp, PortMode::Ingress)];
    lab.publish(&web);
    let stop = Arc::new(AtomicBool::new(false));
    let (inside_stop, outside_stop) = (Arc::clone(&stop), Arc::clone(&stop));
    let count = |to: SocketAddr, stop: Arc<AtomicBool>| async move {
        let mut connections = 0;
        while !stop.load(Ordering::Relaxed) {
            ask_tcp(to).await?;
            connections += 1;
        }
        std::io::Result::Ok(connections)
    };
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| client.run(move || count(at(vip(1), 80), inside_stop)));
        let outside = &lab.outside;
        let outside = scope.spawn(|| outside.run(move || count(at(underlay_address(1), 8080), outside_stop)));
        for round in 0..30 {
            let endpoints = [&one, &two];
            let left = endpoints.iter().skip(round % 2).take(1 + round % 3 / 2);
            web.endpoints = left.map(|replica| replica.endpoint()).collect();
            let node = &mut lab.nodes[0];
            node.network.services.insert(web.id, web.clone());
            if round % 5 == 4 {
                let (datapath, plan) = (Arc::clone(&node.datapath), node.plan());
                let healed = node.machine.run(move || async move { datapath.reapply(&plan).await });
                healed.expect("the plan is applied again");
            } else {
                node.apply();
            }
        }
        stop.store(true, Ordering::Relaxed);
        for client in [inside, outside] {
            let connections = client.join().expect("the client ran").expect("no connection failed");
            assert!(connections > 30, "only {connections} connections were tried");
        }
    });
}

#[test]
fn an_established_connection_survives_the_removal_of_its_endpoint() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut lab = Lab::start(1);
    let (one, two) = (lab.nodes[0].replica(11), lab.nodes[0].replica(12));
    let client = lab.nodes[0].replica(13);
    lab.publish(&service(1, "web", &[&one]));
    let (changed, wait) = tokio::sync::oneshot::channel::<()>();
    let (connected, ready) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| {
            client.run(move || async move {
                let mut stream = tokio::net::TcpStream::connect(at(vip(1), 80)).await?;
                let mut buffer = [0; 64];
                let first = stream.read(&mut buffer).await?;
                connected.send(()).expect("the test waits");
                wait.await.expect("the test signals");
                stream.write_all(b"?").await?;
                let second = stream.read(&mut buffer).await?;
                std::io::Result::Ok((first, second))
            })
        });
        ready.recv().expect("the client connects");
        lab.publish(&service(1, "web", &[&two]));
        changed.send(()).expect("the client waits");
        let (first, second) = holder.join().expect("the client ran").expect("the connection lived on");
        assert!(first > 0 && second > 0);
    });
    let answer = client.run(move || ask_tcp(at(vip(1), 80))).expect("it answers");
    assert_eq!(answer.0, two.name);
}

#[test]
fn a_udp_client_moves_on_when_its_endpoint_leaves() {
    let mut lab = Lab::start(1);
    let (one, two) = (lab.nodes[0].replica(11), lab.nodes[0].replica(12));
    let mut web = service(1, "web", &[&one]);
    web.ports = vec![port(5353, Protocol::Udp, PortMode::Ingress)];
    lab.publish(&web);
    let to = at(underlay_address(1), 5353);
    let socket = lab
        .outside
        .run(|| async { UdpSocket::bind("0.0.0.0:0").await.map(Arc::new) });
    let socket = socket.expect("a socket");
    for expected in [&one, &two] {
        web.endpoints = vec![expected.endpoint()];
        lab.publish(&web);
        let socket = Arc::clone(&socket);
        let answer = lab.outside.run(move || async move { ask_udp_from(&socket, to).await });
        assert_eq!(answer.expect("it answers").0, expected.name);
    }
}

#[test]
fn a_published_port_answers_on_every_node_and_on_its_loopback_address() {
    let mut lab = Lab::start(2);
    let far = lab.nodes[1].replica(21);
    let client = lab.nodes[0].replica(12);
    let mut web = service(1, "web", &[&far]);
    web.ports = vec![
        port(8080, Protocol::Tcp, PortMode::Ingress),
        port(5353, Protocol::Udp, PortMode::Ingress),
    ];
    lab.publish(&web);
    for number in [1, 2] {
        let (tcp, udp) = (at(underlay_address(number), 8080), at(underlay_address(number), 5353));
        let answer = lab.outside.run(move || ask_tcp(tcp)).expect("TCP from outside");
        assert_eq!(answer.0, far.name);
        // Where the replica runs, it sees the client itself.
        let seen = if number == 1 { underlay_address(1) } else { OUTSIDE };
        assert_eq!(answer.1, IpAddr::V4(seen));
        assert_eq!(
            lab.outside.run(move || ask_udp(udp)).expect("UDP from outside").0,
            far.name
        );
        assert_eq!(client.run(move || ask_tcp(tcp)).expect("from a replica").0, far.name);
        let node = &lab.nodes[usize::from(number) - 1].machine;
        assert_eq!(node.run(move || ask_tcp(tcp)).expect("from the node").0, far.name);
        let local = at(Ipv4Addr::LOCALHOST, 8080);
        assert_eq!(node.run(move || ask_tcp(local)).expect("TCP at 127.0.0.1").0, far.name);
        let local = at(Ipv4Addr::LOCALHOST, 5353);
        assert_eq!(node.run(move || ask_udp(local)).expect("UDP at 127.0.0.1").0, far.name);
    }
}

#[test]
fn host_mode_and_host_address_limit_where_a_port_answers() {
    let mut lab = Lab::start(2);
    let local = lab.nodes[0].replica(11);
    let remote = lab.nodes[1].replica(21);
    let mut web = service(1, "web", &[&local]);
    let mut bound = port(8081, Protocol::Tcp, PortMode::Ingress);
    bound.host_ip = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    web.ports = vec![port(8080, Protocol::Tcp, PortMode::Host), bound];
    lab.publish(&web);
    let ask = |number, port| {
        let to = at(underlay_address(number), port);
        lab.outside.run(move || ask_tcp(to))
    };
    let answer = ask(1, 8080).expect("the node with the replica answers");
    assert_eq!(answer, (local.name.clone(), IpAddr::V4(OUTSIDE)));
    for (number, port) in [(2, 8080), (1, 8081), (2, 8081)] {
        let refused = ask(number, port).expect_err("nothing listens there");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    let at_loopback = at(Ipv4Addr::LOCALHOST, 8081);
    for node in &lab.nodes {
        assert_eq!(
            node.machine.run(move || ask_tcp(at_loopback)).expect("at loopback").0,
            local.name
        );
    }
    drop(remote);
}

#[test]
fn what_leaves_the_cluster_bears_the_address_of_the_node() {
    let mut lab = Lab::start(1);
    let inside = lab.nodes[0].replica(11);
    let listener = lab
        .outside
        .run(|| async { tokio::net::TcpListener::bind((OUTSIDE, 9000)).await });
    let listener = listener.expect("a listener outside");
    let reached = std::thread::scope(|scope| {
        let outside = &lab.outside;
        let accepted = scope.spawn(move || outside.run(move || async move { listener.accept().await }));
        let connected = inside.run(|| async { tokio::net::TcpStream::connect((OUTSIDE, 9000)).await.map(|_| ()) });
        connected.expect("the world is reachable");
        accepted.join().expect("the server ran").expect("a connection came").1
    });
    assert_eq!(reached.ip(), IpAddr::V4(underlay_address(1)));
}

#[test]
fn without_a_ready_endpoint_clients_are_refused_at_once() {
    let mut lab = Lab::start(1);
    let client = lab.nodes[0].replica(12);
    let mut web = service(1, "web", &[]);
    web.ports = vec![
        port(8080, Protocol::Tcp, PortMode::Ingress),
        port(5353, Protocol::Udp, PortMode::Ingress),
    ];
    lab.publish(&web);
    // A listener of the node's own must not answer in the service's place.
    let own = lab.nodes[0]
        .machine
        .run(|| async { tokio::net::TcpListener::bind("0.0.0.0:8080").await });
    let own = own.expect("a listener on the node");
    let refused = |result: (std::time::Duration, std::io::Result<(String, IpAddr)>), what: &str| {
        let (took, result) = result;
        assert_eq!(result.expect_err(what).kind(), ErrorKind::ConnectionRefused, "{what}");
        assert!(took < REFUSAL_MAX, "{what} took {took:?}");
    };
    for address in [vip(1), vip(200)] {
        refused(
            client.run(move || timed(ask_tcp(at(address, 80)))),
            "TCP from a replica",
        );
        refused(
            client.run(move || timed(ask_udp(at(address, 80)))),
            "UDP from a replica",
        );
        refused(
            lab.nodes[0].machine.run(move || timed(ask_tcp(at(address, 80)))),
            "TCP from the node",
        );
    }
    let node = underlay_address(1);
    refused(
        lab.outside.run(move || timed(ask_tcp(at(node, 8080)))),
        "TCP from outside",
    );
    refused(
        lab.outside.run(move || timed(ask_udp(at(node, 5353)))),
        "UDP from outside",
    );
    drop(own);
}

#[test]
fn applying_again_changes_nothing_and_a_new_agent_finds_its_replicas() {
    let mut lab = Lab::start(2);
    let (one, two) = (lab.nodes[0].replica(11), lab.nodes[1].replica(21));
    lab.publish(&service(1, "web", &[&two]));
    let node = &lab.nodes[0];
    assert!(!node.apply().changed);
    let rules = sorted_lines(&node.machine.command("nft list ruleset"));
    let links = node.machine.ip("-o link show");

    let config = node.config.clone();
    let fresh = node.machine.run(move || async move { NodeDatapath::new(config) });
    let fresh = Arc::new(fresh.expect("a new data path opens"));
    let (datapath, plan, id, address) = (Arc::clone(&fresh), node.plan(), one.id, one.address);
    let path = node.machine.run(move || async move {
        datapath.apply(&plan).await.expect("a new agent applies the plan");
        datapath
            .attach(id, address)
            .await
            .expect("a new agent attaches the replica again")
    });
    assert_eq!(path, one.path);
    assert_eq!(fresh.list().expect("the folder can be read"), [one.id]);
    assert_eq!(sorted_lines(&node.machine.command("nft list ruleset")), rules);
    assert_eq!(node.machine.ip("-o link show"), links);
    let to = at(one.address, 80);
    assert_eq!(two.run(move || ask_tcp(to)).expect("it still answers").0, one.name);
}

#[test]
fn a_replica_half_attached_is_completed() {
    let mut lab = Lab::start(1);
    let one = lab.nodes[0].replica(11);
    let two = lab.nodes[0].replica(12);
    let inside = |command: &'static str| {
        one.run(move || async move {
            let words: Vec<&str> = command.split(' ').collect();
            std::process::Command::new("ip")
                .args(&words)
                .status()
                .expect("ip runs")
                .success()
        })
    };
    assert!(inside("addr flush dev eth0") && inside("link set lo down"));
    lab.nodes[0].attach(one.id, one.address);
    let to = at(two.address, 80);
    assert_eq!(one.run(move || ask_tcp(to)).expect("it is attached again").0, two.name);
}

#[test]
fn a_node_on_no_link_of_ours_is_reported_and_the_rest_works() {
    let mut lab = Lab::start(2);
    let (one, two) = (lab.nodes[0].replica(11), lab.nodes[1].replica(21));
    let stray = gantry_netplan::Peer {
        subnet: "10.128.9.0/24".parse().expect("a network"),
        address: "192.0.2.9".parse().expect("an address"),
    };
    let node = &mut lab.nodes[0];
    node.network.peers.insert(gantry_model::NodeId(9), stray.clone());
    let report = node.apply();
    assert_eq!(
        report.unreachable.into_iter().collect::<Vec<_>>(),
        [(stray.subnet, stray.address)]
    );
    // The way appears later: the next application finds it without being told.
    node.machine.ip("addr add 192.0.2.1/24 dev eth0");
    assert!(node.apply().unreachable.is_empty());
    let to = at(two.address, 80);
    assert_eq!(one.run(move || ask_tcp(to)).expect("it answers").0, two.name);
}

#[test]
fn strangers_do_not_reach_loopback_services_of_a_node_with_published_ports() {
    let mut lab = Lab::start(2);
    let far = lab.nodes[1].replica(21);
    let mut web = service(1, "web", &[&far]);
    web.ports = vec![port(8080, Protocol::Tcp, PortMode::Ingress)];
    lab.publish(&web);
    let own = lab.nodes[0]
        .machine
        .run(|| async { tokio::net::TcpListener::bind("127.0.0.1:9000").await });
    let own = own.expect("a loopback service");
    let gateway = underlay_address(1);
    lab.outside.ip("link set lo down");
    lab.outside.command("sysctl -w net.ipv4.conf.eth0.route_localnet=1");
    lab.outside.ip(&format!("route add 127.0.0.0/8 via {gateway} dev eth0"));
    let from = SocketAddr::from((OUTSIDE, 0));
    let reached = lab.outside.run(move || async move {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(from)?;
        let connect = socket.connect(at(Ipv4Addr::LOCALHOST, 9000));
        tokio::time::timeout(REFUSAL_MAX, connect).await?.map(|_| ())
    });
    assert!(reached.is_err(), "a loopback service was reached from another machine");
    drop(own);
}

#[test]
fn a_foreign_firewall_that_drops_forwarded_packets_is_passed() {
    let mut lab = Lab::start(2);
    let node = &mut lab.nodes[0];
    let available = node.machine.try_command("iptables -P FORWARD DROP");
    if !available.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this machine has no iptables");
        return;
    }
    node.machine.command("iptables -N DOCKER-USER");
    node.machine.command("iptables -I FORWARD -j DOCKER-USER");
    let (datapath, plan) = (Arc::clone(&node.datapath), node.plan());
    let report = node.machine.run(move || async move {
        datapath.reapply(&plan).await.expect("the plan is applied");
        datapath.reapply(&plan).await.expect("the plan is applied again")
    });
    assert_eq!(report.foreign_firewall, Some("DOCKER-USER"));
    let accepted = node.machine.command("iptables -S DOCKER-USER");
    assert_eq!(accepted.matches("ACCEPT").count(), 2, "{accepted}");
    let one = lab.nodes[0].replica(11);
    let two = lab.nodes[1].replica(21);
    let to = at(two.address, 80);
    assert_eq!(one.run(move || ask_tcp(to)).expect("it answers").0, two.name);
    lab.nodes[0].teardown();
    let left = lab.nodes[0].machine.command("iptables -S DOCKER-USER");
    assert_eq!(left.matches("ACCEPT").count(), 0, "{left}");
}

#[test]
fn a_detached_replica_leaves_nothing_behind() {
    let mut lab = Lab::start(1);
    let one = lab.nodes[0].replica(11);
    let (id, path) = (one.id, one.path.clone());
    drop(one);
    let node = &lab.nodes[0];
    let (datapath, gone) = (Arc::clone(&node.datapath), path.clone());
    let detached = node.machine.run(move || async move {
        datapath.detach(id).await.expect("it can be detached");
        datapath.detach(id).await.expect("twice is fine");
        !gone.exists()
    });
    assert!(detached);
    assert_eq!(node.datapath.list().expect("the folder can be read"), []);
    eventually("the link of the replica goes away", || {
        !node.machine.ip("-o link show").contains("gv")
    });
}

#[test]
fn an_address_used_again_works_at_once() {
    let mut lab = Lab::start(1);
    let client = lab.nodes[0].replica(12);
    let mut held = Vec::new();
    for id in 20..25 {
        let address = Ipv4Addr::new(10, 128, 1, 50);
        let node = &mut lab.nodes[0];
        node.plan_replica(ReplicaId(id), "shop", &[NETWORK], address);
        let path = node.attach(ReplicaId(id), address);
        let served = node.machine.inside(&path, || async {
            tokio::net::TcpListener::bind("0.0.0.0:80").await.is_ok()
        });
        assert!(served);
        let (datapath, to) = (Arc::clone(&node.datapath), at(address, 81));
        let (took, result) = client.run(move || timed(ask_tcp(to)));
        assert_eq!(
            result.expect_err("nothing listens").kind(),
            ErrorKind::ConnectionRefused
        );
        assert!(took < REFUSAL_MAX, "replica {id} answered after {took:?}");
        // Still held open by a file, as by a process that is slow to end.
        held.push(
            node.machine
                .run(move || async move { std::fs::File::open(path) })
                .expect("the namespace has a file"),
        );
        node.machine
            .run(move || async move { datapath.detach(ReplicaId(id)).await })
            .expect("it can be detached");
    }
}

#[test]
fn teardown_leaves_no_trace() {
    let mut lab = Lab::start(2);
    let settings = "sysctl net.ipv4.conf.eth0.route_localnet";
    let before = lab.nodes[0].machine.command(settings);
    let routes = |lab: &Lab| lab.nodes[0].machine.ip("route show");
    let one = lab.nodes[0].replica(11);
    let mut web = service(1, "web", &[&one]);
    web.ports = vec![port(8080, Protocol::Tcp, PortMode::Ingress)];
    lab.publish(&web);
    assert_ne!(
        lab.nodes[0].machine.command(settings),
        before,
        "the test would see nothing"
    );
    drop(one);
    lab.nodes[0].teardown();
    let node = &lab.nodes[0];
    assert_eq!(node.machine.command("nft list ruleset"), "");
    assert_eq!(
        routes(&lab).trim(),
        "10.77.0.0/24 dev eth0 proto kernel scope link src 10.77.0.1"
    );
    assert_eq!(node.machine.command(settings), before);
    let run_dir = node.config.run_dir.clone();
    assert!(!run_dir.exists());
    let mounts = node
        .machine
        .run(|| async { std::fs::read_to_string("/proc/thread-self/mounts").expect("mounts") });
    assert!(!mounts.contains(&*run_dir.to_string_lossy()));
    eventually("links go away", || {
        let links = node.machine.ip("-o link show");
        !links.contains("gv") && !links.contains("gantry")
    });
    node.teardown();
}

#[test]
fn rules_that_others_flushed_come_back_with_the_next_change() {
    let mut lab = Lab::start(1);
    let (one, two) = (lab.nodes[0].replica(11), lab.nodes[0].replica(12));
    lab.publish(&service(1, "web", &[&one]));
    lab.nodes[0].machine.command("nft flush ruleset");
    lab.publish(&service(1, "web", &[&two]));
    let answer = one.run(move || ask_tcp(at(vip(1), 80))).expect("it answers");
    assert_eq!(answer.0, two.name);
}

#[test]
fn a_replica_sends_no_packet_too_large_for_the_way_to_other_nodes() {
    let mut lab = Lab::start(2);
    lab.nodes[0].machine.ip("link set eth0 mtu 1280");
    let (datapath, plan) = (Arc::clone(&lab.nodes[0].datapath), lab.nodes[0].plan());
    let healed = lab.nodes[0]
        .machine
        .run(move || async move { datapath.reapply(&plan).await });
    healed.expect("the plan is applied again");
    let one = lab.nodes[0].replica(11);
    let link = one.run(|| async { std::process::Command::new("ip").args(["link", "show", "eth0"]).output() });
    let link = String::from_utf8(link.expect("ip runs").stdout).expect("text");
    assert!(link.contains("mtu 1280"), "{link}");
}

#[test]
fn replicas_are_attached_before_any_plan_only_with_an_error() {
    let lab = Lab::start(1);
    let config = lab.nodes[0].config.clone();
    let refused = lab.nodes[0].machine.run(move || async move {
        let fresh = NodeDatapath::new(config).expect("a data path opens");
        fresh.attach(ReplicaId(1), Ipv4Addr::new(10, 128, 1, 2)).await
    });
    assert!(matches!(refused, Err(gantry_network::NetworkError::NotApplied)));
}

/// Keeps the node as planned while `disturb` does harm, and waits until `is_well` again.
fn comes_back(node: &lab::Node, disturb: &str, is_well: impl FnMut() -> bool) {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (datapath, plan) = (Arc::clone(&node.datapath), node.plan());
    node.machine.spawn(move || async move {
        let keep = async {
            loop {
                let disturbance = datapath.disturbed().await;
                datapath.repair(&plan, disturbance).await.expect("it can be repaired");
            }
        };
        tokio::select! {
            () = keep => {}
            _ = stopped => {}
        }
    });
    node.machine.command(disturb);
    eventually(disturb, is_well);
    drop(stop);
}

#[test]
fn what_others_remove_or_change_comes_back_by_itself() {
    let mut lab = Lab::start(2);
    let (one, two) = (lab.nodes[0].replica(11), lab.nodes[1].replica(21));
    let mut web = service(1, "web", &[&two]);
    web.ports = vec![port(8080, Protocol::Tcp, PortMode::Ingress)];
    lab.publish(&web);
    let node = &lab.nodes[0];
    node.machine.command("nft add table ip foreign");
    node.machine.command("nft add chain ip foreign mine");
    node.machine.command("nft add rule ip foreign mine counter");
    node.machine.ip("route add 192.0.2.0/24 dev eth0");
    let gateway = node.plan().gateway.address;
    let table = node.config.table.clone();
    let rules = || {
        let listed = node
            .machine
            .try_command(&format!("nft list table ip {table}"))
            .expect("nft runs");
        sorted_lines(&String::from_utf8_lossy(&listed.stdout))
    };
    let link = format!("gv{}", one.id);
    let bridge = node.config.link.clone();
    for disturb in [
        format!("nft delete table ip {table}"),
        format!("nft flush table ip {table}"),
        format!("nft flush map ip {table} vips"),
        format!("nft add rule ip {table} forward drop"),
        "nft flush chain ip NAME post_nat".replace("NAME", &table),
        "ip route del 10.128.2.0/24".to_string(),
        format!("ip route del {}", one.address),
        format!("ip addr del {gateway}/32 dev {bridge}"),
        format!("ip link set {bridge} down"),
        format!("ip link del {bridge}"),
        format!("ip link set {link} down"),
        format!("ip link del {link}"),
    ] {
        let before = rules();
        comes_back(node, &disturb, || {
            let asked = one.run(move || async move {
                let direct = ask_tcp(at(vip(1), 80)).await.is_ok();
                direct && ask_tcp(at(gateway, 8080)).await.is_ok()
            });
            asked && rules() == before
        });
        node.machine.command("nft list chain ip foreign mine");
        assert!(node.machine.ip("route show 192.0.2.0/24").contains("eth0"), "{disturb}");
    }
}

#[test]
fn connections_of_clients_are_counted_and_those_of_the_replica_are_not() {
    let mut lab = Lab::start(2);
    let (server, client) = (lab.nodes[0].replica(11), lab.nodes[1].replica(21));
    let count = |id| {
        let datapath = Arc::clone(&lab.nodes[0].datapath);
        let counted = lab.nodes[0]
            .machine
            .run(move || async move { datapath.connections(id).await });
        counted.expect("the kernel tells")
    };
    let ports = |id| {
        let datapath = Arc::clone(&lab.nodes[0].datapath);
        let ports = lab.nodes[0]
            .machine
            .run(move || async move { datapath.listening(id).await });
        ports.expect("the kernel tells")
    };
    assert_eq!(count(ReplicaId(99)), None);
    assert_eq!(ports(server.id), Some(BTreeSet::from([80])));
    assert_eq!(count(server.id).map(|count| count.open), Some(0));

    let (address, outward) = (at(server.address, 80), at(client.address, 80));
    let held = client.run(move || async move { std::net::TcpStream::connect(address) });
    let own = server.run(move || async move { std::net::TcpStream::connect(outward) });
    let (held, own) = (held.expect("it accepts"), own.expect("it accepts"));
    eventually("the connection is seen, and in use since it is new", || {
        count(server.id).is_some_and(|count| (count.open, count.idle) == (1, 0))
    });
    drop(held);
    eventually("its end is seen", || {
        count(server.id).is_some_and(|count| count.open == 0)
    });
    drop(own);
}
