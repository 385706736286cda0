//! The project's name, and services that extend others.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::Name;

use super::scalar::some_text;
use super::{keys, scalar};
use crate::Options;
use crate::diagnostic::{Sink, Site};
use crate::limits::{EXTENDS_DEPTH_MAX, SERVICES_MAX};
use crate::yaml::cursor::Cursor;
use crate::yaml::interpolate::expand_at;
use crate::yaml::merge::merge_service;
use crate::yaml::tree::{Budget, Node, Value};

/// A folder's name is cut to what a [`Name`] holds.
const NAME_LENGTH_MAX: usize = 63;

/// The namespace: from the options, else the last file that has a `name`, else the base folder.
pub(crate) fn project_name(roots: &[Node], options: &Options, sink: &Sink) -> Option<Name> {
    if let Some(name) = &options.project_name {
        return checked(name, sink, &Site::default());
    }
    for root in roots.iter().rev() {
        let root = Cursor::root(root, sink);
        let Some(at) = root.get("name") else { continue };
        let name = expand_at(&at, &some_text(&at)?, &options.environment)?;
        return checked(&name, sink, &at.site());
    }
    let folder = options.base_dir.file_name().unwrap_or_default().to_string_lossy();
    let name = normalized(&folder);
    if name.is_empty() {
        let message = format!("the folder '{}' gives no project name", options.base_dir.display());
        let help = "write `name: NAME` at the top of the manifest, or give a name on the command line";
        sink.error(&Site::default(), message, Some(help.to_string()));
        return None;
    }
    Name::new(name.chars().take(NAME_LENGTH_MAX).collect::<String>()).ok()
}

fn checked(name: &str, sink: &Sink, site: &Site) -> Option<Name> {
    let valid = normalized(name);
    if valid == name
        && let Ok(name) = Name::new(name)
    {
        return Some(name);
    }
    let help = match Name::new(valid) {
        Ok(valid) => format!("'{valid}' would be one"),
        Err(_) => "use a-z, 0-9, '_' and '-', starting with a letter or digit, at most 63".to_string(),
    };
    sink.error(site, format!("'{name}' is not a valid project name"), Some(help));
    None
}

/// Lower case without the characters that a project name may not have, as Compose makes it from a folder's name.
fn normalized(text: &str) -> String {
    let allowed =
        |character: &char| character.is_ascii_lowercase() || character.is_ascii_digit() || "_-".contains(*character);
    let name: String = text.to_lowercase().chars().filter(allowed).collect();
    name.trim_start_matches(['_', '-']).to_string()
}

/// Puts into every service what it extends; nothing when that takes more than the budget.
pub(crate) fn inherit(root: &mut Node, budget: &mut Budget, sink: &Sink) -> Option<()> {
    let plan = chains(root, sink);
    let mut done: BTreeMap<String, Node> = BTreeMap::new();
    for (name, base) in plan {
        let services = root.get("services");
        let (Some(own), Some(parent)) = (
            services.and_then(|services| services.get(&name)),
            done.get(&base)
                .or_else(|| services.and_then(|services| services.get(&base))),
        ) else {
            continue;
        };
        if !budget.take(parent.size()) {
            let site = Site {
                place: Some(own.place),
                path: format!("services.{name}.extends"),
            };
            sink.error(&site, "the manifest is too large once its services are extended", None);
            return None;
        }
        let mut parent = parent.clone();
        if let Value::Map(entries) = &mut parent.value {
            entries.retain(|entry| entry.key != "extends" && entry.key != "profiles");
        }
        let merged = merge_service(parent, own.clone());
        done.insert(name, merged);
    }
    let Value::Map(entries) = &mut root.value else {
        return Some(());
    };
    let services = entries.iter_mut().filter(|entry| entry.key == "services");
    for service in services.flat_map(|entry| match &mut entry.value.value {
        Value::Map(services) => services.iter_mut(),
        Value::Null | Value::Scalar(_) | Value::List(_) => [].iter_mut(),
    }) {
        if let Some(merged) = done.remove(&service.key) {
            service.value = merged;
        }
    }
    Some(())
}

/// Pairs of service and base, every base before those that extend it.
fn chains(root: &Node, sink: &Sink) -> Vec<(String, String)> {
    let root = Cursor::root(root, sink);
    let is_readable = |services: &Cursor<'_>| services.is_map() && services.node.entries().len() <= SERVICES_MAX;
    let Some(services) = root.get("services").filter(is_readable) else {
        return Vec::new();
    };
    let mut bases: BTreeMap<String, String> = BTreeMap::new();
    for service in services.all_entries() {
        let Some(at) = service.get("extends") else { continue };
        let Some(base) = base_of(&at) else { continue };
        if services.get(&base).is_some() {
            bases.insert(service.key().to_string(), base);
        } else {
            at.error(format!("there is no service '{base}' to extend"));
        }
    }
    let mut order = Vec::new();
    let mut placed = BTreeSet::new();
    for service in services.all_entries() {
        let mut chain = Vec::new();
        let mut current = service.key();
        while let Some(base) = bases.get(current).filter(|_| !placed.contains(current)) {
            if chain.contains(&current) || chain.len() >= EXTENDS_DEPTH_MAX {
                service.error_key(
                    format!("extends itself, or more than {EXTENDS_DEPTH_MAX} in a row"),
                    None,
                );
                return Vec::new();
            }
            chain.push(current);
            current = base;
        }
        for name in chain.into_iter().rev() {
            placed.insert(name.to_string());
            order.push((name.to_string(), bases[name].clone()));
        }
    }
    order
}

fn base_of(at: &Cursor<'_>) -> Option<String> {
    if !at.is_map() {
        return some_text(at);
    }
    at.check_keys(keys::EXTENDS);
    if let Some(file) = at.get("file") {
        file.error_with(
            "extending a service of another file is not supported yet",
            "copy the service, or give both files as manifests",
        );
        return None;
    }
    match at.get("service") {
        Some(service) => scalar::some_text(&service),
        None => {
            at.error("'service' is missing");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_become_project_names() {
        for (folder, expected) in [
            ("My Shop", "myshop"),
            ("_-a.b", "ab"),
            ("ÄÖ", ""),
            ("web_1-x", "web_1-x"),
        ] {
            assert_eq!(normalized(folder), expected, "{folder}");
        }
    }
}
