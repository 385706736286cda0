//! Images and names that leave the cluster.
//!
//! 1. One transaction takes the names away and marks the image as leaving: from here on nobody is sent for it, no copy of it is
//!    made, and no report of a node brings a name back.
//! 2. The nodes that are up remove what they have. When one refuses or cannot be reached, a transaction puts the names back.
//! 3. That a node has it no more is said by the node's own inventory alone: one that was under way before the removal then changes
//!    nothing, and whoever asked hears of the end once it shows.
//!
//! The mark stays with the image's record for as long as a node has it. The leader ([`crate::registry`]) sees to what is left: on
//! nodes that were down, or when the server that carried out the removal died.

#[cfg(test)]
mod tests;

use std::time::Duration;

use futures::StreamExt;
use gantry_api::v1::{RemoveImageReply, RemoveImageRequest};
use gantry_leader::admission::Decision;
use gantry_model::object::{ImageRecord, Node, NodeStatus, RepositoryManifest, TagRecord};
use gantry_model::{Class, Digest, ImageReference, Problem, Timestamp};
use gantry_rpc::status::to_problem;
use gantry_state::{Key, Object, Op, RegistryKey, RegistryObject, State, Transaction};

use super::commit::unchanged;
use super::proxy::{agent, digest_of};
use crate::context::Context;

/// Nodes that are asked at once.
const ASKED_AT_ONCE: usize = 16;

/// A node that takes longer cannot be reached, as far as the caller is concerned. Below the time after which the leader takes
/// removals over.
const NODE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a removal that is done waits for the nodes' inventories to show it.
const SHOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// What leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Removal {
    digest: String,
    /// The image itself, not just one of its names.
    whole: bool,
    tags: Vec<TagRecord>,
    links: Vec<RepositoryManifest>,
}

impl Removal {
    /// What a request means: of an image with several names, only the one that is asked for goes.
    ///
    /// # Errors
    /// When it is not in the cluster, or in use.
    pub(crate) fn decide(state: &State, asked: &str) -> Result<Self, Problem> {
        let digest = digest_of(state, asked)?;
        let named: Vec<TagRecord> = state.tags().filter(|tag| tag.digest == digest).cloned().collect();
        let reference = asked.parse::<ImageReference>().ok().map(|asked| asked.to_string());
        let is_meant = |tag: &&TagRecord| Some(&tag.reference) == reference.as_ref();
        if let Some(tag) = named.iter().find(is_meant)
            && named.len() > 1
        {
            return Ok(Self::of_tags(&digest, vec![tag.clone()]));
        }
        let mut services = state.services();
        let user = services.find(|service| service.spec.container.image_digest.as_deref() == Some(digest.as_str()));
        if let Some(service) = user {
            let reason = format!("is used by {}", service.object());
            return Err(
                Problem::new(Class::Conflict, format!("image {asked}"), reason).remedy("delete the service first")
            );
        }
        let own: Option<Digest> = digest.parse().ok();
        let links = state.registry_manifests().filter(|link| Some(link.digest) == own);
        Ok(Self {
            whole: true,
            tags: named,
            links: links.cloned().collect(),
            digest,
        })
    }

    /// Names alone, all of one image.
    pub(crate) fn of_tags(digest: &str, tags: Vec<TagRecord>) -> Self {
        Self {
            digest: digest.to_string(),
            whole: false,
            tags,
            links: Vec::new(),
        }
    }

    /// Takes the names away, and marks what leaves as a whole.
    pub(crate) fn begin(&self, state: &State, now: Timestamp) -> Transaction {
        let mut transaction = Transaction::new(now, Vec::new());
        let tags = self.tags.iter().map(|tag| Key::Tag(tag.reference.clone()));
        for key in tags.chain(self.links.iter().map(link_key)) {
            transaction.require.push(unchanged(state, key.clone()));
            transaction.ops.push(Op::Delete(key));
        }
        if self.whole {
            mark(state, &self.digest, Some(now), &mut transaction);
        }
        transaction
    }

    /// Puts everything back that was not made anew meanwhile.
    pub(crate) fn undo(&self, state: &State, now: Timestamp) -> Transaction {
        let mut transaction = Transaction::new(now, Vec::new());
        let tags = self.tags.iter().cloned().map(Object::Tag);
        let links = self.links.iter().cloned();
        let links = links.map(|link| Object::Registry(RegistryObject::Manifest(link)));
        for object in tags.chain(links) {
            let key = object.key();
            if state.get(&key).is_none() {
                transaction.require.push(unchanged(state, key));
                transaction.ops.push(Op::Put(Box::new(object)));
            }
        }
        mark(state, &self.digest, None, &mut transaction);
        transaction
    }

    /// What each node is asked for.
    fn requests(&self) -> Vec<RemoveImageRequest> {
        let image = |image: &str, force| RemoveImageRequest {
            image: image.to_string(),
            force,
        };
        match self.whole {
            true => vec![image(&self.digest, true)],
            false => self.tags.iter().map(|tag| image(&tag.reference, false)).collect(),
        }
    }

    /// Nodes that are up and have it.
    fn holders(&self, state: &State) -> Vec<Node> {
        let record = state.image(&self.digest);
        let ids = record.into_iter().flat_map(|record| &record.nodes);
        let nodes = ids.filter_map(|id| state.node(*id));
        nodes.filter(|node| node.status == NodeStatus::Ready).cloned().collect()
    }
}

fn link_key(link: &RepositoryManifest) -> Key {
    Key::Registry(RegistryKey::Manifest(link.repository.clone(), link.digest))
}

/// Sets or takes the mark, where there is a record and it differs.
pub(crate) fn mark(state: &State, digest: &str, leaving: Option<Timestamp>, transaction: &mut Transaction) {
    let Some(record) = state.image(digest).filter(|record| record.leaving != leaving) else {
        return;
    };
    transaction
        .require
        .push(unchanged(state, Key::Image(digest.to_string())));
    let marked = ImageRecord {
        leaving,
        ..record.clone()
    };
    transaction.ops.push(Op::Put(Box::new(Object::Image(marked))));
}

/// Whether people still see it: what is being removed and only lies on nodes that are down is gone for them.
pub(crate) fn is_shown(state: &State, image: &ImageRecord) -> bool {
    image.leaving.is_none() || is_held(state, image)
}

fn is_held(state: &State, image: &ImageRecord) -> bool {
    let mut nodes = image.nodes.iter().filter_map(|id| state.node(*id));
    nodes.any(|node| node.status == NodeStatus::Ready)
}

/// Removes an image from the cluster; of one with several names, only the one that is asked for.
///
/// # Errors
/// When it is in use, not in the cluster, or a node that is up does not answer. Its names are there again then.
pub async fn remove_image(context: &Context, request: RemoveImageRequest) -> Result<RemoveImageReply, Problem> {
    let mut decided = None;
    let committed = context.commit(|state| {
        let removal = Removal::decide(state, &request.image)?;
        let transaction = removal.begin(state, context.env.now());
        decided = Some((removal.holders(state), removal));
        Ok(decision(transaction))
    });
    let revision = committed.await?.revision;
    let (holders, removal) = decided.expect("a commit decides before it succeeds");
    let deleted = match ask_nodes(context, &removal, holders).await {
        Ok(deleted) => deleted,
        Err(problem) => return Err(refused(context, &removal, problem).await),
    };
    if removal.whole {
        shown(context, &removal.digest, revision).await;
    }
    Ok(RemoveImageReply {
        untagged: removal.tags.into_iter().map(|tag| tag.reference).collect(),
        deleted,
    })
}

fn decision(transaction: Transaction) -> Decision {
    Decision {
        transaction,
        changes: Vec::new(),
    }
}

async fn refused(context: &Context, removal: &Removal, problem: Problem) -> Problem {
    let undone = context.commit(|state| Ok(decision(removal.undo(state, context.env.now()))));
    match undone.await {
        Ok(_) => problem,
        Err(error) => {
            tracing::warn!(%error, image = removal.digest, "the names of an image that could not be removed are lost");
            problem
        }
    }
}

/// All that was deleted anywhere, or the first refusal.
async fn ask_nodes(context: &Context, removal: &Removal, holders: Vec<Node>) -> Result<Vec<String>, Problem> {
    let requests = removal.requests();
    let requests = &requests;
    let asked = futures::stream::iter(holders)
        .map(|node| async move { ask_node(context, &node, requests).await })
        .buffer_unordered(ASKED_AT_ONCE);
    let answers: Vec<Result<Vec<String>, Problem>> = asked.collect().await;
    let answers: Result<Vec<_>, Problem> = answers.into_iter().collect();
    let mut deleted = answers?.concat();
    deleted.sort();
    deleted.dedup();
    Ok(deleted)
}

async fn ask_node(context: &Context, node: &Node, requests: &[RemoveImageRequest]) -> Result<Vec<String>, Problem> {
    let object = format!("node {}", node.name);
    let mut deleted = Vec::new();
    for request in requests {
        let mut agent = agent(context, node);
        let asked = tokio::time::timeout(NODE_TIMEOUT, agent.remove_image(request.clone())).await;
        let asked = asked.map_err(|_| Problem::new(Class::Timeout, object.clone(), "does not answer"))?;
        match asked.map_err(|status| to_problem(&status, &object)) {
            Ok(reply) => deleted.extend(reply.into_inner().deleted),
            // It went already, or this node never called it so.
            Err(problem) if problem.class == Class::NotFound => {}
            Err(problem) => return Err(problem),
        }
    }
    Ok(deleted)
}

/// Waits until no inventory names it any more, so that whoever looks next does not see it.
async fn shown(context: &Context, digest: &str, since: u64) {
    let mut revisions = context.raft.revision();
    let waiting = async {
        loop {
            revisions.mark_unchanged();
            let state = context.raft.state();
            let leaving = state.image(digest).filter(|image| image.leaving.is_some());
            if state.revision() >= since && !leaving.is_some_and(|image| is_held(&state, image)) {
                return;
            }
            if revisions.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(SHOWN_TIMEOUT, waiting).await.is_err() {
        tracing::info!(image = digest, "a node that removed an image has not said so yet");
    }
}
