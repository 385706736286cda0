//! Devices of the node in a container: the nodes to make, and the rules that let it use them.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use gantry_cgroup::{Access, DeviceKind, DevicePolicy, DeviceRule};
use gantry_model::spec::DeviceSpec;
use gantry_model::{Class, Problem};
use gantry_shim::plan::{DeviceKindPlan, DevicePlan};

use crate::{LaunchInput, paths};

/// What a container gets.
#[derive(Debug)]
pub(crate) struct Devices {
    pub(crate) nodes: Vec<DevicePlan>,
    pub(crate) policy: DevicePolicy,
}

/// The default ones and those asked for; a privileged container has every device of the node.
pub(crate) fn plan(input: &LaunchInput<'_>) -> Result<Devices, Problem> {
    let container = input.container;
    let wanted = container.devices.iter().chain(&input.options.devices);
    let mut nodes = if container.privileged {
        every_node()
    } else {
        paths::default_devices()
    };
    let mut rules = paths::default_device_rules();
    for device in wanted {
        add(device, &mut nodes, &mut rules)?;
    }
    for text in &container.device_cgroup_rules {
        rules.push(DeviceRule::parse(text).ok_or_else(|| {
            Problem::new(Class::Invalid, "", format!("device rule '{text}' does not read"))
                .remedy("write kind, numbers and access as the kernel does, such as 'c 42:* rmw'")
        })?);
    }
    if input.mounts.iter().any(|mount| mount.target == Path::new("/dev")) {
        // It brings its own.
        nodes.clear();
    }
    let policy = if container.privileged {
        DevicePolicy::everything()
    } else {
        DevicePolicy::only(&rules)
    };
    Ok(Devices { nodes, policy })
}

fn add(device: &DeviceSpec, nodes: &mut Vec<DevicePlan>, rules: &mut Vec<DeviceRule>) -> Result<(), Problem> {
    let source = Path::new(&device.source);
    let letters = if device.permissions.is_empty() {
        "rwm"
    } else {
        &device.permissions
    };
    let access = Access::parse(letters).ok_or_else(|| {
        let reason = format!("device {} has permissions '{letters}'", device.source);
        Problem::new(Class::Invalid, "", reason).remedy("write a combination of r (read), w (write) and m (make nodes)")
    })?;
    let missing = |reason: &str| {
        Problem::new(Class::Invalid, "", format!("device {} {reason}", device.source))
            .remedy("attach it to the node, or constrain the service to nodes that have it")
    };
    let found = fs::metadata(source).map_err(|error| missing(&format!("cannot be used: {error}")))?;
    let mut all = Vec::new();
    if found.is_dir() {
        collect(source, Path::new(&device.target), &mut all);
    } else {
        all.extend(node(Path::new(&device.target), &found));
    }
    if all.is_empty() {
        return Err(missing("is no device, and no folder with devices"));
    }
    for node in all {
        rules.push(rule(&node, access));
        nodes.retain(|other| other.path != node.path);
        nodes.push(node);
    }
    Ok(())
}

fn rule(node: &DevicePlan, access: Access) -> DeviceRule {
    DeviceRule {
        kind: match node.kind {
            DeviceKindPlan::Block => DeviceKind::Block,
            DeviceKindPlan::Character | DeviceKindPlan::Fifo => DeviceKind::Character,
        },
        major: Some(node.major),
        minor: Some(node.minor),
        access,
    }
}

/// Folders with file systems of their own, and what is made otherwise.
const NOT_COPIED: &[&str] = &[
    "/dev/pts",
    "/dev/shm",
    "/dev/mqueue",
    "/dev/fd",
    "/dev/console",
    "/dev/ptmx",
];

/// Every device node of the node itself.
fn every_node() -> Vec<DevicePlan> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), Path::new("/dev"), &mut found);
    found
}

fn collect(folder: &Path, target: &Path, found: &mut Vec<DevicePlan>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, target) = (entry.path(), target.join(entry.file_name()));
        if NOT_COPIED.iter().any(|skipped| path == Path::new(skipped)) {
            continue;
        }
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => collect(&path, &target, found),
            Ok(metadata) => found.extend(node(&target, &metadata)),
            // Gone meanwhile.
            Err(_) => {}
        }
    }
}

fn node(target: &Path, metadata: &Metadata) -> Option<DevicePlan> {
    let kind = metadata.file_type();
    let kind = if kind.is_block_device() {
        DeviceKindPlan::Block
    } else if kind.is_char_device() {
        DeviceKindPlan::Character
    } else {
        return None;
    };
    Some(DevicePlan {
        path: PathBuf::from(target),
        kind,
        major: nix::sys::stat::major(metadata.rdev()) as u32,
        minor: nix::sys::stat::minor(metadata.rdev()) as u32,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}
