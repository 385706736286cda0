//! `volumes` of services and of the top level, and `tmpfs`.

use std::collections::BTreeMap;

use gantry_model::spec::{Mount, MountKind, Propagation, VolumeSpec};
use gantry_model::{ByteSize, Name};

use super::environment::resolve;
use super::scalar::{boolean, choice, file_mode, key_name, labels, parsed, some_text};
use super::{Context, keys, network};
use crate::yaml::cursor::Cursor;

const PROPAGATIONS: &[(&str, Propagation)] = &[
    ("rprivate", Propagation::Rprivate),
    ("private", Propagation::Private),
    ("rshared", Propagation::Rshared),
    ("shared", Propagation::Shared),
    ("rslave", Propagation::Rslave),
    ("slave", Propagation::Slave),
];

/// Options of tmpfs that Docker sets anyway.
const TMPFS_DEFAULTS: &[&str] = &["rw", "noexec", "nosuid", "nodev"];

/// The top level's `volumes`.
pub(crate) fn volumes(at: &Cursor<'_>) -> BTreeMap<Name, VolumeSpec> {
    let volume = |entry: &Cursor<'_>| {
        let key = key_name(entry)?;
        entry.check_keys(keys::VOLUME);
        if let Some(driver) = entry.get("driver") {
            let text = some_text(&driver)?;
            if text != "local" {
                driver.error_with(
                    format!("volume driver '{text}' is not supported yet"),
                    "use 'local', or a bind mount",
                );
            }
        }
        let (external, shared_name) = network::shared(entry, &key);
        let spec = VolumeSpec {
            shared_name,
            external,
            per_slot: per_slot(entry, external),
            labels: entry.read("labels", labels).unwrap_or_default(),
        };
        Some((key, spec))
    };
    at.all_entries().iter().filter_map(volume).collect()
}

/// `x-gantry: {per_slot: true}`.
fn per_slot(volume: &Cursor<'_>, external: bool) -> bool {
    let read = |extension: &Cursor<'_>| {
        extension.check_keys(keys::X_GANTRY_VOLUME);
        extension.read("per_slot", |at| {
            let wanted = boolean(at)?;
            if wanted && external {
                at.error_with("an external volume is one volume", "remove it, or 'external'");
            }
            Some(wanted)
        })
    };
    volume.read("x-gantry", read).unwrap_or(false)
}

/// All mounts of a service: `volumes`, then `tmpfs`. A target is mounted once.
pub(crate) fn mounts(service: &Cursor<'_>, context: &Context<'_>) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    let mut add = |item: &Cursor<'_>, mount: Option<Mount>| {
        let Some(mount) = mount.filter(|mount| is_absolute(item, &mount.target)) else {
            return;
        };
        if mounts
            .iter()
            .any(|other| other.target.trim_end_matches('/') == mount.target.trim_end_matches('/'))
        {
            item.error(format!("something is mounted at '{}' already", mount.target));
            return;
        }
        mounts.push(mount);
    };
    if let Some(list) = service.get("volumes") {
        for item in list.items() {
            let mount = if item.is_map() {
                long(&item, context)
            } else {
                short(&item, context)
            };
            add(&item, mount);
        }
    }
    if let Some(list) = service.get("tmpfs") {
        for item in list.items_or_one() {
            add(&item, tmpfs(&item));
        }
    }
    mounts
}

fn is_absolute(at: &Cursor<'_>, target: &str) -> bool {
    let absolute = target.starts_with('/') && target != "/";
    if !absolute {
        at.error(format!("target '{target}' must be an absolute path other than /"));
    }
    absolute
}

/// `[SOURCE:]TARGET[:OPTIONS]`.
fn short(at: &Cursor<'_>, context: &Context<'_>) -> Option<Mount> {
    let text = some_text(at)?;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => {
            at.error_with(
                format!("'{text}' is not a volume"),
                "write [SOURCE:]TARGET[:OPTIONS], such as ./data:/data:ro",
            );
            return None;
        }
    };
    let kind = match source {
        None => volume(None, None),
        Some("") => {
            at.error_with("the source before ':' is empty", "is a variable not set?");
            return None;
        }
        Some(source) if is_path(source) => MountKind::Bind {
            source: node_path(at, source, context)?,
            create_host_path: true,
            propagation: Propagation::default(),
        },
        Some(source) => named(at, source, context)?,
    };
    let mut mount = Mount {
        target: target.to_string(),
        read_only: false,
        kind,
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        short_option(at, option, &mut mount);
    }
    Some(mount)
}

fn short_option(at: &Cursor<'_>, option: &str, mount: &mut Mount) {
    match (option, &mut mount.kind) {
        ("ro", _) => mount.read_only = true,
        ("rw" | "cached" | "delegated" | "consistent", _) => {}
        ("nocopy", MountKind::Volume { no_copy, .. }) => *no_copy = true,
        ("z" | "Z", _) => at.warn(format!("option '{option}' has no effect: files are not relabelled")),
        (word, MountKind::Bind { propagation, .. }) if PROPAGATIONS.iter().any(|(known, _)| *known == word) => {
            let found = PROPAGATIONS.iter().find(|(known, _)| *known == word);
            *propagation = found.map(|(_, value)| *value).unwrap_or_default();
        }
        (_, MountKind::Bind { .. } | MountKind::Volume { .. } | MountKind::Tmpfs { .. }) => {
            at.error_with(
                format!("'{option}' is not an option of this mount"),
                "use ro, rw, nocopy (volumes) or a propagation such as rslave (bind mounts)",
            );
        }
    }
}

fn is_path(source: &str) -> bool {
    source.starts_with(['.', '/', '~'])
}

/// A path of the manifest as a path of the node: relative ones against the project's folder, `~` against `HOME`.
fn node_path(at: &Cursor<'_>, source: &str, context: &Context<'_>) -> Option<String> {
    let path = match source.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let Some(home) = context.environment.get("HOME") else {
                at.error_with("'~' cannot be resolved, HOME is not set", "write the whole path");
                return None;
            };
            format!("{home}{rest}")
        }
        Some(_) | None => source.to_string(),
    };
    let path = resolve(&path, &context.options.base_dir);
    if !path.is_absolute() {
        at.error(format!("'{}' must be an absolute path", path.display()));
        return None;
    }
    Some(path.to_string_lossy().into_owned())
}

fn named(at: &Cursor<'_>, source: &str, context: &Context<'_>) -> Option<MountKind> {
    let name = match Name::new(source) {
        Ok(name) => name,
        Err(error) => {
            at.error_with(error.to_string(), format!("write './{source}' if a folder is meant"));
            return None;
        }
    };
    let is_known = context.volumes.contains_key(&name);
    Context::declared(at, "volume", &name, is_known, context.volumes.keys()).then(|| volume(Some(name), Some(context)))
}

fn volume(name: Option<Name>, context: Option<&Context<'_>>) -> MountKind {
    let node_name = name.as_ref().zip(context).map(|(name, context)| {
        let spec = context.volumes.get(name);
        let shared = spec.and_then(|volume| volume.shared_name.as_ref());
        let node_name = context.cluster_name(name, shared);
        // The node's agent fills in which slot the replica has.
        let per_slot = spec.is_some_and(|volume| volume.per_slot);
        if per_slot {
            format!("{node_name}.{{{{.Task.Slot}}}}")
        } else {
            node_name
        }
    });
    MountKind::Volume {
        name,
        node_name,
        no_copy: false,
        subpath: None,
    }
}

#[derive(Debug, Clone, Copy)]
enum Type {
    Bind,
    Volume,
    Tmpfs,
    Unsupported(&'static str),
}

const TYPES: &[(&str, Type)] = &[
    ("bind", Type::Bind),
    ("volume", Type::Volume),
    ("tmpfs", Type::Tmpfs),
    ("image", Type::Unsupported("image")),
    ("cluster", Type::Unsupported("cluster")),
    ("npipe", Type::Unsupported("npipe")),
];

fn long(at: &Cursor<'_>, context: &Context<'_>) -> Option<Mount> {
    at.check_keys(keys::MOUNT);
    let (Some(type_at), Some(target)) = (at.get("type"), at.read("target", some_text)) else {
        at.error("'type' and 'target' are needed");
        return None;
    };
    let source = at.get("source");
    let kind = match (choice(&type_at, TYPES)?, source) {
        (Type::Bind, Some(source)) => bind(at, &source, context)?,
        (Type::Bind, None) => {
            at.error("'source' is missing, a bind mount needs one");
            return None;
        }
        (Type::Volume, Some(source)) => with_volume_options(at, named(&source, &some_text(&source)?, context)?),
        (Type::Volume, None) => with_volume_options(at, volume(None, None)),
        (Type::Tmpfs, Some(source)) => {
            source.error("a tmpfs has no source");
            return None;
        }
        (Type::Tmpfs, None) => tmpfs_options(at),
        (Type::Unsupported(word), _) => {
            type_at.error_with(
                format!("mounts of type '{word}' are not supported yet"),
                "use bind, volume or tmpfs",
            );
            return None;
        }
    };
    Some(Mount {
        target,
        read_only: at.read("read_only", boolean).unwrap_or(false),
        kind,
    })
}

fn bind(at: &Cursor<'_>, source: &Cursor<'_>, context: &Context<'_>) -> Option<MountKind> {
    let path = node_path(source, &some_text(source)?, context)?;
    let (mut create_host_path, mut propagation) = (false, Propagation::default());
    if let Some(options) = at.get("bind") {
        options.check_keys(keys::MOUNT_BIND);
        create_host_path = options.read("create_host_path", boolean).unwrap_or(false);
        propagation = options
            .read("propagation", |at| choice(at, PROPAGATIONS))
            .unwrap_or_default();
        if let Some(recursive) = options.get("recursive") {
            let word = some_text(&recursive)?;
            if word != "enabled" {
                recursive.error_with(
                    format!("'{word}' is not supported yet"),
                    "bind mounts are recursive; remove it",
                );
            }
        }
    }
    Some(MountKind::Bind {
        source: path,
        create_host_path,
        propagation,
    })
}

fn with_volume_options(at: &Cursor<'_>, mut kind: MountKind) -> MountKind {
    if let (Some(options), MountKind::Volume { no_copy, subpath, .. }) = (at.get("volume"), &mut kind) {
        options.check_keys(keys::MOUNT_VOLUME);
        *no_copy = options.read("nocopy", boolean).unwrap_or(false);
        *subpath = options.read("subpath", |at| {
            let path = some_text(at)?;
            let climbs = path.starts_with('/') || path.split('/').any(|part| part == "..");
            if climbs {
                at.error(format!("'{path}' must be a path inside the volume"));
            }
            Some(path)
        });
    }
    kind
}

fn tmpfs_options(at: &Cursor<'_>) -> MountKind {
    let (mut size, mut mode) = (None, None);
    if let Some(options) = at.get("tmpfs") {
        options.check_keys(keys::MOUNT_TMPFS);
        size = options.read("size", parsed);
        mode = options.read("mode", file_mode);
    }
    MountKind::Tmpfs { size, mode }
}

/// `TARGET[:OPTIONS]` of the key `tmpfs`.
fn tmpfs(at: &Cursor<'_>) -> Option<Mount> {
    let text = some_text(at)?;
    let (target, options) = text.split_once(':').unwrap_or((&text, ""));
    let (mut size, mut mode, mut read_only) = (None, None, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", value) => match value.parse::<ByteSize>() {
                Ok(value) => size = Some(value),
                Err(error) => at.error(error.to_string()),
            },
            ("mode", value) => match u32::from_str_radix(value, 8) {
                Ok(value) if value <= 0o7777 => mode = Some(value),
                Ok(_) | Err(_) => at.error(format!("'{value}' is not a file mode in octal digits")),
            },
            ("ro", "") => read_only = true,
            (word, "") if TMPFS_DEFAULTS.contains(&word) => {}
            (word, _) => {
                at.error_with(
                    format!("option '{word}' of a tmpfs is not supported yet"),
                    "use size=, mode= or ro",
                );
            }
        }
    }
    Some(Mount {
        target: target.to_string(),
        read_only,
        kind: MountKind::Tmpfs { size, mode },
    })
}
