//! An application into its namespace.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_env::{Env, FreshIds};
use gantry_model::object::{RevisionRecord, Rollout, RolloutKind, RolloutState, Service};
use gantry_model::spec::{Application, Mode, ServiceSpec};
use gantry_model::{Class, Name, Problem, QualifiedName};
use gantry_state::{Key, Object, Op, Precondition, State};

use super::{Action, Change, Decision, Draft, data, diff, images};

/// Decides what applying `application` does. With `keep_missing`, services that it does not name stay.
///
/// # Errors
/// A [`Problem`] about the first object that cannot be resolved: an image, config or secret that does not exist, a published
/// port that is taken, an address pool that is used up, a namespace that is being deleted.
pub fn apply(state: &State, env: &dyn Env, application: &Application, keep_missing: bool) -> Result<Decision, Problem> {
    let mut draft = Draft::new(state, env);
    let data = data::resolve(&mut draft, application)?;
    let decided = |service: &&Service| !keep_missing || application.services.contains_key(&service.name);
    let decided = state.services_in(&application.namespace).filter(decided);
    draft.ingress.release(decided.map(|service| service.id));
    for (name, spec) in &application.services {
        let mut spec = spec.clone();
        images::pin(state, &mut spec, &format!("service {}/{name}", application.namespace))?;
        data.fill_in(&mut spec);
        put_service(&mut draft, &application.namespace, name, spec)?;
    }
    rotate(&mut draft, application)?;
    if !keep_missing {
        let named: BTreeSet<&Name> = application.services.keys().collect();
        let missing: Vec<Service> = state
            .services_in(&application.namespace)
            // A run is its cron job's to keep.
            .filter(|service| !named.contains(&service.name) && !service.deleting && service.owner.is_none())
            .cloned()
            .collect();
        for service in missing {
            delete_service(&mut draft, service, "no longer in the manifest");
        }
    }
    Ok(draft.finish())
}

/// Services beside the application that use a config or secret with new content get it as well, by a rollout.
fn rotate(draft: &mut Draft<'_>, application: &Application) -> Result<(), Problem> {
    let newest = data::stored_now(draft);
    if newest.is_empty() {
        return Ok(());
    }
    let beside = |service: &&Service| {
        let named = application.services.contains_key(&service.name);
        !named && !service.deleting && service.owner.is_none()
    };
    let services: Vec<Service> = draft
        .state
        .services_in(&application.namespace)
        .filter(beside)
        .cloned()
        .collect();
    for service in services {
        let mut spec = ServiceSpec::clone(&service.spec);
        if data::renew(draft.state, &mut spec, &newest) {
            update_service(draft, &service, spec, "rotation")?;
        }
    }
    Ok(())
}

/// Decides what deleting the named services of a namespace does, or all of them when `names` is empty.
///
/// # Errors
/// When a named service, or the namespace, does not exist.
pub fn delete(state: &State, env: &dyn Env, namespace: &Name, names: &[Name]) -> Result<Decision, Problem> {
    let mut draft = Draft::new(state, env);
    let mut services: Vec<Service> = state.services_in(namespace).cloned().collect();
    if let Some(unknown) = names
        .iter()
        .find(|name| services.iter().all(|service| service.name != **name))
    {
        return Err(Problem::new(
            Class::NotFound,
            format!("service {namespace}/{unknown}"),
            "does not exist",
        ));
    }
    services.retain(|service| names.is_empty() || names.contains(&service.name));
    for service in services.into_iter().filter(|service| !service.deleting) {
        delete_service(&mut draft, service, "deleted");
    }
    if names.is_empty() {
        data::delete_all(&mut draft, namespace);
    }
    Ok(draft.finish())
}

fn delete_service(draft: &mut Draft<'_>, mut service: Service, why: &str) {
    let key = Key::Service(service.id);
    draft.require.push(Precondition::Unchanged {
        modified: draft.state.modified(&key),
        key,
    });
    draft.record(service.object(), "deleted", why.to_string());
    draft.changes.push(Change {
        action: Action::Delete,
        kind: "service",
        name: service.name.to_string(),
        details: vec![why.to_string()],
        rollout: false,
    });
    service.deleting = true;
    draft.ops.push(Op::Put(Box::new(Object::Service(service))));
}

fn put_service(draft: &mut Draft<'_>, namespace: &Name, name: &Name, spec: ServiceSpec) -> Result<(), Problem> {
    match draft.state.service_named(namespace, name) {
        Some(existing) if existing.deleting => Err(Problem::new(
            Class::Unavailable,
            existing.object(),
            "is being deleted: its replicas are still stopping",
        )
        .remedy("try again in a few seconds")),
        Some(existing) if existing.owner.is_some() => {
            let reason = "is a run of a cron job, made by the cluster";
            Err(Problem::new(Class::Conflict, existing.object(), reason).remedy("give the service another name"))
        }
        Some(existing) => {
            let existing = existing.clone();
            update_service(draft, &existing, spec, "apply")
        }
        None => create_service(draft, namespace, name, spec),
    }
}

fn create_service(draft: &mut Draft<'_>, namespace: &Name, name: &Name, spec: ServiceSpec) -> Result<(), Problem> {
    let object = format!("service {namespace}/{name}");
    let id = draft.env.service_id();
    let now = draft.env.now();
    let ports = draft.network.ports(&object, id, &spec.ports)?;
    let networks = draft.network.attach(&object, name, &spec, None)?;
    draft.ingress.take(&object, id, &spec.ingress)?;
    draft.require.push(Precondition::ServiceNameFree(QualifiedName {
        namespace: namespace.clone(),
        name: name.clone(),
    }));
    draft.require.push(Precondition::Absent(Key::Service(id)));
    draft.record(object, "created", "revision 1".to_string());
    draft.changes.push(Change {
        action: Action::Create,
        kind: "service",
        name: name.to_string(),
        details: vec![
            format!("image: {}", spec.container.image),
            format!("mode: {}", diff::mode(&spec.mode)),
        ],
        rollout: false,
    });
    let spec = Arc::new(spec);
    let revision = RevisionRecord {
        service: id,
        number: 1,
        spec: spec.clone(),
        created_at: now,
        cause: "apply".into(),
    };
    let service = Service {
        id,
        namespace: namespace.clone(),
        name: name.clone(),
        spec,
        revision: 1,
        networks,
        ports,
        rollout: None,
        deleting: false,
        owner: None,
        job: Default::default(),
        created_at: now,
        updated_at: now,
    };
    draft.ops.push(Op::Put(Box::new(Object::Revision(revision))));
    draft.ops.push(Op::Put(Box::new(Object::Service(service))));
    Ok(())
}

/// Brings `existing` to `spec`: nothing at all when they are equal, in place where replicas may stay, else by a new revision.
pub(super) fn update_service(
    draft: &mut Draft<'_>,
    existing: &Service,
    mut spec: ServiceSpec,
    cause: &str,
) -> Result<(), Problem> {
    if cause == "apply" {
        // A manifest does not know how often a person restarted the service.
        spec.restart_generation = existing.spec.restart_generation;
        keep_scaled(existing, &mut spec);
    }
    refuse_change_of_kind(existing, &spec)?;
    let details = diff::lines(&existing.spec, &spec);
    let change = |action, details, rollout| Change {
        action,
        kind: "service",
        name: existing.name.to_string(),
        details,
        rollout,
    };
    if *existing.spec == spec {
        draft.changes.push(change(Action::Unchanged, Vec::new(), false));
        return Ok(());
    }
    let rollout = existing.spec.replaces_replicas(&spec);
    let key = Key::Service(existing.id);
    draft.require.push(Precondition::Unchanged {
        modified: draft.state.modified(&key),
        key,
    });
    let mut service = existing.clone();
    service.ports = draft.network.ports(&existing.object(), existing.id, &spec.ports)?;
    service.networks = draft
        .network
        .attach(&existing.object(), &existing.name, &spec, Some(existing))?;
    draft.ingress.take(&existing.object(), existing.id, &spec.ingress)?;
    service.spec = Arc::new(spec);
    service.updated_at = draft.env.now();
    if rollout {
        begin_rollout(draft, existing, &mut service, cause);
    }
    draft.record(service.object(), "updated", details.join(", "));
    draft.changes.push(change(Action::Update, details, rollout));
    let revision = RevisionRecord {
        service: service.id,
        number: service.revision,
        spec: service.spec.clone(),
        created_at: service.updated_at,
        cause: cause.to_string(),
    };
    draft.ops.push(Op::Put(Box::new(Object::Revision(revision))));
    draft.ops.push(Op::Put(Box::new(Object::Service(service))));
    Ok(())
}

/// A manifest does not know either to how many replicas the cluster scaled the service.
fn keep_scaled(existing: &Service, spec: &mut ServiceSpec) {
    if existing.spec.autoscale.is_some() && spec.autoscale.is_some() {
        spec.mode = existing.spec.mode;
    }
}

/// A new revision that supersedes whatever rollout is in progress.
fn begin_rollout(draft: &mut Draft<'_>, existing: &Service, service: &mut Service, cause: &str) {
    let newest = draft
        .state
        .revisions_of(existing.id)
        .map(|revision| revision.number)
        .max();
    service.revision = newest.unwrap_or(existing.revision).max(existing.revision) + 1;
    let from = came_from(draft.state, existing);
    service.rollout = Some(Rollout::new(
        from,
        service.revision,
        RolloutKind::Update,
        service.updated_at,
    ));
    let message = format!("revision {} to {} ({cause})", existing.revision, service.revision);
    draft.record(service.object(), "rollout_started", message);
}

/// Where a failed rollout would go back to: the revision that was last rolled out in full, if an update is superseded half-way.
fn came_from(state: &State, existing: &Service) -> u32 {
    let open = |rollout: &&Rollout| {
        let open = matches!(rollout.state, RolloutState::Running | RolloutState::Paused);
        open && rollout.kind == RolloutKind::Update && rollout.from != 0
    };
    let superseded = existing.rollout.as_ref().filter(open).map(|rollout| rollout.from);
    superseded
        .filter(|from| state.revision_of(existing.id, *from).is_some())
        .unwrap_or(existing.revision)
}

fn refuse_change_of_kind(existing: &Service, spec: &ServiceSpec) -> Result<(), Problem> {
    let kind = |mode: &Mode| match mode {
        Mode::Replicated { .. } => "replicated",
        Mode::Global => "global",
        Mode::ReplicatedJob { .. } => "replicated-job",
        Mode::GlobalJob => "global-job",
    };
    let (from, to) = (kind(&existing.spec.mode), kind(&spec.mode));
    if from == to {
        return Ok(());
    }
    let reason = format!("is {from} and cannot become {to} in place");
    Err(Problem::new(Class::Invalid, existing.object(), reason)
        .remedy("delete the service first, or give it another name"))
}
