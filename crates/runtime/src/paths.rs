//! What every container has in its root besides the image: file systems, devices, hidden and read-only paths. As Docker's.

use std::path::{Path, PathBuf};

use gantry_cgroup::{Access, DeviceKind, DeviceRule, Layout};
use gantry_model::ByteSize;
use gantry_model::spec::{ContainerSpec, NamespaceMode};
use gantry_shim::plan::{AttributePlan, DeviceKindPlan, DevicePlan, MountPlan, MountSource};
use gantry_sys::mount::attribute::{NO_DEV, NO_EXEC, NO_SUID, READ_ONLY, STRICT_ATIME};

use crate::{Peers, mounts};

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
            source: String::new(),
            options: options.iter().map(option).collect(),
            copy_up: false,
        },
        attributes: AttributePlan::setting(attributes),
        recursive_attributes: AttributePlan::default(),
        propagation: None,
        idmap: None,
    }
}

/// The file systems, in order.
pub(crate) fn mounts(layout: &Layout, container: &ContainerSpec, peers: Peers) -> Vec<MountPlan> {
    let quiet = NO_SUID | NO_EXEC | NO_DEV;
    let unless_privileged = if container.privileged { 0 } else { READ_ONLY };
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
    ];
    mounts.extend(shared_memory(container, peers, quiet));
    mounts.push(file_system("mqueue", "/dev/mqueue", &[], quiet));
    mounts.push(file_system("sysfs", "/sys", &[], quiet | unless_privileged));
    mounts.extend(cgroup_mounts(layout, unless_privileged == 0));
    mounts
}

/// Whoever shares its System V memory with another shares the POSIX memory as well.
fn shared_memory(container: &ContainerSpec, peers: Peers, quiet: u64) -> Option<MountPlan> {
    let target = Path::new("/dev/shm");
    let of_another = |namespace: Option<PathBuf>| MountPlan {
        source: MountSource::Bind {
            path: target.to_path_buf(),
            namespace,
            recursive: true,
            copy_up: false,
        },
        idmap: None,
        ..mounts::bind(target, target, mounts::PRIVATE, false)
    };
    match &container.ipc {
        NamespaceMode::None => None,
        NamespaceMode::Host => Some(of_another(None)),
        NamespaceMode::Container(_) => {
            let namespace = |pid| PathBuf::from(format!("/proc/{pid}/ns/mnt"));
            peers.ipc.map(|pid| of_another(Some(namespace(pid))))
        }
        NamespaceMode::Private | NamespaceMode::Shareable => {
            let size = container.shm_size.unwrap_or(SHM_SIZE_DEFAULT).0.to_string();
            Some(file_system(
                "tmpfs",
                "/dev/shm",
                &[("mode", "1777"), ("size", &size)],
                quiet,
            ))
        }
    }
}

/// Where the container sees its control groups.
#[must_use]
pub fn cgroup_mounts(layout: &Layout, writable: bool) -> Vec<MountPlan> {
    let quiet = NO_SUID | NO_EXEC | NO_DEV;
    let read_only = if writable { 0 } else { READ_ONLY };
    if layout.is_v2() {
        return vec![file_system("cgroup2", "/sys/fs/cgroup", &[], quiet | read_only)];
    }
    let mut mounts = vec![file_system("tmpfs", "/sys/fs/cgroup", &[("mode", "0755")], quiet)];
    for (mount, controllers) in layout.v1_mounts() {
        let name = mount
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let options: Vec<(&str, &str)> = controllers.iter().map(|controller| (controller.name(), "")).collect();
        let target = format!("/sys/fs/cgroup/{name}");
        mounts.push(file_system("cgroup", &target, &options, quiet | read_only));
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

/// The device nodes that every container has.
#[must_use]
pub fn default_devices() -> Vec<DevicePlan> {
    let node = |(path, major, minor): &(&str, u32, u32)| DevicePlan {
        path: PathBuf::from(path),
        kind: DeviceKindPlan::Character,
        major: *major,
        minor: *minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    };
    DEVICES.iter().map(node).collect()
}

/// The devices that every container may use: making any node, and using the default ones, terminals included.
#[must_use]
pub fn default_device_rules() -> Vec<DeviceRule> {
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
