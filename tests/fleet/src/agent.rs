//! One agent: enrols, holds a session with whoever leads, and speaks as a real agent does.
//!
//! **Invariant:** nothing is sent that a real agent would not send, nor later or in smaller batches than it would.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use gantry_api::v1::session_client::SessionClient;
use gantry_api::v1::{
    AgentMessage, Applied, Heartbeat, Hello, ImageInfo, Inventory, ServerMessage, Statuses, Welcome, agent_message,
    server_message,
};
use gantry_env::{Env, System};
use gantry_model::object::NodeFacts;
use gantry_model::{ByteSize, DurationMs, MilliCpu};
use gantry_pki::Identity;
use gantry_rpc::{Credentials, ServerPool, WithLimits, status};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::application::{IMAGE, IMAGE_DIGEST};
use crate::clock::micros;
use crate::ledger::{Ledger, add, subtract};
use crate::node::{Node, Taken};

/// Messages to the leader that wait to be sent, as of a real agent; when it is full the session is given up.
const OUTGOING: usize = 64;

/// How long the first of several reports waits for others, as in a real agent.
const COALESCE: Duration = Duration::from_millis(5);

/// Opening a session takes at most so long, as in a real agent.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest first wait before servers are tried again, and the longest of all, as in a real agent.
const RECONNECT_MS: (u64, u64) = (200, 2_000);

/// What each node has to offer.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Processor cores.
    pub cores: u64,
    /// Memory.
    pub memory: ByteSize,
}

/// See the module.
pub struct Agent {
    name: String,
    address: String,
    size: Size,
    servers: ServerPool,
    ledger: Arc<Ledger>,
    node: Node,
}

/// A session counted as open for as long as it lives, also when its task is cut off.
struct Open(Arc<Ledger>);

impl Open {
    fn new(ledger: &Arc<Ledger>) -> Self {
        add(&ledger.sessions, 1);
        add(&ledger.opened, 1);
        Self(ledger.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        subtract(&self.0.sessions, 1);
    }
}

enum Wake {
    Heard(Result<Option<ServerMessage>, Status>),
    Beat,
    Started,
    Flush,
}

/// An open session: its two directions, and when what is due.
struct Conversation {
    outgoing: mpsc::Sender<AgentMessage>,
    incoming: Streaming<ServerMessage>,
    beat: tokio::time::Interval,
    flush_at: Option<Instant>,
}

impl Agent {
    /// An agent that has its identity, with a connection of its own.
    ///
    /// # Errors
    /// When the identity is not usable.
    pub fn new(
        name: String,
        address: String,
        size: Size,
        place: (Identity, Vec<String>),
        node: Node,
        ledger: Arc<Ledger>,
    ) -> Result<Self> {
        let (identity, servers) = place;
        let credentials = Credentials::new(identity)?;
        Ok(Self {
            name,
            address,
            size,
            servers: ServerPool::new(servers, credentials),
            ledger,
            node,
        })
    }

    /// Holds one session after another.
    pub async fn run(mut self) {
        let mut wait_max = RECONNECT_MS.0;
        loop {
            if self.round().await {
                wait_max = RECONNECT_MS.0;
            }
            tokio::time::sleep(Duration::from_millis(System.random_below(wait_max))).await;
            wait_max = (2 * wait_max).min(RECONNECT_MS.1);
        }
    }

    /// Tries every server, and those that they name as the leader. Returns whether a session was open.
    async fn round(&mut self) -> bool {
        let mut candidates: Vec<String> = self.servers.addresses().iter().rev().cloned().collect();
        let mut hints = 0;
        while let Some(address) = candidates.pop() {
            match self.open(&address).await {
                Ok((mut conversation, welcome)) => {
                    let open = Open::new(&self.ledger);
                    if !welcome.servers.is_empty() {
                        self.servers.set_addresses(welcome.servers.clone());
                    }
                    // Every way out of it is a loss: an agent that is to vanish is cut off instead.
                    let _ = self.hold(&mut conversation).await;
                    add(&self.ledger.lost, 1);
                    drop(open);
                    return true;
                }
                Err(refusal) => {
                    add(&self.ledger.refused, 1);
                    if let Some(leader) = status::leader(&refusal).filter(|leader| *leader != address && hints < 3) {
                        hints += 1;
                        candidates.retain(|other| *other != leader);
                        candidates.push(leader);
                    }
                }
            }
        }
        false
    }

    async fn open(&self, address: &str) -> Result<(Conversation, Welcome), Status> {
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        for first in [self.hello(), inventory()] {
            let sent = outgoing.try_send(message(first));
            sent.map_err(|_| Status::internal("a new channel has room"))?;
        }
        let mut client = SessionClient::new(self.servers.channel(address)).with_limits();
        let opening = async {
            let mut incoming = client.open(ReceiverStream::new(messages)).await?.into_inner();
            match incoming.message().await?.and_then(|first| first.message) {
                Some(server_message::Message::Welcome(welcome)) => Ok((incoming, welcome)),
                Some(server_message::Message::Assignments(_)) | None => Err(Status::unavailable("no welcome")),
            }
        };
        let opened = tokio::time::timeout(OPEN_TIMEOUT, opening).await;
        let (incoming, welcome) = opened.unwrap_or_else(|_| Err(Status::unavailable("no welcome in time")))?;
        let mut beat = tokio::time::interval(DurationMs(welcome.heartbeat_ms.max(50)).to_std());
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let conversation = Conversation {
            outgoing,
            incoming,
            beat,
            flush_at: None,
        };
        Ok((conversation, welcome))
    }

    fn hello(&self) -> agent_message::Message {
        let facts = NodeFacts {
            os: "linux".into(),
            arch: "amd64".into(),
            kernel: "6.1.0".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            cpu: MilliCpu::cores(self.size.cores),
            memory: self.size.memory,
            ..NodeFacts::default()
        };
        agent_message::Message::Hello(Hello {
            name: self.name.clone(),
            address: self.address.clone(),
            facts: Some(gantry_api::encode(gantry_api::kind::NODE_FACTS, &facts)),
        })
    }

    async fn hold(&mut self, conversation: &mut Conversation) -> Result<()> {
        self.node.begin_session();
        loop {
            if self.node.has_news() && conversation.flush_at.is_none() {
                conversation.flush_at = Some(soon(COALESCE));
            }
            let wake = select(conversation, self.node.next_start()).await;
            self.apply(conversation, wake)?;
        }
    }

    fn apply(&mut self, conversation: &mut Conversation, wake: Wake) -> Result<()> {
        match wake {
            Wake::Beat => {
                add(&self.ledger.heartbeats, 1);
                conversation.send(agent_message::Message::Heartbeat(Heartbeat {}))
            }
            Wake::Started => {
                self.node.started(micros());
                Ok(())
            }
            Wake::Flush => {
                conversation.flush_at = None;
                let items = self.node.report(System.now());
                if items.is_empty() {
                    return Ok(());
                }
                add(&self.ledger.statuses, items.len());
                add(&self.ledger.batches, 1);
                conversation.send(agent_message::Message::Statuses(Statuses { items }))
            }
            Wake::Heard(Ok(Some(message))) => self.hear(conversation, message),
            Wake::Heard(Ok(None)) => bail!("the server ended the session"),
            Wake::Heard(Err(status)) => Err(status.into()),
        }
    }

    fn hear(&mut self, conversation: &mut Conversation, message: ServerMessage) -> Result<()> {
        let Some(server_message::Message::Assignments(set)) = message.message else {
            return Ok(());
        };
        let applied = match self.node.take(&set)? {
            Taken::Applied(set) => Applied { set, resync: false },
            Taken::Resync => Applied { set: 0, resync: true },
        };
        add(&self.ledger.acknowledged, 1);
        conversation.send(agent_message::Message::Applied(applied))
    }
}

impl Conversation {
    fn send(&self, content: agent_message::Message) -> Result<()> {
        Ok(self.outgoing.try_send(message(content))?)
    }
}

async fn select(conversation: &mut Conversation, next_start: Option<u64>) -> Wake {
    let (flush_at, never) = (conversation.flush_at, soon(OPEN_TIMEOUT));
    let start_at = next_start.map(|at| soon(Duration::from_micros(at.saturating_sub(micros()))));
    tokio::select! {
        biased;
        _ = conversation.beat.tick() => Wake::Beat,
        () = tokio::time::sleep_until(flush_at.unwrap_or(never)), if flush_at.is_some() => Wake::Flush,
        () = tokio::time::sleep_until(start_at.unwrap_or(never)), if start_at.is_some() => Wake::Started,
        heard = conversation.incoming.message() => Wake::Heard(heard),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the runtime's timers take its own clock; nothing is decided by it"
)]
fn soon(wait: Duration) -> Instant {
    Instant::now() + wait
}

fn message(message: agent_message::Message) -> AgentMessage {
    AgentMessage { message: Some(message) }
}

/// The node holds the one image that all replicas run.
fn inventory() -> agent_message::Message {
    let image = ImageInfo {
        digest: IMAGE_DIGEST.into(),
        config_digest: IMAGE_DIGEST.into(),
        references: vec![IMAGE.into()],
        platform: "linux/amd64".into(),
        ..ImageInfo::default()
    };
    agent_message::Message::Inventory(Inventory { images: vec![image] })
}
