//! Reports of agents as operations on the state. Nothing is believed about replicas that are not the node's own.

use std::collections::{BTreeMap, BTreeSet};

use gantry_api::v1::{ImageInfo, Inventory, Measured, ReplicaUsage, Statuses};
use gantry_leader::{Report, report};
use gantry_model::object::TagRecord;
use gantry_model::phase::Observed;
use gantry_model::spec::Usage;
use gantry_model::{ByteSize, MilliCpu, NodeId, ReplicaId, Timestamp};
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

/// What a node said it holds: digests, and whether it keeps them for the cluster.
pub type Held = BTreeMap<String, bool>;

/// What an inventory says.
#[must_use]
pub fn held(inventory: &Inventory) -> Held {
    let images = inventory.images.iter();
    images.map(|image| (image.digest.clone(), image.kept)).collect()
}

/// What the node's replicas use; what is malformed or not the node's own is left out.
#[must_use]
pub fn measured(state: &State, node: NodeId, measured: &Measured) -> Vec<(ReplicaId, Usage)> {
    let item = |item: &ReplicaUsage| {
        let id = item.replica.parse::<ReplicaId>().ok()?;
        let usage = Usage {
            cpu: MilliCpu(item.cpu_milli),
            memory: ByteSize(item.memory_bytes),
        };
        (state.replica(id)?.node == Some(node)).then_some((id, usage))
    };
    measured.items.iter().filter_map(item).collect()
}

/// What the node's store holds now, against what the state says it holds, and against what the session said before: what that
/// led to may still be on its way into the state.
#[must_use]
pub fn inventory(state: &State, node: NodeId, before: Option<&Held>, inventory: &Inventory, now: Timestamp) -> Vec<Op> {
    let held = held(inventory);
    let known = state.images().filter(|image| image.nodes.contains(&node));
    let known = known.map(|image| &image.digest);
    let gone: BTreeSet<&String> = known
        .chain(before.into_iter().flat_map(Held::keys))
        .filter(|digest| !held.contains_key(*digest))
        .collect();
    let release = |digest: &String| Op::Release {
        digest: digest.clone(),
        node,
    };
    let mut ops: Vec<Op> = gone.into_iter().map(release).collect();
    for image in &inventory.images {
        let record = record_of(image, Some(node));
        let changed = before.is_some_and(|before| before.get(&image.digest) != Some(&image.kept));
        let is_news = state.image(&image.digest).is_none_or(|known| {
            !known.nodes.contains(&node)
                || known.keepers.contains(&node) != image.kept
                || (known.manifest.media_type.is_empty() && !record.manifest.media_type.is_empty())
        });
        if is_news || changed {
            ops.push(Op::Hold {
                image: Box::new(record),
                node,
            });
        }
        ops.extend(names(state, image, now));
    }
    ops
}

/// A name that the cluster does not know comes with the node, unless the image is being removed: then it is a name that was taken
/// away. An agent that settles its names ([`crate::api::record::settle`]) says none here.
fn names(state: &State, image: &ImageInfo, now: Timestamp) -> impl Iterator<Item = Op> {
    let leaves = state.image(&image.digest).is_some_and(|known| known.leaving.is_some());
    let unknown = image
        .references
        .iter()
        .filter(move |reference| !leaves && state.tag(reference).is_none());
    unknown.map(move |reference| {
        let tag = TagRecord {
            reference: reference.clone(),
            digest: image.digest.clone(),
            updated_at: now,
        };
        Op::Put(Box::new(Object::Tag(tag)))
    })
}
