//! A plan in the making.
//!
//! **Invariant:** a replica is retired at most once per plan, and never placed in the plan that retires it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_model::explain::Explanation;
use gantry_model::object::{NodeStatus, Replica, Service, Slot};
use gantry_model::phase::{Desired, Observed, Phase};
use gantry_model::spec::{Mount, MountKind, ServiceSpec};
use gantry_model::{NodeId, ReplicaId, ServiceId, Timestamp};
use gantry_scheduler::{DISPLACED, Request};
use gantry_state::{Key, NewEvent, Object, Op, Precondition};

use crate::budget::{self, Budget};
use crate::plan::{ServicePlan, View};
use crate::{depends, stage};

/// What becomes of a replica that is not wanted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It stays in the history of its slot.
    Stop,
    /// Its slot is gone: nothing stays.
    Remove,
}

/// The plan of one service while it is made.
pub(crate) struct Draft<'a> {
    pub(crate) view: &'a View<'a>,
    pub(crate) service: &'a Service,
    /// The replicas of each slot, oldest first.
    pub(crate) slots: BTreeMap<Slot, Vec<&'a Replica>>,
    /// What new replicas wait for before their first start.
    gate: Option<Explanation>,
    /// The service as it is to be stored, when that changes.
    changed: Option<Service>,
    /// How the service stands against its disruption budget, if it has one.
    pub(crate) budget: Option<Budget>,
    /// Replicas that this plan takes out of service at the budget's expense.
    disrupted: u32,
    retired: BTreeSet<ReplicaId>,
    ids: &'a mut dyn FnMut() -> ReplicaId,
    plan: ServicePlan,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(view: &'a View<'a>, service: &'a Service, ids: &'a mut dyn FnMut() -> ReplicaId) -> Self {
        let mut slots: BTreeMap<Slot, Vec<&Replica>> = BTreeMap::new();
        for replica in view.state.replicas_of(service.id) {
            slots.entry(replica.slot).or_default().push(replica);
        }
        for replicas in slots.values_mut() {
            replicas.sort_by_key(|replica| (replica.created_at, replica.id));
        }
        Self {
            view,
            service,
            slots,
            gate: depends::gate(view.state, service),
            changed: None,
            budget: Budget::of(view.state, service),
            disrupted: 0,
            retired: BTreeSet::new(),
            ids,
            plan: ServicePlan::default(),
        }
    }

    /// Whether a slot must never have two replicas that may run.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.service.spec.stateful.is_some_and(|stateful| stateful.exclusive)
    }

    /// The replicas of a slot, oldest first.
    pub(crate) fn slot(&self, slot: Slot) -> Vec<&'a Replica> {
        self.slots.get(&slot).cloned().unwrap_or_default()
    }

    /// All replicas, slot by slot.
    pub(crate) fn replicas(&self) -> Vec<&'a Replica> {
        self.slots.values().flatten().copied().collect()
    }

    /// The spec of a revision; the present one's when that revision is not kept.
    pub(crate) fn spec_of(&self, revision: u32) -> Arc<ServiceSpec> {
        let kept = self.view.state.revision_of(self.service.id, revision);
        kept.map_or_else(|| self.service.spec.clone(), |record| record.spec.clone())
    }

    /// Whether the revision's spec is kept.
    pub(crate) fn has_revision(&self, revision: u32) -> bool {
        self.view.state.revision_of(self.service.id, revision).is_some()
    }

    /// Makes a replica of `revision` in `slot`, to be placed at once unless dependencies hold it back.
    pub(crate) fn create(&mut self, slot: Slot, revision: u32) {
        let created_at = self.next_moment(slot);
        let replica = Replica {
            id: (self.ids)(),
            service: self.service.id,
            namespace: self.service.namespace.clone(),
            service_name: self.service.name.clone(),
            slot,
            revision,
            node: None,
            address: None,
            desired: Desired::Run,
            desired_reason: String::new(),
            observed: Observed {
                at: self.view.now,
                ..Observed::default()
            },
            explanation: self.gate.clone(),
            created_at,
            assigned_at: None,
            desired_since: None,
            held: stage::holds(self.changed.as_ref().unwrap_or(self.service), revision),
        };
        if self.gate.is_none() {
            let request = self.request(&replica);
            self.plan.place.push(request);
        }
        self.push(Op::Put(Box::new(Object::Replica(replica))));
    }

    /// How many replicas that serve may still be taken out of service before their successors do; none when that is not limited.
    pub(crate) fn budget_left(&self) -> Option<u32> {
        self.budget.map(|budget| budget.left().saturating_sub(self.disrupted))
    }

    /// Whether a replica may be taken out of service before its successor serves; if so, that is counted.
    pub(crate) fn may_disrupt(&mut self, replica: &Replica) -> bool {
        let state = self.view.state;
        let beside = |one: &&&Replica| one.id != replica.id && budget::serves(state, one) && !self.is_retired(one);
        let others = self.slots.get(&replica.slot).into_iter().flatten();
        if !budget::serves(state, replica) || self.is_retired(replica) || others.filter(beside).count() > 0 {
            return true;
        }
        match self.budget_left() {
            None => true,
            Some(0) => false,
            Some(_) => {
                self.disrupted += 1;
                true
            }
        }
    }

    /// When a replica of the slot is made: by the clock, but after its predecessors and not before its rollout began. Clocks
    /// jump, and the next leader's may be behind; who came later must not depend on that.
    fn next_moment(&self, slot: Slot) -> Timestamp {
        let before = self.slots.get(&slot).and_then(|replicas| replicas.last());
        let after = before.map_or(Timestamp::default(), |one| Timestamp(one.created_at.0 + 1));
        let service = self.changed.as_ref().unwrap_or(self.service);
        let begun = service.rollout.as_ref().map(|rollout| rollout.started_at);
        self.view.now.max(after).max(begun.unwrap_or_default())
    }

    /// Takes a replica out of service: drained first if it may have traffic.
    pub(crate) fn retire(&mut self, replica: &Replica, reason: &str, fate: Fate) {
        if replica.is_endpoint() {
            self.desire(replica, Desired::Drain, reason);
        } else {
            self.end(replica, reason, fate);
        }
    }

    /// Ends a replica that has no traffic, or cannot have any more.
    pub(crate) fn end(&mut self, replica: &Replica, reason: &str, fate: Fate) {
        if replica.node.is_none() {
            if self.retired.insert(replica.id) {
                self.push(Op::Delete(Key::Replica(replica.id)));
            }
            return;
        }
        match fate {
            Fate::Stop => self.desire(replica, Desired::Stop, reason),
            Fate::Remove => self.desire(replica, Desired::Remove, reason),
        }
    }

    fn desire(&mut self, replica: &Replica, desired: Desired, reason: &str) {
        if replica.desired < desired && self.retired.insert(replica.id) {
            let (replica, reason) = (replica.id, reason.to_string());
            let op = match self.down_since(replica).filter(|_| desired > Desired::Drain) {
                Some(down_since) => Op::GiveUp {
                    replica,
                    desired,
                    reason,
                    down_since,
                },
                None => Op::Desire {
                    replica,
                    desired,
                    reason,
                },
            };
            self.push(op);
        }
    }

    /// Since when the replica's node is down; none while it is up, or when it was removed.
    fn down_since(&self, replica: ReplicaId) -> Option<Timestamp> {
        let node = self.view.state.replica(replica)?.node?;
        let node = self.view.state.node(node)?;
        (node.status == NodeStatus::Down).then_some(node.status_since)
    }

    /// Marks a replica as gone with its node.
    pub(crate) fn lose(&mut self, replica: &Replica, message: String) {
        let observed = Observed {
            phase: Phase::Lost,
            sequence: replica.observed.sequence.saturating_add(1),
            ready: false,
            message,
            pid: None,
            at: self.view.now,
            ..replica.observed.clone()
        };
        self.push(Op::Observe {
            replica: replica.id,
            observed,
        });
    }

    /// Forgets the record of a replica.
    pub(crate) fn forget(&mut self, replica: &Replica) {
        if self.retired.insert(replica.id) {
            self.push(Op::Delete(Key::Replica(replica.id)));
        }
    }

    pub(crate) fn is_retired(&self, replica: &Replica) -> bool {
        self.retired.contains(&replica.id)
    }

    pub(crate) fn push(&mut self, op: Op) {
        self.plan.ops.push(op);
    }

    /// Records something that happened to the service.
    pub(crate) fn record(&mut self, kind: &str, message: impl Into<String>) {
        self.push(Op::Record(NewEvent::new(self.service.object(), kind, message)));
    }

    /// Looks again at `at` or earlier.
    pub(crate) fn wake(&mut self, at: Timestamp) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |sooner| sooner.min(at)));
    }

    /// The service as it will be stored; what is changed here is written if it differs.
    pub(crate) fn edit_service(&mut self) -> &mut Service {
        self.changed.get_or_insert_with(|| self.service.clone())
    }

    /// An id for a service of its own; ids of both kinds are as random.
    pub(crate) fn fresh_service_id(&mut self) -> ServiceId {
        ServiceId((self.ids)().0)
    }

    /// Refuses the plan if the service is changed meanwhile.
    pub(crate) fn require_unchanged_service(&mut self) {
        let key = Key::Service(self.service.id);
        self.require(Precondition::Unchanged {
            modified: self.view.state.modified(&key),
            key,
        });
    }

    /// Refuses the plan unless `condition` still holds.
    pub(crate) fn require(&mut self, condition: Precondition) {
        if !self.plan.require.contains(&condition) {
            self.plan.require.push(condition);
        }
    }

    /// Asks for nodes for the replicas that have none, or says what they wait for.
    pub(crate) fn place_pending(&mut self) {
        let pending = self.replicas().into_iter();
        let pending = pending.filter(|replica| replica.is_active() && replica.node.is_none());
        for replica in pending.collect::<Vec<_>>() {
            if self.is_retired(replica) {
                continue;
            }
            if self.gate.is_none() {
                let request = self.request(replica);
                self.plan.place.push(request);
            } else if replica.explanation != self.gate {
                let explanation = self.gate.clone();
                self.push(Op::Explain {
                    replica: replica.id,
                    explanation,
                });
            }
        }
    }

    pub(crate) fn finish_plan(mut self) -> ServicePlan {
        if let Some(changed) = self.changed.take()
            && changed != *self.service
        {
            self.require_unchanged_service();
            self.push(Op::Put(Box::new(Object::Service(changed))));
        }
        self.plan
    }

    fn request(&self, replica: &Replica) -> Request {
        Request {
            replica: replica.id,
            service: replica.service,
            namespace: replica.namespace.clone(),
            service_name: replica.service_name.clone(),
            slot: replica.slot,
            revision: replica.revision,
            spec: self.spec_of(replica.revision),
            node: match replica.slot {
                Slot::Node(node) => Some(node),
                Slot::Index(_) => None,
            },
            avoid: self.rejected_on(replica.slot, replica.revision),
            volumes_on: self.volumes_on(replica),
            may_displace: !self.was_displaced(replica),
        }
    }

    /// The node where the slot's named volumes are: the one of its latest replica that came so far as to use them.
    fn volumes_on(&self, replica: &Replica) -> Vec<NodeId> {
        let spec = self.spec_of(replica.revision);
        let is_named = |mount: &Mount| matches!(mount.kind, MountKind::Volume { name: Some(_), .. });
        if !spec.container.mounts.iter().any(is_named) {
            return Vec::new();
        }
        let earlier = self.slots.get(&replica.slot).into_iter().flatten().rev();
        let mut used = earlier.filter(|one| one.observed.started_at.is_some());
        used.find_map(|one| one.node).into_iter().collect()
    }

    /// Whether the slot's last replica had to give way to one of higher priority: then this one waits, and displaces nobody.
    fn was_displaced(&self, replica: &Replica) -> bool {
        let others = self.slots.get(&replica.slot).into_iter().flatten().rev();
        let mut before = others.filter(|one| one.id != replica.id);
        before
            .next()
            .is_some_and(|one| one.desired_reason.starts_with(DISPLACED))
    }

    /// Nodes that rejected earlier replicas of the slot with the same spec.
    fn rejected_on(&self, slot: Slot, revision: u32) -> Vec<NodeId> {
        let rejected = self.slots.get(&slot).into_iter().flatten();
        let rejected = rejected.filter(|one| one.observed.phase == Phase::Rejected && one.revision == revision);
        let nodes: BTreeSet<NodeId> = rejected.filter_map(|one| one.node).collect();
        nodes.into_iter().collect()
    }
}
