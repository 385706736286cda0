//! Reports of agents as operations on the state. Nothing is believed about replicas that are not the node's own.

use std::collections::BTreeSet;

use gantry_api::v1::{Inventory, Statuses};
use gantry_leader::{Report, report};
use gantry_model::object::TagRecord;
use gantry_model::phase::Observed;
use gantry_model::{NodeId, ReplicaId, Timestamp};
use gantry_state::{Object, Op, State};

use crate::api::record::record_of;

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
        let record = record_of(image, Some(node));
        let is_news = state.image(&image.digest).is_none_or(|known| {
            !known.nodes.contains(&node)
                || known.keepers.contains(&node) != image.kept
                || (known.manifest.media_type.is_empty() && !record.manifest.media_type.is_empty())
        });
        if is_news {
            ops.push(Op::Hold {
                image: Box::new(record),
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
