//! What the controller still has to look at: services that something happened to, and services to wake up for.
//!
//! **Invariant:** pure, and only a hint: whatever is looked at is decided from the stored state, so looking too often is
//! harmless, and a new leader starts by looking at everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_model::phase::Desired;
use gantry_model::{ServiceId, Timestamp};
use gantry_state::{Change, Object, State};

/// Services to look at, now or later.
#[derive(Debug, Default)]
pub struct Work {
    dirty: BTreeSet<ServiceId>,
    wake_at: BTreeMap<ServiceId, Timestamp>,
    draining: BTreeSet<ServiceId>,
    without_room: BTreeSet<ServiceId>,
}

impl Work {
    /// Everything there is.
    #[must_use]
    pub fn everything(state: &State) -> Self {
        let mut work = Self {
            dirty: state.services().map(|service| service.id).collect(),
            ..Self::default()
        };
        // Replicas of a service whose record is gone are looked at through their service's id all the same.
        work.dirty.extend(state.replicas().map(|replica| replica.service));
        work.draining = state
            .replicas()
            .filter(|replica| replica.desired == Desired::Drain)
            .map(|replica| replica.service)
            .collect();
        work
    }

    /// Something changed.
    pub fn note(&mut self, state: &State, change: &Change) {
        for object in [&change.before, &change.after].into_iter().flatten() {
            match object.as_ref() {
                Object::Service(service) => {
                    self.dirty.insert(service.id);
                    self.dirty.extend(gantry_reconcile::dependants(state, service.id));
                }
                Object::Replica(replica) => {
                    self.dirty.insert(replica.service);
                    if replica.desired == Desired::Drain {
                        self.draining.insert(replica.service);
                    }
                }
                Object::Node(_) | Object::Cluster(_) | Object::Image(_) => {}
                Object::Revision(_) | Object::Data(_) | Object::Tag(_) | Object::Token(_) | Object::Registry(_) => {}
            }
        }
        if let Some((before, after)) = replica_progress(change)
            && before != after
        {
            let service = [&change.after, &change.before]
                .into_iter()
                .flatten()
                .find_map(|object| match object.as_ref() {
                    Object::Replica(replica) => Some(replica.service),
                    _ => None,
                });
            self.dirty.extend(
                service
                    .into_iter()
                    .flat_map(|service| gantry_reconcile::dependants(state, service)),
            );
        }
        if frees_room(change) {
            self.dirty.append(&mut self.without_room);
        }
        if matters_to_all(change) {
            self.dirty.extend(state.services().map(|service| service.id));
        }
    }

    /// The service has replicas that found no room.
    pub fn lacks_room(&mut self, service: ServiceId) {
        self.without_room.insert(service);
    }

    /// An acknowledgement came: what drains may go on.
    pub fn note_acknowledgement(&mut self) {
        self.dirty.append(&mut self.draining);
    }

    /// The service wants to be looked at again at `at`.
    pub fn wake(&mut self, service: ServiceId, at: Option<Timestamp>) {
        match at {
            Some(at) => {
                self.wake_at.insert(service, at);
            }
            None => {
                self.wake_at.remove(&service);
            }
        }
    }

    /// The service still has replicas that drain.
    pub fn still_drains(&mut self, service: ServiceId) {
        self.draining.insert(service);
    }

    /// When the next service wants to be looked at; now when one does already.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.wake_at.values().min().copied()
    }

    /// Whether there is something to look at.
    #[must_use]
    pub fn is_pending(&self, now: Timestamp) -> bool {
        !self.dirty.is_empty() || self.next_wake().is_some_and(|at| at <= now)
    }

    /// Takes all services to look at now.
    pub fn take(&mut self, now: Timestamp) -> BTreeSet<ServiceId> {
        let due: Vec<ServiceId> = self
            .wake_at
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(service, _)| *service)
            .collect();
        for service in due {
            self.wake_at.remove(&service);
            self.dirty.insert(service);
        }
        std::mem::take(&mut self.dirty)
    }

    /// Puts services back that were not dealt with.
    pub fn put_back(&mut self, services: BTreeSet<ServiceId>) {
        self.dirty.extend(services);
    }
}

/// Phase and readiness before and after, which is what dependants wait for.
fn replica_progress(change: &Change) -> Option<((u16, bool), (u16, bool))> {
    let of = |object: &Option<Arc<Object>>| match object.as_deref() {
        Some(Object::Replica(replica)) => Some((replica.observed.phase.rank(), replica.observed.ready)),
        _ => None,
    };
    (of(&change.before).is_some() || of(&change.after).is_some()).then(|| {
        (
            of(&change.before).unwrap_or_default(),
            of(&change.after).unwrap_or_default(),
        )
    })
}

/// Whether a replica let go of its node's resources.
fn frees_room(change: &Change) -> bool {
    let holds = |object: &Option<Arc<Object>>| matches!(object.as_deref(), Some(Object::Replica(replica)) if replica.holds_resources());
    holds(&change.before) && !holds(&change.after)
}

/// A node that comes, goes, or changes what it accepts concerns every service, and so does an image that arrives.
fn matters_to_all(change: &Change) -> bool {
    match (change.before.as_deref(), change.after.as_deref()) {
        (Some(Object::Node(before)), Some(Object::Node(after))) => {
            before.status != after.status
                || before.availability != after.availability
                || before.labels != after.labels
                || before.facts != after.facts
        }
        (None, Some(Object::Node(_))) | (Some(Object::Node(_)), None) => true,
        (None, Some(Object::Image(_))) => true,
        _ => false,
    }
}
