//! Reports of agents as operations on the state. Nothing is believed about replicas that are not the node's own.

use std::collections::BTreeSet;

use gantry_api::v1::{ImageInfo, Inventory, Statuses};
use gantry_leader::{Report, report};
use gantry_model::object::{ImageRecord, TagRecord};
use gantry_model::phase::Observed;
use gantry_model::{ByteSize, NodeId, ReplicaId, Timestamp};
use gantry_state::{Object, Op, State};

/// Statuses of the node's replicas; what is malformed or not the node's own is left out and logged.
#[must_use]
pub fn statuses(state: &State, node: NodeId, statuses: &Statuses) -> Vec<Op> {
    let mut ops = Vec::new();
    for status in &statuses.items {
        let Ok(id) = status.replica.parse::<ReplicaId>() else {
            tracing::warn!(%node, replica = status.replica, "status of a malformed replica id");
            continue;
        };
        let said = match (status.removed, &status.observed) {
            (true, _) => Report::Removed,
            (false, Some(document)) => match gantry_api::decode::<Observed>(document, "observed") {
                Ok(observed) => Report::Observed(Box::new(observed)),
                Err(problem) => {
                    tracing::warn!(%node, replica = %id, %problem, "status that cannot be read");
                    continue;
                }
            },
            (false, None) => {
                tracing::warn!(%node, replica = %id, "status without content");
                continue;
            }
        };
        ops.extend(report(state, node, id, said));
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
