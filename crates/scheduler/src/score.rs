//! Which of the nodes that would do is best.
//!
//! In this order: nodes where the service has not been failing; nodes that have not just refused this very slot; an even spread
//! over the preferences; the fewest replicas of the service, so that two of them land on two nodes; then the fullest node that
//! still fits, so that large replicas find room later; the fewest replicas in all; the lowest id.

use std::collections::BTreeMap;

use gantry_model::spec::{ConstraintKey, Preference};
use gantry_model::{DurationMs, NodeId, Timestamp};

use crate::Request;
use crate::constraint::attribute;
use crate::node_use::NodeUse;
use crate::reservation::Reservation;

/// Failures of a service on a node within [`FAILURE_WINDOW`] that put the node last, as in Swarm.
pub const FAILURES_MAX: u32 = 5;
/// How long a failure counts, as in Swarm.
pub const FAILURE_WINDOW: DurationMs = DurationMs::secs(5 * 60);

/// Everything that ranks one node; lower is better, compared field by field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    failing: bool,
    avoided: bool,
    /// Per preference: how many replicas the node's group has, of this revision and in all.
    groups: Vec<(u32, u32)>,
    of_service: (u32, u32),
    /// Fullness after placement, negated.
    packing: i64,
    replicas: u32,
    pub(crate) node: NodeId,
}

/// Replicas of the service per group of nodes, one map per preference; a group is a path of values from the first preference.
pub(crate) type Groups = Vec<BTreeMap<Path, (u32, u32)>>;
type Path = Vec<Option<String>>;

/// Counts the service's replicas in each group, over all nodes, whether or not they would do.
pub(crate) fn count_groups<'a>(nodes: impl Iterator<Item = &'a NodeUse>, request: &Request) -> Groups {
    let preferences = &request.spec.placement.preferences;
    let mut groups: Groups = vec![BTreeMap::new(); preferences.len()];
    if preferences.is_empty() {
        return groups;
    }
    for used in nodes {
        let (same, all) = used.wanted(request.service, request.revision);
        let path = path(used, preferences);
        for (level, counts) in groups.iter_mut().enumerate() {
            let count = counts.entry(path[..=level].to_vec()).or_default();
            *count = (count.0 + same, count.1 + all);
        }
    }
    groups
}

/// Ranks one node.
pub(crate) fn rank(used: &NodeUse, node: NodeId, request: &Request, context: &Context<'_>) -> Rank {
    let since = Timestamp(context.now.0.saturating_sub(FAILURE_WINDOW.0));
    let path = path(used, &request.spec.placement.preferences);
    let groups = context.groups.iter().enumerate();
    Rank {
        failing: used.failures_since(request.service, since) >= FAILURES_MAX,
        avoided: request.avoid.contains(&node),
        groups: groups
            .map(|(level, counts)| counts.get(&path[..=level]).copied().unwrap_or_default())
            .collect(),
        of_service: used.wanted(request.service, request.revision),
        packing: -fullness(used, context.reservation),
        replicas: used.replicas,
        node,
    }
}

/// What ranks of one request have in common.
pub(crate) struct Context<'a> {
    pub(crate) groups: &'a Groups,
    pub(crate) reservation: &'a Reservation,
    pub(crate) now: Timestamp,
}

fn path(used: &NodeUse, preferences: &[Preference]) -> Path {
    let value = |key: &ConstraintKey| {
        let node = used.node.as_ref()?;
        attribute(node, key).map(|value| value.to_ascii_lowercase())
    };
    preferences.iter().map(|Preference::Spread(key)| value(key)).collect()
}

/// Fullness after placement in thousandths: high when processor and memory are both used, and in balance. Nothing for a replica
/// that reserves nothing: its real load is unknown, so it goes where the fewest replicas are.
fn fullness(used: &NodeUse, reservation: &Reservation) -> i64 {
    let Some(node) = used.node.as_ref().filter(|_| reservation.has_weight()) else {
        return 0;
    };
    let cpu = permille((used.cpu + reservation.cpu).0, node.facts.cpu.0);
    let memory = permille((used.memory + reservation.memory).0, node.facts.memory.0);
    2 * (cpu + memory) - (cpu - memory).abs()
}

fn permille(part: u64, whole: u64) -> i64 {
    if whole == 0 {
        return 0;
    }
    let permille = u128::from(part) * 1000 / u128::from(whole);
    i64::try_from(permille).unwrap_or(i64::MAX / 4)
}
