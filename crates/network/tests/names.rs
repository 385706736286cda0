//! The name server of a node, asked by replicas, by the world, and by nobody it should answer. Needs root.

mod lab;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use gantry_model::ReplicaId;
use gantry_model::assignment::{Endpoint, ServiceItem};
use gantry_model::object::Slot;
use gantry_model::spec::{EndpointMode, PortMode, Protocol};
use gantry_netplan::Zone;
use gantry_network::{DnsServer, Upstreams};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use lab::{ANSWER_MAX, Lab, OUTSIDE, Replica, eventually, port, service, underlay_address, vip};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// What the resolver outside says to every question.
const FOREIGN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn gateway() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 128, 1, 1), 53))
}

/// A lab with one node whose name server runs, and a resolver outside.
struct Names {
    lab: Lab,
    zone: Arc<ArcSwap<Zone>>,
    asked_outside: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
}

impl Names {
    fn start() -> Self {
        let lab = Lab::start(1);
        let asked_outside = serve_outside(&lab);
        let zone = Arc::new(ArcSwap::from_pointee(lab.nodes[0].plan().zone));
        let upstreams = Upstreams::List(vec![SocketAddr::from((OUTSIDE, 53))]);
        let stop = serve(&lab, &zone, upstreams);
        Self {
            lab,
            zone,
            asked_outside,
            _stop: stop,
        }
    }

    fn publish(&mut self, service: &ServiceItem) {
        self.lab.publish(service);
        self.zone.store(Arc::new(self.lab.nodes[0].plan().zone));
    }
}

fn serve(lab: &Lab, zone: &Arc<ArcSwap<Zone>>, upstreams: Upstreams) -> oneshot::Sender<()> {
    let (stop, stopped) = oneshot::channel::<()>();
    let zone = Arc::clone(zone);
    lab.nodes[0].machine.run(move || async move {
        let server = DnsServer::bind(gateway(), zone, upstreams)
            .await
            .expect("the gateway's address is there");
        tokio::task::spawn_local(server.run(async {
            let _ = stopped.await;
        }));
    });
    stop
}

/// A resolver on the machine outside; counts the queries it gets.
fn serve_outside(lab: &Lab) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    lab.outside.run(move || async move {
        let udp = UdpSocket::bind((OUTSIDE, 53)).await.expect("port 53 is free");
        let tcp = TcpListener::bind((OUTSIDE, 53)).await.expect("port 53 is free");
        let udp_counter = Arc::clone(&counter);
        tokio::task::spawn_local(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                udp_counter.fetch_add(1, Ordering::Relaxed);
                // A forged answer first: wrong id. It must not be believed.
                let mut forged = foreign_answer(&buffer[..length], Ipv4Addr::new(203, 0, 113, 66));
                forged[0] ^= 0xff;
                let _ = udp.send_to(&forged, from).await;
                let _ = udp.send_to(&foreign_answer(&buffer[..length], FOREIGN), from).await;
            }
        });
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let query = read_framed(&mut stream).await.expect("a query");
                let _ = write_framed(&mut stream, &foreign_answer(&query, FOREIGN)).await;
            }
        });
    });
    asked
}

fn foreign_answer(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let query = Message::from_vec(query).expect("a query");
    let mut reply = query.clone().into_response();
    let name = query.queries[0].name().clone();
    reply.add_answer(Record::from_rdata(name, 300, RData::A(A(address))));
    reply.to_vec().expect("an answer can be encoded")
}

async fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    stream.write_u16(message.len() as u16).await?;
    stream.write_all(message).await
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

async fn ask_udp(to: SocketAddr, packet: Vec<u8>) -> std::io::Result<Message> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(to).await?;
    socket.send(&packet).await?;
    let mut buffer = vec![0; 4096];
    let length = timeout(ANSWER_MAX, socket.recv(&mut buffer)).await??;
    assert!(length <= 1232, "an answer over UDP must not be cut into fragments");
    Message::from_vec(&buffer[..length]).map_err(std::io::Error::other)
}

async fn ask_tcp(to: SocketAddr, packet: Vec<u8>) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(to).await?;
    write_framed(&mut stream, &packet).await?;
    let reply = timeout(ANSWER_MAX, read_framed(&mut stream)).await??;
    Message::from_vec(&reply).map_err(std::io::Error::other)
}

/// Asks over UDP and TCP, which must agree, and gives the answer over UDP.
fn ask(replica: &Replica, name: &str, kind: RecordType) -> Message {
    let message = question(name, kind);
    let packet = message.to_vec().expect("a query can be encoded");
    let again = packet.clone();
    let over_udp = replica
        .run(move || ask_udp(gateway(), packet))
        .expect("an answer over UDP");
    let over_tcp = replica
        .run(move || ask_tcp(gateway(), again))
        .expect("an answer over TCP");
    assert_eq!(over_udp.metadata.id, message.metadata.id);
    assert_eq!(over_udp.queries, message.queries);
    assert_eq!(over_udp.metadata.response_code, over_tcp.metadata.response_code);
    assert_eq!(set(&over_udp), set(&over_tcp));
    over_udp
}

fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| match &record.data {
        RData::A(A(address)) => Some(*address),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

fn set(message: &Message) -> BTreeSet<Ipv4Addr> {
    addresses(message).into_iter().collect()
}

#[test]
fn replicas_resolve_the_names_of_their_networks_and_no_others() {
    let mut names = Names::start();
    let node = &mut names.lab.nodes[0];
    let (one, two) = (node.replica(11), node.replica(12));
    let stranger = node.replica_on(13, "bank", &["bank_default"]);
    let mut web = service(1, "web", &[&one, &two]);
    let network = web.networks.get_mut("shop_default").expect("it is attached");
    network.names.push("www".to_string());
    names.publish(&web);
    let both = BTreeSet::from([one.address, two.address]);
    for name in ["web.", "WWW.", "web.shop."] {
        let answer = ask(&one, name, RecordType::A);
        assert_eq!(addresses(&answer), [vip(1)], "{name}");
        assert!(answer.metadata.authoritative);
        assert!(answer.answers[0].ttl <= 5);
    }
    for name in ["tasks.web.", "tasks.web.shop."] {
        assert_eq!(set(&ask(&one, name, RecordType::A)), both, "{name}");
    }
    for kind in [RecordType::AAAA, RecordType::MX] {
        let nothing = ask(&one, "web.", kind);
        assert_eq!(nothing.metadata.response_code, ResponseCode::NoError);
        assert!(nothing.answers.is_empty(), "{kind}");
    }
    assert_eq!(
        names.asked_outside.load(Ordering::Relaxed),
        0,
        "nothing of this leaves the cluster"
    );
    assert_eq!(addresses(&ask(&stranger, "web.", RecordType::A)), [FOREIGN]);
}

#[test]
fn endpoints_are_answered_in_turn_and_forgotten_when_they_leave() {
    let mut names = Names::start();
    let node = &mut names.lab.nodes[0];
    let (one, two) = (node.replica(11), node.replica(12));
    let mut web = service(1, "web", &[&one, &two]);
    web.endpoint_mode = EndpointMode::Dnsrr;
    names.publish(&web);
    let packet = question("web.", RecordType::A)
        .to_vec()
        .expect("a query can be encoded");
    let first = one.run(move || async move {
        let mut first = BTreeSet::new();
        for _ in 0..2 {
            let answer = ask_udp(gateway(), packet.clone()).await.expect("an answer");
            assert_eq!(answer.answers.len(), 2);
            first.insert(addresses(&answer)[0]);
        }
        first
    });
    assert_eq!(first, BTreeSet::from([one.address, two.address]));
    web.endpoints.truncate(1);
    names.publish(&web);
    assert_eq!(addresses(&ask(&one, "web.", RecordType::A)), [one.address]);
    web.endpoints.clear();
    names.publish(&web);
    let nobody = ask(&one, "web.", RecordType::A);
    assert_eq!(
        (nobody.metadata.response_code, nobody.answers.len()),
        (ResponseCode::NoError, 0)
    );
}

#[test]
fn foreign_names_are_forwarded_once_and_remembered() {
    let mut names = Names::start();
    let one = names.lab.nodes[0].replica(11);
    names.zone.store(Arc::new(names.lab.nodes[0].plan().zone));
    names.lab.apply();
    assert_eq!(addresses(&ask(&one, "example.org.", RecordType::A)), [FOREIGN]);
    assert_eq!(addresses(&ask(&one, "Example.org.", RecordType::A)), [FOREIGN]);
    assert_eq!(
        names.asked_outside.load(Ordering::Relaxed),
        2,
        "once over UDP and once over TCP"
    );
}

#[test]
fn without_an_upstream_that_answers_the_client_is_told_so() {
    let mut lab = Lab::start(1);
    let one = lab.nodes[0].replica(11);
    let zone = Arc::new(ArcSwap::from_pointee(lab.nodes[0].plan().zone));
    // Nothing listens there: the machine outside refuses at once.
    let _stop = serve(&lab, &zone, Upstreams::List(vec![SocketAddr::from((OUTSIDE, 54))]));
    let answer = ask(&one, "example.org.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn who_is_not_of_the_cluster_is_refused() {
    let names = Names::start();
    names
        .lab
        .outside
        .ip(&format!("route add 10.128.1.0/24 via {}", underlay_address(1)));
    let packet = question("example.org.", RecordType::A)
        .to_vec()
        .expect("a query can be encoded");
    let answer = names
        .lab
        .outside
        .run(move || ask_udp(gateway(), packet))
        .expect("an answer");
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn an_answer_too_long_for_udp_is_cut_and_complete_over_tcp() {
    let mut names = Names::start();
    let one = names.lab.nodes[0].replica(11);
    let mut web = service(1, "web", &[&one]);
    let endpoint = |id: u32| Endpoint {
        replica: ReplicaId(u64::from(id)),
        node: gantry_model::NodeId(2),
        address: Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 129, 0, 0)) + id),
        slot: Slot::Index(id),
    };
    web.endpoints = (1..=200).map(endpoint).collect();
    names.publish(&web);
    let packet = question("tasks.web.", RecordType::A)
        .to_vec()
        .expect("a query can be encoded");
    let again = packet.clone();
    let over_udp = one.run(move || ask_udp(gateway(), packet)).expect("an answer over UDP");
    assert!(over_udp.metadata.truncation);
    assert!(
        over_udp.answers.len() > 20,
        "what fits is there: {}",
        over_udp.answers.len()
    );
    let over_tcp = one.run(move || ask_tcp(gateway(), again)).expect("an answer over TCP");
    assert_eq!((over_tcp.metadata.truncation, over_tcp.answers.len()), (false, 200));
}

#[test]
fn hostile_clients_do_not_stop_the_server() {
    let mut names = Names::start();
    let one = names.lab.nodes[0].replica(11);
    names.publish(&service(1, "web", &[&one]));
    let query = question("web.", RecordType::A)
        .to_vec()
        .expect("a query can be encoded");
    one.run(move || async move {
        let socket = UdpSocket::bind("0.0.0.0:0").await.expect("a socket");
        socket.connect(gateway()).await.expect("a route");
        for length in 0..query.len() {
            let _ = socket.send(&query[..length]).await;
        }
        // A name that points at itself, many questions announced, a packet of nothing, one too large.
        let mut looping = query.clone();
        looping.splice(12.., [0xc0, 0x0c, 0, 1, 0, 1]);
        let mut greedy = query.clone();
        greedy[4..12].fill(0xff);
        for packet in [looping, greedy, vec![0; 12], vec![0x55; 9000]] {
            let _ = socket.send(&packet).await;
        }
        // More connections than are served at once, all silent but for half a length.
        let mut silent = Vec::new();
        for _ in 0..80 {
            let mut stream = TcpStream::connect(gateway()).await.expect("the queue takes it");
            let _ = stream.write_all(&[0]).await;
            silent.push(stream);
        }
        let answer = ask_udp(gateway(), query).await.expect("UDP is still answered");
        assert_eq!(addresses(&answer), [vip(1)]);
        drop(silent);
    });
    eventually("TCP is served again", || {
        let packet = question("web.", RecordType::A)
            .to_vec()
            .expect("a query can be encoded");
        one.run(move || ask_tcp(gateway(), packet)).is_ok()
    });
}

#[test]
fn a_published_port_53_does_not_take_the_name_servers_place() {
    let mut names = Names::start();
    let one = names.lab.nodes[0].replica(11);
    let mut resolver = service(1, "dns", &[&one]);
    resolver.ports = vec![
        port(53, Protocol::Udp, PortMode::Ingress),
        port(53, Protocol::Tcp, PortMode::Ingress),
    ];
    names.publish(&resolver);
    assert_eq!(addresses(&ask(&one, "dns.", RecordType::A)), [vip(1)]);
    let published = SocketAddr::from((underlay_address(1), 53));
    let answer = names
        .lab
        .outside
        .run(move || lab::ask_tcp(published))
        .expect("the port is published");
    assert_eq!(answer, (one.name.clone(), IpAddr::V4(OUTSIDE)));
}

#[test]
fn the_server_ends_when_told_to() {
    let lab = Lab::start(1);
    let zone = Arc::new(ArcSwap::from_pointee(Zone::default()));
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let ended = lab.nodes[0].machine.run(move || async move {
        let server = DnsServer::bind(listen, zone, Upstreams::default())
            .await
            .expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::task::spawn_local(server.run(async {
            let _ = stopped.await;
        }));
        drop(stop);
        timeout(Duration::from_secs(5), running).await.is_ok()
    });
    assert!(ended);
}

#[test]
fn ports_and_addresses_are_named_over_the_wire() {
    let mut names = Names::start();
    let node = &mut names.lab.nodes[0];
    let (one, two) = (node.replica(11), node.replica(12));
    let stranger = node.replica_on(13, "bank", &["bank_default"]);
    let mut web = service(1, "web", &[&one, &two]);
    web.ports = vec![lab::port(8080, Protocol::Tcp, PortMode::Ingress)];
    names.publish(&web);
    let answer = ask(&one, "_80._tcp.web.", RecordType::SRV);
    let said = |message: &Message| -> BTreeSet<String> {
        message.answers.iter().map(|record| record.data.to_string()).collect()
    };
    let expected = ["0 0 80 web.11.shop.", "0 0 80 web.12.shop."].map(str::to_string);
    assert_eq!(said(&answer), BTreeSet::from(expected));
    assert_eq!(
        answer.additionals.len(),
        2,
        "the addresses that the client asks for next"
    );
    assert_eq!(addresses(&ask(&one, "web.12.", RecordType::A)), [two.address]);
    let [_, b, c, d] = two.address.octets();
    let reverse = format!("{d}.{c}.{b}.10.in-addr.arpa.");
    let expected = BTreeSet::from(["web.12.shop.".to_string()]);
    assert_eq!(said(&ask(&one, &reverse, RecordType::PTR)), expected);
    let hidden = ask(&stranger, &reverse, RecordType::PTR);
    assert_eq!(hidden.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(
        names.asked_outside.load(Ordering::Relaxed),
        0,
        "nothing of this leaves the cluster"
    );
    assert_eq!(addresses(&ask(&one, "example.org.", RecordType::A)), [FOREIGN]);
    let attached = web.networks.get_mut("shop_default").expect("it is attached");
    attached.internal = true;
    names.publish(&web);
    let confined = ask(&one, "example.org.", RecordType::A);
    assert_eq!(
        confined.metadata.response_code,
        ResponseCode::NXDomain,
        "not even what is remembered"
    );
}
