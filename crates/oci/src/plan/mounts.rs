//! Mounts. Those of type `cgroup` stand for however many hierarchies this machine has.

use std::path::{Path, PathBuf};

use gantry_cgroup::{Group, Layout};
use gantry_runtime::plan::{IdmapPlan, MountPlan, MountSource, PropagationPlan};
use gantry_runtime::{BindDepth, MountOptions};
use gantry_sys::mount::attribute::READ_ONLY;

use super::namespaces::id_ranges;
use crate::OciError;
use crate::spec::Mount;

/// How a container sees control groups.
#[derive(Debug)]
pub(super) struct CgroupView<'a> {
    pub(super) layout: &'a Layout,
    /// Its own group, bound where it has no cgroup namespace to show it as the root.
    pub(super) group: Option<&'a Group>,
}

/// Whether `/dev` comes from the node, with whatever is in it.
pub(super) fn brings_dev(mounts: &[Mount]) -> bool {
    let is_dev = |mount: &&Mount| mount.destination == Path::new("/dev");
    mounts.iter().filter(is_dev).any(|mount| {
        let options = MountOptions::parse(mount.options.iter().map(String::as_str));
        mount.kind.as_deref() == Some("bind") || options.bind.is_some()
    })
}

/// `linux.rootfsPropagation`.
pub(super) fn propagation(name: Option<&str>) -> Result<Option<PropagationPlan>, OciError> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let options = MountOptions::parse([name]);
    let is_nothing_else = options.data.is_empty() && options.propagation.is_some();
    if is_nothing_else {
        return Ok(options.propagation);
    }
    let reason = format!("'{name}' is none of private, slave, shared, unbindable, with or without r in front");
    Err(OciError::invalid("linux.rootfsPropagation", reason))
}

pub(super) fn plan(mounts: &[Mount], bundle: &Path, cgroups: &CgroupView<'_>) -> Result<Vec<MountPlan>, OciError> {
    let mut plans = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let wrong = |reason: String| OciError::invalid(format!("mounts[{index}]"), reason);
        if mount.kind.as_deref() == Some("cgroup") {
            plans.extend(cgroup(mount, cgroups));
        } else {
            plans.push(one(mount, bundle).map_err(wrong)?);
        }
    }
    Ok(plans)
}

/// Versions before 1.1 of the specification allowed relative ones, which are meant from the root.
fn target(mount: &Mount) -> PathBuf {
    Path::new("/").join(&mount.destination)
}

fn one(mount: &Mount, bundle: &Path) -> Result<MountPlan, String> {
    let mut options = MountOptions::parse(mount.options.iter().map(String::as_str));
    if options.data.iter().any(|(key, _)| key == "remount") {
        return Err("option remount: list the mount once, with the options it is to have".to_string());
    }
    let kind = mount.kind.clone().unwrap_or_default();
    let bind = options.bind.or((kind == "bind").then_some(BindDepth::Single));
    let source = match bind {
        Some(depth) => {
            let path = mount.source.as_deref().filter(|path| !path.is_empty());
            let path = path.ok_or("a bind needs a source")?;
            // What is left are options of a file system, which a bind has already.
            options.data.clear();
            MountSource::Bind {
                path: bundle.join(path),
                namespace: None,
                recursive: depth == BindDepth::Recursive,
                copy_up: false,
            }
        }
        None if kind.is_empty() || kind == "none" => return Err("it has neither a type nor bind".to_string()),
        None => MountSource::FileSystem {
            source: mount.source.clone().unwrap_or_default(),
            options: std::mem::take(&mut options.data),
            copy_up: options.copy_up,
            kind,
        },
    };
    let idmap = idmap(mount, &options)?;
    Ok(MountPlan {
        target: target(mount),
        source,
        attributes: options.attributes,
        recursive_attributes: options.recursive_attributes,
        propagation: options.propagation,
        idmap,
    })
}

fn idmap(mount: &Mount, options: &MountOptions) -> Result<Option<IdmapPlan>, String> {
    let has_mappings = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if !has_mappings {
        return Ok(options.idmap.clone());
    }
    if mount.uid_mappings.is_empty() || mount.gid_mappings.is_empty() {
        return Err("uidMappings and gidMappings go together".to_string());
    }
    Ok(Some(IdmapPlan {
        ranges: Some(id_ranges(&mount.uid_mappings, &mount.gid_mappings)),
        recursive: options.idmap.as_ref().is_some_and(|idmap| idmap.recursive),
    }))
}

/// One mount in version 2; a tmpfs with one for each hierarchy otherwise. A container that sees its group as the root gets
/// file systems; any other gets its own group bound, and of the rest nothing.
fn cgroup(mount: &Mount, view: &CgroupView<'_>) -> Vec<MountPlan> {
    let options = MountOptions::parse(mount.options.iter().map(String::as_str));
    let target = target(mount);
    let is_read_only = options.attributes.set & READ_ONLY != 0;
    let mut plans = gantry_runtime::cgroup_mounts(view.layout, !is_read_only);
    for plan in &mut plans {
        let below = plan
            .target
            .strip_prefix("/sys/fs/cgroup")
            .unwrap_or(Path::new(""))
            .to_path_buf();
        let own = view.group.and_then(|group| own_folder(group, view.layout, &below));
        if let Some(path) = own {
            plan.source = MountSource::Bind {
                path,
                namespace: None,
                recursive: true,
                copy_up: false,
            };
        }
        // `join` with nothing would leave a slash behind.
        plan.target = if below.as_os_str().is_empty() {
            target.clone()
        } else {
            target.join(below)
        };
        plan.propagation = options.propagation;
    }
    plans
}

/// The tmpfs above the hierarchies of version 1, where it is to be read-only: it can only become so when all are mounted.
pub(super) fn read_only_cgroups<'a>(mounts: &'a [Mount], layout: &Layout) -> impl Iterator<Item = PathBuf> + use<'a> {
    let is_asked = |mount: &&Mount| {
        let options = MountOptions::parse(mount.options.iter().map(String::as_str));
        mount.kind.as_deref() == Some("cgroup") && options.attributes.set & READ_ONLY != 0
    };
    let needs_it = !layout.is_v2();
    mounts.iter().filter(is_asked).filter(move |_| needs_it).map(target)
}

/// The group's folder in the hierarchy that is mounted on `below`; none for the tmpfs above those of version 1.
fn own_folder(group: &Group, layout: &Layout, below: &Path) -> Option<PathBuf> {
    if layout.is_v2() {
        return group.procs_files().first()?.parent().map(Path::to_path_buf);
    }
    let mounts = layout.v1_mounts();
    let mount = mounts.keys().find(|mount| mount.file_name() == below.file_name())?;
    Some(mount.join(group.path()))
}
