//! Images that came to a node, and what they are called in the cluster from now on.

use gantry_api::kind;
use gantry_api::v1::{ImageInfo, NamedImage, SettleNamesReply, SettleNamesRequest};
use gantry_model::object::{ImageRecord, ManifestFacts, TagRecord};
use gantry_model::{ByteSize, NodeId, Problem, Timestamp};
use gantry_state::{Key, Object, Op, State, Transaction};

use super::commit::unchanged;
use super::removal;
use crate::context::Context;
use gantry_leader::admission::Decision;

/// An image that a node has now.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    record: ImageRecord,
    kept: bool,
    references: Vec<String>,
}

impl From<&ImageInfo> for Arrived {
    fn from(image: &ImageInfo) -> Self {
        Self {
            record: record_of(image, None),
            kept: image.kept,
            references: image.references.clone(),
        }
    }
}

/// What an agent says of an image; `node` is who, where that is known already.
pub(crate) fn record_of(image: &ImageInfo, node: Option<NodeId>) -> ImageRecord {
    let facts = image.manifest.as_ref();
    let facts = facts.map(|facts| gantry_api::decode::<ManifestFacts>(facts, kind::MANIFEST_FACTS));
    let manifest = match facts.transpose() {
        Ok(manifest) => manifest.unwrap_or_default(),
        Err(problem) => {
            tracing::warn!(%problem, image = image.digest, "what a manifest holds cannot be read");
            ManifestFacts::default()
        }
    };
    ImageRecord {
        digest: image.digest.clone(),
        config_digest: image.config_digest.clone(),
        size: ByteSize(image.size_bytes),
        platform: image.platform.clone(),
        created_at: (image.created_at_ms > 0).then_some(Timestamp(image.created_at_ms)),
        nodes: node.into_iter().collect(),
        keepers: node.into_iter().filter(|_| image.kept).collect(),
        leaving: None,
        manifest,
    }
}

/// Enters images that `node` holds, points their references at them, and forgets the references in `untagged`.
///
/// # Errors
/// When the write does not get through.
pub(crate) async fn images(
    context: &Context,
    node: NodeId,
    arrived: impl Iterator<Item = Arrived>,
    untagged: &[String],
) -> Result<(), Problem> {
    let arrived: Vec<Arrived> = arrived.collect();
    let now = context.env.now();
    let committed = context.commit(|state| {
        let mut transaction = Transaction::new(now, Vec::new());
        let untagged = untagged.iter().cloned().map(Key::Tag);
        transaction.ops.extend(untagged.map(Op::Delete));
        for image in &arrived {
            enter(state, node, image, &mut transaction);
        }
        Ok(Decision {
            transaction,
            changes: Vec::new(),
        })
    });
    committed.await.map(drop)
}

fn enter(state: &State, node: NodeId, arrived: &Arrived, transaction: &mut Transaction) {
    let mut record = arrived.record.clone();
    record.nodes = [node].into();
    record.keepers = arrived.kept.then_some(node).into_iter().collect();
    let tags: Vec<Op> = arrived
        .references
        .iter()
        .map(|reference| tag(reference, &record.digest, transaction.at))
        .collect();
    holds(state, record, node, transaction);
    transaction.ops.extend(tags);
}

fn tag(reference: &str, digest: &str, now: Timestamp) -> Op {
    Op::Put(Box::new(Object::Tag(TagRecord {
        reference: reference.to_string(),
        digest: digest.to_string(),
        updated_at: now,
    })))
}

/// That a node was given an image: one that was being removed is not any more.
pub(crate) fn holds(state: &State, image: ImageRecord, node: NodeId, transaction: &mut Transaction) {
    removal::mark(state, &image.digest, None, transaction);
    transaction.ops.push(Op::Hold {
        image: Box::new(image),
        node,
    });
}

/// What a node calls images by, against what the cluster does. Names are the cluster's: one that it has acknowledged to the node
/// and does not have any more means nothing on the node either. One that it has not acknowledged was made while no server could be
/// told, and is entered unless the cluster has such a name by now.
pub(crate) fn settle(
    state: &State,
    node: NodeId,
    request: &SettleNamesRequest,
    now: Timestamp,
) -> (Transaction, SettleNamesReply) {
    let mut transaction = Transaction::new(now, Vec::new());
    let is_gone = |reference: &&String| state.tag(reference).is_none();
    let mut reply = SettleNamesReply {
        gone: request.known.iter().filter(is_gone).cloned().collect(),
        recorded: Vec::new(),
    };
    for NamedImage { reference, digest } in &request.made {
        let known = state.tag(reference);
        // Its inventory comes first; without it, the name would mean an image that nobody has.
        let holds = state.image(digest).is_some_and(|image| image.nodes.contains(&node));
        if known.is_some_and(|tag| tag.digest == *digest) {
            reply.recorded.push(reference.clone());
        } else if known.is_none() && holds {
            removal::mark(state, digest, None, &mut transaction);
            transaction.require.push(unchanged(state, Key::Tag(reference.clone())));
            transaction.ops.push(tag(reference, digest, now));
            reply.recorded.push(reference.clone());
        }
    }
    (transaction, reply)
}

/// See [`settle`].
///
/// # Errors
/// When no majority can be asked.
pub(crate) async fn settle_names(
    context: &Context,
    node: NodeId,
    request: &SettleNamesRequest,
) -> Result<SettleNamesReply, Problem> {
    let mut reply = SettleNamesReply::default();
    let committed = context.commit(|state| {
        let (transaction, settled) = settle(state, node, request, context.env.now());
        reply = settled;
        Ok(Decision {
            transaction,
            changes: Vec::new(),
        })
    });
    committed.await?;
    Ok(reply)
}
