//! Placeholders such as `{{.Task.Slot}}`, in the environment, the host name and mounts.
//!
//! Swarm's names: `.Service.ID`, `.Service.Name`, `.Service.Labels.KEY`, `.Node.ID`, `.Node.Hostname`, `.Node.Platform.OS`,
//! `.Node.Platform.Architecture`, `.Task.ID`, `.Task.Name`, `.Task.Slot`, and `index .Service.Labels "KEY"` for keys with dots.
//! Beyond Swarm's: `.Task.Index`, the slot counted from 0.
//! Braces around anything else are the user's own and stay as they are: many programs have templates in their settings. Pure.

use std::collections::BTreeMap;

use gantry_model::assignment::{NodeItem, ReplicaItem};
use gantry_model::spec::{ContainerSpec, MountKind};

/// What placeholders stand for.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// The replica.
    pub item: &'a ReplicaItem,
    /// The node.
    pub node: &'a NodeItem,
    /// Its processor, as in image platforms.
    pub architecture: &'a str,
}

/// A placeholder that stands for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The name is of Gantry's, but unknown.
    #[error("template '{{{{{0}}}}}' in {1} is unknown: use .Service, .Task or .Node and one of their fields")]
    Unknown(String, String),
}

impl Values<'_> {
    /// The container with its templates expanded.
    ///
    /// # Errors
    /// When a placeholder is unknown.
    pub fn expand_container(&self, container: &ContainerSpec) -> Result<ContainerSpec, TemplateError> {
        let mut expanded = container.clone();
        for (name, value) in &mut expanded.environment {
            if let Some(text) = value {
                *text = self.expand(text, &format!("variable {name}"))?;
            }
        }
        if let Some(hostname) = &mut expanded.hostname {
            *hostname = self.expand(hostname, "the host name")?;
        }
        for mount in &mut expanded.mounts {
            let place = format!("mount {}", mount.target);
            mount.target = self.expand(&mount.target, &place)?;
            match &mut mount.kind {
                MountKind::Bind { source, .. } => *source = self.expand(source, &place)?,
                MountKind::Volume { node_name, subpath, .. } => {
                    for text in [node_name, subpath].into_iter().flatten() {
                        *text = self.expand(text, &place)?;
                    }
                }
                MountKind::Tmpfs { .. } => {}
            }
        }
        Ok(expanded)
    }

    /// The text with its placeholders replaced; `place` names it in an error.
    ///
    /// # Errors
    /// When a placeholder is unknown.
    pub fn expand(&self, text: &str, place: &str) -> Result<String, TemplateError> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, inner, after)) = next_braces(rest) {
            out.push_str(before);
            match self.value(inner) {
                Some(value) => out.push_str(&value),
                None if is_ours(inner) => {
                    return Err(TemplateError::Unknown(inner.to_string(), place.to_string()));
                }
                None => out.push_str(&rest[before.len()..rest.len() - after.len()]),
            }
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value(&self, inner: &str) -> Option<String> {
        let inner = inner.trim();
        if let Some(arguments) = inner.strip_prefix("index ") {
            let (map, key) = arguments.trim().split_once(' ')?;
            let key = key.trim().strip_prefix('"')?.strip_suffix('"')?;
            return Some(self.labels(map.trim())?.get(key).cloned().unwrap_or_default());
        }
        if let Some((map, key)) = inner.split_once(".Labels.") {
            let labels = self.labels(&format!("{map}.Labels"))?;
            return Some(labels.get(key).cloned().unwrap_or_default());
        }
        Some(match inner {
            ".Service.ID" => self.item.service.to_string(),
            ".Service.Name" => self.item.service_name.to_string(),
            ".Task.ID" => self.item.id.to_string(),
            ".Task.Name" => self.item.name(),
            ".Task.Slot" => self.item.slot.to_string(),
            ".Task.Index" => self.item.slot.index()?.to_string(),
            ".Node.ID" => self.node.id.to_string(),
            ".Node.Hostname" => self.node.name.clone(),
            ".Node.Platform.OS" => "linux".to_string(),
            ".Node.Platform.Architecture" => self.architecture.to_string(),
            _ => return None,
        })
    }

    fn labels(&self, map: &str) -> Option<&BTreeMap<String, String>> {
        match map {
            ".Service.Labels" => Some(&self.item.spec.labels),
            ".Node.Labels" => Some(&self.node.labels),
            _ => None,
        }
    }
}

fn is_ours(inner: &str) -> bool {
    let name = inner.trim().trim_start_matches("index ").trim_start();
    [".Service.", ".Task.", ".Node."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// What comes before the next pair of braces, what is between them, what comes after.
fn next_braces(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("{{")?;
    let (inner, after) = rest.split_once("}}")?;
    Some((before, inner, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn expand(text: &str) -> Result<String, TemplateError> {
        let mut item = testing::replica(3);
        let spec = std::sync::Arc::make_mut(&mut item.spec);
        spec.labels.insert("tier".into(), "front".into());
        spec.labels.insert("com.example".into(), "dots".into());
        let node = testing::node();
        let values = Values {
            item: &item,
            node: &node,
            architecture: "amd64",
        };
        values.expand(text, "variable X")
    }

    #[test]
    fn placeholders_are_replaced() {
        for (text, expected) in [
            ("{{.Service.Name}}-{{.Task.Slot}}", "web-3"),
            ("{{ .Task.Name }}", "web.3"),
            ("{{.Task.Index}}", "2"),
            ("on {{.Node.Hostname}}!", "on alpha!"),
            ("{{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}", "linux/amd64"),
            ("{{.Service.Labels.tier}}", "front"),
            ("{{index .Service.Labels \"com.example\"}}", "dots"),
            ("{{.Service.Labels.absent}}", ""),
            ("plain", "plain"),
        ] {
            assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn foreign_braces_stay() {
        for text in [
            "{{ request.id }}",
            "{{",
            "a }} b {{ c",
            "{{.Level}}",
            "{\"a\":{\"b\":{}}}",
            "{{{{.x}}",
        ] {
            assert_eq!(expand(text).as_deref(), Ok(text), "{text}");
        }
    }

    #[test]
    fn an_unknown_field_of_ours_is_an_error_that_names_it() {
        let error = expand("{{.Task.Slott}}").expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "template '{{.Task.Slott}}' in variable X is unknown: use .Service, .Task or .Node and one of their fields"
        );
    }
}
