//! What a person does to one service: scale, update, roll back, restart.

use std::sync::Arc;

use gantry_env::Env;
use gantry_model::object::{Rollout, RolloutKind, Service};
use gantry_model::spec::{Constraint, Mode, ServiceSpec, UpdateConfig};
use gantry_model::{Class, Problem};
use gantry_state::{Key, Object, Op, Precondition, State};

use super::apply::update_service;
use super::{Decision, Draft, images};

/// Largest replica count of one service: a slip of the finger should not fill a cluster.
const REPLICAS_MAX: u32 = 100_000;

/// Changes to a service; what is empty stays.
#[derive(Debug, Clone, Default)]
pub struct ServiceEdit {
    /// Another image.
    pub image: Option<String>,
    /// `KEY=VALUE` sets, `KEY` alone removes.
    pub environment: Vec<String>,
    /// Other rollout settings.
    pub update: Option<UpdateConfig>,
    /// Constraints to add.
    pub constraints_add: Vec<Constraint>,
    /// Constraints to remove.
    pub constraints_remove: Vec<Constraint>,
    /// Replace all replicas although nothing changed.
    pub restart: bool,
}

/// Decides what setting the replica count does.
///
/// # Errors
/// When the service is not replicated, or the count is beyond reason.
pub fn scale(state: &State, env: &dyn Env, service: &Service, replicas: u32) -> Result<Decision, Problem> {
    if replicas > REPLICAS_MAX {
        let reason = format!("{replicas} replicas are more than the {REPLICAS_MAX} a service may have");
        return Err(Problem::new(Class::Invalid, service.object(), reason));
    }
    if let Some(autoscale) = &service.spec.autoscale {
        let (min, max) = (autoscale.min, autoscale.max);
        let reason = format!("is scaled by the cluster, between {min} and {max} replicas");
        return Err(Problem::new(Class::Conflict, service.object(), reason)
            .remedy("change x-gantry.autoscale in the manifest and apply it"));
    }
    let mut spec = ServiceSpec::clone(&service.spec);
    match &mut spec.mode {
        Mode::Replicated { replicas: wanted } => *wanted = replicas,
        Mode::Global | Mode::GlobalJob => {
            return Err(Problem::new(
                Class::Invalid,
                service.object(),
                "is global: it has one replica per eligible node",
            )
            .remedy("constrain it to fewer nodes, or apply it as replicated under another name"));
        }
        Mode::ReplicatedJob { .. } => {
            return Err(Problem::new(
                Class::Invalid,
                service.object(),
                "is a job: its completions are part of its spec",
            )
            .remedy("change its replicas in the manifest and apply it under another name"));
        }
    }
    let mut draft = Draft::new(state, env);
    update_service(&mut draft, service, spec, "scale")?;
    Ok(draft.finish())
}

/// Decides what an edit does.
///
/// # Errors
/// When the image does not exist or an entry of the environment has no name.
pub fn edit_service(state: &State, env: &dyn Env, service: &Service, edit: &ServiceEdit) -> Result<Decision, Problem> {
    let mut spec = ServiceSpec::clone(&service.spec);
    if let Some(image) = &edit.image {
        spec.container.image.clone_from(image);
        images::pin(state, &mut spec, &service.object())?;
    }
    for entry in &edit.environment {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (entry.as_str(), None),
        };
        if name.is_empty() {
            let reason = format!("environment entry '{entry}' has no name");
            return Err(
                Problem::new(Class::Invalid, service.object(), reason).remedy("write NAME=VALUE, or NAME to remove")
            );
        }
        spec.container.environment.insert(name.to_string(), value);
    }
    if let Some(update) = &edit.update {
        spec.update = update.clone();
    }
    let constraints = &mut spec.placement.constraints;
    constraints.retain(|constraint| !edit.constraints_remove.contains(constraint));
    for constraint in &edit.constraints_add {
        if !constraints.contains(constraint) {
            constraints.push(constraint.clone());
        }
    }
    if edit.restart {
        spec.restart_generation += 1;
    }
    let mut draft = Draft::new(state, env);
    update_service(
        &mut draft,
        service,
        spec,
        if edit.restart { "restart" } else { "update" },
    )?;
    Ok(draft.finish())
}

/// Decides what going back to an earlier revision does; 0 is the one before the present.
///
/// # Errors
/// When there is no such revision, or it is the present one.
pub fn rollback(state: &State, env: &dyn Env, service: &Service, to: u32) -> Result<Decision, Problem> {
    let kept: Vec<u32> = state.revisions_of(service.id).map(|revision| revision.number).collect();
    let target = if to == 0 {
        previous_revision(service, &kept)
    } else {
        Some(to)
    };
    let record = target
        .and_then(|number| state.revision_of(service.id, number))
        .ok_or_else(|| {
            let list: Vec<String> = kept.iter().map(u32::to_string).collect();
            let reason = match to {
                0 => "has no earlier revision to go back to".to_string(),
                number => format!("has no revision {number}"),
            };
            Problem::new(Class::NotFound, service.object(), reason)
                .remedy(format!("kept revisions: {}", list.join(", ")))
        })?;
    if record.number == service.revision {
        let reason = format!("is at revision {} already", record.number);
        return Err(Problem::new(Class::Invalid, service.object(), reason));
    }
    let mut draft = Draft::new(state, env);
    let key = Key::Service(service.id);
    draft.require.push(Precondition::Unchanged {
        modified: state.modified(&key),
        key,
    });
    let mut rolled = service.clone();
    let mut spec = ServiceSpec::clone(&record.spec);
    // As in Swarm and Kubernetes, going back changes what runs, not how many.
    spec.mode = service.spec.mode;
    rolled.ports = draft.network.ports(&service.object(), service.id, &spec.ports)?;
    rolled.networks = draft
        .network
        .attach(&service.object(), &service.name, &spec, Some(service))?;
    rolled.spec = Arc::new(spec);
    rolled.revision = record.number;
    rolled.updated_at = env.now();
    let back = Rollout::new(
        service.revision,
        record.number,
        RolloutKind::Rollback,
        gantry_reconcile::way_back_begins(state, service.id, rolled.updated_at),
    );
    rolled.rollout = Some(Rollout {
        message: "asked for by a person".into(),
        ..back
    });
    let message = format!("revision {} back to {}", service.revision, record.number);
    draft.record(service.object(), "rollback_started", message);
    draft.ops.push(Op::Put(Box::new(Object::Service(rolled))));
    Ok(draft.finish())
}

/// Where the latest rollout came from, or the newest revision below the present one.
fn previous_revision(service: &Service, kept: &[u32]) -> Option<u32> {
    let came_from = service.rollout.as_ref().map(|rollout| rollout.from);
    came_from
        .filter(|number| *number != service.revision && kept.contains(number))
        .or_else(|| kept.iter().copied().filter(|number| *number < service.revision).max())
}
