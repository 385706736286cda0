//! Everything that decides about a group of like replicas, gathered once for all of them.
//!
//! Only two things change while a group is placed: what is taken of the nodes, and the counts of the service itself.

use std::sync::Arc;

use gantry_model::spec::{ConstraintKey, Mode, NeighbourRule, Strategy};
use gantry_model::{ServiceId, Timestamp};

use crate::Fleet;
use crate::held::Count;
use crate::nodes::NodeIx;
use crate::place::Request;
use crate::reservation::Reservation;
use crate::score::{Candidate, FAILURE_WINDOW, FAILURES_MAX, Scale};
use crate::topology::{ROOT, Topology};

/// What is known before the first replica of a group is placed.
#[derive(Debug)]
pub(crate) struct Ground<'a> {
    pub(crate) request: &'a Request,
    pub(crate) reservation: Arc<Reservation>,
    pub(crate) platform: Option<String>,
    pub(crate) scale: Scale,
    /// Nodes where the service keeps failing, in order.
    pub(crate) failing: Vec<NodeIx>,
    pub(crate) avoid: Vec<NodeIx>,
    /// Where the slot's volumes are.
    pub(crate) volumes_on: Vec<NodeIx>,
    pub(crate) neighbours: Vec<NeighbourView>,
    /// All nodes are of one tier unless somebody wishes otherwise.
    pub(crate) is_plain: bool,
    /// Empty nodes that may come into use, in order.
    pub(crate) fresh: Vec<NodeIx>,
    /// Nodes that have the image, in order.
    image_on: Vec<NodeIx>,
    counts: Vec<CountAt>,
}

/// Replicas of the service on a node.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CountAt {
    /// Wanted, of the same revision.
    pub(crate) same: u32,
    /// Wanted.
    pub(crate) all: u32,
    /// Holding resources.
    pub(crate) holding: u32,
}

/// One rule about another service, seen from each node.
#[derive(Debug)]
pub(crate) struct NeighbourView {
    pub(crate) rule: NeighbourRule,
    /// In words, as in `db` or `db within node.labels.zone`.
    pub(crate) name: String,
    near: Vec<bool>,
}

impl NeighbourView {
    pub(crate) fn is_near(&self, node: NodeIx) -> bool {
        self.near.get(node as usize).copied().unwrap_or(false)
    }

    pub(crate) fn weight(&self, node: NodeIx) -> i32 {
        match self.rule {
            NeighbourRule::Weight(weight) if self.is_near(node) => weight,
            NeighbourRule::Weight(_) | NeighbourRule::With | NeighbourRule::Apart => 0,
        }
    }
}

impl Ground<'_> {
    pub(crate) fn count(&self, node: NodeIx) -> CountAt {
        self.counts.get(node as usize).copied().unwrap_or_default()
    }

    pub(crate) fn has_image(&self, node: NodeIx) -> bool {
        !self.image_on.is_empty() && self.image_on.binary_search(&node).is_ok()
    }

    /// One more replica of the service is on the node.
    pub(crate) fn note_placed(&mut self, node: NodeIx) {
        if let Some(count) = self.counts.get_mut(node as usize) {
            count.same += 1;
            count.all += 1;
            count.holding += 1;
        }
    }

    /// Replicas per group of a topology: of this revision in the upper half, of all in the lower.
    pub(crate) fn counts_in(&self, topology: &Topology) -> Vec<u64> {
        let mut counts = vec![0; topology.len()];
        for (node, count) in (0..).zip(&self.counts).filter(|(_, count)| count.all > 0) {
            for domain in topology.chain(topology.leaf(node)) {
                counts[domain as usize] += u64::from(count.same) << 32 | u64::from(count.all);
            }
        }
        counts
    }
}

impl Fleet {
    /// Looks at the cluster with the eyes of one request.
    pub(crate) fn survey<'a>(&mut self, request: &'a Request, now: Timestamp) -> Ground<'a> {
        let spec = &request.spec;
        let reservation = self.reservation_of(request.service, spec);
        let image = spec
            .container
            .image_digest
            .as_ref()
            .and_then(|digest| self.images.get(digest));
        let replicas = match spec.mode {
            Mode::Replicated { replicas } => replicas,
            Mode::ReplicatedJob { completions, .. } => completions,
            Mode::Global | Mode::GlobalJob => 1,
        };
        let numbers = |ids: &[gantry_model::NodeId]| -> Vec<NodeIx> {
            ids.iter().filter_map(|id| self.nodes.number(*id)).collect()
        };
        let since = Timestamp(now.0.saturating_sub(FAILURE_WINDOW.0));
        let used = self.services.get(&request.service);
        let mut image_on: Vec<NodeIx> = image
            .iter()
            .flat_map(|image| &image.nodes)
            .filter_map(|id| self.nodes.number(*id))
            .collect();
        image_on.sort_unstable();
        let mut ground = Ground {
            request,
            platform: image.map(|image| image.platform.clone()),
            scale: Scale::new(spec.placement.strategy.unwrap_or(self.strategy), replicas, &reservation),
            reservation: Arc::new(reservation),
            failing: used.map_or_else(Vec::new, |used| used.failing(since, FAILURES_MAX)),
            avoid: numbers(&request.avoid),
            volumes_on: numbers(&request.volumes_on),
            neighbours: Vec::new(),
            is_plain: true,
            fresh: Vec::new(),
            image_on,
            counts: self.counts_of(request),
        };
        ground.neighbours = self.neighbours(request);
        ground.is_plain = ground.failing.is_empty()
            && ground.avoid.is_empty()
            && ground.volumes_on.is_empty()
            && ground.neighbours.is_empty();
        ground
    }

    /// The empty nodes that come into use for this group, since the batch cannot do with fewer than `needed`.
    pub(crate) fn fresh_for(&mut self, ground: &Ground<'_>, needed: u64) -> Vec<NodeIx> {
        let packs = ground.scale.weighted && ground.scale.strategy == Strategy::Binpack;
        let more = usize::try_from(needed.saturating_sub(self.nodes.in_use())).unwrap_or(usize::MAX);
        if !packs || more == 0 {
            return Vec::new();
        }
        let placement = &ground.request.spec.placement;
        let service = (ground.request.service, ground.request.revision);
        let class = self
            .classes
            .of(service, placement, ground.platform.as_deref(), &self.nodes);
        let hot = self.nodes.hot();
        let empty = |node: &NodeIx| hot.get(*node as usize).is_some_and(|hot| hot.replicas == 0);
        let mut fresh: Vec<(u64, NodeIx)> = class
            .eligible()
            .filter(empty)
            .map(|node| (hot[node as usize].id, node))
            .collect();
        fresh.sort_unstable();
        fresh.truncate(more);
        let mut fresh: Vec<NodeIx> = fresh.into_iter().map(|(_, node)| node).collect();
        fresh.sort_unstable();
        fresh
    }

    fn counts_of(&self, request: &Request) -> Vec<CountAt> {
        let mut counts = vec![CountAt::default(); self.nodes.len()];
        let used = self.services.get(&request.service);
        for ((node, revision), count) in used.iter().flat_map(|used| &used.counts) {
            let at = &mut counts[*node as usize];
            at.holding += count.holding;
            at.all += count.wanted;
            if *revision == request.revision {
                at.same += count.wanted;
            }
        }
        counts
    }

    /// The rules about other services, and those of others that want to be apart from this one.
    fn neighbours(&mut self, request: &Request) -> Vec<NeighbourView> {
        let mut views = Vec::new();
        for neighbour in &request.spec.placement.neighbours {
            let other = self.service_named(&request.namespace, &neighbour.service);
            views.push(NeighbourView {
                rule: neighbour.rule,
                name: in_words(neighbour.service.as_str(), neighbour.within.as_ref()),
                near: self.near(other, neighbour.rule, neighbour.within.as_ref()),
            });
        }
        let shy = self.apart_from(&request.namespace, &request.service_name);
        for (other, name, within) in shy.into_iter().filter(|(other, ..)| *other != request.service) {
            views.push(NeighbourView {
                rule: NeighbourRule::Apart,
                name: in_words(&name, within.as_ref()),
                near: self.near(Some(other), NeighbourRule::Apart, within.as_ref()),
            });
        }
        views
    }

    /// Which nodes have a replica of the service in their neighbourhood.
    fn near(&mut self, service: Option<ServiceId>, rule: NeighbourRule, within: Option<&ConstraintKey>) -> Vec<bool> {
        let mut near = vec![false; self.nodes.len()];
        let Some(used) = service.and_then(|service| self.services.get(&service)) else {
            return near;
        };
        // What is leaving still is in the way, and no company any more.
        let counts = |count: &Count| match rule {
            NeighbourRule::Apart => count.holding > 0,
            NeighbourRule::With | NeighbourRule::Weight(_) => count.wanted > 0,
        };
        let here = used.counts.iter().filter(|(_, count)| counts(count));
        let here = here.map(|((node, _), _)| *node);
        let Some(key) = within else {
            for node in here {
                near[node as usize] = true;
            }
            return near;
        };
        let topology = self.topologies.of(std::slice::from_ref(key), &self.nodes);
        let mut domains = vec![false; topology.len()];
        for node in here {
            domains[topology.leaf(node) as usize] = true;
        }
        // Nodes without the attribute are nobody's neighbours.
        domains[ROOT as usize] = false;
        if let Some(nowhere) = topology.without_value() {
            domains[nowhere as usize] = false;
        }
        for (node, near) in (0..).zip(near.iter_mut()) {
            *near = domains[topology.leaf(node) as usize];
        }
        near
    }

    /// The nodes that would do, with their rank.
    pub(crate) fn candidates(&mut self, ground: &Ground<'_>) -> Vec<Candidate> {
        let placement = &ground.request.spec.placement;
        let keys: Vec<ConstraintKey> = placement.preferences.iter().map(|one| one.key().clone()).collect();
        let service = (ground.request.service, ground.request.revision);
        let class = self
            .classes
            .of(service, placement, ground.platform.as_deref(), &self.nodes);
        let topology = (!keys.is_empty()).then(|| self.topologies.of(&keys, &self.nodes));
        let mut candidates = Vec::new();
        for node in class.eligible() {
            let allowed = ground.still_fits(node, &self.nodes) && ground.accepts_company(node);
            if !allowed {
                continue;
            }
            let Some(hot) = self.nodes.hot().get(node as usize) else {
                continue;
            };
            candidates.push(Candidate {
                tier: ground.tier(node, class.wish(node)),
                leaf: topology.map_or(ROOT, |topology| topology.leaf(node)),
                key: ground.key(node, hot),
            });
        }
        candidates
    }
}

fn in_words(service: &str, within: Option<&ConstraintKey>) -> String {
    match within {
        Some(key) => format!("{service} within {key}"),
        None => service.to_string(),
    }
}
