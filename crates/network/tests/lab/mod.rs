//! Machines as network namespaces, joined by a bridge in a namespace of its own, and replicas as servers inside theirs.
//!
//! A machine is a thread with its own network and mount namespace: nothing has a name outside, and everything ends with the
//! thread, however the test ends. Needs root.

#![expect(dead_code, reason = "each test file uses its part of the lab")]

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use gantry_env::{Env, System};
use gantry_model::assignment::{Endpoint, NodeItem, ServiceItem};
use gantry_model::object::ServiceNetwork;
use gantry_model::spec::{EndpointMode, PortMode, PortSpec, Protocol};
use gantry_model::{DurationMs, Name, NodeId, ReplicaId, ServiceId};
use gantry_netplan::{LocalReplica, NodeNetwork, Peer, Plan};
use gantry_network::{Config, NodeDatapath, Report};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Longer than any answer takes here, short enough to tell a lost packet (a retransmission takes a second) from a fast one.
pub const ANSWER_MAX: Duration = Duration::from_millis(900);
/// A refusal must come well before a client would retransmit.
pub const REFUSAL_MAX: Duration = Duration::from_millis(900);
/// For what the kernel does in its own time.
const SETTLE_MAX: DurationMs = DurationMs(60_000);

/// The network that a replica is on unless a test says otherwise.
pub const NETWORK: &str = "shop_default";
/// Where addresses of its replicas begin in a node's subnet.
const FIRST_ADDRESS: u64 = 2;
/// Where addresses of replicas on other networks begin.
const FIRST_ADDRESS_APART: u64 = 100;
/// A service that no test has.
const EVERYONE: u64 = 9_999;

type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A machine: a thread in its own namespaces that runs what it is sent.
pub struct Machine {
    pub name: String,
    jobs: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
    namespace: PathBuf,
}

impl Machine {
    pub fn start(name: &str) -> Self {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("tests of the data path run as root");
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts can be made private");
            let namespace = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
            ready.send(PathBuf::from(namespace)).expect("the test waits");
            let runtime = runtime();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                while let Some(job) = queue.recv().await {
                    tokio::task::spawn_local(job());
                }
            });
        });
        let namespace = started.recv().expect("the machine starts");
        let machine = Self {
            name: name.to_string(),
            jobs: Some(jobs),
            thread: Some(thread),
            namespace,
        };
        machine.ip("link set lo up");
        machine
    }

    /// Runs a future on the machine and waits for its value.
    pub fn run<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (sender, receiver) = std::sync::mpsc::channel();
        let job: Job = Box::new(move || {
            let future = work();
            Box::pin(async move {
                let _ = sender.send(future.await);
            })
        });
        self.jobs
            .as_ref()
            .expect("the machine is on")
            .send(job)
            .expect("the machine runs");
        receiver.recv().expect("the work on the machine did not panic")
    }

    /// Starts a future on the machine.
    pub fn spawn<F>(&self, work: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        let job: Job = Box::new(move || Box::pin(work()));
        let jobs = self.jobs.as_ref().expect("the machine is on");
        jobs.send(job).expect("the machine runs");
    }

    /// Output of a command that must succeed.
    pub fn command(&self, line: &str) -> String {
        let (output, line_owned) = (self.try_command(line), line.to_string());
        let output = output.unwrap_or_else(|error| panic!("{}: {line_owned}: {error}", self.name));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {line}: {errors}", self.name);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn try_command(&self, line: &str) -> io::Result<std::process::Output> {
        let words: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        self.run(move || async move { Command::new(&words[0]).args(&words[1..]).output() })
    }

    pub fn ip(&self, line: &str) -> String {
        self.command(&format!("ip {line}"))
    }

    /// Runs a future inside the network namespace kept at a path of this machine.
    pub fn inside<T, F>(&self, path: &std::path::Path, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        in_namespace(&self.open(path), work)
    }

    fn open(&self, path: &std::path::Path) -> Arc<File> {
        let path = path.to_path_buf();
        Arc::new(
            self.run(move || async move { File::open(path) })
                .expect("the namespace has a file"),
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime starts")
}

fn in_namespace<T, F>(namespace: &Arc<File>, work: impl FnOnce() -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let namespace = Arc::clone(namespace);
    let thread = std::thread::spawn(move || {
        setns(&*namespace, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
        runtime().block_on(work())
    });
    thread.join().expect("the work in the namespace did not panic")
}

/// A replica: a namespace, and in it servers on TCP and UDP port 80 that answer `<name> <address of the client>`.
pub struct Replica {
    pub id: ReplicaId,
    pub node: NodeId,
    pub address: Ipv4Addr,
    pub path: PathBuf,
    pub name: String,
    namespace: Arc<File>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Replica {
    pub fn serve(node: &Node, id: ReplicaId, address: Ipv4Addr, path: PathBuf) -> Self {
        let name = format!("r{}", id.0);
        let namespace = node.machine.open(&path);
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = std::sync::mpsc::channel();
        let (answer, entered) = (name.clone(), Arc::clone(&namespace));
        let thread = std::thread::spawn(move || {
            setns(&*entered, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
            drop(entered);
            runtime().block_on(async move {
                let tcp = TcpListener::bind("0.0.0.0:80").await.expect("port 80 is free");
                let udp = UdpSocket::bind("0.0.0.0:80").await.expect("port 80 is free");
                ready.send(()).expect("the test waits");
                tokio::select! {
                    () = answer_tcp(tcp, &answer) => {}
                    () = answer_udp(udp, &answer) => {}
                    _ = stopped => {}
                }
            });
        });
        started.recv().expect("the servers start");
        let (stop, thread) = (Some(stop), Some(thread));
        Self {
            id,
            node: node.id,
            address,
            path,
            name,
            namespace,
            stop,
            thread,
        }
    }

    /// Runs a future as a process of the replica would.
    pub fn run<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        in_namespace(&self.namespace, work)
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            replica: self.id,
            node: self.node,
            address: self.address,
            slot: gantry_model::object::Slot::Index(self.id.0 as u32),
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn answer_tcp(listener: TcpListener, name: &str) {
    loop {
        let Ok((mut stream, from)) = listener.accept().await else {
            continue;
        };
        let answer = format!("{name} {}", from.ip());
        tokio::spawn(async move {
            let _ = stream.write_all(answer.as_bytes()).await;
            // Until the client hangs up, so that a test can hold a connection open.
            let mut rest = [0; 16];
            while let Ok(1..) = stream.read(&mut rest).await {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
    }
}

async fn answer_udp(socket: UdpSocket, name: &str) {
    let mut buffer = [0; 16];
    loop {
        if let Ok((_, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(format!("{name} {}", from.ip()).as_bytes(), from).await;
        }
    }
}

/// What a server at that address says: its name and the client's address as it sees it.
pub async fn ask_tcp(to: SocketAddr) -> io::Result<(String, IpAddr)> {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await?;
        let mut buffer = [0; 64];
        let length = stream.read(&mut buffer).await?;
        io::Result::Ok(buffer[..length].to_vec())
    };
    parse(&timeout(ANSWER_MAX, exchange).await??)
}

pub async fn ask_udp(to: SocketAddr) -> io::Result<(String, IpAddr)> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    ask_udp_from(&socket, to).await
}

pub async fn ask_udp_from(socket: &UdpSocket, to: SocketAddr) -> io::Result<(String, IpAddr)> {
    let exchange = async {
        // Connected, so that a refusal by ICMP becomes an error.
        socket.connect(to).await?;
        socket.send(b"?").await?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).await?;
        io::Result::Ok(buffer[..length].to_vec())
    };
    parse(&timeout(ANSWER_MAX, exchange).await??)
}

fn parse(answer: &[u8]) -> io::Result<(String, IpAddr)> {
    let text = String::from_utf8_lossy(answer);
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("answer '{text}'"));
    let (name, address) = text.split_once(' ').ok_or_else(invalid)?;
    Ok((name.to_string(), address.parse().map_err(|_| invalid())?))
}

/// A node: a machine with a data path.
pub struct Node {
    pub machine: Machine,
    pub id: NodeId,
    pub address: Ipv4Addr,
    pub datapath: Arc<NodeDatapath>,
    pub network: NodeNetwork,
    pub config: Config,
    next_address: u64,
    next_address_apart: u64,
    _run_dir: tempfile::TempDir,
}

impl Node {
    fn start(number: u8, count: u8) -> Self {
        let machine = Machine::start(&format!("node{number}"));
        let run_dir = tempfile::tempdir().expect("a temporary folder");
        let config = Config {
            run_dir: run_dir.path().join("netns"),
            ..Config::default()
        };
        let own = config.clone();
        let datapath = machine.run(move || async move { NodeDatapath::new(own) });
        let node = NodeItem {
            id: NodeId(u64::from(number)),
            name: machine.name.clone(),
            subnet: format!("10.128.{number}.0/24").parse().expect("a network"),
            replica_pool: "10.128.0.0/10".parse().expect("a network"),
            service_pool: "10.192.0.0/16".parse().expect("a network"),
            labels: BTreeMap::new(),
        };
        let mut network = NodeNetwork::new(&node);
        network.add_service(everyone(count));
        for peer in (1..=count).filter(|peer| *peer != number) {
            let subnet = format!("10.128.{peer}.0/24").parse().expect("a network");
            let address = IpAddr::V4(underlay_address(peer));
            network.peers.insert(NodeId(u64::from(peer)), Peer { subnet, address });
        }
        Self {
            machine,
            id: node.id,
            address: underlay_address(number),
            datapath: Arc::new(datapath.expect("the data path opens")),
            network,
            config,
            next_address: FIRST_ADDRESS,
            next_address_apart: FIRST_ADDRESS_APART,
            _run_dir: run_dir,
        }
    }

    pub fn plan(&self) -> Plan {
        self.network.plan()
    }

    pub fn apply(&self) -> Report {
        let (datapath, plan) = (Arc::clone(&self.datapath), self.plan());
        let report = self.machine.run(move || async move { datapath.apply(&plan).await });
        report.expect("the plan is applied")
    }

    /// Attaches a replica in namespace `shop`, network `shop_default`, with servers in it.
    pub fn replica(&mut self, id: u64) -> Replica {
        self.replica_on(id, "shop", &[NETWORK])
    }

    pub fn replica_on(&mut self, id: u64, namespace: &str, networks: &[&str]) -> Replica {
        let id = ReplicaId(id);
        let next = if networks == [NETWORK] {
            &mut self.next_address
        } else {
            &mut self.next_address_apart
        };
        let address = self.network.subnet.address(*next).expect("the subnet is large enough");
        *next += 1;
        self.plan_replica(id, namespace, networks, address);
        let path = self.attach(id, address);
        Replica::serve(self, id, address, path)
    }

    /// Makes the replica part of the plan, and applies it.
    pub fn plan_replica(&mut self, id: ReplicaId, namespace: &str, networks: &[&str], address: Ipv4Addr) {
        let local = LocalReplica {
            address,
            namespace: Name::new(namespace).expect("a name"),
            networks: networks.iter().map(ToString::to_string).collect(),
        };
        // One replica has an address at a time.
        self.network.replicas.retain(|_, other| other.address != address);
        self.network.replicas.insert(id, local);
        self.apply();
    }

    pub fn attach(&self, id: ReplicaId, address: Ipv4Addr) -> PathBuf {
        let datapath = Arc::clone(&self.datapath);
        let attached = self
            .machine
            .run(move || async move { datapath.attach(id, address).await });
        attached.expect("the replica is attached")
    }

    pub fn teardown(&self) {
        let datapath = Arc::clone(&self.datapath);
        let torn_down = self.machine.run(move || async move { datapath.teardown().await });
        torn_down.expect("everything can be removed");
    }
}

/// All that may ever be on the network that most tests use, as members of one service.
fn everyone(nodes: u8) -> ServiceItem {
    let hosts = FIRST_ADDRESS..FIRST_ADDRESS_APART;
    let addresses =
        (1..=nodes).flat_map(|node| hosts.clone().map(move |host| Ipv4Addr::new(10, 128, node, host as u8)));
    let mut everyone = service(EVERYONE, "everyone", &[]);
    everyone.networks = BTreeMap::from([(NETWORK.to_string(), ServiceNetwork::default())]);
    everyone.members = BTreeMap::from([(NETWORK.to_string(), addresses.collect())]);
    everyone
}

pub fn underlay_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

/// Nodes and one machine outside of the cluster, on one network.
pub struct Lab {
    pub nodes: Vec<Node>,
    pub outside: Machine,
    _switch: Machine,
}

/// Address of the machine outside.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

impl Lab {
    /// Nodes 1 to `count`, with empty plans applied.
    pub fn start(count: u8) -> Self {
        let switch = Machine::start("switch");
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        let nodes: Vec<Node> = (1..=count).map(|number| Node::start(number, count)).collect();
        for node in &nodes {
            cable(&switch, &node.machine, node.address);
        }
        let outside = Machine::start("outside");
        cable(&switch, &outside, OUTSIDE);
        for node in &nodes {
            node.apply();
        }
        Self {
            nodes,
            outside,
            _switch: switch,
        }
    }

    /// Tells every node of a service, and applies it.
    pub fn publish(&mut self, service: &ServiceItem) {
        for node in &mut self.nodes {
            node.network.services.insert(service.id, service.clone());
            node.apply();
        }
    }

    pub fn apply(&self) {
        for node in &self.nodes {
            node.apply();
        }
    }
}

fn cable(switch: &Machine, machine: &Machine, address: Ipv4Addr) {
    let port = format!("p{}", address.octets()[3]);
    let namespace = machine.namespace.display();
    switch.ip(&format!("link add {port} type veth peer name eth0 netns {namespace}"));
    switch.ip(&format!("link set {port} master br0 up"));
    machine.ip(&format!("addr add {address}/24 dev eth0"));
    machine.ip("link set eth0 up");
}

/// A service of namespace `shop` on network `shop_default`, with the virtual address `10.192.0.<id>`.
pub fn service(id: u64, name: &str, endpoints: &[&Replica]) -> ServiceItem {
    let network = ServiceNetwork {
        vip: Some(vip(id)),
        names: vec![name.to_string()],
        ..ServiceNetwork::default()
    };
    ServiceItem {
        id: ServiceId(id),
        namespace: Name::new("shop").expect("a name"),
        name: Name::new(name).expect("a name"),
        endpoint_mode: EndpointMode::Vip,
        networks: BTreeMap::from([(NETWORK.to_string(), network)]),
        ports: Vec::new(),
        endpoints: endpoints.iter().map(|replica| replica.endpoint()).collect(),
        members: BTreeMap::new(),
        policy: None,
        ingress: None,
    }
}

pub fn vip(id: u64) -> Ipv4Addr {
    Ipv4Addr::new(10, 192, 0, id as u8)
}

pub fn port(published: u16, protocol: Protocol, mode: PortMode) -> PortSpec {
    PortSpec {
        target: 80,
        published: Some(published),
        protocol,
        mode,
        host_ip: None,
        name: None,
    }
}

/// Waits until the condition holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = System.monotonic().0 + SETTLE_MAX.0;
    while !condition() {
        assert!(System.monotonic().0 < deadline, "{what} did not come about");
        std::thread::yield_now();
    }
}

/// How long the work took, and its result.
pub async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let start = System.monotonic().0;
    let result = work.await;
    (Duration::from_millis(System.monotonic().0 - start), result)
}
