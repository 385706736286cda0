//! The nodes that would do, best first, kept in order while replicas are placed one after the other.
//!
//! A heap of nodes per innermost group, and a heap of groups per group around them. One placement changes one node and the
//! counts of the groups around it, so only the tops along one path are put back anew.
//!
//! **Invariant:** what comes out is what [`best_of`] finds by looking at all nodes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use gantry_model::spec::{PREFERENCES_MAX, Preference};

use crate::nodes::NodeIx;
use crate::score::{Candidate, NodeKey, Tier};
use crate::topology::{Domain, DomainIx, ROOT, Topology};

/// Counts of the groups around a node, outermost first.
type Levels = [u64; PREFERENCES_MAX];

/// The groups of one service's replicas.
#[derive(Debug)]
pub(crate) struct Groups {
    domains: Vec<Domain>,
    levels: usize,
    /// Replicas of the service: of this revision in the upper half, of all in the lower.
    counts: Vec<u64>,
    /// A node in it may be used by its record.
    eligible: Vec<bool>,
    skews: [Option<u32>; PREFERENCES_MAX],
}

impl Groups {
    /// No groups at all.
    pub(crate) fn none() -> Self {
        Self {
            domains: vec![Domain { parent: ROOT, depth: 0 }],
            levels: 0,
            counts: vec![0],
            eligible: vec![true],
            skews: [None; PREFERENCES_MAX],
        }
    }

    /// `eligible` are the nodes that may be used by their records.
    pub(crate) fn new(
        topology: &Topology,
        counts: Vec<u64>,
        preferences: &[Preference],
        eligible: impl Iterator<Item = NodeIx>,
    ) -> Self {
        let mut groups = Self {
            domains: (0..)
                .take(topology.len())
                .map(|domain| topology.domain(domain))
                .collect(),
            levels: topology.levels(),
            counts,
            eligible: vec![false; topology.len()],
            skews: [None; PREFERENCES_MAX],
        };
        for (skew, preference) in groups.skews.iter_mut().zip(preferences) {
            *skew = preference.max_skew();
        }
        for node in eligible {
            for domain in topology.chain(topology.leaf(node)) {
                groups.eligible[domain as usize] = true;
            }
        }
        groups
    }

    /// Whether some group may refuse for the sake of others.
    pub(crate) fn is_strict(&self) -> bool {
        self.skews.iter().any(Option::is_some)
    }

    fn same(&self, domain: DomainIx) -> u32 {
        (self.counts[domain as usize] >> 32) as u32
    }

    fn chain(&self, leaf: DomainIx) -> impl Iterator<Item = DomainIx> {
        std::iter::successors(Some(leaf), |domain| Some(self.domains[*domain as usize].parent))
            .take_while(|domain| *domain != ROOT)
    }

    fn levels_of(&self, leaf: DomainIx) -> Levels {
        let mut levels = Levels::default();
        for domain in self.chain(leaf) {
            levels[self.domains[domain as usize].depth - 1] = self.counts[domain as usize];
        }
        levels
    }

    /// The outermost level at which one more replica would put the group too far ahead of its siblings.
    pub(crate) fn too_far_ahead(&self, leaf: DomainIx) -> Option<usize> {
        let ahead = |domain: &DomainIx| {
            let Domain { parent, depth } = self.domains[*domain as usize];
            let skew = self.skews[depth - 1]?;
            let siblings = (0..).zip(&self.domains).filter(|(sibling, other)| {
                *sibling != ROOT && other.parent == parent && self.eligible[*sibling as usize]
            });
            let least = siblings.map(|(sibling, _)| self.same(sibling)).min()?;
            (self.same(*domain) + 1 - least.min(self.same(*domain)) > skew).then_some(depth - 1)
        };
        self.chain(leaf).filter_map(|domain| ahead(&domain)).min()
    }
}

/// The best candidate by looking at all of them.
pub(crate) fn best_of(candidates: &[Candidate], groups: &Groups) -> Option<Candidate> {
    let allowed = candidates
        .iter()
        .filter(|one| !groups.is_strict() || groups.too_far_ahead(one.leaf).is_none());
    allowed
        .min_by_key(|one| (one.tier, groups.levels_of(one.leaf), one.key))
        .copied()
}

/// A group as its siblings are compared with it: its count, then those within it, then its best node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Child {
    levels: Levels,
    node: NodeKey,
    domain: DomainIx,
}

/// Candidates in order.
#[derive(Debug)]
pub(crate) struct Queue {
    groups: Groups,
    /// Tiers still to come, the worst first.
    waiting: Vec<Candidate>,
    nodes: Vec<BinaryHeap<Reverse<NodeKey>>>,
    children: Vec<BinaryHeap<Reverse<Child>>>,
    /// The lowest count among the eligible groups within a group that have no candidate any more.
    spent: Vec<u32>,
}

impl Queue {
    pub(crate) fn new(mut candidates: Vec<Candidate>, groups: Groups) -> Self {
        let first = candidates.first().map(|one| one.tier);
        if candidates.iter().any(|one| Some(one.tier) != first) {
            candidates.sort_unstable_by_key(|one| Reverse(one.tier));
        }
        let domains = groups.domains.len();
        let mut queue = Self {
            waiting: candidates,
            nodes: Vec::new(),
            children: vec![BinaryHeap::new(); domains],
            spent: vec![u32::MAX; domains],
            groups,
        };
        queue.load_tier();
        queue
    }

    /// The best candidate.
    pub(crate) fn peek(&mut self) -> Option<(DomainIx, NodeKey)> {
        loop {
            match self.walk() {
                Walk::Found(leaf, node) => return Some((leaf, node)),
                Walk::TooFarAhead(domain) if domain != ROOT => self.put_back(domain, true),
                Walk::TooFarAhead(_) | Walk::Empty => {
                    self.waiting.last()?;
                    self.load_tier();
                }
            }
        }
    }

    /// The best candidate was taken; `again` is how it ranks now, if it still would do.
    pub(crate) fn settle(&mut self, leaf: DomainIx, again: Option<NodeKey>) {
        let heap = &mut self.nodes[leaf as usize];
        heap.pop();
        heap.extend(again.map(Reverse));
        let mut domain = leaf;
        while domain != ROOT {
            self.groups.counts[domain as usize] += 1 << 32 | 1;
            domain = self.groups.domains[domain as usize].parent;
        }
        let mut domain = leaf;
        while domain != ROOT {
            let parent = self.groups.domains[domain as usize].parent;
            self.put_back(domain, false);
            domain = parent;
        }
    }

    fn walk(&self) -> Walk {
        let mut domain = ROOT;
        loop {
            let depth = self.groups.domains[domain as usize].depth;
            if depth == self.groups.levels {
                let top = self.nodes[domain as usize].peek();
                return top.map_or(Walk::Empty, |Reverse(node)| Walk::Found(domain, *node));
            }
            let Some(Reverse(child)) = self.children[domain as usize].peek() else {
                return Walk::Empty;
            };
            let same = self.groups.same(child.domain);
            let least = same.min(self.spent[domain as usize]);
            if self.groups.skews[depth].is_some_and(|skew| same + 1 - least > skew) {
                return Walk::TooFarAhead(domain);
            }
            domain = child.domain;
        }
    }

    /// Takes the group, the first among its siblings, out of their order, and in again at its place unless it has nothing more.
    fn put_back(&mut self, domain: DomainIx, is_spent: bool) {
        let parent = self.groups.domains[domain as usize].parent;
        self.children[parent as usize].pop();
        if is_spent {
            self.children[domain as usize].clear();
        }
        self.enter(domain);
    }

    /// Puts a group among its siblings, or among the spent ones.
    fn enter(&mut self, domain: DomainIx) {
        let parent = self.groups.domains[domain as usize].parent;
        match self.as_child(domain) {
            Some(child) => self.children[parent as usize].push(Reverse(child)),
            None if self.groups.eligible[domain as usize] => {
                let spent = &mut self.spent[parent as usize];
                *spent = (*spent).min(self.groups.same(domain));
            }
            None => {}
        }
    }

    fn as_child(&self, domain: DomainIx) -> Option<Child> {
        let depth = self.groups.domains[domain as usize].depth;
        let (mut levels, node) = if depth == self.groups.levels {
            let Reverse(node) = self.nodes[domain as usize].peek()?;
            (Levels::default(), *node)
        } else {
            let Reverse(best) = self.children[domain as usize].peek()?;
            (best.levels, best.node)
        };
        levels[depth - 1] = self.groups.counts[domain as usize];
        Some(Child { levels, node, domain })
    }

    /// Brings in the next tier.
    fn load_tier(&mut self) {
        let Some(tier) = self.waiting.last().map(|one| one.tier) else {
            self.nodes = vec![BinaryHeap::new(); self.groups.domains.len()];
            return;
        };
        let from = self.waiting.partition_point(|one| is_worse(one.tier, tier));
        let mut nodes: Vec<Vec<Reverse<NodeKey>>> = vec![Vec::new(); self.groups.domains.len()];
        for one in self.waiting.drain(from..) {
            nodes[one.leaf as usize].push(Reverse(one.key));
        }
        self.nodes = nodes.into_iter().map(BinaryHeap::from).collect();
        self.children.iter_mut().for_each(BinaryHeap::clear);
        self.spent.fill(u32::MAX);
        // Groups are numbered after those they lie in.
        for domain in (ROOT + 1..)
            .take(self.groups.domains.len() - 1)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            self.enter(domain);
        }
    }
}

fn is_worse(one: Tier, than: Tier) -> bool {
    one > than
}

enum Walk {
    Found(DomainIx, NodeKey),
    /// The best group within this one may not get more.
    TooFarAhead(DomainIx),
    Empty,
}
