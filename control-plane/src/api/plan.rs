//! What applying an application would do, and where its replicas would go: the real decision on a copy of the state. And what
//! would be then: how many more replicas would fit, what would become of everything without some nodes.

use std::collections::BTreeMap;

use gantry_api::v1::{Loss, Placement, PlanReply, Room};
use gantry_env::{Env, FreshIds};
use gantry_leader::admission::Decision;
use gantry_model::object::{Replica, Service};
use gantry_model::phase::{Desired, Observed};
use gantry_model::spec::Mode;
use gantry_model::{Name, NodeId, Timestamp};
use gantry_reconcile::{Acks, View, reconcile};
use gantry_scheduler::Fleet;
use gantry_state::{Object, Op, State, Transaction};

use super::{explain, wire};

/// Passes over the services: each may create replicas that a later one's dependencies wait for, so what a plan shows is the
/// placement of everything that could be placed at once.
struct Everything;

impl Acks for Everything {
    fn drained(&self, _: &Replica) -> bool {
        true
    }
}

/// The cluster as it would be.
pub struct Outlook {
    state: State,
    fleet: Fleet,
    now: Timestamp,
    reply: PlanReply,
}

impl Outlook {
    /// Starts from the present state.
    #[must_use]
    pub fn of(state: &State, now: Timestamp) -> Self {
        Self {
            fleet: Fleet::from_state(state),
            state: state.clone(),
            now,
            reply: PlanReply::default(),
        }
    }

    /// Goes on from what `decision` does: what would be created is placed.
    pub fn decide(&mut self, env: &dyn Env, decision: &Decision, namespace: &Name) {
        self.write(decision.transaction.clone());
        self.reply.changes = wire::changes(&decision.changes);
        let mut counts = Counts::new();
        let services: Vec<Service> = self
            .state
            .services_in(namespace)
            .filter(|service| !service.deleting)
            .cloned()
            .collect();
        for service in services {
            self.settle(env, &service, &mut counts);
        }
        let placement = |((service, node, reason), count)| Placement {
            service,
            node,
            count,
            reason,
        };
        self.reply.placements = counts.into_iter().map(placement).collect();
    }

    fn settle(&mut self, env: &dyn Env, service: &Service, counts: &mut Counts) {
        let view = View {
            state: &self.state,
            now: self.now,
            acks: &Everything,
        };
        let planned = reconcile(&view, service.id, &mut || env.replica_id());
        waiting(&planned.ops, service, counts);
        let mut ops = planned.ops;
        for decision in self.fleet.place(&planned.place, self.now) {
            let (node, reason) = match &decision.result {
                Ok(placed) => (explain::node_name(&self.state, placed.node), String::new()),
                Err(explanation) => (String::new(), explanation.to_string()),
            };
            *counts.entry((service.name.to_string(), node, reason)).or_default() += 1;
            ops.extend(decision.op(&self.state));
        }
        self.write(Transaction::new(self.now, ops));
    }

    fn write(&mut self, transaction: Transaction) {
        let index = self.state.revision() + 1;
        let (_, changes) = self.state.apply(index, 0, &transaction);
        for change in &changes {
            self.fleet.apply(change);
        }
    }

    /// How many more replicas of each service of the namespace would fit.
    pub fn look_for_room(&mut self, namespace: &Name) {
        let replicated = |service: &&Service| matches!(service.spec.mode, Mode::Replicated { .. }) && !service.deleting;
        let services = self.state.services_in(namespace).filter(replicated);
        let room = |service: &Service| {
            let room = explain::room_for(&self.fleet, service, self.now);
            Room {
                service: service.name.to_string(),
                more: room.more,
                limit: room.limit.map(|limit| limit.summary).unwrap_or_default(),
            }
        };
        self.reply.room = services.map(room).collect();
    }

    /// What would become of everything if these nodes went.
    pub fn look_without(&mut self, nodes: &[NodeId]) {
        let loss = |loss: gantry_scheduler::Loss| {
            let service = self.state.service(loss.service);
            Loss {
                namespace: service.map(|one| one.namespace.to_string()).unwrap_or_default(),
                service: service.map_or_else(|| loss.service.to_string(), |one| one.name.to_string()),
                moved: loss.moved,
                stranded: loss.stranded,
                reason: loss.why.map(|why| why.to_string()).unwrap_or_default(),
            }
        };
        let losses = self.fleet.without(&self.state, nodes, self.now);
        self.reply.losses = losses.into_iter().map(loss).collect();
    }

    /// What was found.
    #[must_use]
    pub fn reply(self) -> PlanReply {
        self.reply
    }
}

/// Replicas by service, node and reason.
type Counts = BTreeMap<(String, String, String), u32>;

/// Replicas that are created but wait, such as for a dependency.
fn waiting(ops: &[Op], service: &Service, counts: &mut Counts) {
    for op in ops {
        if let Op::Put(object) = op
            && let Object::Replica(replica) = object.as_ref()
            && replica.desired == Desired::Run
            && is_new(replica)
            && let Some(explanation) = &replica.explanation
        {
            let key = (service.name.to_string(), String::new(), explanation.to_string());
            *counts.entry(key).or_default() += 1;
        }
    }
}

/// Nothing was observed of it yet, but when it was made.
fn is_new(replica: &Replica) -> bool {
    let nothing = Observed {
        at: replica.observed.at,
        ..Observed::default()
    };
    replica.observed == nothing
}
