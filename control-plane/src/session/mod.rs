//! `gantry.v1.Session`: an agent and the leader.
//!
//! The task of a session owns the node's set of assignments. It sends a complete set first, then increments when the term's
//! routes say that something is pending for the node; it hands reports to the controller and acknowledgements to the term. It ends with the connection, with the term,
//! or when the node opens a newer session.

pub(crate) mod report;

use std::sync::Arc;

use futures::StreamExt;
use gantry_api::v1::session_server::Session;
use gantry_api::v1::{
    AgentMessage, Assignments, Empty, LocateImageReply, LocateImageRequest, RecordImagesRequest, ServerMessage,
    SettleNamesReply, SettleNamesRequest, Welcome, agent_message, server_message,
};
use gantry_env::FreshIds;
use gantry_leader::admission::Decision;
use gantry_leader::dispatch::Increment;
use gantry_leader::{Introduction, Told, register};
use gantry_model::object::Role;
use gantry_model::{Class, ImageReference, NodeId, Problem, SessionId};
use gantry_rpc::require;
use gantry_rpc::status::{from_problem, not_leader, to_problem};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::api::record;
use crate::context::Context;
use crate::registry::{by_load, holder, holders, is_known, own_name};
use crate::term::{Bell, Encoded, TermHandle};

/// Messages waiting for one agent; the session's task waits when it is full, and changes then coalesce.
const OUTGOING_MAX: usize = 16;

/// Sessions as served by one server.
#[derive(Clone)]
pub struct SessionService {
    context: Arc<Context>,
}

impl SessionService {
    /// Serves from the given context.
    #[must_use]
    pub const fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// The term this server leads, or a refusal that names who leads.
    fn leading(&self) -> Result<Arc<TermHandle>, Status> {
        self.context.term.load_full().ok_or_else(|| {
            let leader = self.context.raft.leadership().borrow().leader.clone();
            not_leader(leader.map(|leader| leader.address).as_deref())
        })
    }
}

fn agent_id<T>(request: &Request<T>) -> Result<NodeId, Status> {
    let peer = require(request, &[Role::Agent])?;
    gantry_api::parse_id("node", &peer.id).map_err(|problem| from_problem(&problem))
}

#[tonic::async_trait]
impl Session for SessionService {
    type OpenStream = ReceiverStream<Result<ServerMessage, Status>>;

    async fn open(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::OpenStream>, Status> {
        let node = agent_id(&request)?;
        let term = self.leading()?;
        let mut incoming = request.into_inner();
        let introduction = introduction(node, incoming.next().await).map_err(|problem| from_problem(&problem))?;
        let is_new = self.context.raft.state().node(node).is_none();
        let joining = match is_new {
            true => Some(term.joining.lock().await),
            false => None,
        };
        let now = self.context.env.now();
        let registered = self.context.commit(|state| {
            let transaction = register(state, now, &introduction)?;
            Ok(Decision {
                transaction,
                changes: Vec::new(),
            })
        });
        let registered = registered.await.map_err(|problem| from_problem(&problem))?;
        drop(joining);
        if !term.reached(registered.revision).await {
            return Err(not_leader(None));
        }
        let id = self.context.env.session_id();
        let (outgoing, answers) = mpsc::channel(OUTGOING_MAX);
        let deadline = self.context.env.monotonic() + self.context.timing().lease;
        let session = gantry_leader::Session::open(node, id, deadline, &mut term.leases(), &mut term.acks());
        let task = SessionTask {
            context: self.context.clone(),
            term,
            node,
            id,
            session,
            outgoing,
            inventory: None,
        };
        tokio::spawn(task.run(incoming, introduction.name));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn record_images(&self, request: Request<RecordImagesRequest>) -> Result<Response<Empty>, Status> {
        let node = agent_id(&request)?;
        let request = request.get_ref();
        let arrived = request.images.iter().map(record::Arrived::from);
        let recorded = record::images(&self.context, node, arrived, &request.untagged).await;
        recorded
            .map(|()| Response::new(Empty {}))
            .map_err(|problem| from_problem(&problem))
    }

    async fn settle_names(&self, request: Request<SettleNamesRequest>) -> Result<Response<SettleNamesReply>, Status> {
        let node = agent_id(&request)?;
        let settled = record::settle_names(&self.context, node, request.get_ref()).await;
        settled.map(Response::new).map_err(|problem| from_problem(&problem))
    }

    async fn locate_image(&self, request: Request<LocateImageRequest>) -> Result<Response<LocateImageReply>, Status> {
        let asking = agent_id(&request)?;
        let state = self.context.raft.state();
        let LocateImageRequest { digest, reference } = request.into_inner();
        let reference = own_name(&self.context, &reference)
            .and_then(|meant| meant.parse().ok())
            .map_or(reference, |meant: ImageReference| meant.to_string());
        let digest = match digest.is_empty() {
            true => state.tag(&reference).map(|tag| tag.digest.clone()).unwrap_or_default(),
            false => digest,
        };
        // What is being removed is not handed on.
        let digest = if is_known(&state, &digest) {
            digest
        } else {
            String::new()
        };
        let nodes = digest.parse().map(|digest| holders(&state, digest)).unwrap_or_default();
        let others = nodes.into_iter().filter(|node| node.id != asking);
        // Each asker gets another order, so that many of them spread over those that have it.
        let others = by_load(others, &asking.to_string());
        Ok(Response::new(LocateImageReply {
            addresses: others.iter().map(|node| node.address.clone()).collect(),
            holders: others.into_iter().map(holder).collect(),
            digest,
        }))
    }
}

fn introduction(id: NodeId, first: Option<Result<AgentMessage, Status>>) -> Result<Introduction, Problem> {
    let message = first
        .transpose()
        .map_err(|status| to_problem(&status, "session"))?
        .and_then(|message| message.message);
    let Some(agent_message::Message::Hello(hello)) = message else {
        return Err(Problem::new(
            Class::Invalid,
            format!("session of node {id}"),
            "does not begin with a hello",
        ));
    };
    let facts = hello
        .facts
        .ok_or_else(|| Problem::new(Class::Invalid, format!("hello of node {id}"), "has no facts"))?;
    Ok(Introduction {
        id,
        name: hello.name,
        address: hello.address,
        facts: gantry_api::decode(&facts, "node_facts")?,
    })
}

/// One session, alive.
struct SessionTask {
    context: Arc<Context>,
    term: Arc<TermHandle>,
    node: NodeId,
    id: SessionId,
    session: gantry_leader::Session,
    outgoing: mpsc::Sender<Result<ServerMessage, Status>>,
    /// The last inventory of this session.
    inventory: Option<report::Held>,
}

/// What a session's loop wakes up for.
enum Wake {
    Agent(Option<Result<AgentMessage, Status>>),
    Pending,
    TermEnded,
}

impl SessionTask {
    async fn run(mut self, mut incoming: Streaming<AgentMessage>, name: String) {
        tracing::info!(node = %name, session = %self.id, "session opened");
        let reason = match self.converse(&mut incoming).await {
            Ok(()) => "closed by the agent".to_string(),
            Err(problem) => problem.to_string(),
        };
        self.session.close(&mut self.term.leases(), &mut self.term.acks());
        tracing::info!(node = %name, session = %self.id, reason, "session ended");
    }

    async fn converse(&mut self, incoming: &mut Streaming<AgentMessage>) -> Result<(), Problem> {
        let bell = self.term.routed().listen(self.node);
        let ended = self.follow(incoming, &bell).await;
        self.term.routed().leave(self.node, &bell);
        ended
    }

    async fn follow(&mut self, incoming: &mut Streaming<AgentMessage>, bell: &Bell) -> Result<(), Problem> {
        self.welcome().await?;
        self.send_complete().await?;
        loop {
            match self.select(incoming, bell).await {
                Wake::Agent(None) => return Ok(()),
                Wake::Agent(Some(Err(status))) => return Err(to_problem(&status, "session")),
                Wake::Agent(Some(Ok(message))) => self.hear(message).await?,
                Wake::Pending => self.tell().await?,
                Wake::TermEnded => {
                    return Err(Problem::new(
                        Class::Unavailable,
                        "session",
                        "this server no longer leads",
                    ));
                }
            }
            self.session.check_current(&self.term.leases())?;
        }
    }

    async fn select(&self, incoming: &mut Streaming<AgentMessage>, bell: &Bell) -> Wake {
        tokio::select! {
            () = self.term.ended.cancelled() => Wake::TermEnded,
            message = incoming.next() => Wake::Agent(message),
            () = bell.rung.notified() => Wake::Pending,
        }
    }

    async fn send(&self, message: server_message::Message) -> Result<(), Problem> {
        let sent = self.outgoing.send(Ok(ServerMessage { message: Some(message) })).await;
        sent.map_err(|_| Problem::new(Class::Unavailable, "session", "the connection is gone"))
    }

    async fn welcome(&self) -> Result<(), Problem> {
        let members = self.context.raft.members();
        let timing = self.context.timing();
        let servers = members.servers.iter().map(|server| server.address.clone()).collect();
        self.send(server_message::Message::Welcome(Welcome {
            session: self.id.to_string(),
            heartbeat_ms: timing.heartbeat.0,
            lease_ms: timing.lease.0,
            servers,
        }))
        .await
    }

    async fn send_complete(&mut self) -> Result<(), Problem> {
        let increment = {
            let mut routed = self.term.routed();
            let (leases, mut acks) = (self.term.leases(), self.term.acks());
            self.session.begin(&leases, &mut routed.routes, &mut acks)?
        };
        self.send_increment(&increment).await
    }

    async fn send_increment(&self, increment: &Increment) -> Result<(), Problem> {
        let assignments = assignments(increment, &self.term.encoded);
        self.send(server_message::Message::Assignments(assignments)).await
    }

    async fn tell(&mut self) -> Result<(), Problem> {
        let told = {
            let mut routed = self.term.routed();
            let (leases, mut acks) = (self.term.leases(), self.term.acks());
            self.session.refresh(&leases, &mut routed.routes, &mut acks)?
        };
        match told {
            Told::Increment(increment) => self.send_increment(&increment).await,
            Told::UpToDate => {
                self.term.acknowledged.notify_one();
                Ok(())
            }
        }
    }

    async fn hear(&mut self, message: AgentMessage) -> Result<(), Problem> {
        let deadline = self.context.env.monotonic() + self.context.timing().lease;
        let state = self.context.raft.state();
        self.session.heard(&state, deadline, &mut self.term.leases())?;
        match message.message {
            Some(agent_message::Message::Heartbeat(_)) | None => Ok(()),
            Some(agent_message::Message::Hello(_)) => {
                Err(Problem::new(Class::Invalid, "session", "the agent said hello twice"))
            }
            Some(agent_message::Message::Statuses(statuses)) => {
                let ops = report::statuses(&self.context.raft.state(), self.node, &statuses);
                self.report(ops).await
            }
            Some(agent_message::Message::Measured(measured)) => {
                self.term.measured(report::measured(&state, self.node, &measured));
                Ok(())
            }
            Some(agent_message::Message::Inventory(inventory)) => {
                let state = self.context.raft.state();
                let now = self.context.env.now();
                let ops = report::inventory(&state, self.node, self.inventory.as_ref(), &inventory, now);
                self.inventory = Some(report::held(&inventory));
                self.report(ops).await
            }
            Some(agent_message::Message::Applied(applied)) => {
                if applied.resync {
                    return self.send_complete().await;
                }
                if self.session.applied(applied.set, &mut self.term.acks()) {
                    self.term.acknowledged.notify_one();
                }
                Ok(())
            }
        }
    }

    async fn report(&self, ops: Vec<gantry_state::Op>) -> Result<(), Problem> {
        if ops.is_empty() {
            return Ok(());
        }
        let sent = self.term.reports.send(ops).await;
        sent.map_err(|_| Problem::new(Class::Unavailable, "session", "this server no longer leads"))
    }
}

fn assignments(increment: &Increment, encoded: &Encoded) -> Assignments {
    Assignments {
        applies_to: increment.applies_to,
        results_in: increment.results_in,
        put: increment.put.iter().map(|item| encoded.document(item)).collect(),
        remove: increment
            .remove
            .iter()
            .map(|key| gantry_api::encode("item_key", key))
            .collect(),
    }
}
