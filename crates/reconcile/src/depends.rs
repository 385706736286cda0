//! Start order: what a service waits for before its first start.
//!
//! Once a replica of it has run, a dependency's troubles do not hold back replacements.

use gantry_model::explain::Explanation;
use gantry_model::object::{Replica, Service};
use gantry_model::phase::{Health, Phase};
use gantry_model::spec::{Dependency, DependencyCondition, RestartCondition};
use gantry_model::{Name, ServiceId};
use gantry_state::State;

use crate::{cron, plan};

/// The services that may wait for `service`, and the cron job it is a run of: to be reconciled when it or its replicas change.
#[must_use]
pub fn dependants(state: &State, service: ServiceId) -> Vec<ServiceId> {
    let Some(service) = state.service(service) else {
        return Vec::new();
    };
    let others = state.services_in(&service.namespace);
    others
        .filter(|other| other.spec.depends_on.contains_key(&service.name))
        .map(|other| other.id)
        .chain(cron::owner(state, service))
        .collect()
}

/// What the service's new replicas wait for; none when they may start.
pub(crate) fn gate(state: &State, service: &Service) -> Option<Explanation> {
    if service.spec.depends_on.is_empty() || has_run(state, service.id) {
        return None;
    }
    let unmet: Vec<Unmet> = service
        .spec
        .depends_on
        .iter()
        .filter_map(|(name, dependency)| unmet(state, &service.namespace, name, dependency))
        .collect();
    let first = unmet.first()?;
    let reasons: Vec<&str> = unmet.iter().map(|one| one.reason.as_str()).collect();
    Some(Explanation {
        summary: format!("waiting for {}", reasons.join(", ")),
        remedy: first.remedy.clone(),
        refusals: Vec::new(),
    })
}

fn has_run(state: &State, service: ServiceId) -> bool {
    let ran = |replica: &Replica| {
        let observed = &replica.observed;
        observed.started_at.is_some() || matches!(observed.phase, Phase::Running | Phase::Completed)
    };
    state.replicas_of(service).any(ran)
}

struct Unmet {
    reason: String,
    remedy: String,
}

fn unmet(state: &State, namespace: &Name, name: &Name, dependency: &Dependency) -> Option<Unmet> {
    let Some(other) = state.service_named(namespace, name).filter(|other| !other.deleting) else {
        return dependency.required.then(|| Unmet {
            reason: format!("service {namespace}/{name}, which does not exist"),
            remedy: format!("apply a manifest that has {name}"),
        });
    };
    let replicas: Vec<&Replica> = state.replicas_of(other.id).collect();
    let met = match dependency.condition {
        DependencyCondition::Started => replicas
            .iter()
            .any(|one| one.is_active() && one.observed.phase == Phase::Running),
        DependencyCondition::Healthy => replicas.iter().any(|one| is_healthy(one)),
        DependencyCondition::CompletedSuccessfully => has_completed(state, other, &replicas),
    };
    let given_up = !dependency.required && !replicas.is_empty() && replicas.iter().all(|one| has_failed(one));
    if met || given_up {
        return None;
    }
    let what = match dependency.condition {
        DependencyCondition::Started => "to start",
        DependencyCondition::Healthy => "to be healthy",
        DependencyCondition::CompletedSuccessfully => "to complete",
    };
    Some(Unmet {
        reason: format!("{name} {what}"),
        remedy: remedy(other, name, dependency.condition),
    })
}

fn remedy(other: &Service, name: &Name, condition: DependencyCondition) -> String {
    let restarts_for_ever = other.spec.restart.condition == RestartCondition::Any && !other.spec.mode.is_job();
    if condition == DependencyCondition::CompletedSuccessfully && restarts_for_ever {
        return format!("{name} is started again whenever it ends: set restart: \"no\" or on-failure on it");
    }
    format!("see 'gantry explain {name}'")
}

fn is_healthy(replica: &Replica) -> bool {
    replica.is_endpoint() && matches!(replica.observed.health, Health::Healthy | Health::None)
}

fn has_failed(replica: &Replica) -> bool {
    matches!(replica.observed.phase, Phase::Failed | Phase::Rejected)
}

/// Every slot has a replica of the present revision that ended well.
fn has_completed(state: &State, other: &Service, replicas: &[&Replica]) -> bool {
    let slots = plan::wanted(state, other).slots;
    let completed = |slot| {
        let mut of_slot = replicas
            .iter()
            .filter(|one| one.slot == slot && one.revision == other.revision);
        of_slot.any(|one| one.observed.phase == Phase::Completed)
    };
    !slots.is_empty() && slots.into_iter().all(completed)
}
