//! The project's name, and services that extend others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gantry_model::Name;

use super::environment::resolve;
use super::keys;
use super::rebase::rebase_service;
use super::scalar::some_text;
use super::sources::{Environment, Sources};
use crate::Options;
use crate::diagnostic::{Sink, Site};
use crate::limits::{EXTENDS_DEPTH_MAX, SERVICES_MAX};
use crate::yaml::cursor::Cursor;
use crate::yaml::interpolate::expand_at;
use crate::yaml::merge::merge_service;
use crate::yaml::tree::{Node, Value};

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
pub(crate) fn inherit(
    root: &mut Node,
    folder: &Path,
    environment: &Environment,
    sources: &mut Sources<'_>,
) -> Option<()> {
    inherit_below(root, folder, environment, sources, 0)
}

fn inherit_below(
    root: &mut Node,
    folder: &Path,
    environment: &Environment,
    sources: &mut Sources<'_>,
    depth: usize,
) -> Option<()> {
    let sink = sources.sink;
    let plan = chains(root, sink);
    let mut done: BTreeMap<String, Node> = BTreeMap::new();
    for (name, base) in plan {
        let foreign = match &base {
            Base::Own(_) => None,
            Base::Foreign { file, service } => {
                let at_root = Cursor::root(root, sink);
                let path = resolve(file, folder);
                let parent = at_root.read("services", |services| {
                    services.read(&name, |own| {
                        own.read("extends", |at| foreign(at, &path, service, environment, sources, depth))
                    })
                });
                Some(parent?)
            }
        };
        let services = root.get("services");
        let own_base = |base: &str| {
            done.get(base)
                .or_else(|| services.and_then(|services| services.get(base)))
        };
        let parent = match &base {
            Base::Own(base) => own_base(base),
            Base::Foreign { .. } => foreign.as_ref(),
        };
        let (Some(own), Some(parent)) = (services.and_then(|services| services.get(&name)), parent) else {
            continue;
        };
        if !sources.budget.take(parent.size()) {
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
        let mut merged = merge_service(parent, own.clone());
        if let Value::Map(entries) = &mut merged.value {
            entries.retain(|entry| entry.key != "extends");
        }
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

/// A service of another file with all that it extends itself, and its paths made absolute.
fn foreign(
    at: &Cursor<'_>,
    path: &Path,
    service: &str,
    environment: &Environment,
    sources: &mut Sources<'_>,
    depth: usize,
) -> Option<Node> {
    if depth >= EXTENDS_DEPTH_MAX {
        at.error(format!("extends itself, or more than {EXTENDS_DEPTH_MAX} in a row"));
        return None;
    }
    let mut root = sources.open(at, path, environment)?;
    let needed = needed(&root, service);
    if needed.is_empty() {
        at.error(format!(
            "there is no service '{service}' to extend in '{}'",
            path.display()
        ));
        return None;
    }
    keep_services(&mut root, &needed);
    let folder: PathBuf = path.parent().map(Path::to_path_buf).unwrap_or_default();
    inherit_below(&mut root, &folder, environment, sources, depth + 1)?;
    let mut parent = root.get("services")?.get(service)?.clone();
    rebase_service(&mut parent, &folder);
    Some(parent)
}

/// The service and all of its file that it extends, over any number of steps. What else the file holds may be broken.
fn needed(root: &Node, service: &str) -> BTreeSet<String> {
    let mut needed = BTreeSet::new();
    let mut next = Some(service.to_string());
    while let Some(name) = next.take() {
        let Some(node) = root.get("services").and_then(|services| services.get(&name)) else {
            break;
        };
        if !needed.insert(name) {
            break;
        }
        let extends = node.get("extends");
        let of_own_file = extends.filter(|extends| extends.get("file").is_none());
        let named = of_own_file.map(|extends| extends.get("service").unwrap_or(extends));
        next = named.and_then(|named| match &named.value {
            Value::Scalar(scalar) => Some(scalar.text.clone()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        });
    }
    needed
}

fn keep_services(root: &mut Node, kept: &BTreeSet<String>) {
    let Value::Map(entries) = &mut root.value else { return };
    for entry in entries.iter_mut().filter(|entry| entry.key == "services") {
        if let Value::Map(services) = &mut entry.value.value {
            services.retain(|service| kept.contains(&service.key));
        }
    }
}

/// What a service extends.
#[derive(Debug, Clone)]
enum Base {
    /// A service of its own file.
    Own(String),
    /// One of another file.
    Foreign { file: String, service: String },
}

/// Pairs of service and base, every base before those that extend it.
fn chains(root: &Node, sink: &Sink) -> Vec<(String, Base)> {
    let root = Cursor::root(root, sink);
    let is_readable = |services: &Cursor<'_>| services.is_map() && services.node.entries().len() <= SERVICES_MAX;
    let Some(services) = root.get("services").filter(is_readable) else {
        return Vec::new();
    };
    let mut bases: BTreeMap<String, Base> = BTreeMap::new();
    for service in services.all_entries() {
        let Some(at) = service.get("extends") else { continue };
        let Some(base) = base_of(&at) else { continue };
        match &base {
            Base::Own(name) if services.get(name).is_none() => {
                at.error(format!("there is no service '{name}' to extend"));
            }
            Base::Own(_) | Base::Foreign { .. } => {
                bases.insert(service.key().to_string(), base);
            }
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
            match base {
                Base::Own(base) => current = base,
                Base::Foreign { .. } => break,
            }
        }
        for name in chain.into_iter().rev() {
            placed.insert(name.to_string());
            order.push((name.to_string(), bases[name].clone()));
        }
    }
    order
}

fn base_of(at: &Cursor<'_>) -> Option<Base> {
    if !at.is_map() {
        return some_text(at).map(Base::Own);
    }
    at.check_keys(keys::EXTENDS);
    let Some(service) = at.get("service") else {
        at.error("'service' is missing");
        return None;
    };
    let service = some_text(&service)?;
    match at.get("file") {
        Some(file) => Some(Base::Foreign {
            file: some_text(&file)?,
            service,
        }),
        None => Some(Base::Own(service)),
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
