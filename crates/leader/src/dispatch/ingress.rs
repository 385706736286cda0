//! What of a service the HTTP ingress of every node serves, and the secrets that takes.

use gantry_model::DataId;
use gantry_model::assignment::{ServiceIngress, TrafficSplit};
use gantry_model::object::{Rollout, RolloutKind, RolloutState, Service};
use gantry_model::spec::RolloutStrategy;
use gantry_state::State;

/// Of one service; none when it has no rules.
pub fn of(state: &State, service: &Service) -> Option<ServiceIngress> {
    (!service.spec.ingress.is_empty()).then(|| ServiceIngress {
        rules: service.spec.ingress.clone(),
        split: split(state, service),
    })
}

/// The share of requests of a canary: as its steps say, whatever share of the replicas it takes to have at least one.
fn split(state: &State, service: &Service) -> Option<TrafficSplit> {
    let open = |rollout: &&Rollout| {
        let open = matches!(rollout.state, RolloutState::Running | RolloutState::Paused);
        open && rollout.kind == RolloutKind::Update
    };
    let rollout = service.rollout.as_ref().filter(open)?;
    let RolloutStrategy::Canary { steps } = &service.spec.update.strategy else {
        return None;
    };
    let percent = steps.get(rollout.stage as usize)?.percent;
    let of_new = state
        .replicas_of(service.id)
        .filter(|replica| replica.is_endpoint() && replica.revision == rollout.to);
    let mut replicas: Vec<_> = of_new.map(|replica| replica.id).collect();
    replicas.sort_unstable();
    Some(TrafficSplit { percent, replicas })
}

/// Certificates and keys of a service's rules.
pub fn secrets(service: &Service) -> impl Iterator<Item = DataId> + '_ {
    let rules = service.spec.ingress.iter();
    rules.flat_map(|rule| rule.secrets()).filter_map(|secret| secret.id)
}

/// Whether the ingress of any service uses it.
pub fn uses(state: &State, id: DataId) -> bool {
    state
        .services()
        .any(|service| secrets(service).any(|secret| secret == id))
}
