//! The set of one node: what it was sent last, and the increments that follow.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::NodeId;
use gantry_model::assignment::{Item, ItemKey};
use gantry_state::{Change, State};

use super::items::{affected, all_keys, item};

/// What a node was sent.
#[derive(Debug)]
pub struct NodeSet {
    node: NodeId,
    number: u64,
    items: BTreeMap<ItemKey, Item>,
}

/// What to send next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Increment {
    /// The set it applies to; 0 makes it a complete set.
    pub applies_to: u64,
    /// The set it results in.
    pub results_in: u64,
    /// New and changed items.
    pub put: Vec<Item>,
    /// Items that are no longer in the set.
    pub remove: Vec<ItemKey>,
}

impl NodeSet {
    /// A complete set from the state.
    #[must_use]
    pub fn complete(state: &State, node: NodeId, number: u64) -> (Self, Increment) {
        let items: BTreeMap<ItemKey, Item> = all_keys(state, node)
            .into_iter()
            .filter_map(|key| item(state, node, &key).map(|item| (key, item)))
            .collect();
        let increment = Increment {
            applies_to: 0,
            results_in: number,
            put: items.values().cloned().collect(),
            remove: Vec::new(),
        };
        (Self { node, number, items }, increment)
    }

    /// The number of the set that was sent last.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The increment that `changes` make necessary; none when the node's set stays as it is.
    pub fn advance(&mut self, state: &State, changes: &[Change]) -> Option<Increment> {
        let keys: BTreeSet<ItemKey> = changes
            .iter()
            .flat_map(|change| affected(state, self.node, change))
            .collect();
        let mut put = Vec::new();
        let mut remove = Vec::new();
        for key in keys {
            match item(state, self.node, &key) {
                Some(item) if self.items.get(&key) != Some(&item) => {
                    self.items.insert(key, item.clone());
                    put.push(item);
                }
                Some(_) => {}
                None => {
                    if self.items.remove(&key).is_some() {
                        remove.push(key);
                    }
                }
            }
        }
        if put.is_empty() && remove.is_empty() {
            return None;
        }
        let applies_to = self.number;
        self.number += 1;
        Some(Increment {
            applies_to,
            results_in: self.number,
            put,
            remove,
        })
    }
}
