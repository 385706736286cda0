//! Configs and secrets: their content from the top level, and where services see them.
//!
//! **Invariant:** the content never appears in a diagnostic; messages point at keys.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::spec::{DataKind, DataMount, DataSpec};
use gantry_model::{Bytes64, Name};

use super::environment::resolve;
use super::network::shared;
use super::scalar::{file_mode, integer, key_name, labels, name, some_text, text};
use super::{Context, keys};
use crate::yaml::cursor::Cursor;

/// Mode bits when none are given, as in Swarm.
const MODE_DEFAULT: u32 = 0o444;

/// Where secrets are mounted, as in Swarm.
const SECRETS_FOLDER: &str = "/run/secrets";

/// Config or secret: both are read alike.
pub(crate) type Kind = DataKind;

const fn key_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Config => "configs",
        Kind::Secret => "secrets",
    }
}

const fn word_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Config => "config",
        Kind::Secret => "secret",
    }
}

/// The names that are declared.
pub(crate) fn names(at: &Cursor<'_>) -> BTreeSet<Name> {
    at.all_entries().iter().filter_map(key_name).collect()
}

/// Checks all declarations and reads those that a service uses. The others are left out: their files may well be missing.
pub(crate) fn contents(root: &Cursor<'_>, kind: Kind, context: &Context<'_>) -> BTreeMap<Name, DataSpec> {
    let Some(declared) = root.get(key_of(kind)) else {
        return BTreeMap::new();
    };
    let used = context.used.borrow();
    let read = |entry: &Cursor<'_>| {
        let name = Name::new(entry.key()).ok()?;
        let table = match kind {
            Kind::Config => keys::CONFIG,
            Kind::Secret => keys::SECRET,
        };
        entry.check_keys(table);
        let (external, shared_name) = shared(entry, &name);
        let is_used = used.contains(&(kind, name.clone()));
        let content = content(entry, kind, external, is_used.then_some(context))?;
        if !is_used {
            return None;
        }
        let labels = entry.read("labels", labels).unwrap_or_default();
        let spec = DataSpec {
            content,
            shared_name,
            labels,
        };
        Some((name, spec))
    };
    declared.all_entries().iter().filter_map(read).collect()
}

/// The content from its one source. `None` is an error, `Some(None)` is content that is in the cluster already, or not wanted.
fn content(at: &Cursor<'_>, kind: Kind, external: bool, context: Option<&Context<'_>>) -> Option<Option<Bytes64>> {
    let sources: Vec<&str> = ["file", "content", "environment"]
        .into_iter()
        .filter(|key| at.get(key).is_some())
        .collect();
    match (sources.as_slice(), external) {
        ([], true) | ([_], false) => {}
        ([], false) => {
            at.error_key(
                format!("the {} has no content", word_of(kind)),
                Some("give one of: file, content, environment, external".to_string()),
            );
            return None;
        }
        (_, _) => {
            at.error_key(
                format!("the content of the {} has more than one source", word_of(kind)),
                None,
            );
            return None;
        }
    }
    let Some(context) = context else { return Some(None) };
    let bytes = match sources.as_slice() {
        ["file"] => at.read("file", |at| file(at, context))?,
        ["environment"] => at.read("environment", |at| variable(at, context))?,
        ["content"] => at.read("content", text)?.into_bytes(),
        _ => return Some(None),
    };
    if bytes.len() > kind.size_max() {
        let message = format!(
            "the {} has {} bytes, at most {} are kept",
            word_of(kind),
            bytes.len(),
            kind.size_max()
        );
        at.error_key(message, Some("put large files into the image or a volume".to_string()));
        return None;
    }
    Some(Some(Bytes64(bytes)))
}

fn file(at: &Cursor<'_>, context: &Context<'_>) -> Option<Vec<u8>> {
    let path = resolve(&some_text(at)?, &context.options.base_dir);
    match context.files.read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            at.error(format!("cannot read '{}': {error}", path.display()));
            None
        }
    }
}

fn variable(at: &Cursor<'_>, context: &Context<'_>) -> Option<Vec<u8>> {
    let name = some_text(at)?;
    let value = context.environment.get(&name);
    if value.is_none() {
        at.error(format!("variable '{name}' is not set"));
    }
    value.map(|value| value.clone().into_bytes())
}

/// The configs or secrets that a service sees.
pub(crate) fn data_mounts(service: &Cursor<'_>, kind: Kind, context: &Context<'_>) -> Vec<DataMount> {
    let Some(list) = service.get(key_of(kind)) else {
        return Vec::new();
    };
    let mut mounts: Vec<DataMount> = Vec::new();
    for item in list.items() {
        let mount = if item.is_map() {
            long(&item, kind)
        } else {
            short(&item, kind)
        };
        let Some((mount, declared_by)) = mount else { continue };
        let known = match kind {
            Kind::Config => &context.configs,
            Kind::Secret => &context.secrets,
        };
        let source_at = item.get(declared_by).unwrap_or(item);
        if !Context::declared(
            &source_at,
            word_of(kind),
            &mount.source,
            known.contains(&mount.source),
            known.iter(),
        ) {
            continue;
        }
        if mounts.iter().any(|other| other.target == mount.target) {
            item.error(format!("there is a {} at '{}' already", word_of(kind), mount.target));
            continue;
        }
        context.used.borrow_mut().insert((kind, mount.source.clone()));
        mounts.push(mount);
    }
    mounts
}

fn short(at: &Cursor<'_>, kind: Kind) -> Option<(DataMount, &'static str)> {
    let source = name(at)?;
    let target = target(kind, source.as_str());
    Some((mount(source, target), ""))
}

fn long(at: &Cursor<'_>, kind: Kind) -> Option<(DataMount, &'static str)> {
    at.check_keys(keys::DATA_MOUNT);
    let Some(source_at) = at.get("source") else {
        at.error("'source' is missing");
        return None;
    };
    let source = name(&source_at)?;
    let given = at.read("target", some_text);
    let mut mount = mount(
        source.clone(),
        target(kind, given.as_deref().unwrap_or(source.as_str())),
    );
    let id = |at: &Cursor<'_>| u32::try_from(integer(at, 0, i64::from(u32::MAX))?).ok();
    mount.uid = at.read("uid", id).unwrap_or(0);
    mount.gid = at.read("gid", id).unwrap_or(0);
    mount.mode = at.read("mode", file_mode).unwrap_or(MODE_DEFAULT);
    Some((mount, "source"))
}

fn mount(source: Name, target: String) -> DataMount {
    DataMount {
        source,
        id: None,
        target,
        uid: 0,
        gid: 0,
        mode: MODE_DEFAULT,
    }
}

/// A relative target is one of the kind's own folder.
fn target(kind: Kind, given: &str) -> String {
    match kind {
        _ if given.starts_with('/') => given.to_string(),
        Kind::Config => format!("/{given}"),
        Kind::Secret => format!("{SECRETS_FOLDER}/{given}"),
    }
}
