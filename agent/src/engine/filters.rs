//! Filters of lists, as `docker ps --filter` has them. Pure.
//!
//! Values of one key are alternatives; keys must all hold; `label` must hold for each value.

use std::collections::BTreeMap;

use gantry_model::container::ContainerStatus;
use gantry_model::phase::Health;
use gantry_model::{Class, Problem};

use super::record::Record;

/// Keys that are known.
const KEYS: [&str; 9] = [
    "id", "name", "label", "status", "ancestor", "exited", "health", "volume", "publish",
];

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filters {
    values: BTreeMap<&'static str, Vec<String>>,
}

impl Filters {
    /// Reads `KEY=VALUE` texts.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, Problem> {
        let mut filters = Self::default();
        for text in texts {
            let refused = |reason: String| {
                let remedy = format!("write KEY=VALUE with one of {}", KEYS.join(", "));
                Problem::new(Class::Invalid, format!("filter '{text}'"), reason).remedy(remedy)
            };
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| refused("has no value".to_string()))?;
            let known = KEYS.into_iter().find(|known| *known == key);
            let known = known.ok_or_else(|| refused(format!("there is no filter '{key}'")))?;
            filters.values.entry(known).or_default().push(value.to_string());
        }
        Ok(filters)
    }

    /// Whether containers that do not run are asked for.
    pub(crate) fn wants_ended(&self) -> bool {
        self.values.contains_key("status") || self.values.contains_key("exited")
    }

    /// Whether a container passes.
    pub(crate) fn pass(&self, record: &Record) -> bool {
        self.values.iter().all(|(key, values)| match *key {
            "label" => values
                .iter()
                .all(|value| has_label(&record.spec.container.labels, value)),
            key => values.iter().any(|value| passes(record, key, value)),
        })
    }
}

fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

fn passes(record: &Record, key: &str, value: &str) -> bool {
    match key {
        "id" => record.id.to_string().starts_with(value),
        "name" => record.name.contains(value.trim_start_matches('/')),
        "status" => record.life.state.status.as_str() == value,
        "ancestor" => is_ancestor(record, value),
        "exited" => {
            record.life.state.status == ContainerStatus::Exited
                && record.life.state.exit_code.map(|code| code.to_string()).as_deref() == Some(value)
        }
        "health" => {
            let word = match record.life.state.health {
                Health::None => "none",
                Health::Starting => "starting",
                Health::Healthy => "healthy",
                Health::Unhealthy => "unhealthy",
            };
            word == value
        }
        "volume" => record
            .spec
            .container
            .mounts
            .iter()
            .any(|mount| uses_volume(mount, value)),
        "publish" => record.ports.iter().any(|port| {
            let number = value.split('/').next().unwrap_or(value);
            port.published.map(|number| number.to_string()).as_deref() == Some(number)
        }),
        _ => false,
    }
}

fn is_ancestor(record: &Record, value: &str) -> bool {
    let digest = record.image_digest.trim_start_matches("sha256:");
    let wanted = value.trim_start_matches("sha256:");
    let normal = |text: &str| {
        text.parse::<gantry_model::ImageReference>()
            .map(|parsed| parsed.to_string())
            .ok()
    };
    let same = normal(&record.spec.container.image) == normal(value) && normal(value).is_some();
    same || (wanted.len() >= 4 && digest.starts_with(wanted))
}

fn uses_volume(mount: &gantry_model::spec::Mount, value: &str) -> bool {
    use gantry_model::spec::MountKind;
    let named = match &mount.kind {
        MountKind::Volume { name, node_name, .. } => {
            node_name.as_deref() == Some(value) || name.as_ref().is_some_and(|name| name.as_str() == value)
        }
        MountKind::Bind { source, .. } => source == value,
        MountKind::Tmpfs { .. } => false,
    };
    named || mount.target == value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::record;

    #[test]
    fn keys_must_all_hold_and_values_are_alternatives() {
        let mut record = record("web");
        record.spec.container.labels = BTreeMap::from([("tier".into(), "front".into()), ("x".into(), String::new())]);
        for (texts, expected) in [
            (&[][..], true),
            (&["name=we", "status=created"], true),
            (&["name=nope", "name=web"], true),
            (&["label=tier=front", "label=x"], true),
            (&["label=tier=front", "label=y"], false),
            (&["status=running"], false),
            (&["ancestor=busybox"], true),
            (&["ancestor=docker.io/library/busybox:latest"], true),
            (&["ancestor=redis"], false),
            (&["ancestor=aaaa"], true),
            (&["health=none"], true),
        ] {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            let filters = Filters::parse(&texts).expect("valid");
            assert_eq!(filters.pass(&record), expected, "{texts:?}");
        }
        for wrong in ["name", "colour=red"] {
            assert!(Filters::parse(&[wrong.to_string()]).is_err());
        }
    }
}
