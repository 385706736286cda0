//! Mounts: `-v`, `--mount` and `--tmpfs`.

use clap::Args;
use gantry_model::spec::{ContainerSpec, Mount, MountKind, Propagation};
use gantry_model::{ByteSize, Problem};

use super::wrong;

const VOLUME_REMEDY: &str =
    "write /path, NAME:/path or /source:/path, and options after another colon: ro, rw, nocopy, rshared…";
const MOUNT_REMEDY: &str = "write type=bind|volume|tmpfs,source=…,target=/path[,readonly][,bind-propagation=…][,volume-nocopy]\
                            [,volume-subpath=…][,tmpfs-size=…][,tmpfs-mode=…]";

// What is mounted into it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Mounts")]
pub struct VolumeOptions {
    /// Mount a folder of the node, a named volume, or a new anonymous one
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:OPTIONS]")]
    volume: Vec<String>,
    /// Mount by key and value
    #[arg(long, value_name = "KEY=VALUE,…")]
    mount: Vec<String>,
    /// Mount memory
    #[arg(long, value_name = "TARGET[:size=…,mode=…]")]
    tmpfs: Vec<String>,
}

impl VolumeOptions {
    pub(super) fn apply(&self, container: &mut ContainerSpec) -> Result<(), Problem> {
        for text in &self.volume {
            container.mounts.push(volume(text)?);
        }
        for text in &self.mount {
            container.mounts.push(mount(text)?);
        }
        for text in &self.tmpfs {
            container.mounts.push(tmpfs(text)?);
        }
        let mut targets: Vec<&str> = container.mounts.iter().map(|mount| mount.target.as_str()).collect();
        targets.sort_unstable();
        if let Some(twice) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(wrong(
                "--volume",
                twice[0],
                "is mounted twice",
                "give each mount a target of its own",
            ));
        }
        Ok(())
    }
}

fn named(name: Option<&str>, no_copy: bool, subpath: Option<String>) -> MountKind {
    MountKind::Volume {
        name: name.and_then(|name| name.parse().ok()),
        node_name: name.map(str::to_string),
        no_copy,
        subpath,
    }
}

fn volume(text: &str) -> Result<Mount, Problem> {
    let refused = |reason: String| wrong("--volume", text, reason, VOLUME_REMEDY);
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(refused("has too many parts".to_string())),
    };
    if !target.starts_with('/') || target == "/" {
        return Err(refused(format!("'{target}' is no absolute path below /")));
    }
    let (mut read_only, mut no_copy, mut propagation) = (false, false, Propagation::Rprivate);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "readonly" => read_only = true,
            "rw" => read_only = false,
            "nocopy" => no_copy = true,
            // Labels for SELinux, which no supported distribution enforces by default; Docker takes them anywhere.
            "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            other => {
                propagation = propagation_named(other).ok_or_else(|| refused(format!("'{other}' is no option")))?
            }
        }
    }
    let kind = match source {
        None => named(None, no_copy, None),
        Some(path) if path.starts_with('/') => MountKind::Bind {
            source: path.to_string(),
            create_host_path: true,
            propagation,
        },
        Some(path) if path.starts_with("./") || path.starts_with("../") || path == "." || path == ".." => {
            let absolute = std::path::absolute(path).map_err(|error| refused(error.to_string()))?;
            MountKind::Bind {
                source: absolute.display().to_string(),
                create_host_path: true,
                propagation,
            }
        }
        Some(name) if is_volume_name(name) => named(Some(name), no_copy, None),
        Some(name) => {
            return Err(refused(format!(
                "'{name}' is neither an absolute path nor the name of a volume"
            )));
        }
    };
    Ok(Mount {
        target: target.to_string(),
        read_only,
        kind,
    })
}

/// Docker's rule: a letter or digit, then letters, digits, `_`, `.` and `-`.
fn is_volume_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn propagation_named(word: &str) -> Option<Propagation> {
    Some(match word {
        "rprivate" => Propagation::Rprivate,
        "private" => Propagation::Private,
        "rshared" => Propagation::Rshared,
        "shared" => Propagation::Shared,
        "rslave" => Propagation::Rslave,
        "slave" => Propagation::Slave,
        _ => return None,
    })
}

/// The fields of `--mount`.
#[derive(Default)]
struct Fields {
    kind: String,
    source: Option<String>,
    target: String,
    read_only: bool,
    propagation: Propagation,
    no_copy: bool,
    subpath: Option<String>,
    size: Option<ByteSize>,
    mode: Option<u32>,
}

fn mount(text: &str) -> Result<Mount, Problem> {
    let refused = |reason: String| wrong("--mount", text, reason, MOUNT_REMEDY);
    let mut fields = Fields {
        kind: "volume".to_string(),
        ..Fields::default()
    };
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        set(&mut fields, key, value).map_err(refused)?;
    }
    if !fields.target.starts_with('/') || fields.target == "/" {
        return Err(refused("has no absolute target below /".to_string()));
    }
    let kind = match (fields.kind.as_str(), fields.source.as_deref()) {
        ("bind", Some(source)) if source.starts_with('/') => MountKind::Bind {
            source: source.to_string(),
            create_host_path: false,
            propagation: fields.propagation,
        },
        ("bind", _) => return Err(refused("has no absolute source".to_string())),
        ("volume", Some(name)) if !is_volume_name(name) => {
            return Err(refused(format!("'{name}' is no name of a volume")));
        }
        ("volume", name) => named(name, fields.no_copy, fields.subpath),
        ("tmpfs", None) => MountKind::Tmpfs {
            size: fields.size,
            mode: fields.mode,
        },
        ("tmpfs", Some(_)) => return Err(refused("is memory, which has no source".to_string())),
        (other, _) => return Err(refused(format!("'{other}' is no type of mount"))),
    };
    Ok(Mount {
        target: fields.target,
        read_only: fields.read_only,
        kind,
    })
}

fn set(fields: &mut Fields, key: &str, value: &str) -> Result<(), String> {
    let truth = |value: &str| match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!("'{other}' is neither true nor false")),
    };
    match key {
        "type" => fields.kind = value.to_string(),
        "source" | "src" => fields.source = Some(value.to_string()).filter(|value| !value.is_empty()),
        "target" | "dst" | "destination" => fields.target = value.to_string(),
        "readonly" | "ro" => fields.read_only = truth(value)?,
        "bind-propagation" => {
            fields.propagation = propagation_named(value).ok_or_else(|| format!("'{value}' is no propagation"))?;
        }
        "volume-nocopy" => fields.no_copy = truth(value)?,
        "volume-subpath" => fields.subpath = Some(value.to_string()),
        "tmpfs-size" => fields.size = Some(value.parse().map_err(|error| format!("{error}"))?),
        "tmpfs-mode" => fields.mode = Some(mode(value)?),
        "" => return Err("has an empty field".to_string()),
        other => return Err(format!("'{other}' is no field of a mount")),
    }
    Ok(())
}

fn mode(text: &str) -> Result<u32, String> {
    let parsed = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    parsed.ok_or_else(|| format!("'{text}' is no mode in octal digits"))
}

fn tmpfs(text: &str) -> Result<Mount, Problem> {
    let remedy = "write /path or /path:size=64m,mode=1777";
    let refused = |reason: String| wrong("--tmpfs", text, reason, remedy);
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if !target.starts_with('/') || target == "/" {
        return Err(refused(format!("'{target}' is no absolute path below /")));
    }
    let (mut size, mut bits, mut read_only) = (None, None, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", value) => size = Some(value.parse().map_err(|error| refused(format!("{error}")))?),
            ("mode", value) => bits = Some(mode(value).map_err(&refused)?),
            ("ro", "") => read_only = true,
            // What Docker mounts it with anyway.
            ("rw" | "noexec" | "nosuid" | "nodev", "") => {}
            _ => return Err(refused(format!("'{option}' is no option of it"))),
        }
    }
    Ok(Mount {
        target: target.to_string(),
        read_only,
        kind: MountKind::Tmpfs { size, mode: bits },
    })
}
