//! Agents as this server reaches them.

use gantry_api::v1::Holder;
use gantry_api::v1::node_agent_client::NodeAgentClient;
use gantry_model::object::{Availability, Node, NodeStatus};
use gantry_model::{Class, NodeId, Problem};
use gantry_registry::{Code, Refusal};
use gantry_rpc::status::to_problem;
use gantry_rpc::{Remote, WithLimits};
use gantry_state::State;
use tonic::Status;
use tonic::transport::Channel;

use super::contents::by_load;
use crate::context::Context;

/// A client of the agent of a node.
pub(super) fn agent(context: &Context, node: &Node) -> NodeAgentClient<Channel> {
    NodeAgentClient::new(context.channels.channel(&node.address, Remote::Agent(node.id))).with_limits()
}

pub(super) fn problem(status: &Status, node: &Node) -> Problem {
    to_problem(status, &format!("node {}", node.name))
}

pub(crate) fn holder(node: &Node) -> Holder {
    Holder {
        node: node.id.to_string(),
        address: node.address.clone(),
    }
}

/// Nodes that take something new for a key, best first; those that are to be left alone come last.
pub(super) fn takers<'a>(state: &'a State, key: &str) -> Vec<&'a Node> {
    let ready = state.nodes().filter(|node| node.status == NodeStatus::Ready);
    let mut ready = by_load(ready, key);
    ready.sort_by_key(|node| node.availability != Availability::Active);
    ready
}

/// A ready node.
pub(super) fn ready(state: &State, id: NodeId) -> Result<&Node, Refusal> {
    let node = state.node(id).filter(|node| node.status == NodeStatus::Ready);
    node.ok_or_else(|| Refusal::new(Code::Unavailable, "the node that has the upload is not there now"))
}

/// What storing needs at least.
pub(super) fn none_ready() -> Refusal {
    let problem = Problem::new(Class::Unavailable, "registry", "there is no ready node to store it on")
        .remedy("start an agent with `gantry agent --join`");
    Refusal::from(problem)
}
