//! The Engine of one node: the agent of this machine over its socket, or any node's through a server.

use std::path::{Path, PathBuf};

use gantry_api::v1::ContainerRequest;
use gantry_api::v1::engine_client::EngineClient;
use gantry_api::v1::node_agent_client::NodeAgentClient;
use gantry_model::{Class, Problem};
use gantry_rpc::WithLimits;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::args::Global;
use crate::client::Client;
use crate::commands::RUN_FOLDER;

/// Names the node to servers; agents take no notice of it.
const NODE_HEADER: &str = "gantry-node";

/// Overrides where the agent of this machine listens.
const SOCKET_VARIABLE: &str = "GANTRY_AGENT_SOCKET";

/// Below the agent's folder.
const SOCKET_NAME: &str = "agent.sock";

/// A node to run containers on.
pub struct Engine {
    channel: Channel,
    node: Option<MetadataValue<Ascii>>,
}

impl Engine {
    /// The named node's; without a name this machine's, or else the one that the cluster means.
    ///
    /// # Errors
    /// When neither an agent here nor a server can be reached.
    pub async fn open(global: &Global, node: Option<&str>) -> Result<Self, Problem> {
        if node.is_none()
            && let Some(socket) = socket()
        {
            return Ok(Self {
                channel: connect(&socket).await?,
                node: None,
            });
        }
        let header = node.map(|name| {
            name.parse()
                .map_err(|_| Problem::new(Class::Invalid, format!("node {name}"), "is not the name of a node"))
        });
        let client = Client::open(global).await.map_err(|problem| match node {
            Some(_) => problem,
            None => no_agent(&problem),
        })?;
        Ok(Self {
            channel: client.channel().await?,
            node: header.transpose()?,
        })
    }

    /// The engine that has a container run by hand of that name: the named node's, else this machine's if it knows it. None is
    /// for what only the cluster can find, a replica.
    ///
    /// # Errors
    /// When the named node cannot be reached.
    pub async fn holding(global: &Global, node: Option<&str>, container: &str) -> Result<Option<Self>, Problem> {
        if node.is_some() {
            return Self::open(global, node).await.map(Some);
        }
        let Some(socket) = socket() else { return Ok(None) };
        // Whoever may not use the agent here may still use the cluster.
        let Ok(channel) = connect(&socket).await else {
            return Ok(None);
        };
        let engine = Self { channel, node: None };
        let request = ContainerRequest {
            container: container.to_string(),
        };
        let found = engine.client().inspect_container(engine.request(request)).await;
        Ok(found.is_ok().then_some(engine))
    }

    /// Logs of and commands in what it runs.
    pub fn node_client(&self) -> NodeAgentClient<Channel> {
        NodeAgentClient::new(self.channel.clone()).with_limits()
    }

    /// To call it.
    pub fn client(&self) -> EngineClient<Channel> {
        EngineClient::new(self.channel.clone()).with_limits()
    }

    /// A message for that node.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(node) = &self.node {
            request.metadata_mut().insert(NODE_HEADER, node.clone());
        }
        request
    }
}

/// Where the agent of this machine listens, if it does.
fn socket() -> Option<PathBuf> {
    let given = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from);
    let usual = || Some(Path::new(RUN_FOLDER).join(SOCKET_NAME)).filter(|path| path.exists());
    given.or_else(usual)
}

async fn connect(socket: &Path) -> Result<Channel, Problem> {
    let path = socket.to_path_buf();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The connector knows where to go.
    let channel = Endpoint::from_static("http://agent")
        .connect_with_connector(connector)
        .await;
    channel.map_err(|error| {
        let object = format!("agent at {}", socket.display());
        let mut source: &dyn std::error::Error = &error;
        while let Some(inner) = source.source() {
            source = inner;
        }
        Problem::new(Class::Unavailable, object, format!("cannot be reached: {source}")).remedy(
            "start it with `gantry agent` or `gantry dev`, or name a node of a cluster with --node; it takes root",
        )
    })
}

fn no_agent(problem: &Problem) -> Problem {
    let reason = format!(
        "no agent runs on this machine, and no cluster is known here: {}",
        problem.reason
    );
    Problem::new(Class::Unavailable, "node", reason)
        .remedy("start one with `gantry dev`, or join a cluster with `gantry cluster join`")
}
