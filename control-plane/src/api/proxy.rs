//! Logs, exec and images: what people ask any server for and an agent answers.
//!
//! Bytes pass through unread; back-pressure reaches from the person's terminal to the agent.

use std::pin::Pin;

use futures::stream::{self, Stream, StreamExt};
use gantry_api::v1::node_agent_client::NodeAgentClient;
use gantry_api::v1::{
    Chunk, ExecInput, ExecOutput, ExecStart, ExportImageRequest, ImportImageChunk, ImportImageReply, LogRecord,
    LogsRequest, exec_input, import_image_chunk,
};
use gantry_model::object::{Node, NodeStatus, Replica};
use gantry_model::{Class, ImageReference, Problem};
use gantry_rpc::status::to_problem;
use gantry_rpc::{Remote, WithLimits};
use gantry_state::State;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::{find, record};
use crate::context::Context;

/// A stream of answers as tonic wants it.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A client of the agent of a node.
pub(super) fn agent(context: &Context, node: &Node) -> NodeAgentClient<Channel> {
    NodeAgentClient::new(context.channels.channel(&node.address, Remote::Agent(node.id))).with_limits()
}

fn problem(status: &Status) -> Problem {
    to_problem(status, "agent")
}

fn node_of<'a>(state: &'a State, replica: &Replica) -> Result<&'a Node, Problem> {
    let node = replica.node.and_then(|id| state.node(id)).ok_or_else(|| {
        Problem::new(Class::Unavailable, replica.object(), "has not been placed on a node")
            .remedy(format!("`gantry explain {}` says why", replica.id))
    })?;
    if node.status == NodeStatus::Down {
        return Err(Problem::new(
            Class::Unavailable,
            replica.object(),
            format!("its node {} is down", node.name),
        ));
    }
    Ok(node)
}

/// The logs of one replica, or of all replicas of a service side by side.
///
/// # Errors
/// When nothing fits the name, or no node of it can be reached.
pub async fn logs(context: &Context, request: LogsRequest) -> Result<Answers<LogRecord>, Problem> {
    let state = context.raft.linearizable().await?;
    let mut replicas = find::replicas(&state, &request.namespace, &request.replica)?;
    replicas.retain(|replica| replica.node.is_some());
    if let [only] = replicas.as_slice() {
        node_of(&state, only)?;
    }
    let mut streams: Vec<Answers<LogRecord>> = Vec::new();
    let mut last_problem = None;
    for replica in replicas {
        let asked = LogsRequest {
            replica: replica.id.to_string(),
            ..request.clone()
        };
        match node_of(&state, replica) {
            Ok(node) => match agent(context, node).logs(asked).await {
                Ok(answer) => streams.push(Box::pin(answer.into_inner())),
                Err(status) => last_problem = Some(problem(&status)),
            },
            Err(problem) => last_problem = Some(problem),
        }
    }
    match (streams.is_empty(), last_problem) {
        (true, Some(problem)) => Err(problem),
        _ => Ok(Box::pin(stream::select_all(streams))),
    }
}

/// A process beside a replica's own, its streams passed through.
///
/// # Errors
/// When the first message does not start anything, nothing fits the name, or the node cannot be reached.
pub async fn exec(context: &Context, mut input: Streaming<ExecInput>) -> Result<Answers<ExecOutput>, Problem> {
    let first = input.next().await.transpose().map_err(|status| problem(&status))?;
    let Some(exec_input::Input::Start(start)) = first.and_then(|message| message.input) else {
        return Err(Problem::new(
            Class::Invalid,
            "exec",
            "the first message must start a command",
        ));
    };
    let state = context.raft.linearizable().await?;
    let replicas = find::replicas(&state, &start.namespace, &start.replica)?;
    let replica = find::current(&replicas)
        .ok_or_else(|| Problem::new(Class::NotFound, format!("replica {}", start.replica), "does not exist"))?;
    let mut client = agent(context, node_of(&state, replica)?);
    let start = ExecStart {
        replica: replica.id.to_string(),
        ..start
    };
    let first = stream::once(async {
        ExecInput {
            input: Some(exec_input::Input::Start(start)),
        }
    });
    // A caller that breaks off ends the input; the agent then ends the process.
    let rest = messages(input);
    let output = client
        .exec(first.chain(rest))
        .await
        .map_err(|status| problem(&status))?;
    Ok(Box::pin(output.into_inner()))
}

/// An image into the store of a node, and its references into the cluster's tags.
///
/// # Errors
/// When there is no node to take it, or the node refuses it.
pub async fn import_image(
    context: &Context,
    mut input: Streaming<ImportImageChunk>,
) -> Result<ImportImageReply, Problem> {
    let first = input.next().await.transpose().map_err(|status| problem(&status))?;
    let Some(import_image_chunk::Chunk::Start(start)) = first.and_then(|message| message.chunk) else {
        return Err(Problem::new(
            Class::Invalid,
            "image",
            "the first message must say what follows",
        ));
    };
    let state = context.raft.linearizable().await?;
    let node = storing_node(&state, &start.node)?.clone();
    let mut client = agent(context, &node);
    let first = stream::once(async {
        ImportImageChunk {
            chunk: Some(import_image_chunk::Chunk::Start(start)),
        }
    });
    let rest = messages(input);
    let reply = client
        .import_image(first.chain(rest))
        .await
        .map_err(|status| problem(&status))?;
    let mut reply = reply.into_inner();
    record::images(context, node.id, reply.images.iter().map(record::Arrived::from), &[]).await?;
    reply.node = node.name;
    Ok(reply)
}

/// The node that was asked for, else the ready one with the fewest images, so that imports spread.
pub(super) fn storing_node<'a>(state: &'a State, wanted: &str) -> Result<&'a Node, Problem> {
    if !wanted.is_empty() {
        let node = find::node(state, wanted)?;
        return match node.status {
            NodeStatus::Ready => Ok(node),
            NodeStatus::Down => Err(Problem::new(
                Class::Unavailable,
                format!("node {}", node.name),
                "is down",
            )),
        };
    }
    let held = |node: &Node| state.images().filter(|image| image.nodes.contains(&node.id)).count();
    let ready = state.nodes().filter(|node| node.status == NodeStatus::Ready);
    ready.min_by_key(|node| (held(node), node.id)).ok_or_else(|| {
        Problem::new(Class::Unavailable, "image", "there is no ready node to store it on")
            .remedy("start an agent with `gantry agent --join`")
    })
}

/// What a caller sends, up to its end or the first error: a caller that breaks off has ended its input.
fn messages<T: Send + 'static>(input: Streaming<T>) -> impl Stream<Item = T> + Send {
    input
        .take_while(|message| std::future::ready(message.is_ok()))
        .filter_map(|message| std::future::ready(message.ok()))
}

/// The digest of an image given by reference or digest.
pub(super) fn digest_of(state: &State, image: &str) -> Result<String, Problem> {
    let object = format!("image {image}");
    if let Some(record) = state.image(image) {
        return Ok(record.digest.clone());
    }
    let reference: ImageReference = image
        .parse()
        .map_err(|error| Problem::new(Class::Invalid, object.clone(), format!("{error}")))?;
    let digest = state.tag(&reference.to_string()).map(|tag| tag.digest.clone());
    digest.ok_or_else(|| {
        Problem::new(Class::NotFound, object, "is not in the cluster").remedy("`gantry image ls` lists what is")
    })
}

/// Images as one archive, from a node that has all of them.
///
/// # Errors
/// When an image is not in the cluster, or no one node has them all.
pub async fn export_image(context: &Context, request: ExportImageRequest) -> Result<Answers<Chunk>, Problem> {
    let state = context.raft.linearizable().await?;
    let mut holders: Vec<&Node> = state.nodes().filter(|node| node.status == NodeStatus::Ready).collect();
    for image in &request.images {
        let digest = digest_of(&state, image)?;
        holders.retain(|node| {
            state
                .image(&digest)
                .is_some_and(|record| record.nodes.contains(&node.id))
        });
    }
    let node = holders.first().ok_or_else(|| {
        let object = format!("images {}", request.images.join(", "));
        Problem::new(Class::Unavailable, object, "no ready node has all of them").remedy("save them one by one")
    })?;
    let answer = agent(context, node)
        .export_image(request)
        .await
        .map_err(|status| problem(&status))?;
    Ok(Box::pin(answer.into_inner()))
}
