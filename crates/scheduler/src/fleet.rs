//! The nodes and what is reserved on them, kept in step with the state.
//!
//! **Invariant:** a fleet that followed all changes equals one built from the resulting state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_model::object::{ImageRecord, Replica, Service};
use gantry_model::phase::{Desired, Phase};
use gantry_model::spec::{ConstraintKey, NeighbourRule, PortSpec, ServiceSpec, Strategy};
use gantry_model::{Name, NodeId, ReplicaId, ServiceId};
use gantry_state::{Change, Key, Object, State};

use crate::classes::Classes;
use crate::held::{Held, ServiceUse};
use crate::id_map::IdMap;
use crate::nodes::Nodes;
use crate::place::{Decision, Placed, Request};
use crate::reservation::Reservation;
use crate::topology::Topologies;

/// A view of the cluster for placing replicas. A clone is independent: what is placed on it is a "what if".
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    pub(crate) nodes: Nodes,
    /// What matters of each image, by manifest digest.
    pub(crate) images: BTreeMap<String, Image>,
    /// How nodes are filled unless a service says otherwise.
    pub(crate) strategy: Strategy,
    pub(crate) held: IdMap<ReplicaId, Held>,
    pub(crate) services: IdMap<ServiceId, ServiceUse>,
    specs: BTreeMap<(ServiceId, u32), Arc<ServiceSpec>>,
    reservations: BTreeMap<(ServiceId, u32), Arc<Reservation>>,
    pub(crate) known: BTreeMap<ServiceId, Known>,
    names: BTreeMap<(Name, Name), ServiceId>,
    /// Services that want to be apart from the one of this name.
    shy: BTreeMap<(Name, Name), BTreeSet<ServiceId>>,
    /// Replicas whose revision has not been seen yet.
    unknown: BTreeMap<(ServiceId, u32), BTreeSet<ReplicaId>>,
    /// What follows from all this and is kept for speed.
    pub(crate) classes: Classes,
    pub(crate) topologies: Topologies,
}

/// What matters of an image's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) platform: String,
    pub(crate) nodes: BTreeSet<NodeId>,
}

impl Image {
    fn of(record: &ImageRecord) -> Self {
        Self {
            platform: record.platform.clone(),
            nodes: record.nodes.clone(),
        }
    }
}

/// What matters of a service's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) namespace: Name,
    pub(crate) name: Name,
    ports: Vec<PortSpec>,
    pub(crate) spec: Arc<ServiceSpec>,
}

impl Fleet {
    /// The view of a whole state; afterwards follow the changes with [`Fleet::apply`].
    #[must_use]
    pub fn from_state(state: &State) -> Self {
        let mut fleet = Self {
            strategy: state
                .cluster()
                .map_or_else(Strategy::default, |one| one.config.placement),
            ..Self::default()
        };
        for node in state.nodes() {
            fleet.nodes.set_record(node.id, Some(node.clone()));
        }
        for image in state.images() {
            fleet.images.insert(image.digest.clone(), Image::of(image));
        }
        for service in state.services() {
            fleet.know(service);
        }
        for revision in state.revisions() {
            fleet
                .specs
                .insert((revision.service, revision.number), revision.spec.clone());
        }
        for replica in state.replicas() {
            fleet.follow_replica(replica);
        }
        fleet
    }

    /// Follows one change of the state.
    pub fn apply(&mut self, change: &Change) {
        match (&change.key, change.after.as_deref()) {
            (_, Some(Object::Cluster(cluster))) => self.strategy = cluster.config.placement,
            (_, Some(Object::Node(node))) => self.nodes.set_record(node.id, Some(node.clone())),
            (_, Some(Object::Replica(replica))) => self.follow_replica(replica),
            (_, Some(Object::Service(service))) => self.know(service),
            (_, Some(Object::Image(image))) => {
                self.images.insert(image.digest.clone(), Image::of(image));
            }
            (_, Some(Object::Revision(revision))) => {
                let key = (revision.service, revision.number);
                self.specs.insert(key, revision.spec.clone());
                self.reservations.remove(&key);
                self.recompute_unknown(key);
            }
            (Key::Cluster, None) => self.strategy = Strategy::default(),
            (Key::Node(id), None) => self.nodes.set_record(*id, None),
            (Key::Replica(id), None) => self.forget(*id),
            (Key::Service(id), None) => self.forget_service(*id),
            (Key::Image(digest), None) => {
                self.images.remove(digest);
            }
            (Key::Revision(service, number), None) => {
                self.specs.remove(&(*service, *number));
                self.reservations.remove(&(*service, *number));
                self.classes.forget_service(*service, *number);
            }
            // Other tables say nothing about where replicas may go.
            (_, Some(_) | None) => {}
        }
    }

    /// Takes back what [`Fleet::place`] reserved for decisions that were not committed.
    pub fn undo(&mut self, decisions: &[Decision]) {
        for decision in decisions.iter().filter(|decision| decision.result.is_ok()) {
            self.forget(decision.replica);
        }
    }

    /// What a replica of the service takes by this spec.
    pub(crate) fn reservation_of(&self, service: ServiceId, spec: &ServiceSpec) -> Reservation {
        Reservation::of(spec, self.known.get(&service).map_or(&[], |known| &known.ports))
    }

    /// The spec of a revision, if it is kept.
    pub(crate) fn spec_of(&self, service: ServiceId, revision: u32) -> Option<Arc<ServiceSpec>> {
        self.specs.get(&(service, revision)).cloned()
    }

    /// The id of a service of a namespace.
    pub(crate) fn service_named(&self, namespace: &Name, name: &Name) -> Option<ServiceId> {
        self.names.get(&(namespace.clone(), name.clone())).copied()
    }

    /// The services that want no replica of the named one near theirs: id, name, and how far that is.
    pub(crate) fn apart_from(&self, namespace: &Name, name: &Name) -> Vec<(ServiceId, String, Option<ConstraintKey>)> {
        let shy = self.shy.get(&(namespace.clone(), name.clone()));
        let mut found = Vec::new();
        for id in shy.into_iter().flatten() {
            let Some(known) = self.known.get(id) else { continue };
            let rules = known.spec.placement.neighbours.iter();
            for rule in rules.filter(|rule| rule.rule == NeighbourRule::Apart && rule.service == *name) {
                found.push((*id, known.name.to_string(), rule.within.clone()));
            }
        }
        found
    }

    /// Takes in a decision before it is committed; the change that commits it says the same again.
    pub(crate) fn reserve(&mut self, request: &Request, placed: &Placed, reservation: &Arc<Reservation>) {
        let held = Held {
            node: self.nodes.ensure(placed.node),
            service: request.service,
            revision: request.revision,
            address: Some(placed.address),
            reservation: reservation.clone(),
            holds: true,
            wanted: true,
            serves: false,
            failed_at: None,
        };
        self.hold(request.replica, held);
    }

    fn follow_replica(&mut self, replica: &Replica) {
        let Some(node) = replica.node else {
            self.forget(replica.id);
            return;
        };
        let failed = matches!(replica.observed.phase, Phase::Failed | Phase::Rejected);
        let held = Held {
            node: self.nodes.ensure(node),
            service: replica.service,
            revision: replica.revision,
            address: replica.address,
            reservation: self.reservation_held(replica),
            holds: replica.holds_resources(),
            wanted: replica.desired == Desired::Run,
            serves: replica.is_endpoint(),
            failed_at: failed.then_some(replica.observed.at),
        };
        self.hold(replica.id, held);
    }

    /// What a placed replica takes: what it took when it was placed, as long as its revision is the same.
    fn reservation_held(&mut self, replica: &Replica) -> Arc<Reservation> {
        let held = self.held.get(&replica.id);
        if let Some(held) = held.filter(|held| held.revision == replica.revision) {
            return held.reservation.clone();
        }
        let key = (replica.service, replica.revision);
        if let Some(known) = self.reservations.get(&key) {
            return known.clone();
        }
        let Some(spec) = self.specs.get(&key) else {
            self.unknown.entry(key).or_default().insert(replica.id);
            return Arc::default();
        };
        let reservation = Arc::new(self.reservation_of(replica.service, spec));
        self.reservations.insert(key, reservation.clone());
        reservation
    }

    pub(crate) fn hold(&mut self, replica: ReplicaId, held: Held) {
        let service = self.services.entry(held.service).or_default();
        service.take(&held);
        self.nodes.edit(held.node, |used| used.take(&held));
        if let Some(before) = self.held.insert(replica, held) {
            self.give_back(&before);
        }
    }

    pub(crate) fn forget(&mut self, replica: ReplicaId) {
        let Some(held) = self.held.remove(&replica) else { return };
        let key = (held.service, held.revision);
        if let Some(waiting) = self.unknown.get_mut(&key) {
            waiting.remove(&replica);
            if waiting.is_empty() {
                self.unknown.remove(&key);
            }
        }
        self.give_back(&held);
    }

    fn give_back(&mut self, held: &Held) {
        if let Some(service) = self.services.get_mut(&held.service) {
            service.give_back(held);
            if service.is_empty() {
                self.services.remove(&held.service);
            }
        }
        self.nodes.edit(held.node, |used| used.give_back(held));
        self.nodes.forget_if_empty(held.node);
    }

    fn know(&mut self, service: &Service) {
        let known = Known {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            ports: service.ports.clone(),
            spec: service.spec.clone(),
        };
        let before = self.known.get(&service.id);
        if before.is_none_or(|before| before.ports != known.ports) {
            self.forget_reservations(service.id);
        }
        self.set_shy(service.id, false);
        self.names
            .insert((service.namespace.clone(), service.name.clone()), service.id);
        self.known.insert(service.id, known);
        self.set_shy(service.id, true);
    }

    fn set_shy(&mut self, id: ServiceId, shy: bool) {
        let Some(known) = self.known.get(&id) else { return };
        let rules = known.spec.placement.neighbours.iter();
        for rule in rules.filter(|rule| rule.rule == NeighbourRule::Apart) {
            let key = (known.namespace.clone(), rule.service.clone());
            let services = self.shy.entry(key.clone()).or_default();
            if shy {
                services.insert(id);
            } else {
                services.remove(&id);
            }
            if services.is_empty() {
                self.shy.remove(&key);
            }
        }
    }

    fn forget_service(&mut self, id: ServiceId) {
        self.set_shy(id, false);
        if let Some(known) = self.known.remove(&id) {
            self.names.remove(&(known.namespace, known.name));
        }
        self.forget_reservations(id);
    }

    fn forget_reservations(&mut self, service: ServiceId) {
        let range = (service, 0)..=(service, u32::MAX);
        let keys: Vec<(ServiceId, u32)> = self.reservations.range(range).map(|(key, _)| *key).collect();
        for key in keys {
            self.reservations.remove(&key);
        }
    }

    fn recompute_unknown(&mut self, key: (ServiceId, u32)) {
        let Some(spec) = self.specs.get(&key).cloned() else {
            return;
        };
        let waiting = self.unknown.remove(&key).unwrap_or_default();
        if waiting.is_empty() {
            return;
        }
        let reservation = Arc::new(self.reservation_of(key.0, &spec));
        for replica in waiting {
            if let Some(mut held) = self.held.get(&replica).cloned() {
                held.reservation = reservation.clone();
                self.hold(replica, held);
            }
        }
    }
}

/// A view in a form that does not depend on how it came about: nodes by id instead of number.
#[derive(PartialEq, Eq)]
struct Canonical<'a> {
    nodes: BTreeMap<NodeId, &'a crate::node_use::NodeUse>,
    held: BTreeMap<ReplicaId, (NodeId, Held)>,
    counts: BTreeMap<(ServiceId, NodeId, u32), crate::held::Count>,
    failures: BTreeMap<(ServiceId, NodeId, gantry_model::Timestamp), u32>,
    serving: BTreeMap<ServiceId, u32>,
}

impl Fleet {
    fn canonical(&self) -> Canonical<'_> {
        let id = |number| self.nodes.get(number).map_or(NodeId(0), |used| used.id);
        let held = self.held.iter().map(|(replica, held)| {
            let numberless = Held {
                node: 0,
                ..held.clone()
            };
            (*replica, (id(held.node), numberless))
        });
        let mut canonical = Canonical {
            nodes: self.nodes.iter().map(|(_, used)| (used.id, used)).collect(),
            held: held.collect(),
            counts: BTreeMap::new(),
            failures: BTreeMap::new(),
            serving: BTreeMap::new(),
        };
        for (service, used) in &self.services {
            let counts = used.counts.iter();
            canonical
                .counts
                .extend(counts.map(|((node, revision), count)| ((*service, id(*node), *revision), *count)));
            let failures = used.failures();
            canonical
                .failures
                .extend(failures.map(|(node, at, count)| ((*service, id(node), at), count)));
            if used.serving > 0 {
                canonical.serving.insert(*service, used.serving);
            }
        }
        canonical
    }
}

impl PartialEq for Fleet {
    /// Whether both know the same of the cluster. It costs what the cluster holds, and is for tests.
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
            && self.images == other.images
            && self.strategy == other.strategy
            && self.specs == other.specs
            && self.known == other.known
            && self.names == other.names
            && self.shy == other.shy
            && self.unknown == other.unknown
    }
}

impl Eq for Fleet {}
