//! The user's mounts, host files and data files as steps of the plan.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gantry_model::spec::Propagation;
use gantry_model::{Class, Problem};
use gantry_shim::plan::{AttributePlan, FilePlan, IdmapPlan, MountPlan, MountSource, PropagationPlan, SharingPlan};
use gantry_sys::mount::attribute::READ_ONLY;

use crate::options::MountOptions;
use crate::{DataFile, HostFile, LaunchError, ResolvedMount, ResolvedMountKind};

/// Default mode of a tmpfs, as in Docker.
const TMPFS_MODE_DEFAULT: u32 = 0o1777;

pub(crate) const PRIVATE: PropagationPlan = PropagationPlan {
    sharing: SharingPlan::Private,
    recursive: true,
};

/// The defaults without those that the user replaces, then the user's from the outside in.
pub(crate) fn merge(defaults: Vec<MountPlan>, mut users: Vec<MountPlan>) -> Vec<MountPlan> {
    users.sort_by_key(|mount| mount.target.components().count());
    let is_replaced = |default: &MountPlan| users.iter().any(|mount| mount.target == default.target);
    let mut merged: Vec<MountPlan> = defaults.into_iter().filter(|default| !is_replaced(default)).collect();
    merged.append(&mut users);
    merged
}

pub(crate) fn plan(mount: &ResolvedMount) -> Result<MountPlan, LaunchError> {
    check_target(&mount.target)?;
    let read_only = if mount.read_only { READ_ONLY } else { 0 };
    let mut plan = match &mount.kind {
        ResolvedMountKind::Bind {
            source,
            create_host_path,
            propagation,
        } => {
            require_source(source, *create_host_path)?;
            bind(source, &mount.target, sharing(*propagation), false)
        }
        ResolvedMountKind::Volume { source, copy_up } => {
            require_source(source, false)?;
            bind(source, &mount.target, PRIVATE, *copy_up)
        }
        ResolvedMountKind::Tmpfs { size, mode } => {
            let size = size.map(|size| format!("size={}", size.0));
            let mode = mode.map(|mode| format!("mode={mode:o}"));
            tmpfs(&mount.target, size.iter().chain(&mode).map(String::as_str))
        }
        ResolvedMountKind::TmpfsWith { options } => tmpfs(&mount.target, options.iter().map(String::as_str)),
        ResolvedMountKind::Plan(plan) => MountPlan {
            target: mount.target.clone(),
            ..plan.as_ref().clone()
        },
    };
    // Of the mounts below a bind as well, as Docker does since Engine 25.
    plan.recursive_attributes.set |= read_only;
    Ok(plan)
}

/// What Docker mounts: nothing executable, no devices, no set-user-id, unless the options say so.
fn tmpfs<'a>(target: &Path, options: impl Iterator<Item = &'a str>) -> MountPlan {
    let parsed = MountOptions::parse(["nosuid", "nodev", "noexec"].into_iter().chain(options));
    let mut data = parsed.data;
    if !data.iter().any(|(key, _)| key == "mode") {
        data.push(("mode".to_string(), Some(format!("{TMPFS_MODE_DEFAULT:o}"))));
    }
    MountPlan {
        target: target.to_path_buf(),
        source: MountSource::FileSystem {
            kind: "tmpfs".to_string(),
            source: String::new(),
            options: data,
            copy_up: parsed.copy_up,
        },
        attributes: AttributePlan::setting(parsed.attributes.set),
        recursive_attributes: AttributePlan::default(),
        propagation: parsed.propagation,
        idmap: None,
    }
}

/// Files keep the ids that they have on disk, also where the container has a range of its own.
pub(crate) fn bind(path: &Path, target: &Path, propagation: PropagationPlan, copy_up: bool) -> MountPlan {
    MountPlan {
        target: target.to_path_buf(),
        source: MountSource::Bind {
            path: path.to_path_buf(),
            namespace: None,
            recursive: true,
            copy_up,
        },
        attributes: AttributePlan::default(),
        recursive_attributes: AttributePlan::default(),
        propagation: Some(propagation),
        idmap: Some(IdmapPlan::CONTAINER),
    }
}

fn sharing(propagation: Propagation) -> PropagationPlan {
    let (sharing, recursive) = match propagation {
        Propagation::Rprivate => (SharingPlan::Private, true),
        Propagation::Private => (SharingPlan::Private, false),
        Propagation::Rshared => (SharingPlan::Shared, true),
        Propagation::Shared => (SharingPlan::Shared, false),
        Propagation::Rslave => (SharingPlan::Slave, true),
        Propagation::Slave => (SharingPlan::Slave, false),
    };
    PropagationPlan { sharing, recursive }
}

fn check_target(target: &Path) -> Result<(), LaunchError> {
    if target.is_absolute() && target.parent().is_some() {
        return Ok(());
    }
    let problem = Problem::new(
        Class::Invalid,
        "",
        format!("'{}' cannot be mounted on", target.display()),
    )
    .remedy("mount targets are absolute paths other than /");
    Err(LaunchError::Invalid(problem))
}

fn require_source(source: &Path, create: bool) -> Result<(), LaunchError> {
    if source.exists() {
        return Ok(());
    }
    if create {
        return fs::create_dir_all(source).map_err(|error| LaunchError::Io {
            act: "make bind source",
            path: source.to_path_buf(),
            source: error,
        });
    }
    let problem = Problem::new(
        Class::Invalid,
        "",
        format!("{} does not exist on this node", source.display()),
    )
    .remedy("create it on the node, or constrain the service to nodes that have it");
    Err(LaunchError::Invalid(problem))
}

/// Writes the files into `folder` and binds them. They keep their place over restarts, so each start finds them fresh.
pub(crate) fn host_files(files: &[HostFile], folder: &Path) -> Result<Vec<MountPlan>, LaunchError> {
    files
        .iter()
        .enumerate()
        .map(|(index, file)| host_file(file, folder.join(index.to_string())))
        .collect()
}

fn host_file(file: &HostFile, path: PathBuf) -> Result<MountPlan, LaunchError> {
    check_target(&file.target)?;
    // Whatever this process's umask: every user of the container reads these.
    let written =
        fs::write(&path, &file.content).and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o644)));
    written.map_err(|source| LaunchError::Io {
        act: "write",
        path: path.clone(),
        source,
    })?;
    Ok(bind(&path, &file.target, PRIVATE, false))
}

pub(crate) fn data_files(files: &[DataFile]) -> Result<Vec<FilePlan>, LaunchError> {
    files.iter().map(data_file).collect()
}

fn data_file(file: &DataFile) -> Result<FilePlan, LaunchError> {
    check_target(&file.target)?;
    Ok(FilePlan {
        target: file.target.clone(),
        uid: file.uid,
        gid: file.gid,
        mode: file.mode & 0o7777,
        content_hex: hex(&file.content),
    })
}

fn hex(bytes: &[u8]) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]));
    bytes.iter().flat_map(digits).collect()
}
