//! Images that came to a node, and what they are called in the cluster from now on.

use gantry_api::kind;
use gantry_api::v1::ImageInfo;
use gantry_model::object::{ImageRecord, ManifestFacts, TagRecord};
use gantry_model::{ByteSize, NodeId, Problem, Timestamp};
use gantry_state::{Key, Object, Op, Transaction};

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
    let now = context.env.now();
    let mut ops: Vec<Op> = untagged
        .iter()
        .map(|reference| Op::Delete(Key::Tag(reference.clone())))
        .collect();
    for Arrived {
        mut record,
        kept,
        references,
    } in arrived
    {
        record.nodes = [node].into();
        record.keepers = kept.then_some(node).into_iter().collect();
        let tags = references.into_iter().map(|reference| TagRecord {
            reference,
            digest: record.digest.clone(),
            updated_at: now,
        });
        let tags: Vec<Op> = tags.map(|tag| Op::Put(Box::new(Object::Tag(tag)))).collect();
        ops.push(Op::Hold {
            image: Box::new(record),
            node,
        });
        ops.extend(tags);
    }
    context
        .commit(|_| {
            Ok(Decision {
                transaction: Transaction::new(now, ops.clone()),
                changes: Vec::new(),
            })
        })
        .await
        .map(|_| ())
}
