//! The nodes and what is reserved on them, kept in step with the state.
//!
//! **Invariant:** a fleet that followed all changes equals one built from the resulting state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_model::object::{Replica, Service};
use gantry_model::phase::{Desired, Phase};
use gantry_model::spec::{PortSpec, ServiceSpec};
use gantry_model::{NodeId, ReplicaId, ServiceId, Timestamp};
use gantry_state::{Change, Key, Object, State};

use crate::node_use::NodeUse;
use crate::place::{Decision, Placed, Request};
use crate::reservation::Reservation;

/// A view of the cluster for placing replicas. A clone is independent: what is placed on it is a "what if".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    pub(crate) nodes: BTreeMap<NodeId, NodeUse>,
    /// Platform of each image known to the cluster, by manifest digest.
    pub(crate) platforms: BTreeMap<String, String>,
    held: BTreeMap<ReplicaId, Held>,
    specs: BTreeMap<(ServiceId, u32), Arc<ServiceSpec>>,
    ports: BTreeMap<ServiceId, Vec<PortSpec>>,
    /// Replicas whose revision has not been seen yet.
    unknown: BTreeMap<(ServiceId, u32), BTreeSet<ReplicaId>>,
}

/// What a placed replica takes from its node, or leaves behind there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) node: NodeId,
    pub(crate) service: ServiceId,
    pub(crate) revision: u32,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) reservation: Reservation,
    /// It holds resources; otherwise only its address rests.
    pub(crate) holds: bool,
    /// It is wanted to run.
    pub(crate) wanted: bool,
    /// When it failed by itself, if it did.
    pub(crate) failed_at: Option<Timestamp>,
}

impl Fleet {
    /// The view of a whole state; afterwards follow the changes with [`Fleet::apply`].
    #[must_use]
    pub fn from_state(state: &State) -> Self {
        let mut fleet = Self::default();
        for node in state.nodes() {
            fleet.nodes.entry(node.id).or_default().node = Some(node.clone());
        }
        for image in state.images() {
            fleet.platforms.insert(image.digest.clone(), image.platform.clone());
        }
        for service in state.services() {
            fleet.know_ports(service);
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
            (_, Some(Object::Node(node))) => self.nodes.entry(node.id).or_default().node = Some(node.clone()),
            (_, Some(Object::Replica(replica))) => self.follow_replica(replica),
            (_, Some(Object::Service(service))) => self.know_ports(service),
            (_, Some(Object::Image(image))) => {
                self.platforms.insert(image.digest.clone(), image.platform.clone());
            }
            (_, Some(Object::Revision(revision))) => {
                let key = (revision.service, revision.number);
                self.specs.insert(key, revision.spec.clone());
                self.recompute_unknown(key);
            }
            (Key::Node(id), None) => {
                if let Some(used) = self.nodes.get_mut(id) {
                    used.node = None;
                }
                self.drop_if_empty(*id);
            }
            (Key::Replica(id), None) => self.forget(*id),
            (Key::Service(id), None) => {
                self.ports.remove(id);
            }
            (Key::Image(digest), None) => {
                self.platforms.remove(digest);
            }
            (Key::Revision(service, number), None) => {
                self.specs.remove(&(*service, *number));
            }
            (Key::Cluster | Key::Data(_) | Key::Tag(_) | Key::Token(_), _) => {}
            (Key::Node(_) | Key::Replica(_) | Key::Service(_) | Key::Image(_) | Key::Revision(..), Some(_)) => {}
        }
    }

    /// Takes back what [`Fleet::place`] reserved for decisions that were not committed.
    pub fn undo(&mut self, decisions: &[Decision]) {
        for decision in decisions.iter().filter(|decision| decision.result.is_ok()) {
            self.forget(decision.replica);
        }
    }

    pub(crate) fn reservation_of(&self, service: ServiceId, spec: &ServiceSpec) -> Reservation {
        Reservation::of(spec, self.ports.get(&service).map_or(&[], Vec::as_slice))
    }

    /// Takes in a decision before it is committed; the change that commits it says the same again.
    pub(crate) fn reserve(&mut self, request: &Request, placed: &Placed) {
        let held = Held {
            node: placed.node,
            service: request.service,
            revision: request.revision,
            address: Some(placed.address),
            reservation: self.reservation_of(request.service, &request.spec),
            holds: true,
            wanted: true,
            failed_at: None,
        };
        self.hold(request.replica, held);
    }

    fn follow_replica(&mut self, replica: &Replica) {
        let Some(node) = replica.node else {
            self.forget(replica.id);
            return;
        };
        let key = (replica.service, replica.revision);
        let known = self
            .held
            .get(&replica.id)
            .filter(|held| held.revision == replica.revision);
        let reservation = match (known, self.specs.get(&key)) {
            (Some(held), _) => held.reservation.clone(),
            (None, Some(spec)) => self.reservation_of(replica.service, spec),
            (None, None) => Reservation::default(),
        };
        if known.is_none() && !self.specs.contains_key(&key) {
            self.unknown.entry(key).or_default().insert(replica.id);
        }
        let failed = matches!(replica.observed.phase, Phase::Failed | Phase::Rejected);
        let held = Held {
            node,
            service: replica.service,
            revision: replica.revision,
            address: replica.address,
            reservation,
            holds: replica.holds_resources(),
            wanted: replica.desired == Desired::Run,
            failed_at: failed.then_some(replica.observed.at),
        };
        self.hold(replica.id, held);
    }

    fn hold(&mut self, replica: ReplicaId, held: Held) {
        if let Some(before) = self.held.remove(&replica)
            && let Some(used) = self.nodes.get_mut(&before.node)
        {
            used.give_back(&before);
        }
        self.nodes.entry(held.node).or_default().take(&held);
        self.held.insert(replica, held);
    }

    fn forget(&mut self, replica: ReplicaId) {
        let Some(held) = self.held.remove(&replica) else { return };
        let key = (held.service, held.revision);
        if let Some(waiting) = self.unknown.get_mut(&key) {
            waiting.remove(&replica);
            if waiting.is_empty() {
                self.unknown.remove(&key);
            }
        }
        if let Some(used) = self.nodes.get_mut(&held.node) {
            used.give_back(&held);
        }
        self.drop_if_empty(held.node);
    }

    fn drop_if_empty(&mut self, node: NodeId) {
        if self.nodes.get(&node).is_some_and(NodeUse::is_empty) {
            self.nodes.remove(&node);
        }
    }

    fn know_ports(&mut self, service: &Service) {
        self.ports.insert(service.id, service.ports.clone());
    }

    fn recompute_unknown(&mut self, key: (ServiceId, u32)) {
        let Some(spec) = self.specs.get(&key).cloned() else {
            return;
        };
        for replica in self.unknown.remove(&key).unwrap_or_default() {
            if let Some(mut held) = self.held.get(&replica).cloned() {
                held.reservation = self.reservation_of(key.0, &spec);
                self.hold(replica, held);
            }
        }
    }
}
