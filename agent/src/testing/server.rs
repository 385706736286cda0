//! A server that only speaks the protocol: takes nodes in, keeps what they say, sends what a test wants sent.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::StreamExt;
use gantry_api::v1::enrollment_server::{Enrollment, EnrollmentServer};
use gantry_api::v1::session_server::{Session, SessionServer};
use gantry_api::v1::{
    AgentMessage, Assignments, Empty, EnrollReply, EnrollRequest, LocateImageReply, LocateImageRequest,
    RecordImagesRequest, RenewRequest, ServerMessage, SettleNamesReply, SettleNamesRequest, Status as StatusItem,
    Welcome, agent_message, server_message,
};
use gantry_env::{Env, System};
use gantry_model::assignment::{Item, ItemKey};
use gantry_model::object::Role;
use gantry_model::phase::Observed;
use gantry_model::{DurationMs, NodeId, ReplicaId, ServerId};
use gantry_pki::{Authority, Identity, Subject, Token, Validity};
use gantry_rpc::{Credentials, WithLimits, status};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// A cluster's authority, and the servers made with it.
pub(crate) struct Cluster {
    authority: Authority,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            authority: Authority::generate("test", &System).expect("an authority"),
        }
    }

    /// An identity of the cluster.
    pub(crate) fn identity(&self, role: Role, id: &str) -> Identity {
        let subject = Subject {
            role,
            id: id.to_string(),
        };
        let validity = Validity::starting(System.now(), DurationMs::secs(3600));
        self.authority.issue(&subject, validity, &System).expect("an identity")
    }

    /// A join token, for `alpha`, node 1, or anybody else, node 2.
    pub(crate) fn token(&self) -> String {
        Token::create(Role::Agent, self.authority.digest(), DurationMs::secs(3600), &System)
            .0
            .to_string()
    }

    /// A server that listens on a port of its own.
    pub(crate) async fn server(&self) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = Server {
            address,
            state: Arc::default(),
            authority: Arc::new(Authority::load(&self.authority.to_root()).expect("the same authority")),
            shutdown: CancellationToken::new(),
        };
        let identity = self.identity(Role::Server, &ServerId(1).to_string());
        let credentials = Credentials::new(identity).expect("usable");
        let mut routes = tonic::service::Routes::builder();
        routes.add_service(SessionServer::new(server.clone()).with_limits());
        routes.add_service(EnrollmentServer::new(server.clone()).with_limits());
        tokio::spawn(gantry_rpc::serve(
            listener,
            credentials,
            routes.routes(),
            server.shutdown.clone(),
        ));
        server
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    authority: Arc<Authority>,
    shutdown: CancellationToken,
}

#[derive(Default)]
pub(crate) struct State {
    /// Sessions that were opened.
    pub(crate) sessions: u32,
    /// Everything that agents said, with the number of the session.
    pub(crate) heard: Vec<(u32, agent_message::Message)>,
    /// Another server leads.
    pub(crate) leader: Option<String>,
    /// Agents that have any image.
    pub(crate) holders: Vec<String>,
    /// Whether it takes nothing in of what images are called.
    pub(crate) refuses_names: bool,
    /// What nodes call images by.
    pub(crate) names: BTreeSet<String>,
    /// What a new session gets first.
    pub(crate) first: Vec<Item>,
    outgoing: Option<mpsc::Sender<Result<ServerMessage, Status>>>,
    number: u64,
}

impl State {
    fn takes_names(&self) -> Result<(), Status> {
        match self.refuses_names {
            true => Err(Status::failed_precondition("no names are taken in")),
            false => Ok(()),
        }
    }
}

impl Server {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }

    /// Ends the open session.
    pub(crate) fn hang_up(&self) {
        self.state().outgoing = None;
    }

    /// Sends an increment that says it applies to the last set but `missed`.
    pub(crate) fn send(&self, put: Vec<Item>, remove: Vec<ItemKey>, missed: u64) {
        let mut state = self.state();
        let applies_to = state.number + missed;
        state.number = applies_to + 1;
        let message = assignments(applies_to, state.number, &put, &remove);
        let outgoing = state.outgoing.as_ref().expect("an open session");
        outgoing.try_send(Ok(message)).expect("the agent reads");
    }

    /// Sends a complete set.
    pub(crate) fn send_complete(&self, put: Vec<Item>) {
        let mut state = self.state();
        state.number += 1;
        let message = assignments(0, state.number, &put, &[]);
        let outgoing = state.outgoing.as_ref().expect("an open session");
        outgoing.try_send(Ok(message)).expect("the agent reads");
    }

    /// Whether the last set is acknowledged.
    pub(crate) fn is_acknowledged(&self) -> bool {
        let state = self.state();
        let (session, number) = (state.sessions, state.number);
        state.heard.iter().any(|(of, message)| {
            matches!(message, agent_message::Message::Applied(applied)
                if *of == session && applied.set == number && !applied.resync)
        })
    }

    /// The statuses of all messages, in order.
    pub(crate) fn statuses(&self) -> Vec<StatusItem> {
        let state = self.state();
        let statuses = state.heard.iter().filter_map(|(_, message)| match message {
            agent_message::Message::Statuses(statuses) => Some(statuses.items.clone()),
            _ => None,
        });
        statuses.flatten().collect()
    }

    /// What was last said of a replica.
    pub(crate) fn observed(&self, replica: ReplicaId) -> Option<Observed> {
        let statuses = self.statuses();
        let last = statuses
            .iter()
            .rev()
            .find(|status| status.replica == replica.to_string())?;
        let document = last.observed.as_ref()?;
        Some(gantry_api::decode(document, gantry_api::kind::OBSERVED).expect("an observation"))
    }

    /// Whether the replica was said to be gone.
    pub(crate) fn is_removed(&self, replica: ReplicaId) -> bool {
        self.statuses()
            .iter()
            .any(|status| status.replica == replica.to_string() && status.removed)
    }
}

fn assignments(applies_to: u64, results_in: u64, put: &[Item], remove: &[ItemKey]) -> ServerMessage {
    let assignments = Assignments {
        applies_to,
        results_in,
        put: put
            .iter()
            .map(|item| gantry_api::encode(gantry_api::kind::ITEM, item))
            .collect(),
        remove: remove
            .iter()
            .map(|key| gantry_api::encode(gantry_api::kind::ITEM_KEY, key))
            .collect(),
    };
    ServerMessage {
        message: Some(server_message::Message::Assignments(assignments)),
    }
}

#[tonic::async_trait]
impl Session for Server {
    type OpenStream = ReceiverStream<Result<ServerMessage, Status>>;

    async fn open(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::OpenStream>, Status> {
        gantry_rpc::require(&request, &[Role::Agent])?;
        if let Some(leader) = &self.state().leader {
            return Err(status::not_leader(Some(leader)));
        }
        let (sender, stream) = mpsc::channel(256);
        let welcome = Welcome {
            session: "0000000000000".into(),
            heartbeat_ms: 50,
            lease_ms: 1000,
            servers: Vec::new(),
        };
        let welcome = ServerMessage {
            message: Some(server_message::Message::Welcome(welcome)),
        };
        sender.try_send(Ok(welcome)).expect("it is empty");
        let session = {
            let mut state = self.state();
            state.sessions += 1;
            state.number = 1;
            let complete = assignments(0, 1, &state.first, &[]);
            sender.try_send(Ok(complete)).expect("there is room");
            state.outgoing = Some(sender);
            state.sessions
        };
        let own = self.clone();
        let mut messages = request.into_inner();
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                own.state()
                    .heard
                    .extend(message.message.map(|message| (session, message)));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn record_images(&self, request: Request<RecordImagesRequest>) -> Result<Response<Empty>, Status> {
        let RecordImagesRequest { images, untagged } = request.into_inner();
        let mut state = self.state();
        state.takes_names()?;
        state.names.retain(|name| !untagged.contains(name));
        state
            .names
            .extend(images.into_iter().flat_map(|image| image.references));
        Ok(Response::new(Empty {}))
    }

    async fn settle_names(&self, request: Request<SettleNamesRequest>) -> Result<Response<SettleNamesReply>, Status> {
        let SettleNamesRequest { known, made } = request.into_inner();
        let mut state = self.state();
        state.takes_names()?;
        let gone: Vec<String> = known.into_iter().filter(|name| !state.names.contains(name)).collect();
        let recorded: Vec<String> = made.into_iter().map(|named| named.reference).collect();
        state.names.extend(recorded.iter().cloned());
        Ok(Response::new(SettleNamesReply { recorded, gone }))
    }

    async fn locate_image(&self, request: Request<LocateImageRequest>) -> Result<Response<LocateImageReply>, Status> {
        let addresses = self.state().holders.clone();
        let digest = request.into_inner().digest;
        Ok(Response::new(LocateImageReply {
            addresses,
            digest,
            ..LocateImageReply::default()
        }))
    }
}

#[tonic::async_trait]
impl Enrollment for Server {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollReply>, Status> {
        let request = request.get_ref();
        let id = if request.name == "alpha" { NodeId(1) } else { NodeId(2) };
        Ok(Response::new(self.certify(&request.csr_der, id)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<EnrollReply>, Status> {
        let peer = gantry_rpc::require(&request, &[Role::Agent])?;
        let id = peer.id.parse().expect("given by this server");
        Ok(Response::new(self.certify(&request.get_ref().csr_der, id)))
    }
}

impl Server {
    fn certify(&self, csr_der: &[u8], id: NodeId) -> EnrollReply {
        let subject = Subject {
            role: Role::Agent,
            id: id.to_string(),
        };
        let validity = Validity::starting(System.now(), DurationMs::secs(3600));
        let certificate_pem = self
            .authority
            .sign(csr_der, &subject, validity, &System)
            .expect("a valid request");
        EnrollReply {
            id: subject.id,
            role: "agent".into(),
            certificate_pem,
            authority_pem: self.authority.certificate_pem().to_string(),
            servers: vec![self.address.to_string()],
            cluster_name: "test".into(),
        }
    }
}
