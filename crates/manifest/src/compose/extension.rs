//! `x-gantry`: what Compose has no word for. Unlike in other extension fields, what is in it must be known.
//!
//! At the top level it sets defaults of the namespace, in a service it adds to what `deploy` says.

use gantry_model::Name;
use gantry_model::spec::{
    Affinity, Constraint, GenericResource, Mode, Neighbour, NeighbourRule, PREFERENCES_MAX, PRIORITY_MAX, Placement,
    Preference, ServiceSpec, Strategy, TaintEffect, Toleration, VolumeRule, WEIGHT_MAX,
};

use super::scalar::{choice, integer, name, parsed, some_text};
use super::{Context, keys, policy, workload};
use crate::yaml::cursor::Cursor;

const RULES: &[(&str, NeighbourRule)] = &[("with", NeighbourRule::With), ("apart", NeighbourRule::Apart)];
const VOLUME_RULES: &[(&str, VolumeRule)] = &[
    ("prefer", VolumeRule::Prefer),
    ("stay", VolumeRule::Stay),
    ("ignore", VolumeRule::Ignore),
];
const EFFECTS: &[(&str, TaintEffect)] = &[
    ("prefer_no_schedule", TaintEffect::PreferNoSchedule),
    ("no_schedule", TaintEffect::NoSchedule),
    ("no_execute", TaintEffect::NoExecute),
];

/// The strategy of all services that have none of their own.
pub(crate) fn namespace_strategy(root: &Cursor<'_>) -> Option<Strategy> {
    let extension = root.get("x-gantry")?;
    extension.check_keys(keys::X_GANTRY_TOP);
    extension.read("placement", |at| {
        at.check_keys(keys::X_GANTRY_TOP_PLACEMENT);
        at.read("strategy", parsed)
    })
}

/// Adds what a service's `x-gantry` says to its spec.
pub(crate) fn extend(service: &Cursor<'_>, own: &Name, spec: &mut ServiceSpec, context: &Context<'_>) {
    let Some(extension) = service.get("x-gantry") else {
        return;
    };
    extension.check_keys(keys::X_GANTRY);
    if let Some(at) = extension.get("placement") {
        at.check_keys(keys::X_GANTRY_PLACEMENT);
        placement(&at, own, &mut spec.placement, context);
        if matches!(spec.mode, Mode::Global | Mode::GlobalJob) && !spec.placement.preferences.is_empty() {
            at.read("spread", |spread| {
                spread.error_with("a global service has one replica per node anyway", "remove it");
                Some(())
            });
        }
    }
    if let Some(at) = extension.get("disruption") {
        at.check_keys(keys::DISRUPTION);
        spec.placement.max_unavailable = at.read("max_unavailable", parsed);
    }
    workload::extend(&extension, spec);
    spec.policy = extension.read("policy", |at| policy::policy(at, &context.namespace));
    if let Some(at) = extension.get("reserve") {
        reserve(&at, spec);
    }
}

fn placement(at: &Cursor<'_>, own: &Name, placement: &mut Placement, context: &Context<'_>) {
    placement.strategy = at.read("strategy", parsed);
    if let Some(list) = at.get("constraints") {
        placement
            .constraints
            .extend(list.items().iter().filter_map(parsed::<Constraint>));
    }
    if let Some(list) = at.get("affinities") {
        placement.affinities = list.items().iter().filter_map(affinity).collect();
    }
    if let Some(list) = at.get("spread") {
        placement.preferences.extend(list.items().iter().filter_map(spread));
        if placement.preferences.len() > PREFERENCES_MAX {
            list.error_with(
                format!("there are {} levels of spread", placement.preferences.len()),
                format!("at most {PREFERENCES_MAX} are told apart"),
            );
        }
    }
    if let Some(list) = at.get("neighbours") {
        let items = list.items();
        let read = items.iter().filter_map(|item| neighbour(item, own, context));
        placement.neighbours = read.collect();
    }
    if let Some(list) = at.get("tolerations") {
        placement.tolerations = list.items().iter().filter_map(toleration).collect();
    }
    placement.priority = at.read("priority", |at| bounded(at, PRIORITY_MAX)).unwrap_or(0);
    placement.volumes = at.read("volumes", |at| choice(at, VOLUME_RULES)).unwrap_or_default();
}

/// A whole number from minus `most` to `most`.
fn bounded(at: &Cursor<'_>, most: i32) -> Option<i32> {
    let value = integer(at, i64::from(-most), i64::from(most))?;
    i32::try_from(value).ok()
}

fn affinity(at: &Cursor<'_>) -> Option<Affinity> {
    at.check_keys(keys::AFFINITY);
    let (Some(constraint), Some(weight)) = (at.get("constraint"), at.get("weight")) else {
        at.error("'constraint' and 'weight' are needed");
        return None;
    };
    Some(Affinity {
        constraint: parsed(&constraint)?,
        weight: bounded(&weight, WEIGHT_MAX)?,
    })
}

fn spread(at: &Cursor<'_>) -> Option<Preference> {
    at.check_keys(keys::SPREAD);
    let Some(by) = at.get("by") else {
        at.error("'by' is missing");
        return None;
    };
    let by = parsed(&by)?;
    match at.get("max_skew") {
        None => Some(Preference::Spread(by)),
        Some(skew) => {
            let skew = integer(&skew, 1, i64::from(u32::MAX))?;
            Some(Preference::Even {
                by,
                max_skew: u32::try_from(skew).ok()?,
            })
        }
    }
}

fn neighbour(at: &Cursor<'_>, own: &Name, context: &Context<'_>) -> Option<Neighbour> {
    at.check_keys(keys::NEIGHBOUR);
    let (Some(service_at), rule, weight) = (at.get("service"), at.get("rule"), at.get("weight")) else {
        at.error("'service' is missing");
        return None;
    };
    let service = name(&service_at)?;
    if service == *own {
        let help = "use max_replicas_per_node, or spread with max_skew";
        service_at.error_with("a service is no neighbour of itself", help);
        return None;
    }
    if !context.service_names.contains(&service) {
        service_at.error(format!("there is no service '{service}'"));
        return None;
    }
    let rule = match (rule, weight) {
        (Some(rule), None) => choice(&rule, RULES)?,
        (None, Some(weight)) => NeighbourRule::Weight(bounded(&weight, WEIGHT_MAX)?),
        (Some(_), Some(_)) | (None, None) => {
            at.error_with(
                "one of 'rule' and 'weight' is needed",
                "write rule: with, rule: apart, or weight: 50",
            );
            return None;
        }
    };
    Some(Neighbour {
        service,
        within: at.read("within", parsed),
        rule,
    })
}

/// A key, a value and an effect, each of which may be absent; or the word `all`.
fn toleration(at: &Cursor<'_>) -> Option<Toleration> {
    let none = Toleration {
        key: None,
        value: None,
        effect: None,
    };
    if !at.is_map() {
        return choice(at, &[("all", ())]).map(|()| none);
    }
    at.check_keys(keys::TOLERATION);
    Some(Toleration {
        key: at.read("key", some_text),
        value: at.read("value", some_text),
        effect: at.read("effect", |at| choice(at, EFFECTS)),
    })
}

/// What is set aside beyond processor time and memory: a size for `disk`, a number for anything else.
fn reserve(at: &Cursor<'_>, spec: &mut ServiceSpec) {
    for entry in at.all_entries() {
        let value = match entry.key() {
            "disk" => parsed::<gantry_model::ByteSize>(&entry).map(|size| size.0),
            _ => integer(&entry, 1, i64::MAX).map(i64::unsigned_abs),
        };
        let reservations = &mut spec.resources.generic_reservations;
        let Some(value) = value else { continue };
        if matches!(entry.key(), "cpu" | "cpus" | "memory") {
            entry.error_key(
                format!("'{}' is not reserved here", entry.key()),
                Some("use deploy.resources.reservations".to_string()),
            );
        } else if reservations.iter().any(|other| other.kind == entry.key()) {
            entry.error_key(format!("'{}' is reserved already", entry.key()), None);
        } else {
            reservations.push(GenericResource {
                kind: entry.key().to_string(),
                value,
            });
        }
    }
}
