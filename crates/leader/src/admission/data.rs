//! Configs and secrets: content becomes versions, and services refer to versions.

use std::collections::BTreeMap;

use gantry_env::FreshIds;
use gantry_model::object::DataRecord;
use gantry_model::spec::{Application, DataKind, DataSpec, ServiceSpec};
use gantry_model::{Class, DataId, Name, Problem};
use gantry_state::{Key, Object, Op, Precondition, State};

use super::{Action, Change, Draft};

/// The versions that an application's names mean.
#[derive(Debug, Default)]
pub struct Versions(BTreeMap<(DataKind, Name), DataId>);

impl Versions {
    /// Writes the versions into a spec's configs and secrets.
    pub fn fill_in(&self, spec: &mut ServiceSpec) {
        for mount in &mut spec.container.configs {
            mount.id = self.0.get(&(DataKind::Config, mount.source.clone())).copied();
        }
        for mount in &mut spec.container.secrets {
            mount.id = self.0.get(&(DataKind::Secret, mount.source.clone())).copied();
        }
        for secret in spec.ingress.iter_mut().flat_map(|rule| rule.secrets_mut()) {
            secret.id = self.0.get(&(DataKind::Secret, secret.source.clone())).copied();
        }
    }
}

/// Stores new content as new versions and finds the versions of the rest.
///
/// # Errors
/// When an external config or secret does not exist, or content is too large.
pub fn resolve(draft: &mut Draft<'_>, application: &Application) -> Result<Versions, Problem> {
    let mut versions = Versions::default();
    let all = [
        (DataKind::Config, &application.configs),
        (DataKind::Secret, &application.secrets),
    ];
    for (kind, specs) in all {
        for (name, spec) in specs {
            let id = resolve_one(draft, kind, &application.namespace, name, spec)?;
            versions.0.insert((kind, name.clone()), id);
        }
    }
    Ok(versions)
}

fn word(kind: DataKind) -> &'static str {
    match kind {
        DataKind::Config => "config",
        DataKind::Secret => "secret",
    }
}

fn resolve_one(
    draft: &mut Draft<'_>,
    kind: DataKind,
    namespace: &Name,
    key: &Name,
    spec: &DataSpec,
) -> Result<DataId, Problem> {
    let name = spec.shared_name.as_ref().unwrap_or(key);
    let object = format!("{} {namespace}/{name}", word(kind));
    let newest = draft.state.data_named(kind, namespace, name);
    let Some(content) = &spec.content else {
        return newest.map(|record| record.id).ok_or_else(|| {
            Problem::new(Class::NotFound, object, "is external and does not exist in the cluster")
                .remedy("apply a manifest that gives its content first")
        });
    };
    if content.0.len() > kind.size_max() {
        let reason = format!("has {} bytes, at most {} are allowed", content.0.len(), kind.size_max());
        return Err(Problem::new(Class::Invalid, object, reason));
    }
    let change = |action| Change {
        action,
        kind: word(kind),
        name: name.to_string(),
        details: Vec::new(),
        rollout: false,
    };
    if let Some(newest) = newest.filter(|newest| newest.content == *content) {
        draft.changes.push(change(Action::Unchanged));
        return Ok(newest.id);
    }
    let action = if newest.is_some() {
        Action::Update
    } else {
        Action::Create
    };
    let record = DataRecord {
        id: draft.env.data_id(),
        kind,
        namespace: namespace.clone(),
        name: name.clone(),
        version: newest.map_or(0, |newest| newest.version) + 1,
        content: content.clone(),
        labels: spec.labels.clone(),
        created_at: draft.env.now(),
    };
    let id = record.id;
    draft.changes.push(change(action));
    draft.require.push(Precondition::Absent(Key::Data(id)));
    draft.record(object, "stored", format!("version {}", record.version));
    draft.ops.push(Op::Put(Box::new(Object::Data(record))));
    Ok(id)
}

/// Content that this very decision stores, by kind and name.
pub fn stored_now(draft: &Draft<'_>) -> BTreeMap<(DataKind, Name), DataId> {
    let stored = draft.ops.iter().filter_map(|op| match op {
        Op::Put(object) => match object.as_ref() {
            Object::Data(record) => Some(((record.kind, record.name.clone()), record.id)),
            _ => None,
        },
        _ => None,
    });
    stored.collect()
}

/// Refers a spec to newer content of the configs and secrets that it uses; says whether there was any.
pub fn renew(state: &State, spec: &mut ServiceSpec, newest: &BTreeMap<(DataKind, Name), DataId>) -> bool {
    let container = &mut spec.container;
    let mounts = container.configs.iter_mut().chain(&mut container.secrets);
    let certificates = spec.ingress.iter_mut().flat_map(|rule| rule.secrets_mut());
    let mounted = mounts.map(|mount| &mut mount.id);
    let mut any = false;
    for id in mounted.chain(certificates.map(|secret| &mut secret.id)) {
        let used = id.and_then(|id| state.data(id));
        let newer = used.and_then(|used| newest.get(&(used.kind, used.name.clone())));
        if let Some(newer) = newer {
            *id = Some(*newer);
            any = true;
        }
    }
    any
}

/// Deletes all configs and secrets of a namespace that is deleted as a whole.
pub fn delete_all(draft: &mut Draft<'_>, namespace: &Name) {
    let records: Vec<DataRecord> = draft
        .state
        .all_data()
        .filter(|record| record.namespace == *namespace)
        .cloned()
        .collect();
    for record in records {
        draft.changes.push(Change {
            action: Action::Delete,
            kind: word(record.kind),
            name: record.name.to_string(),
            details: Vec::new(),
            rollout: false,
        });
        draft.ops.push(Op::Delete(Key::Data(record.id)));
    }
}
