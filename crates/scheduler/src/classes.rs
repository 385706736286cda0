//! Which nodes a kind of service may use by their records alone, kept so that it is not asked again for every replica.
//!
//! Services with the same constraints, tolerations, wishes and platform share a class. A class catches up with the records that
//! changed since it was last used, so that its cost follows the changes.

use gantry_model::ServiceId;
use gantry_model::object::Node;
use gantry_model::spec::{Placement, TaintEffect, WEIGHT_MAX};
use std::collections::HashMap;

use crate::constraint::{barrier, holds, untolerated};
use crate::id_map::IdMap;
use crate::nodes::{NodeIx, Nodes};

/// Classes kept at most: a class of 10,000 nodes takes 1 to 21 KB.
const CLASSES_MAX: usize = 4096;

/// All classes in use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Classes {
    classes: Vec<Class>,
    by_content: HashMap<String, usize>,
    by_service: IdMap<(ServiceId, u32), usize>,
}

/// The nodes as services of one kind see them.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    placement: Placement,
    platform: Option<String>,
    /// One bit per node: it may be used.
    eligible: Vec<u64>,
    /// Sum of weights per node; empty when nothing is wished for.
    wishes: Vec<i32>,
    /// How much of the log of changed records has been seen.
    seen: Option<u64>,
}

impl Classes {
    pub(crate) fn forget_service(&mut self, service: ServiceId, revision: u32) {
        self.by_service.remove(&(service, revision));
    }

    /// The class of a service's revision, up to date with the nodes.
    pub(crate) fn of(
        &mut self,
        key: (ServiceId, u32),
        placement: &Placement,
        platform: Option<&str>,
        nodes: &Nodes,
    ) -> &Class {
        let known = self.by_service.get(&key).copied();
        let same = known.filter(|index| self.classes[*index].is_for(placement, platform));
        let index = match same {
            Some(index) => index,
            None => {
                let index = self.find(placement, platform);
                self.by_service.insert(key, index);
                index
            }
        };
        let class = &mut self.classes[index];
        class.catch_up(nodes);
        class
    }

    fn find(&mut self, placement: &Placement, platform: Option<&str>) -> usize {
        if self.classes.len() >= CLASSES_MAX {
            *self = Self::default();
        }
        let content = format!(
            "{:?} {:?} {:?} {platform:?}",
            placement.constraints, placement.tolerations, placement.affinities
        );
        if let Some(index) = self.by_content.get(&content) {
            return *index;
        }
        self.classes.push(Class {
            placement: Placement {
                constraints: placement.constraints.clone(),
                tolerations: placement.tolerations.clone(),
                affinities: placement.affinities.clone(),
                ..Placement::default()
            },
            platform: platform.map(str::to_string),
            eligible: Vec::new(),
            wishes: Vec::new(),
            seen: None,
        });
        let index = self.classes.len() - 1;
        self.by_content.insert(content, index);
        index
    }
}

impl Class {
    fn is_for(&self, placement: &Placement, platform: Option<&str>) -> bool {
        self.placement.constraints == placement.constraints
            && self.placement.tolerations == placement.tolerations
            && self.placement.affinities == placement.affinities
            && self.platform.as_deref() == platform
    }

    fn catch_up(&mut self, nodes: &Nodes) {
        match self.seen.and_then(|seen| nodes.changed_since(seen)) {
            Some(changed) => {
                for &node in changed {
                    self.look_at(node, nodes);
                }
            }
            None => {
                self.eligible.clear();
                self.wishes.clear();
                for (node, _) in nodes.iter() {
                    self.look_at(node, nodes);
                }
            }
        }
        self.seen = Some(nodes.seen_all());
    }

    fn look_at(&mut self, node: NodeIx, nodes: &Nodes) {
        let record = nodes.get(node).and_then(|used| used.node.as_ref());
        let eligible = record.is_some_and(|record| self.admits(record));
        let (word, bit) = (node as usize / 64, 1 << (node % 64));
        if self.eligible.len() <= word {
            self.eligible.resize(nodes.len() / 64 + 1, 0);
        }
        if eligible {
            self.eligible[word] |= bit;
        } else {
            self.eligible[word] &= !bit;
        }
        let wish = record
            .filter(|_| eligible)
            .map_or(0, |record| wish(record, &self.placement));
        if wish != 0 && self.wishes.len() <= node as usize {
            self.wishes.resize(nodes.len().max(node as usize + 1), 0);
        }
        if let Some(slot) = self.wishes.get_mut(node as usize) {
            *slot = wish;
        }
    }

    fn admits(&self, record: &Node) -> bool {
        let platform = self.platform.as_deref();
        record.takes_replicas() && barrier(record, &self.placement, platform, TaintEffect::NoSchedule).is_none()
    }

    /// The nodes that may be used, in order of number.
    pub(crate) fn eligible(&self) -> impl Iterator<Item = NodeIx> {
        let words = (0u32..).zip(&self.eligible);
        words.flat_map(|(index, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                (rest != 0).then(|| {
                    rest &= rest - 1;
                    index * 64 + bit
                })
            })
        })
    }

    /// Sum of the weights of the wishes that a node fulfils.
    pub(crate) fn wish(&self, node: NodeIx) -> i32 {
        self.wishes.get(node as usize).copied().unwrap_or(0)
    }
}

/// Weights of the wishes that hold, less the largest weight for each mild taint.
pub(crate) fn wish(node: &Node, placement: &Placement) -> i32 {
    let held = placement.affinities.iter().filter(|one| holds(&one.constraint, node));
    let weights: i32 = held.map(|one| one.weight).sum();
    let mild = untolerated(node, &placement.tolerations).filter(|taint| taint.effect == TaintEffect::PreferNoSchedule);
    let mild = i32::try_from(mild.count()).unwrap_or(i32::MAX / WEIGHT_MAX);
    weights.saturating_sub(mild.saturating_mul(WEIGHT_MAX))
}
