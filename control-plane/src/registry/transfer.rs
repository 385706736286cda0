//! Bytes of blobs from nodes: from one holder, and when it dies in the middle, the rest from another.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use gantry_api::v1::{Chunk, GetBlobRequest};
use gantry_model::object::Node;
use gantry_model::{Class, Digest, NodeId, Problem};
use gantry_registry::{ByteStream, Refusal};
use tonic::Streaming;

use super::contents::holders;
use super::nodes::{agent, problem};
use crate::context::Context;

/// A node that sends nothing for so long is given up for another one.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);

/// How often all holders are gone through when each of them fails, and the pause in between: new ones appear, and busy ones
/// have room again.
const ROUNDS_MAX: u32 = 20;
const ROUND_PAUSE: Duration = Duration::from_millis(500);

/// A blob on its way from nodes.
struct Transfer {
    context: Arc<Context>,
    digest: Digest,
    position: u64,
    end: u64,
    source: Option<(Node, Streaming<Chunk>)>,
    /// Holders that failed in this round.
    failed: Vec<NodeId>,
    rounds: u32,
}

/// The bytes of a blob from `start` up to `end`; the first of them is there when this returns.
pub(super) async fn read(context: &Arc<Context>, digest: Digest, start: u64, end: u64) -> Result<ByteStream, Refusal> {
    let mut transfer = Transfer {
        context: context.clone(),
        digest,
        position: start,
        end,
        source: None,
        failed: Vec::new(),
        rounds: 0,
    };
    let first = transfer.next().await.map_err(Refusal::from)?;
    let rest = stream::unfold(Some(transfer), |transfer| async {
        let mut transfer = transfer?;
        match transfer.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(transfer))),
            Ok(None) => None,
            Err(problem) => Some((Err(io::Error::other(problem.to_string())), None)),
        }
    });
    let first = stream::iter(first.map(Ok));
    Ok(Box::pin(futures::StreamExt::chain(first, rest)))
}

impl Transfer {
    /// The next bytes; none at the end. Fails when nobody gives them.
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        while self.position < self.end {
            let (node, mut chunks) = match self.source.take() {
                Some(source) => source,
                None => self.open().await?,
            };
            let next = tokio::time::timeout(STALL_TIMEOUT, chunks.message()).await;
            match next {
                Ok(Ok(Some(chunk))) if chunk.data.is_empty() => self.source = Some((node, chunks)),
                Ok(Ok(Some(chunk))) => {
                    let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
                    let bytes = chunk.data.slice(..chunk.data.len().min(left));
                    self.position += bytes.len() as u64;
                    self.rounds = 0;
                    self.source = Some((node, chunks));
                    return Ok(Some(bytes));
                }
                Ok(Ok(None)) => self.give_up(&node, "it ended early"),
                Ok(Err(status)) => self.give_up(&node, &problem(&status, &node).to_string()),
                Err(_) => self.give_up(&node, "it stalled"),
            }
        }
        Ok(None)
    }

    fn give_up(&mut self, node: &Node, reason: &str) {
        tracing::info!(node = %node.name, blob = %self.digest, at = self.position, reason, "a transfer goes on from another node");
        self.failed.push(node.id);
    }

    /// A holder that answers; they are gone through in an order of chance, so that many readers spread over them.
    async fn open(&mut self) -> Result<(Node, Streaming<Chunk>), Problem> {
        let mut last = Problem::new(
            Class::Unavailable,
            format!("blob {}", self.digest),
            "no node that has it is there now",
        );
        loop {
            let state = self.context.raft.state();
            let mut candidates: Vec<Node> = holders(&state, self.digest).into_iter().cloned().collect();
            candidates.retain(|node| !self.failed.contains(&node.id));
            drop(state);
            let turn = usize::try_from(self.context.env.random_below(candidates.len() as u64)).unwrap_or(0);
            candidates.rotate_left(turn);
            for node in candidates {
                match self.ask(&node).await {
                    Ok(chunks) => return Ok((node, chunks)),
                    Err(problem) => {
                        self.give_up(&node, &problem.to_string());
                        last = problem;
                    }
                }
            }
            self.rounds += 1;
            if self.rounds >= ROUNDS_MAX {
                return Err(last);
            }
            self.failed.clear();
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    async fn ask(&self, node: &Node) -> Result<Streaming<Chunk>, Problem> {
        let request = GetBlobRequest {
            digest: self.digest.to_string(),
            offset: self.position,
            length: self.end - self.position,
        };
        let mut agent = agent(&self.context, node);
        let opened = tokio::time::timeout(STALL_TIMEOUT, agent.get_blob(request)).await;
        let opened =
            opened.map_err(|_| Problem::new(Class::Timeout, format!("node {}", node.name), "does not answer"))?;
        opened
            .map(tonic::Response::into_inner)
            .map_err(|status| problem(&status, node))
    }
}
