//! `gantry.v1.Engine` and `gantry.v1.NodeAgent` on a server: every call goes on, unread, to the agent of the node that the
//! caller names.
//!
//! The caller is authenticated here; to the agent, a server speaks for people. Messages pass as they come, in both directions,
//! so back-pressure reaches from the person's terminal to the agent, and a new call needs no code here.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use gantry_model::object::{Node, NodeStatus, Role};
use gantry_model::{Class, Problem};
use gantry_rpc::status::from_problem;
use gantry_rpc::{Caller, Remote, require};
use gantry_state::State;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::NamedService;
use tonic::{Request, Status};
use tower::ServiceExt;

use super::{find, proxy};
use crate::context::Context;

/// Names the node, by name or id; without it the cluster chooses for calls that any node can serve.
const NODE_HEADER: &str = "gantry-node";

/// Calls that any node can serve when none is named: what they leave is known to the whole cluster.
const ANY_NODE: [&str; 3] = ["PullImage", "PushImage", "Build"];

/// See the module.
#[derive(Clone)]
pub struct EngineRelay {
    context: Arc<Context>,
}

impl EngineRelay {
    /// Relays from the given context.
    #[must_use]
    pub const fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    async fn relay(self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let mut asking = Request::new(());
        if let Some(caller) = caller {
            asking.extensions_mut().insert(caller);
        }
        require(&asking, &[Role::Admin, Role::Server])?;
        let wanted = request.headers().get(NODE_HEADER);
        let wanted = wanted
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_string();
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_string();
        let state = self
            .context
            .raft
            .linearizable()
            .await
            .map_err(|error| from_problem(&error.into()))?;
        let node = choose(&state, &wanted, &method).map_err(|problem| from_problem(&problem))?;
        let channel = self.context.channels.channel(&node.address, Remote::Agent(node.id));
        let name = node.name.clone();
        drop(state);
        channel.oneshot(request).await.map_err(|error| {
            let reason = format!("its agent cannot be reached: {error}");
            from_problem(&Problem::new(Class::Unavailable, format!("node {name}"), reason))
        })
    }
}

fn choose<'a>(state: &'a State, wanted: &str, method: &str) -> Result<&'a Node, Problem> {
    if !wanted.is_empty() || ANY_NODE.contains(&method) {
        return proxy::storing_node(state, wanted);
    }
    let mut ready = state.nodes().filter(|node| node.status == NodeStatus::Ready);
    match (ready.next(), ready.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => find::node(state, wanted),
        (Some(_), Some(_)) => Err(
            Problem::new(Class::Invalid, "node", "the cluster has several, and none was named")
                .remedy("say which with --node; `gantry node ls` lists them"),
        ),
    }
}

impl NamedService for EngineRelay {
    const NAME: &'static str = "gantry.v1.Engine";
}

impl tower::Service<http::Request<Body>> for EngineRelay {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let relay = self.clone();
        Box::pin(async move { Ok(relay.relay(request).await.unwrap_or_else(Status::into_http)) })
    }
}

/// The same for `gantry.v1.NodeAgent`: logs of and commands in containers run by hand.
#[derive(Clone)]
pub struct NodeAgentRelay(EngineRelay);

impl NodeAgentRelay {
    /// Relays from the given context.
    #[must_use]
    pub const fn new(context: Arc<Context>) -> Self {
        Self(EngineRelay::new(context))
    }
}

impl NamedService for NodeAgentRelay {
    const NAME: &'static str = "gantry.v1.NodeAgent";
}

impl tower::Service<http::Request<Body>> for NodeAgentRelay {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}
