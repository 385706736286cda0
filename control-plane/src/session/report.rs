//! Reports of agents as operations on the state. Nothing is believed about replicas that are not the node's own.

use std::collections::BTreeSet;

use gantry_api::v1::{ImageInfo, Inventory, Statuses};
use gantry_model::object::{ImageRecord, TagRecord};
use gantry_model::phase::{Desired, Observed};
use gantry_model::{ByteSize, NodeId, ReplicaId, Timestamp};
use gantry_state::{Key, Object, Op, State};

/// Statuses of the node's replicas; what is malformed or not the node's own is left out and logged.
#[must_use]
pub fn statuses(state: &State, node: NodeId, statuses: &Statuses) -> Vec<Op> {
    let mut ops = Vec::new();
    for status in &statuses.items {
        let Ok(id) = status.replica.parse::<ReplicaId>() else {
            tracing::warn!(%node, replica = status.replica, "status of a malformed replica id");
            continue;
        };
        let Some(replica) = state.replica(id).filter(|replica| replica.node == Some(node)) else {
            continue;
        };
        if status.removed {
            if replica.desired == Desired::Remove {
                ops.push(Op::Delete(Key::Replica(id)));
            }
            continue;
        }
        match status
            .observed
            .as_ref()
            .map(|document| gantry_api::decode::<Observed>(document, "observed"))
        {
            Some(Ok(observed)) => ops.push(Op::Observe { replica: id, observed }),
            Some(Err(problem)) => tracing::warn!(%node, replica = %id, %problem, "status that cannot be read"),
            None => tracing::warn!(%node, replica = %id, "status without content"),
        }
    }
    ops
}

/// What the node's store holds now, against what the state says it holds.
#[must_use]
pub fn inventory(state: &State, node: NodeId, inventory: &Inventory, now: Timestamp) -> Vec<Op> {
    let held: BTreeSet<&str> = inventory.images.iter().map(|image| image.digest.as_str()).collect();
    let gone = state
        .images()
        .filter(|image| image.nodes.contains(&node) && !held.contains(image.digest.as_str()));
    let mut ops: Vec<Op> = gone
        .map(|image| Op::Release {
            digest: image.digest.clone(),
            node,
        })
        .collect();
    for image in &inventory.images {
        if state
            .image(&image.digest)
            .is_none_or(|known| !known.nodes.contains(&node))
        {
            ops.push(Op::Hold {
                image: Box::new(record(image)),
                node,
            });
        }
        // A reference that the cluster does not know yet comes with the node; one it knows is the cluster's to move.
        let unknown = image
            .references
            .iter()
            .filter(|reference| state.tag(reference).is_none());
        ops.extend(unknown.map(|reference| {
            let tag = TagRecord {
                reference: reference.clone(),
                digest: image.digest.clone(),
                updated_at: now,
            };
            Op::Put(Box::new(Object::Tag(tag)))
        }));
    }
    ops
}

fn record(image: &ImageInfo) -> ImageRecord {
    ImageRecord {
        digest: image.digest.clone(),
        config_digest: image.config_digest.clone(),
        size: ByteSize(image.size_bytes),
        platform: image.platform.clone(),
        created_at: (image.created_at_ms > 0).then_some(Timestamp(image.created_at_ms)),
        nodes: BTreeSet::new(),
    }
}
