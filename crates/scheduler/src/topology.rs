//! The nodes in groups within groups, by the values of their attributes: zones, racks in zones, and so on.
//!
//! Groups are numbered densely; 0 is the whole cluster. A node without the attribute is in a group of its own kind.

use std::collections::BTreeMap;

use gantry_model::object::Node;
use gantry_model::spec::ConstraintKey;

use crate::constraint::attribute;
use crate::nodes::{NodeIx, Nodes};

/// Topologies kept at most; each takes some bytes per node.
const TOPOLOGIES_MAX: usize = 256;

/// The number of a group within one topology.
pub(crate) type DomainIx = u32;

/// The group of everything.
pub(crate) const ROOT: DomainIx = 0;

/// All topologies in use, by the attributes that make them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Topologies {
    by_keys: BTreeMap<Vec<ConstraintKey>, Topology>,
}

impl Topologies {
    /// The topology by these attributes as it was when it was last used.
    pub(crate) fn known(&self, keys: &[ConstraintKey]) -> Option<&Topology> {
        self.by_keys.get(keys)
    }

    /// The topology by these attributes, up to date with the nodes.
    pub(crate) fn of(&mut self, keys: &[ConstraintKey], nodes: &Nodes) -> &Topology {
        if self.by_keys.len() >= TOPOLOGIES_MAX && !self.by_keys.contains_key(keys) {
            self.by_keys.clear();
        }
        let topology = self
            .by_keys
            .entry(keys.to_vec())
            .or_insert_with(|| Topology::new(keys.to_vec()));
        topology.catch_up(nodes);
        topology
    }
}

/// Groups of nodes by some attributes.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    keys: Vec<ConstraintKey>,
    domains: Vec<Domain>,
    by_value: BTreeMap<(DomainIx, Option<String>), DomainIx>,
    /// The innermost group of each node.
    leaf_of: Vec<DomainIx>,
    seen: Option<u64>,
}

/// One group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Domain {
    pub(crate) parent: DomainIx,
    /// 0 is the whole cluster.
    pub(crate) depth: usize,
}

impl Topology {
    fn new(keys: Vec<ConstraintKey>) -> Self {
        Self {
            keys,
            domains: vec![Domain { parent: ROOT, depth: 0 }],
            by_value: BTreeMap::new(),
            leaf_of: Vec::new(),
            seen: None,
        }
    }

    fn catch_up(&mut self, nodes: &Nodes) {
        match self.seen.and_then(|seen| nodes.changed_since(seen)) {
            Some(changed) => {
                for &node in changed {
                    self.look_at(node, nodes);
                }
            }
            None => {
                *self = Self::new(std::mem::take(&mut self.keys));
                for (node, _) in nodes.iter() {
                    self.look_at(node, nodes);
                }
            }
        }
        self.seen = Some(nodes.seen_all());
    }

    fn look_at(&mut self, node: NodeIx, nodes: &Nodes) {
        let record = nodes.get(node).and_then(|used| used.node.as_ref());
        let mut domain = ROOT;
        for depth in 0..self.keys.len() {
            let value = record.and_then(|record| value(record, &self.keys[depth]));
            domain = self.child(domain, value);
        }
        if self.leaf_of.len() <= node as usize {
            self.leaf_of.resize(nodes.len().max(node as usize + 1), ROOT);
        }
        self.leaf_of[node as usize] = domain;
    }

    fn child(&mut self, parent: DomainIx, value: Option<String>) -> DomainIx {
        let next = DomainIx::try_from(self.domains.len()).expect("fewer groups than nodes were ever seen");
        let depth = self.domains[parent as usize].depth + 1;
        let domain = *self.by_value.entry((parent, value)).or_insert(next);
        if domain == next {
            self.domains.push(Domain { parent, depth });
        }
        domain
    }

    /// How many groups there are; they are numbered from 0 to one below this.
    pub(crate) fn len(&self) -> usize {
        self.domains.len()
    }

    /// How many attributes there are.
    pub(crate) fn levels(&self) -> usize {
        self.keys.len()
    }

    /// A group.
    pub(crate) fn domain(&self, domain: DomainIx) -> Domain {
        self.domains[domain as usize]
    }

    /// The innermost group of a node.
    pub(crate) fn leaf(&self, node: NodeIx) -> DomainIx {
        self.leaf_of.get(node as usize).copied().unwrap_or(ROOT)
    }

    /// The outermost group of nodes that do not have the attribute, if there are any.
    pub(crate) fn without_value(&self) -> Option<DomainIx> {
        self.by_value.get(&(ROOT, None)).copied()
    }

    /// A group and those it lies in, innermost first, without the whole cluster.
    pub(crate) fn chain(&self, domain: DomainIx) -> impl Iterator<Item = DomainIx> {
        std::iter::successors(Some(domain), |domain| Some(self.domains[*domain as usize].parent))
            .take_while(|domain| *domain != ROOT)
    }
}

/// The value of an attribute as groups are told apart: without regard to case.
pub(crate) fn value(node: &Node, key: &ConstraintKey) -> Option<String> {
    attribute(node, key).map(|value| value.to_ascii_lowercase())
}
