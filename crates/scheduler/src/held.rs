//! What one placed replica takes from its node, and what the replicas of a service do on each node.
//!
//! **Invariant:** `take` followed by `give_back` of the same held replica restores the view exactly.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_model::{ServiceId, Timestamp};

use crate::nodes::NodeIx;
use crate::reservation::Reservation;

/// What a placed replica takes from its node, or leaves behind there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) node: NodeIx,
    pub(crate) service: ServiceId,
    pub(crate) revision: u32,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) reservation: Arc<Reservation>,
    /// It holds resources; otherwise only its address rests.
    pub(crate) holds: bool,
    /// It is wanted to run.
    pub(crate) wanted: bool,
    /// It serves.
    pub(crate) serves: bool,
    /// When it failed by itself, if it did.
    pub(crate) failed_at: Option<Timestamp>,
}

/// Replicas of one revision of a service on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Holding resources.
    pub(crate) holding: u32,
    /// Of these, wanted to run.
    pub(crate) wanted: u32,
}

/// Where the replicas of one service are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServiceUse {
    pub(crate) counts: BTreeMap<(NodeIx, u32), Count>,
    failures: BTreeMap<(NodeIx, Timestamp), u32>,
    /// Replicas that serve and are wanted.
    pub(crate) serving: u32,
}

impl ServiceUse {
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.failures.is_empty() && self.serving == 0
    }

    /// The nodes on which as many replicas as `most` failed since then, in order.
    pub(crate) fn failing(&self, since: Timestamp, most: u32) -> Vec<NodeIx> {
        let mut failing: Vec<(NodeIx, u32)> = Vec::new();
        for ((node, at), count) in &self.failures {
            if *at < since {
                continue;
            }
            match failing.last_mut() {
                Some((last, sum)) if last == node => *sum += count,
                Some(_) | None => failing.push((*node, *count)),
            }
        }
        failing.retain(|(_, sum)| *sum >= most);
        failing.into_iter().map(|(node, _)| node).collect()
    }

    pub(crate) fn take(&mut self, held: &Held) {
        if let Some(at) = held.failed_at {
            *self.failures.entry((held.node, at)).or_default() += 1;
        }
        if held.holds {
            let count = self.counts.entry((held.node, held.revision)).or_default();
            count.holding += 1;
            count.wanted += u32::from(held.wanted);
            self.serving += u32::from(held.wanted && held.serves);
        }
    }

    pub(crate) fn give_back(&mut self, held: &Held) {
        if let Some(at) = held.failed_at
            && let Some(count) = self.failures.get_mut(&(held.node, at))
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.failures.remove(&(held.node, at));
            }
        }
        if !held.holds {
            return;
        }
        self.serving = self.serving.saturating_sub(u32::from(held.wanted && held.serves));
        let key = (held.node, held.revision);
        if let Some(count) = self.counts.get_mut(&key) {
            count.holding = count.holding.saturating_sub(1);
            count.wanted = count.wanted.saturating_sub(u32::from(held.wanted));
            if *count == Count::default() {
                self.counts.remove(&key);
            }
        }
    }

    /// The failures with their nodes, for comparing two views.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (NodeIx, Timestamp, u32)> {
        self.failures.iter().map(|((node, at), count)| (*node, *at, *count))
    }
}
