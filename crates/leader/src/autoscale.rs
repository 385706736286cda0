//! Services that the cluster scales: what their replicas use, as agents say, and when to look at them.
//!
//! **Invariant:** figures are the leader's memory. A new leader begins without any, and scales nothing by them before it has
//! fresh ones; what it decides is stored with the service like a count that a person gives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_model::object::{RevisionRecord, Service};
use gantry_model::spec::{Mode, ServiceSpec, Usage};
use gantry_model::{DurationMs, ReplicaId, ServiceId};
use gantry_reconcile::{EVENT_SCALED, ScaleHistory, ScaleMoment, Scaling};
use gantry_state::{Change, Key, NewEvent, Object, Op, Precondition, State};

use crate::controller::Moment;

/// How often the count of a service is looked at; agents measure as often (`horizontal-pod-autoscaler-sync-period` is 15 s).
pub const AUTOSCALE_INTERVAL: DurationMs = DurationMs::secs(5);
/// Figures older than this are not figures any more: three looks were missed.
const USAGE_AGE_MAX: DurationMs = DurationMs::secs(20);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Autoscaler {
    services: BTreeSet<ServiceId>,
    histories: BTreeMap<ServiceId, ScaleHistory>,
    usage: BTreeMap<ReplicaId, (DurationMs, Usage)>,
    looked_at: Option<DurationMs>,
}

impl Autoscaler {
    /// Finds the services that are scaled; what is known of them stays.
    pub(crate) fn look_at(&mut self, state: &State) {
        let scaled = state.services().filter(|service| is_scaled(service));
        self.services = scaled.map(|service| service.id).collect();
        let services = &self.services;
        self.histories.retain(|service, _| services.contains(service));
    }

    /// Something changed.
    pub(crate) fn note(&mut self, change: &Change) {
        match (&change.key, change.after.as_deref()) {
            (Key::Service(id), Some(Object::Service(service))) if is_scaled(service) => {
                self.services.insert(*id);
            }
            (Key::Service(id), _) => {
                self.services.remove(id);
                self.histories.remove(id);
            }
            (Key::Replica(id), None) => {
                self.usage.remove(id);
            }
            _ => {}
        }
    }

    /// An agent said what a replica uses.
    pub(crate) fn measured(&mut self, replica: ReplicaId, usage: Usage, at: DurationMs) {
        self.usage.insert(replica, (at, usage));
    }

    /// Whether it is time to look at the counts.
    pub(crate) fn is_due(&self, now: DurationMs) -> bool {
        let waited = |at: DurationMs| now.saturating_sub(at) >= AUTOSCALE_INTERVAL;
        !self.services.is_empty() && self.looked_at.is_none_or(waited)
    }

    /// Looks at all counts; gives what changes them, each with what must still be true of its service.
    pub(crate) fn decide(&mut self, state: &State, moment: Moment) -> Vec<(Precondition, Vec<Op>)> {
        self.looked_at = Some(moment.monotonic);
        let clocks = ScaleMoment {
            now: moment.now,
            monotonic: moment.monotonic,
        };
        let Self { histories, usage, .. } = self;
        let fresh = |id: ReplicaId| {
            let (at, usage) = usage.get(&id)?;
            (moment.monotonic.saturating_sub(*at) <= USAGE_AGE_MAX).then_some(*usage)
        };
        let mut decided = Vec::new();
        for service in self.services.iter().filter_map(|id| state.service(*id)) {
            let history = histories.entry(service.id).or_default();
            if let Some(scaling) = history.step(state, service, &fresh, clocks) {
                decided.push(ops(state, service, &scaling, moment));
            }
        }
        decided
    }
}

fn is_scaled(service: &Service) -> bool {
    service.spec.autoscale.is_some() && !service.deleting
}

/// The count is written as by a person: with the service, and in the spec of its revision.
fn ops(state: &State, service: &Service, scaling: &Scaling, moment: Moment) -> (Precondition, Vec<Op>) {
    let before = match service.spec.mode {
        Mode::Replicated { replicas } => replicas,
        Mode::Global | Mode::ReplicatedJob { .. } | Mode::GlobalJob => 0,
    };
    let mut spec = ServiceSpec::clone(&service.spec);
    spec.mode = Mode::Replicated {
        replicas: scaling.replicas,
    };
    let spec = Arc::new(spec);
    let key = Key::Service(service.id);
    let unchanged = Precondition::Unchanged {
        modified: state.modified(&key),
        key,
    };
    let mut ops = Vec::new();
    if let Some(record) = state.revision_of(service.id, service.revision) {
        let record = RevisionRecord {
            spec: spec.clone(),
            ..record.clone()
        };
        ops.push(Op::Put(Box::new(Object::Revision(record))));
    }
    let scaled = Service {
        spec,
        updated_at: moment.now,
        ..service.clone()
    };
    let message = format!("{before} to {} replicas: {}", scaling.replicas, scaling.reason);
    ops.push(Op::Put(Box::new(Object::Service(scaled))));
    ops.push(Op::Record(NewEvent::new(service.object(), EVENT_SCALED, message)));
    (unchanged, ops)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::{MilliCpu, Timestamp};
    use gantry_state::Transaction;

    /// A service of one replica that serves on a ready node, scaled by processor time between 1 and 4.
    fn state() -> State {
        let node = serde_json::json!({
            "id": gantry_model::NodeId(1), "name": "alpha", "address": "192.0.2.1:7420", "subnet": "10.128.0.0/24",
            "status": "ready", "status_since": 1, "joined_at": 1,
            "facts": { "os": "linux", "arch": "amd64", "kernel": "", "version": "", "cpu": 4000, "memory": 1 << 30 },
        });
        let spec = serde_json::json!({
            "mode": { "replicated": { "replicas": 1 } }, "container": { "image": "app:1" },
            "autoscale": { "min": 1, "max": 4, "cpu": { "each": 100 } },
        });
        let revision = serde_json::json!({ "service": ServiceId(5), "number": 1, "spec": spec, "created_at": 1, "cause": "apply" });
        let service = serde_json::json!({
            "id": ServiceId(5), "namespace": "shop", "name": "web", "spec": spec, "revision": 1, "created_at": 1, "updated_at": 1,
        });
        let replica = serde_json::json!({
            "id": ReplicaId(7), "service": ServiceId(5), "namespace": "shop", "service_name": "web", "slot": { "index": 1 },
            "revision": 1, "node": gantry_model::NodeId(1), "address": "10.128.0.5", "created_at": 1,
            "observed": { "phase": "running", "sequence": 1, "ready": true, "at": 1 },
        });
        let objects = [
            Object::Node(serde_json::from_value(node).expect("a node")),
            Object::Revision(serde_json::from_value(revision).expect("a revision")),
            Object::Service(serde_json::from_value(service).expect("a service")),
            Object::Replica(serde_json::from_value(replica).expect("a replica")),
        ];
        let ops = objects.into_iter().map(|object| Op::Put(Box::new(object))).collect();
        let mut state = State::default();
        state.apply(1, 1, &Transaction::new(Timestamp(1), ops));
        state
    }

    fn moment(seconds: u64) -> Moment {
        Moment {
            now: Timestamp(1_000_000 + seconds * 1000),
            monotonic: DurationMs::secs(seconds),
        }
    }

    #[test]
    fn a_count_is_written_with_its_reason_and_only_by_fresh_figures() {
        let mut state = state();
        let mut scaler = Autoscaler::default();
        assert!(!scaler.is_due(DurationMs::ZERO), "nothing is scaled");
        scaler.look_at(&state);
        assert!(scaler.is_due(DurationMs::ZERO));
        assert_eq!(scaler.decide(&state, moment(1)), [], "no figures yet");
        assert!(!scaler.is_due(DurationMs::secs(3)) && scaler.is_due(DurationMs::secs(6)));

        let busy = Usage {
            cpu: MilliCpu(300),
            ..Usage::default()
        };
        scaler.measured(ReplicaId(7), busy, DurationMs::secs(2));
        assert_eq!(scaler.decide(&state, moment(60)), [], "figures of a minute ago");
        scaler.measured(ReplicaId(7), busy, DurationMs::secs(60));
        let decided = scaler.decide(&state, moment(61));
        let [(unchanged, ops)] = decided.as_slice() else {
            panic!("{decided:?}")
        };
        let transaction = Transaction::new(Timestamp(2), ops.clone()).requiring(unchanged.clone());
        state.apply(2, 1, &transaction);
        let service = state.service(ServiceId(5)).expect("the service");
        assert_eq!(service.spec.mode, Mode::Replicated { replicas: 3 });
        let revision = state.revision_of(ServiceId(5), 1).expect("its revision");
        assert_eq!(
            revision.spec, service.spec,
            "what new replicas are made from says the same"
        );
        let event = state.events().next_back().expect("an event").clone();
        assert_eq!(
            (event.kind.as_str(), event.message.as_str()),
            (
                EVENT_SCALED,
                "1 to 3 replicas: processor time is at 300 % of the target, 0.1"
            )
        );
    }
}
