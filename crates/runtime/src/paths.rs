//! What every container has in its root besides the image: file systems, devices, hidden and read-only paths. As Docker's.

use std::path::{Path, PathBuf};

use gantry_cgroup::{Access, DeviceKind, DeviceRule, Layout};
use gantry_model::ByteSize;
use gantry_shim::plan::{DevicePlan, MountPlan, MountSource};
use gantry_sys::mount::attribute::{NO_DEV, NO_EXEC, NO_SUID, READ_ONLY, STRICT_ATIME};

/// Size of `/dev/shm` when the spec does not say, as in Docker.
const SHM_SIZE_DEFAULT: ByteSize = ByteSize::mib(64);

/// Hidden: they show or change the node.
pub(crate) const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Readable only: writing them would change the node.
pub(crate) const READ_ONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/sys/fs/cgroup",
];

fn file_system(kind: &str, target: &str, options: &[(&str, &str)], attributes: u64) -> MountPlan {
    let option = |(key, value): &(&str, &str)| (key.to_string(), (!value.is_empty()).then(|| value.to_string()));
    MountPlan {
        target: PathBuf::from(target),
        source: MountSource::FileSystem {
            kind: kind.to_string(),
            options: options.iter().map(option).collect(),
        },
        attributes,
    }
}

/// The file systems, in order.
pub(crate) fn mounts(layout: &Layout, shm_size: Option<ByteSize>, privileged: bool) -> Vec<MountPlan> {
    let quiet = NO_SUID | NO_EXEC | NO_DEV;
    let unless_privileged = if privileged { 0 } else { READ_ONLY };
    let shm_size = shm_size.unwrap_or(SHM_SIZE_DEFAULT).0.to_string();
    let terminals = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let mut mounts = vec![
        file_system("proc", "/proc", &[], quiet),
        file_system(
            "tmpfs",
            "/dev",
            &[("mode", "0755"), ("size", "65536k")],
            NO_SUID | STRICT_ATIME,
        ),
        file_system("devpts", "/dev/pts", &terminals, NO_SUID | NO_EXEC),
        file_system("tmpfs", "/dev/shm", &[("mode", "1777"), ("size", &shm_size)], quiet),
        file_system("mqueue", "/dev/mqueue", &[], quiet),
        file_system("sysfs", "/sys", &[], quiet | unless_privileged),
    ];
    if layout.is_v2() {
        mounts.push(file_system("cgroup2", "/sys/fs/cgroup", &[], quiet | unless_privileged));
        return mounts;
    }
    mounts.push(file_system("tmpfs", "/sys/fs/cgroup", &[("mode", "0755")], quiet));
    for (mount, controllers) in layout.v1_mounts() {
        let name = mount
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let options: Vec<(&str, &str)> = controllers.iter().map(|controller| (controller.name(), "")).collect();
        mounts.push(file_system(
            "cgroup",
            &format!("/sys/fs/cgroup/{name}"),
            &options,
            quiet | unless_privileged,
        ));
    }
    mounts
}

/// Path, major and minor number of the devices that every container has.
const DEVICES: &[(&str, u32, u32)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The device nodes.
pub(crate) fn devices() -> Vec<DevicePlan> {
    let node = |(path, major, minor): &(&str, u32, u32)| DevicePlan {
        path: PathBuf::from(path),
        is_block: false,
        major: *major,
        minor: *minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    };
    DEVICES.iter().map(node).collect()
}

/// Every device node of the node itself, for privileged containers.
pub(crate) fn node_devices() -> Vec<DevicePlan> {
    let mut found = Vec::new();
    collect_devices(Path::new("/dev"), &mut found);
    found
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

fn collect_devices(folder: &Path, found: &mut Vec<DevicePlan>) {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if NOT_COPIED.iter().any(|skipped| path == Path::new(skipped)) {
            continue;
        }
        let Ok(metadata) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            collect_devices(&path, found);
        } else if kind.is_block_device() || kind.is_char_device() {
            found.push(DevicePlan {
                path,
                is_block: kind.is_block_device(),
                major: nix::sys::stat::major(metadata.rdev()) as u32,
                minor: nix::sys::stat::minor(metadata.rdev()) as u32,
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
            });
        }
    }
}

/// The devices that a container may use: making any node, and using the default ones, terminals included.
pub(crate) fn device_rules() -> Vec<DeviceRule> {
    let character = |major, minor, access| DeviceRule {
        kind: DeviceKind::Character,
        major,
        minor,
        access,
    };
    let mut rules = vec![
        character(None, None, Access::MAKE),
        DeviceRule {
            kind: DeviceKind::Block,
            ..character(None, None, Access::MAKE)
        },
    ];
    rules.extend(
        DEVICES
            .iter()
            .map(|(_, major, minor)| character(Some(*major), Some(*minor), Access::ALL)),
    );
    // /dev/console, /dev/ptmx and the terminals of /dev/pts.
    rules.push(character(Some(5), Some(1), Access::ALL));
    rules.push(character(Some(5), Some(2), Access::ALL));
    rules.push(character(Some(136), None, Access::ALL));
    rules
}
