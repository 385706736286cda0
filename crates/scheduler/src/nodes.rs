//! The nodes, numbered densely, so that what is asked of all of them is a walk through memory.
//!
//! **Invariant:** the number of a node never changes while anything is known of it; it may be given again afterwards, which the
//! log of changed records shows.

use std::collections::BTreeMap;

use gantry_model::NodeId;
use gantry_model::object::Node;

use crate::id_map::IdMap;
use crate::node_use::{Hot, NodeUse};

/// The number of a node within one fleet.
pub(crate) type NodeIx = u32;

/// All nodes of which something is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nodes {
    numbers: IdMap<NodeId, NodeIx>,
    used: Vec<Option<NodeUse>>,
    hot: Vec<Hot>,
    free: Vec<NodeIx>,
    /// Nodes with replicas.
    in_use: u64,
    /// What the nodes that take replicas have together, and how many they are.
    capacity: Capacity,
    /// Numbers whose record changed, in order; what follows from records catches up with it.
    log: Vec<NodeIx>,
    /// How many entries of the log have been dropped.
    log_start: u64,
}

/// What nodes that take replicas have together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Capacity {
    pub(crate) nodes: u64,
    pub(crate) cpu: u64,
    pub(crate) memory: u64,
    pub(crate) cpu_taken: u64,
    pub(crate) memory_taken: u64,
}

impl Capacity {
    fn of(used: &NodeUse) -> Self {
        if !used.node.as_ref().is_some_and(Node::takes_replicas) {
            return Self::default();
        }
        Self {
            nodes: 1,
            cpu: used.cpu_allocatable.0,
            memory: used.memory_allocatable.0,
            cpu_taken: used.taken.cpu.0,
            memory_taken: used.taken.memory.0,
        }
    }

    fn replace(&mut self, before: Self, after: Self) {
        let fields = [
            (&mut self.nodes, before.nodes, after.nodes),
            (&mut self.cpu, before.cpu, after.cpu),
            (&mut self.memory, before.memory, after.memory),
            (&mut self.cpu_taken, before.cpu_taken, after.cpu_taken),
            (&mut self.memory_taken, before.memory_taken, after.memory_taken),
        ];
        for (field, before, after) in fields {
            *field = field.saturating_sub(before).saturating_add(after);
        }
    }

    /// Nodes of mean size without which what is taken and so much more cannot have room.
    pub(crate) fn nodes_needed(&self, cpu: u64, memory: u64) -> u64 {
        let needed = |taken: u64, whole: u64| {
            let nodes = u128::from(taken) * u128::from(self.nodes);
            u64::try_from(nodes.div_ceil(u128::from(whole.max(1)))).unwrap_or(u64::MAX)
        };
        needed(self.cpu_taken.saturating_add(cpu), self.cpu)
            .max(needed(self.memory_taken.saturating_add(memory), self.memory))
    }
}

/// Entries of the log kept, beyond as many as there are nodes.
const LOG_MIN: usize = 1024;

impl Nodes {
    /// Numbers run from 0 to one below this.
    pub(crate) fn len(&self) -> usize {
        self.used.len()
    }

    pub(crate) fn number(&self, id: NodeId) -> Option<NodeIx> {
        self.numbers.get(&id).copied()
    }

    pub(crate) fn get(&self, node: NodeIx) -> Option<&NodeUse> {
        self.used.get(node as usize)?.as_ref()
    }

    pub(crate) fn by_id(&self, id: NodeId) -> Option<&NodeUse> {
        self.get(self.number(id)?)
    }

    pub(crate) fn hot(&self) -> &[Hot] {
        &self.hot
    }

    /// How many nodes have replicas.
    pub(crate) const fn in_use(&self) -> u64 {
        self.in_use
    }

    pub(crate) const fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// All nodes in order of number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeIx, &NodeUse)> {
        let numbered = (0..).zip(&self.used);
        numbered.filter_map(|(number, used)| used.as_ref().map(|used| (number, used)))
    }

    /// The nodes in order of id.
    pub(crate) fn sorted(&self) -> BTreeMap<NodeId, NodeIx> {
        self.iter().map(|(number, used)| (used.id, number)).collect()
    }

    /// The number of a node, a new one if nothing is known of it yet.
    pub(crate) fn ensure(&mut self, id: NodeId) -> NodeIx {
        if let Some(number) = self.number(id) {
            return number;
        }
        let used = NodeUse::new(id);
        let hot = used.hot();
        let number = match self.free.pop() {
            Some(number) => {
                self.used[number as usize] = Some(used);
                self.hot[number as usize] = hot;
                number
            }
            None => {
                self.used.push(Some(used));
                self.hot.push(hot);
                NodeIx::try_from(self.used.len() - 1).expect("fewer nodes than addresses")
            }
        };
        self.numbers.insert(id, number);
        number
    }

    /// Takes over the record of a node, or that it is gone.
    pub(crate) fn set_record(&mut self, id: NodeId, node: Option<Node>) {
        let number = self.ensure(id);
        self.edit(number, |used| used.set_record(node));
        self.log(number);
        self.forget_if_empty(number);
    }

    /// Changes what is taken of a node.
    pub(crate) fn edit(&mut self, node: NodeIx, change: impl FnOnce(&mut NodeUse)) {
        let index = node as usize;
        if let Some(used) = self.used.get_mut(index).and_then(Option::as_mut) {
            let (before, was_used) = (Capacity::of(used), used.taken.replicas > 0);
            change(used);
            self.capacity.replace(before, Capacity::of(used));
            self.in_use = self.in_use + u64::from(used.taken.replicas > 0) - u64::from(was_used);
            self.hot[index] = used.hot();
        }
    }

    pub(crate) fn forget_if_empty(&mut self, node: NodeIx) {
        let index = node as usize;
        if let Some(id) = self.get(node).filter(|used| used.is_empty()).map(|used| used.id) {
            self.used[index] = None;
            self.hot[index] = Hot::default();
            self.numbers.remove(&id);
            self.free.push(node);
        }
    }

    fn log(&mut self, node: NodeIx) {
        if self.log.len() > LOG_MIN + self.used.len() {
            self.log_start += self.log.len() as u64;
            self.log.clear();
        }
        self.log.push(node);
    }

    /// The end of the log: who has seen everything has seen so much.
    pub(crate) fn seen_all(&self) -> u64 {
        self.log_start + self.log.len() as u64
    }

    /// The records that changed since; none when that is too long ago to tell.
    pub(crate) fn changed_since(&self, seen: u64) -> Option<&[NodeIx]> {
        let from = usize::try_from(seen.checked_sub(self.log_start)?).ok()?;
        self.log.get(from..)
    }
}
