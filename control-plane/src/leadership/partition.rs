//! A leader that is cut off from the majority: what it decides comes to nothing, and it stops deciding in time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use gantry_env::{Env, FreshIds, System};
use gantry_model::object::{ClusterConfig, ClusterRecord, Node, NodeFacts, NodeStatus, Role};
use gantry_model::{DurationMs, NodeId, ServerId, Timestamp};
use gantry_pki::{Authority, Subject, Validity};
use gantry_raft::{Method, Options, Peer, Replicated, Transport, TransportError};
use gantry_rpc::{Channels, Credentials};
use gantry_state::{NewEvent, Object, Op, Outcome, Precondition, Transaction};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{GRACE_MAX, follow, grace};
use crate::context::Context;

const PATIENCE: Duration = Duration::from_secs(60);

/// Three times the longest wait for a majority: a successor takes a silent node down this long after the start of its term.
const LEASE: DurationMs = DurationMs::secs(6);

const NODE: NodeId = NodeId(1);

/// The servers, and the one that nobody reaches and that reaches nobody.
#[derive(Default)]
struct Net {
    servers: Mutex<BTreeMap<ServerId, Replicated>>,
    alone: Mutex<Option<ServerId>>,
}

impl Net {
    fn server(&self, from: ServerId, to: ServerId) -> Result<Replicated, TransportError> {
        let alone = *self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let found = servers.get(&to).filter(|_| alone != Some(from) && alone != Some(to));
        let refused = || TransportError::NotSent(format!("no way from {from} to {to}"));
        found.cloned().ok_or_else(refused)
    }

    fn isolate(&self, server: Option<ServerId>) {
        *self.alone.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }
}

struct Wire {
    net: Arc<Net>,
    from: ServerId,
}

impl Transport for Wire {
    fn call<'a>(
        &'a self,
        peer: &'a Peer,
        method: Method,
        payload: Vec<u8>,
        _timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, TransportError>> {
        Box::pin(async move {
            let server = self.net.server(self.from, peer.id)?;
            let answer = server.handle(method, payload).await;
            let answer = answer.map_err(|error| TransportError::NotSent(error.to_string()))?;
            // Cut while it was under way: the answer is lost as well.
            let arrived = self.net.server(peer.id, self.from);
            arrived
                .map(|_| answer)
                .map_err(|error| TransportError::Lost(error.to_string()))
        })
    }

    fn send_snapshot<'a>(
        &'a self,
        peer: &'a Peer,
        _frames: mpsc::Receiver<Vec<u8>>,
    ) -> BoxFuture<'a, Result<Vec<u8>, TransportError>> {
        let refused = TransportError::NotSent(format!("nobody is far enough behind for a snapshot to {}", peer.id));
        Box::pin(async move { Err(refused) })
    }
}

struct Server {
    context: Arc<Context>,
    following: JoinHandle<()>,
    stop: CancellationToken,
    _folder: TempDir,
}

impl Server {
    async fn start(id: ServerId, net: &Arc<Net>, channels: Channels) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let wire = Wire {
            net: net.clone(),
            from: id,
        };
        let options = Options::new(id, format!("server-{id}"), folder.path());
        let raft = Replicated::open(options, Arc::new(wire)).await.expect("a new folder");
        let mut servers = net.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.insert(id, raft.clone());
        drop(servers);
        let context = Arc::new(Context {
            server: id,
            raft,
            env: Arc::new(System),
            channels,
            term: ArcSwapOption::empty(),
        });
        let stop = CancellationToken::new();
        Self {
            following: tokio::spawn(follow(context.clone(), stop.clone())),
            context,
            stop,
            _folder: folder,
        }
    }

    async fn end(self) {
        self.context.raft.clone().shutdown().await;
        self.stop.cancel();
        self.following.await.expect("it does not panic");
    }
}

async fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let polling = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, polling).await;
    found.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

fn node() -> Node {
    Node {
        id: NODE,
        name: "alpha".to_string(),
        address: "192.0.2.1:7601".to_string(),
        subnet: "10.128.0.0/24".parse().expect("a network"),
        labels: Default::default(),
        availability: Default::default(),
        status: NodeStatus::Ready,
        status_since: Timestamp(1),
        facts: NodeFacts::default(),
        joined_at: Timestamp(1),
    }
}

/// Three servers with a node that has no session.
async fn cluster(net: &Arc<Net>) -> Vec<Server> {
    let authority = Authority::generate("test", &System).expect("a new authority");
    let subject = Subject {
        role: Role::Server,
        id: System.server_id().to_string(),
    };
    let validity = Validity::starting(System.now(), DurationMs::secs(3600));
    let identity = authority.issue(&subject, validity, &System).expect("an identity");
    let channels = Channels::new(Credentials::new(identity).expect("usable credentials"));
    let mut servers = Vec::new();
    for number in 1..=3 {
        servers.push(Server::start(ServerId(number), net, channels.clone()).await);
    }
    let first = &servers[0].context.raft;
    first.bootstrap().await.expect("a new cluster");
    for number in 2..=3 {
        let id = ServerId(number);
        first.add_server(id, format!("server-{id}")).await.expect("a member");
        first.promote(id).await.expect("a voter");
    }
    let record = ClusterRecord {
        name: "test".to_string(),
        created_at: Timestamp(1),
        root: authority.to_root(),
        config: ClusterConfig {
            lease: LEASE,
            ..ClusterConfig::default()
        },
        subnets_given: 1,
    };
    let objects = [Object::Cluster(record), Object::Node(node())];
    let ops = objects.into_iter().map(|object| Op::Put(Box::new(object))).collect();
    let written = first.propose(Transaction::new(System.now(), ops)).await;
    written.expect("a majority is there");
    servers
}

/// The order of two things is looked at, not how long they take. A leader that is cut off ends its term after its own lease of
/// 750 ms and the grace; its successor is elected no sooner than that lease is over, and only then begins to wait for the nodes.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_has_stopped_deciding_when_its_successor_gives_up_a_node() {
    assert!(grace(LEASE) <= GRACE_MAX && 2 * GRACE_MAX.0 < LEASE.0);
    let net = Arc::<Net>::default();
    let servers = cluster(&net).await;
    let leading = |server: &Server| server.context.term.load_full();
    let (old, term) = eventually("a leader", || {
        servers
            .iter()
            .enumerate()
            .find_map(|(index, server)| leading(server).map(|term| (index, term)))
    })
    .await;
    let alone = &servers[old].context;
    net.isolate(Some(alone.server));
    // A decision of the moment: it is in the log of the one that is cut off, and nowhere else.
    let event = Op::Record(NewEvent::new("node alpha", "decided", "while cut off"));
    let decision = Transaction::new(System.now(), vec![event]).requiring(Precondition::Term(term.term));
    let proposing = tokio::spawn({
        let raft = alone.raft.clone();
        async move { raft.propose(decision).await }
    });

    let others = || servers.iter().enumerate().filter(|(index, _)| *index != old);
    let is_down = |server: &Server| {
        let status = server.context.raft.state().node(NODE).map(|node| node.status);
        (status == Some(NodeStatus::Down)).then_some(())
    };
    eventually("the successor gives the node up", || {
        others().find_map(|(_, server)| is_down(server))
    })
    .await;
    assert!(
        term.ended.is_cancelled(),
        "the old leader's sessions and decisions go on"
    );
    assert!(leading(&servers[old]).is_none(), "the old leader still takes sessions");
    let newer = others().find_map(|(_, server)| leading(server));
    assert!(newer.is_some_and(|newer| newer.term > term.term));

    net.isolate(None);
    let fate = proposing
        .await
        .expect("it does not panic")
        .map(|proposed| proposed.outcome);
    assert!(!matches!(fate, Ok(Outcome::Committed { .. })), "{fate:?}");
    let read = alone.raft.linearizable().await.expect("a majority is there again");
    assert!(read.events().all(|event| event.kind != "decided"));
    for server in servers {
        server.end().await;
    }
}
