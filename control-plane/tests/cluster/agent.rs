//! An agent that runs nothing: it opens a session, acknowledges every set, and reports every replica as running, or stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_api::v1::session_client::SessionClient;
use gantry_api::v1::{
    AgentMessage, Applied, Assignments, Heartbeat, Hello, ImageInfo, Inventory, Status, Statuses, agent_message,
    server_message,
};
use gantry_model::assignment::{Item, ItemKey, ReplicaItem, ServiceItem};
use gantry_model::object::NodeFacts;
use gantry_model::phase::{Desired, Observed, Phase};
use gantry_model::{ByteSize, MilliCpu, ReplicaId};
use gantry_pki::Identity;
use gantry_rpc::{Credentials, Patience, ServerPool, WithLimits};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::servers::DEADLINE;

/// The image that every such agent claims to hold.
pub const IMAGE_DIGEST: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";
pub const IMAGE: &str = "docker.io/library/app:v1";

/// What the agent was told, for assertions.
#[derive(Debug, Default)]
pub struct Told {
    pub replicas: BTreeMap<ReplicaId, ReplicaItem>,
    pub services: BTreeMap<String, ServiceItem>,
    /// Replicas told to stop while this node still had them among its endpoints: must stay empty.
    pub stopped_while_routed: Vec<String>,
    seen: BTreeSet<ItemKey>,
    applied: u64,
}

pub struct FakeAgent {
    pub told: Arc<Mutex<Told>>,
    task: JoinHandle<()>,
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeAgent {
    /// Joins with a token and keeps a session open, with whatever server leads.
    pub async fn start(servers: Vec<String>, token: &str, name: &str) -> Self {
        let enrolled = gantry_rpc::enroll(&servers, token, name, Patience::DAEMON)
            .await
            .expect("the token lets it join");
        let told = Arc::new(Mutex::new(Told::default()));
        let session = Session {
            identity: enrolled.identity,
            servers,
            name: name.into(),
            told: told.clone(),
        };
        Self {
            told,
            task: tokio::spawn(session.run()),
        }
    }

    /// Waits until it was told what is wanted.
    pub async fn until(&self, wanted: impl Fn(&Told) -> bool) {
        let looking = async {
            while !wanted(&self.told.lock().expect("no test panics with the lock")) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let found = tokio::time::timeout(DEADLINE, looking).await;
        assert!(found.is_ok(), "last told: {:#?}", self.told.lock());
    }
}

struct Session {
    identity: Identity,
    servers: Vec<String>,
    name: String,
    told: Arc<Mutex<Told>>,
}

fn message(message: agent_message::Message) -> AgentMessage {
    AgentMessage { message: Some(message) }
}

impl Session {
    async fn run(self) {
        let credentials = Credentials::new(self.identity.clone()).expect("usable credentials");
        let pool = ServerPool::new(self.servers.clone(), credentials);
        for turn in 0.. {
            let address = self.servers[turn % self.servers.len()].clone();
            let _ = self
                .session(SessionClient::new(pool.channel(&address)).with_limits())
                .await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn session(&self, mut client: SessionClient<tonic::transport::Channel>) -> Result<(), tonic::Status> {
        let (sender, receiver) = mpsc::channel(16);
        let facts = NodeFacts {
            cpu: MilliCpu::cores(4),
            memory: ByteSize::mib(4096),
            ..NodeFacts::default()
        };
        let hello = Hello {
            name: self.name.clone(),
            address: "127.0.0.1:1".into(),
            facts: Some(gantry_api::encode("node_facts", &facts)),
        };
        let image = ImageInfo {
            digest: IMAGE_DIGEST.into(),
            config_digest: IMAGE_DIGEST.into(),
            references: vec![IMAGE.into()],
            ..ImageInfo::default()
        };
        let inventory = Inventory { images: vec![image] };
        for first in [
            agent_message::Message::Hello(hello),
            agent_message::Message::Inventory(inventory),
        ] {
            let _ = sender.send(message(first)).await;
        }
        let mut incoming = client.open(ReceiverStream::new(receiver)).await?.into_inner();
        let mut heartbeat = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                _ = heartbeat.tick() => {
                    let _ = sender.send(message(agent_message::Message::Heartbeat(Heartbeat {}))).await;
                }
                next = incoming.next() => {
                    let Some(next) = next else { return Ok(()) };
                    if let Some(server_message::Message::Assignments(set)) = next?.message {
                        for answer in self.take(&set) {
                            let _ = sender.send(message(answer)).await;
                        }
                    }
                }
            }
        }
    }

    fn take(&self, set: &Assignments) -> Vec<agent_message::Message> {
        let mut told = self.told.lock().expect("no test panics with the lock");
        if set.applies_to == 0 {
            *told = Told {
                stopped_while_routed: std::mem::take(&mut told.stopped_while_routed),
                ..Told::default()
            };
        } else if set.applies_to != told.applied {
            return vec![agent_message::Message::Applied(Applied { set: 0, resync: true })];
        }
        told.applied = set.results_in;
        let items = set
            .put
            .iter()
            .map(|document| gantry_api::decode::<Item>(document, "item").expect("an item"));
        let mut changed = Vec::new();
        for item in items {
            told.seen.insert(item.key());
            match item {
                Item::Replica(replica) => {
                    changed.push(replica.id);
                    told.replicas.insert(replica.id, replica);
                }
                Item::Service(service) => {
                    told.services.insert(service.name.to_string(), service);
                }
                Item::Node(_) | Item::Peer(_) | Item::Data(_) => {}
            }
        }
        let mut removed = Vec::new();
        for document in &set.remove {
            match gantry_api::decode::<ItemKey>(document, "item_key").expect("a key") {
                ItemKey::Replica(id) => {
                    told.replicas.remove(&id);
                    removed.push(id);
                }
                ItemKey::Service(id) => told.services.retain(|_, service| service.id != id),
                ItemKey::Node | ItemKey::Peer(_) | ItemKey::Data(_) => {}
            }
        }
        let items = changed.iter().map(|id| report(&mut told, *id)).collect();
        vec![
            agent_message::Message::Applied(Applied {
                set: set.results_in,
                resync: false,
            }),
            agent_message::Message::Statuses(Statuses { items }),
        ]
    }
}

fn report(told: &mut Told, id: ReplicaId) -> Status {
    let replica = told.replicas[&id].clone();
    let routed = told
        .services
        .values()
        .flat_map(|service| &service.endpoints)
        .any(|endpoint| endpoint.replica == id);
    let running = matches!(replica.desired, Desired::Run | Desired::Drain);
    if !running && routed {
        told.stopped_while_routed.push(replica.name());
    }
    let observed = Observed {
        phase: if running { Phase::Running } else { Phase::Stopped },
        sequence: 1,
        ready: running,
        ..Observed::default()
    };
    Status {
        replica: id.to_string(),
        observed: (replica.desired != Desired::Remove).then(|| gantry_api::encode("observed", &observed)),
        removed: replica.desired == Desired::Remove,
    }
}
