//! Which of the nodes that would do is best.
//!
//! In this order: nodes where the service has not been failing; nodes that have not just refused this very slot; the node of
//! the slot's volumes; the most wishes fulfilled; an even spread over the preferences; the fewest replicas of the service, in
//! steps of a tenth of it; then, by the strategy, the emptiest node or the one that is packed best; the fewest replicas in all;
//! the lowest id.
//!
//! Packed best is, among the nodes in use, the one whose free resources are most in the proportion that is asked for, since a node
//! whose memory is full and whose processor idles is a waste of the latter; of several the fullest. Empty nodes come into use
//! when nothing else fits, or when a batch as a whole cannot do with fewer: then it may mix from the start what goes well
//! together. On mixes of sizes from real clusters that comes within 1.2 % of a lower bound, where first-fit-decreasing is
//! 10 to 14 % above it (`examples/scale`).

use gantry_model::spec::Strategy;
use gantry_model::{DurationMs, NodeId};

use crate::ground::{CountAt, Ground};
use crate::node_use::Hot;
use crate::nodes::NodeIx;
use crate::reservation::Reservation;
use crate::topology::DomainIx;

/// Failures of a service on a node within [`FAILURE_WINDOW`] that put the node last, as in Swarm.
pub const FAILURES_MAX: u32 = 5;
/// How long a failure counts, as in Swarm.
pub const FAILURE_WINDOW: DurationMs = DurationMs::secs(5 * 60);

/// Losing one node costs at most one part in so many of a packed service, as long as there are other nodes.
const SHARES: u32 = 10;

/// An image that is there already makes up for so many replicas of others, where nothing is reserved.
const IMAGE_WORTH_REPLICAS: u32 = 2;

/// An image that is there already makes a node look so much fuller, in thousandths of the whole scale.
const IMAGE_WORTH_PERMILLE: u32 = 20;

/// The scale of fullness.
const FULL: u32 = 1 << 20;

/// Steps in which the match of proportions is told apart; within one step the fullest node is best. 16 to 256 pack alike.
const MATCH_STEPS: f64 = 64.0;

/// Added for an empty node that need not come into use.
const FRESH: u32 = 1 << 30;

/// What is the same for many nodes; lower is better, and nothing in it changes while replicas of the service are placed.
pub(crate) type Tier = u64;

/// What ranks one node among others of its tier and group; lower is better, compared field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeKey {
    /// Replicas of the service: of this revision in the upper half, of all in the lower, in shares.
    level: u64,
    packing: u32,
    replicas: u32,
    id: NodeId,
    pub(crate) node: NodeIx,
}

/// A node that would do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) tier: Tier,
    pub(crate) leaf: DomainIx,
    pub(crate) key: NodeKey,
}

/// What of the rank follows from the service alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) strategy: Strategy,
    /// Replicas of the service on one node that count as one step.
    pub(crate) share: u32,
    /// Whether anything that can be packed is reserved.
    pub(crate) weighted: bool,
}

impl Scale {
    /// `replicas` are those that the service wants.
    pub(crate) fn new(strategy: Strategy, replicas: u32, reservation: &Reservation) -> Self {
        let weighted = reservation.has_weight();
        let packed = weighted && strategy == Strategy::Binpack;
        Self {
            strategy,
            share: if packed { replicas.div_ceil(SHARES).max(1) } else { 1 },
            weighted,
        }
    }

    fn level(self, count: CountAt) -> u64 {
        if count.all == 0 {
            return 0;
        }
        let steps = |count: u32| u64::from(count / self.share);
        steps(count.same) << 32 | steps(count.all)
    }
}

impl Ground<'_> {
    /// Ranks a node within its tier and group.
    pub(crate) fn key(&self, node: NodeIx, hot: &Hot) -> NodeKey {
        let has_image = self.has_image(node);
        let (packing, strangeness) = match (self.scale.weighted, self.scale.strategy) {
            (false, _) if has_image => (0, 0),
            (false, _) => (0, IMAGE_WORTH_REPLICAS),
            (true, Strategy::Spread) => (fullness(hot, &self.reservation), 0),
            (true, Strategy::Binpack) => (self.packing(node, hot, has_image), 0),
        };
        NodeKey {
            level: self.scale.level(self.count(node)),
            packing,
            replicas: hot.replicas.saturating_add(strangeness),
            id: NodeId(hot.id),
            node,
        }
    }

    fn packing(&self, node: NodeIx, hot: &Hot, has_image: bool) -> u32 {
        let bonus = if has_image {
            FULL * IMAGE_WORTH_PERMILLE / 1000
        } else {
            0
        };
        let full = (fullness(hot, &self.reservation) + bonus).min(FULL);
        let fresh = hot.replicas == 0 && self.fresh.binary_search(&node).is_err();
        (u32::from(fresh) * FRESH) | (mismatch(hot, &self.reservation) << 22) | (FULL - full)
    }

    /// What puts a node before or behind whole groups of others.
    pub(crate) fn tier(&self, node: NodeIx, wish: i32) -> Tier {
        if self.is_plain && wish == 0 {
            return PLAIN_TIER;
        }
        let weights = self.neighbours.iter().map(|neighbour| neighbour.weight(node));
        let wish = i64::from(wish).saturating_add(weights.map(i64::from).sum());
        let from_best = WISH_MIDDLE.saturating_sub_signed(wish.clamp(-WISH_LIMIT, WISH_LIMIT));
        let has_volume = self.volumes_on.contains(&node);
        u64::from(self.failing.binary_search(&node).is_ok()) << 63
            | u64::from(self.avoid.contains(&node)) << 62
            | u64::from(!has_volume) << 61
            | from_best
    }
}

const WISH_LIMIT: i64 = 1 << 40;
const WISH_MIDDLE: u64 = 1 << 41;

/// The tier of a node about which nothing is to be said.
const PLAIN_TIER: Tier = 1 << 61 | WISH_MIDDLE;

/// Fullness after placement, the mean of processor and memory.
fn fullness(hot: &Hot, reservation: &Reservation) -> u32 {
    let cpu = (hot.cpu_taken + reservation.cpu.0) as f64 * hot.cpu_scale;
    let memory = (hot.memory_taken + reservation.memory.0) as f64 * hot.memory_scale;
    ((cpu + memory) * 0.5 * f64::from(FULL)) as u32
}

/// How far the proportion of what is free is from that of what is asked for: the cosine of the angle between them, in steps, 0
/// where they are the same.
fn mismatch(hot: &Hot, reservation: &Reservation) -> u32 {
    let (cpu, memory) = (
        reservation.cpu.0 as f64 * hot.cpu_scale,
        reservation.memory.0 as f64 * hot.memory_scale,
    );
    let (cpu_free, memory_free) = (
        hot.cpu_free as f64 * hot.cpu_scale,
        hot.memory_free as f64 * hot.memory_scale,
    );
    let lengths = (cpu * cpu + memory * memory) * (cpu_free * cpu_free + memory_free * memory_free);
    if lengths <= 0.0 {
        return MATCH_STEPS as u32;
    }
    let cosine = (cpu * cpu_free + memory * memory_free) / lengths.sqrt();
    (MATCH_STEPS - (cosine * MATCH_STEPS).floor()) as u32
}
