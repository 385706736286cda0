//! Connections that outlive their replica must not lead new ones after it. Needs root.

mod lab;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use gantry_model::spec::{PortMode, Protocol};
use lab::{ANSWER_MAX, Lab, OUTSIDE, Replica, eventually, port, service, underlay_address};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

const PUBLISHED: u16 = 8080;
/// Where a test makes a replica serve in its own way.
const ODD_PORT: u16 = 81;
/// The client's port, used twice.
const PORT: u16 = 40_001;

/// The kernel tells at once.
const NOTICED_MAX: Duration = Duration::from_secs(5);

/// A connection from the one port to the published port of node 1.
async fn connect() -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((OUTSIDE, PORT)))?;
    let to = SocketAddr::from((underlay_address(1), PUBLISHED));
    timeout(ANSWER_MAX, socket.connect(to)).await?
}

/// The first bytes that come.
async fn read(stream: &mut TcpStream) -> io::Result<String> {
    let mut buffer = [0; 64];
    let length = timeout(ANSWER_MAX, stream.read(&mut buffer)).await??;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn publish(lab: &mut Lab, target: u16, replica: &Replica) {
    let mut web = service(1, "web", &[replica]);
    web.ports = vec![port(PUBLISHED, Protocol::Tcp, PortMode::Ingress)];
    web.ports[0].target = target;
    lab.publish(&web);
}

/// Takes the replica's link away, as the end of its last process does.
fn vanish(lab: &Lab, node: usize, replica: &Replica) {
    let link = format!("gv{}", replica.id);
    let machine = &lab.nodes[node].machine;
    machine.ip(&format!("link del {link}"));
    eventually("the end of its link", || !machine.ip("link").contains(&link));
}

fn served_by(lab: &Lab, replica: &Replica) {
    let answer = lab.outside.run(|| async { read(&mut connect().await?).await });
    let answer = answer.expect("the port leads to a replica that is there");
    assert!(answer.starts_with(&replica.name), "{answer}");
}

#[test]
fn a_port_whose_connection_was_reset_leads_to_a_replica_that_is_there() {
    for node in [0, 1] {
        let mut lab = Lab::start(2);
        let (old, new) = (lab.nodes[node].replica(11), lab.nodes[1].replica(21));
        publish(&mut lab, ODD_PORT, &old);
        let (ready, listens) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                old.run(move || async move {
                    let listener = TcpListener::bind(("0.0.0.0", ODD_PORT))
                        .await
                        .expect("the port is free");
                    ready.send(()).expect("the test waits");
                    let (stream, _) = listener.accept().await.expect("a client comes");
                    stream.set_zero_linger().expect("a socket can be made to reset");
                });
            });
            listens.recv().expect("it listens");
            let end = lab.outside.run(|| async { read(&mut connect().await?).await });
            let end = end.expect_err("the server resets the connection");
            assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
        });
        publish(&mut lab, 80, &new);
        vanish(&lab, node, &old);
        served_by(&lab, &new);
    }
}

#[test]
fn a_connection_whose_replica_vanished_is_reset_at_its_next_packet_and_its_port_is_free() {
    for node in [0, 1] {
        let mut lab = Lab::start(2);
        let (old, new) = (lab.nodes[node].replica(11), lab.nodes[1].replica(21));
        publish(&mut lab, 80, &old);
        let mut stream = lab.outside.run(|| async {
            let mut stream = connect().await?;
            let first = read(&mut stream).await?;
            io::Result::Ok((stream.into_std()?, first))
        });
        let (held, first) = stream.as_mut().expect("the replica answers");
        assert!(first.starts_with(&old.name), "{first}");
        publish(&mut lab, 80, &new);
        vanish(&lab, node, &old);
        io::Write::write_all(held, b"?").expect("the packet is sent");
        held.set_nonblocking(false).expect("a socket can be made to wait");
        held.set_read_timeout(Some(ANSWER_MAX)).expect("a limit can be set");
        let end = io::Read::read(held, &mut [0; 8]).expect_err("nobody is there");
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
        served_by(&lab, &new);
    }
}

#[test]
fn the_table_of_flows_stays_when_the_rules_are_replaced_and_comes_back_when_somebody_removes_it() {
    let lab = Lab::start(1);
    let node = &lab.nodes[0];
    let flows = format!("{}_flows", node.config.table);
    let handle = || {
        let listed = node.machine.command(&format!("nft -a list table ip {flows}"));
        listed.lines().next().map(str::to_string)
    };
    let first = handle();
    let (datapath, plan) = (node.datapath.clone(), node.plan());
    let again = node.machine.run(move || async move { datapath.reapply(&plan).await });
    again.expect("the plan is applied again");
    assert_eq!(handle(), first, "it is the same table");
    let tables = node.machine.command("nft list tables");
    assert!(!tables.contains("_next"), "no table stands in any more: {tables}");

    node.machine.command(&format!("nft delete table ip {flows}"));
    let (datapath, plan) = (node.datapath.clone(), node.plan());
    let repaired = node.machine.run(move || async move {
        let noticed = async {
            loop {
                let disturbance = datapath.disturbed().await;
                if disturbance.rules {
                    return disturbance;
                }
            }
        };
        let disturbance = timeout(NOTICED_MAX, noticed).await;
        datapath
            .repair(&plan, disturbance.expect("the removal is noticed"))
            .await
    });
    repaired.expect("the plan is applied again");
    assert_ne!(handle(), first, "it is a new table");
}

#[test]
fn a_client_that_nobody_answered_is_answered_by_another_once_its_endpoint_left() {
    let mut lab = Lab::start(2);
    let (old, new) = (lab.nodes[1].replica(21), lab.nodes[0].replica(11));
    publish(&mut lab, 80, &old);
    lab.nodes[1].machine.ip("link set eth0 down");
    let silence = lab
        .outside
        .run(|| async { connect().await.err().map(|error| error.kind()) });
    assert_eq!(silence, Some(io::ErrorKind::TimedOut));
    publish(&mut lab, 80, &new);
    // The same port again and again: each try would keep the memory of the first alive.
    eventually("an answer", || {
        let answer = lab.outside.run(|| async { read(&mut connect().await?).await });
        answer.is_ok_and(|answer| answer.starts_with(&new.name))
    });
}
