//! The network of containers run by hand, on real kernels. Needs root.

mod lab;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_model::ReplicaId;
use gantry_model::spec::Protocol;
use gantry_network::{LocalAttachment, LocalConfig, LocalNetwork, LocalPort};
use lab::{Lab, Node, OUTSIDE, Replica, ask_tcp, ask_udp, underlay_address};

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

fn config(run_dir: &Path) -> LocalConfig {
    LocalConfig {
        link: "gantry0l".to_string(),
        table: "gantry_local".to_string(),
        run_dir: run_dir.to_path_buf(),
        pool: None,
    }
}

/// The local network of a node of the lab.
struct Local<'a> {
    node: &'a Node,
    network: Arc<LocalNetwork>,
}

impl<'a> Local<'a> {
    fn open(node: &'a Node, run_dir: &Path) -> Self {
        let config = config(run_dir);
        let network = node.machine.run(move || async move { LocalNetwork::new(config) });
        Self {
            node,
            network: Arc::new(network.expect("it opens")),
        }
    }

    fn run<T, F>(&self, work: impl FnOnce(Arc<LocalNetwork>) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let network = Arc::clone(&self.network);
        self.node.machine.run(move || work(network))
    }

    fn attach(&self, id: u64) -> LocalAttachment {
        let attached = self.run(move |network| async move { network.attach(ReplicaId(id), &[]).await });
        attached.expect("attached")
    }

    fn container(&self, id: u64) -> Replica {
        let attached = self.attach(id);
        Replica::serve(self.node, ReplicaId(id), attached.address, attached.namespace)
    }

    fn publish(&self, ports: Vec<LocalPort>) {
        let done = self.run(move |network| async move { network.publish(&ports, &[]).await });
        done.expect("published");
    }

    fn withdraw(&self, ports: Vec<LocalPort>) {
        let done = self.run(move |network| async move { network.withdraw(&ports).await });
        done.expect("withdrawn");
    }
}

fn port(published: u16, protocol: Protocol, to: Ipv4Addr) -> LocalPort {
    LocalPort {
        host_ip: None,
        published,
        protocol,
        to,
        target: 80,
    }
}

fn run_dir() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("local");
    (folder, path)
}

#[test]
fn containers_reach_each_other_the_world_and_replicas() {
    let mut lab = Lab::start(2);
    let replica = lab.nodes[1].replica(21);
    let (_folder, run_dir) = run_dir();
    let local = Local::open(&lab.nodes[0], &run_dir);
    let (one, two) = (local.container(901), local.container(902));
    let answer = one.run({
        let to = at(two.address, 80);
        move || ask_tcp(to)
    });
    assert_eq!(
        answer.expect("its neighbour answers"),
        (two.name.clone(), IpAddr::V4(one.address))
    );
    lab.outside.run(|| async {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:90").await.expect("free");
        tokio::spawn(async move {
            while let Ok((mut stream, from)) = listener.accept().await {
                let answer = format!("outside {}", from.ip());
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await;
            }
        });
    });
    let seen = one.run(|| ask_tcp(at(OUTSIDE, 90))).expect("masqueraded").1;
    assert_eq!(seen, IpAddr::V4(underlay_address(1)));
    let to = at(replica.address, 80);
    assert_eq!(
        one.run(move || ask_tcp(to)).expect("a replica elsewhere answers").0,
        replica.name
    );
    // Nobody comes in without a published port.
    lab.outside
        .ip(&format!("route add {}/32 via {}", one.address, underlay_address(1)));
    let direct = at(one.address, 80);
    assert!(lab.outside.run(move || ask_tcp(direct)).is_err(), "a stranger came in");
}

#[test]
fn published_ports_lead_in_from_everywhere_until_withdrawn_and_survive_a_new_agent() {
    let lab = Lab::start(1);
    let node = &lab.nodes[0];
    let (_folder, run_dir) = run_dir();
    let local = Local::open(node, &run_dir);
    let web = local.container(901);
    let ports = vec![
        port(8080, Protocol::Tcp, web.address),
        port(8080, Protocol::Udp, web.address),
        LocalPort {
            host_ip: Some(Ipv4Addr::LOCALHOST),
            ..port(8081, Protocol::Tcp, web.address)
        },
    ];
    local.publish(ports.clone());
    let check = |what: &str| {
        let to = at(underlay_address(1), 8080);
        assert_eq!(
            lab.outside.run(move || ask_tcp(to)).expect(what),
            (web.name.clone(), IpAddr::V4(OUTSIDE))
        );
        assert_eq!(lab.outside.run(move || ask_udp(to)).expect(what).0, web.name);
        for port in [8080, 8081] {
            let to = at(Ipv4Addr::LOCALHOST, port);
            assert_eq!(node.machine.run(move || ask_tcp(to)).expect(what).0, web.name, "{port}");
        }
        let closed = at(underlay_address(1), 8081);
        let refused = lab
            .outside
            .run(move || ask_tcp(closed))
            .expect_err("bound to loopback alone");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(web.run(move || ask_tcp(to)).expect("it reaches itself").0, web.name);
    };
    check("while its agent lives");
    let next = Local::open(node, &run_dir);
    next.network.adopt(web.id, web.address, ports.clone());
    next.run(|network| async move { network.ready(&[]).await })
        .expect("taken over");
    check("after a new agent came");
    assert_eq!(next.attach(901).address, web.address, "it keeps its address");
    assert_ne!(next.attach(902).address, web.address);
    next.withdraw(ports);
    let to = at(underlay_address(1), 8080);
    assert!(lab.outside.run(move || ask_tcp(to)).is_err());
}

#[test]
fn rules_that_others_flushed_are_replaced() {
    let lab = Lab::start(1);
    let (_folder, run_dir) = run_dir();
    let local = Local::open(&lab.nodes[0], &run_dir);
    let web = local.container(901);
    local.publish(vec![port(8080, Protocol::Tcp, web.address)]);
    lab.nodes[0].machine.command("nft delete table ip gantry_local");
    local.publish(vec![port(8081, Protocol::Tcp, web.address)]);
    for port in [8080, 8081] {
        let to = at(underlay_address(1), port);
        assert_eq!(lab.outside.run(move || ask_tcp(to)).expect("published").0, web.name);
    }
    lab.nodes[0].machine.command("nft delete table ip gantry_local");
    local
        .run(|network| async move { network.heal().await })
        .expect("healed");
    let to = at(underlay_address(1), 8080);
    assert_eq!(lab.outside.run(move || ask_tcp(to)).expect("published").0, web.name);
}

#[test]
fn the_pool_avoids_routes_of_the_node_and_stays_the_same() {
    let lab = Lab::start(1);
    let node = &lab.nodes[0];
    node.machine.ip("route add 172.30.5.0/24 via 10.77.0.100");
    let (_folder, run_dir) = run_dir();
    let local = Local::open(node, &run_dir);
    let avoid = ["172.29.0.0/16".parse().expect("a network")];
    let gateway = local
        .run(move |network| async move { network.ready(&avoid).await })
        .expect("ready");
    assert_eq!(gateway, Ipv4Addr::new(172, 28, 0, 1));
    node.machine.ip("route del 172.30.5.0/24");
    let next = Local::open(node, &run_dir);
    let gateway = next
        .run(|network| async move { network.ready(&[]).await })
        .expect("ready");
    assert_eq!(
        gateway,
        Ipv4Addr::new(172, 28, 0, 1),
        "containers of a former agent live there"
    );

    let (_other, other_dir) = self::run_dir();
    let mut config = config(&other_dir);
    config.link = "other0".to_string();
    config.pool = Some("172.28.0.0/20".parse().expect("a network"));
    let refused = node
        .machine
        .run(move || async move { LocalNetwork::new(config).expect("it opens").ready(&[]).await });
    let text = refused.expect_err("it is taken").to_string();
    assert!(
        text.contains("172.28.0.0/20") && text.contains("configure another"),
        "{text}"
    );
}

#[test]
fn nothing_is_left_of_containers_and_of_the_whole() {
    let lab = Lab::start(1);
    let node = &lab.nodes[0];
    let before = (
        node.machine.ip("-o link"),
        node.machine.ip("route show table all"),
        node.machine.command("nft list ruleset"),
    );
    let (_folder, run_dir) = run_dir();
    let local = Local::open(node, &run_dir);
    for round in 0..20 {
        let attached = local.attach(900 + round);
        assert!(attached.namespace.exists());
        let id = ReplicaId(900 + round);
        local
            .run(move |network| async move { network.detach(id) })
            .expect("detached");
        assert!(!attached.namespace.exists());
    }
    // Let go and taken again at once, while the kernel still ends the former namespace.
    for _ in 0..5 {
        let attached = local.attach(940);
        assert!(attached.namespace.exists());
        local
            .run(|network| async move { network.detach(ReplicaId(940)) })
            .expect("detached");
    }
    assert_eq!(local.network.list().expect("readable"), []);
    lab::eventually("the links are gone", || !node.machine.ip("-o link").contains(": gv"));
    let kept = local.container(950);
    local.publish(vec![port(8080, Protocol::Tcp, kept.address)]);
    drop(kept);
    local
        .run(|network| async move { network.teardown().await })
        .expect("torn down");
    let after = (
        node.machine.ip("-o link"),
        node.machine.ip("route show table all"),
        node.machine.command("nft list ruleset"),
    );
    assert_eq!(before, after);
    assert!(!run_dir.exists());
}
