//! Which things of the store are live: pure, so that "nothing reachable is ever removed" can be tested for itself.

use std::collections::BTreeSet;

use gantry_model::Timestamp;

use crate::lease::{LeaseRecord, Node};

/// Everything that `roots` and the leases that have not expired reach over `edges`, themselves included. Edges may form
/// cycles; each node's are asked for once.
pub fn mark<'a>(
    roots: impl IntoIterator<Item = Node>,
    leases: impl IntoIterator<Item = &'a LeaseRecord>,
    now: Timestamp,
    mut edges: impl FnMut(Node) -> Vec<Node>,
) -> BTreeSet<Node> {
    let leased = leases.into_iter().filter(|lease| lease.expires_at > now);
    let leased = leased.flat_map(|lease| lease.nodes.iter().copied());
    let mut pending: Vec<Node> = roots.into_iter().chain(leased).collect();
    let mut live = BTreeSet::new();
    while let Some(node) = pending.pop() {
        if live.insert(node) {
            pending.extend(edges(node));
        }
    }
    live
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    use gantry_model::Digest;
    use proptest::prelude::*;

    fn node(number: u8) -> Node {
        let digest = Digest::from_bytes([number; 32]);
        match number % 3 {
            0 => Node::Manifest(digest),
            1 => Node::Blob(digest),
            _ => Node::Layer(digest),
        }
    }

    type Graph = BTreeMap<Node, Vec<Node>>;

    fn graph() -> impl Strategy<Value = Graph> {
        let edge = (0u8..30, 0u8..30);
        prop::collection::vec(edge, 0..80).prop_map(|edges| {
            let mut graph = Graph::new();
            for (from, to) in edges {
                graph.entry(node(from)).or_default().push(node(to));
            }
            graph
        })
    }

    fn lease() -> impl Strategy<Value = LeaseRecord> {
        (0u64..20, prop::collection::btree_set(0u8..30, 0..4)).prop_map(|(expires_at, nodes)| LeaseRecord {
            expires_at: Timestamp(expires_at),
            nodes: nodes.into_iter().map(node).collect(),
        })
    }

    /// Reachable by the definition: one more step as long as that finds something.
    fn reachable(start: &BTreeSet<Node>, graph: &Graph) -> BTreeSet<Node> {
        let mut found = start.clone();
        loop {
            let next: BTreeSet<_> = found
                .iter()
                .filter_map(|node| graph.get(node))
                .flatten()
                .copied()
                .collect();
            let before = found.len();
            found.extend(next);
            if found.len() == before {
                return found;
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_reachable_is_live_and_nothing_else(
            graph in graph(), roots in prop::collection::btree_set(0u8..30, 0..5),
            leases in prop::collection::vec(lease(), 0..4), now in 0u64..20,
        ) {
            let roots: BTreeSet<_> = roots.into_iter().map(node).collect();
            let live = mark(roots.clone(), &leases, Timestamp(now), |node| graph.get(&node).cloned().unwrap_or_default());
            let mut start = roots;
            for lease in leases.iter().filter(|lease| lease.expires_at.0 > now) {
                start.extend(&lease.nodes);
            }
            prop_assert_eq!(live, reachable(&start, &graph));
        }

        #[test]
        fn one_more_root_never_makes_less_live(
            graph in graph(), roots in prop::collection::btree_set(0u8..30, 0..5), more in 0u8..30,
        ) {
            let edges = |node: Node| graph.get(&node).cloned().unwrap_or_default();
            let before = mark(roots.iter().copied().map(node), &[], Timestamp(0), edges);
            let after = mark(roots.iter().copied().chain([more]).map(node), &[], Timestamp(0), edges);
            prop_assert!(after.is_superset(&before) && after.contains(&node(more)));
        }
    }
}
