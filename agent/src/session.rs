//! The session with the leader: finds it, introduces the node, hands in what it sends, and tells it what happens here.
//!
//! **Invariant:** losing a session stops nothing on the node; the next one begins with everything there is to tell.

mod backoff;
mod conversation;

use std::sync::Arc;

use gantry_api::v1::{self, AgentMessage, agent_message};
use gantry_model::object::NodeFacts;
use gantry_model::{Class, Problem};
use gantry_rpc::{Remote, ServerPool, status};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::core::{Ack, Incoming};
use crate::limits::LEADER_HINTS_MAX;
use crate::shared::Shared;
use backoff::Backoff;
use conversation::Conversation;

/// How the node introduces itself.
#[derive(Debug, Clone)]
pub(crate) struct Introduction {
    /// Its name.
    pub(crate) name: String,
    /// Where it is reached.
    pub(crate) address: String,
    /// Its machine.
    pub(crate) facts: NodeFacts,
}

/// The ends of channels that the session holds.
#[derive(Clone)]
pub(crate) struct Ports {
    pub(crate) incoming: mpsc::Sender<Incoming>,
    pub(crate) acks: watch::Receiver<Ack>,
    pub(crate) inventory: watch::Receiver<Arc<Vec<v1::ImageInfo>>>,
}

/// See the module.
pub(crate) struct Session {
    shared: Arc<Shared>,
    servers: ServerPool,
    introduction: Introduction,
    ports: Ports,
    shutdown: CancellationToken,
    epoch: u64,
    opened: watch::Sender<u64>,
}

/// How one try at a server ended.
enum End {
    /// The server names another one as the leader.
    Elsewhere(String),
    /// It could not be opened.
    Refused(Problem),
    /// It was open, and broke.
    Lost(Problem),
    Shutdown,
}

impl Session {
    pub(crate) fn new(
        shared: Arc<Shared>,
        servers: ServerPool,
        introduction: Introduction,
        ports: Ports,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            shared,
            servers,
            introduction,
            ports,
            shutdown,
            epoch: 0,
            opened: watch::Sender::default(),
        }
    }

    /// Rises with every session.
    pub(crate) fn opened(&self) -> watch::Receiver<u64> {
        self.opened.subscribe()
    }

    /// Opens one session after another until shutdown.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(self.shared.clock.clone());
        loop {
            if self.round(&mut backoff).await {
                return;
            }
            let wait = backoff.next();
            let sleep = tokio::time::sleep(wait.to_std());
            if self.shutdown.run_until_cancelled(sleep).await.is_none() {
                return;
            }
        }
    }

    /// Tries every server once, and those that they name as the leader. Returns whether the agent ends.
    async fn round(&mut self, backoff: &mut Backoff) -> bool {
        let mut hints = 0;
        let mut candidates: Vec<String> = self.servers.addresses().iter().rev().cloned().collect();
        while let Some(address) = candidates.pop() {
            match self.attempt(&address).await {
                End::Shutdown => return true,
                End::Elsewhere(leader) if hints < LEADER_HINTS_MAX => {
                    hints += 1;
                    candidates.retain(|other| *other != leader);
                    candidates.push(leader);
                }
                End::Elsewhere(_) => {}
                End::Refused(problem) if problem.class == Class::Unavailable => {
                    tracing::debug!(%problem, address, "no session");
                }
                End::Refused(problem) => tracing::warn!(%problem, address, "the server refuses this node"),
                End::Lost(problem) => {
                    tracing::info!(%problem, address, "session lost; replicas go on");
                    backoff.reset();
                    return false;
                }
            }
        }
        if backoff.is_first() {
            tracing::warn!(servers = ?self.servers.addresses(), "no server takes the node in; trying on");
        }
        false
    }

    async fn attempt(&mut self, address: &str) -> End {
        let opened = Conversation::open(self, address);
        let Some(opened) = self.shutdown.run_until_cancelled(opened).await else {
            return End::Shutdown;
        };
        let (mut conversation, welcome) = match opened {
            Ok(opened) => opened,
            Err(status) => {
                return match status::leader(&status) {
                    Some(leader) if leader != address => End::Elsewhere(leader),
                    Some(_) | None => End::Refused(status::to_problem(&status, &Remote::AnyServer.object(address))),
                };
            }
        };
        self.epoch += 1;
        self.opened.send_replace(self.epoch);
        tracing::info!(address, session = welcome.session, "session opened");
        self.remember(&welcome.servers);
        conversation.hold(self.epoch, &welcome).await
    }

    fn remember(&self, servers: &[String]) {
        if servers.is_empty() || servers == self.servers.addresses().as_slice() {
            return;
        }
        self.servers.set_addresses(servers.to_vec());
        let (shared, servers) = (Arc::clone(&self.shared), servers.to_vec());
        tokio::task::spawn_blocking(move || {
            if let Err(problem) = shared.disk.save_servers(&servers) {
                tracing::warn!(%problem, "the servers' addresses could not be saved");
            }
        });
    }

    fn hello(&self) -> AgentMessage {
        let hello = v1::Hello {
            name: self.introduction.name.clone(),
            address: self.introduction.address.clone(),
            facts: Some(gantry_api::encode(
                gantry_api::kind::NODE_FACTS,
                &self.introduction.facts,
            )),
        };
        AgentMessage {
            message: Some(agent_message::Message::Hello(hello)),
        }
    }
}
