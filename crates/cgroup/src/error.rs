//! What can go wrong with a control group: the act, the file, the kernel's answer, and what helps.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::Hole;

/// A failed act on a control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The mount table could not be read.
    #[error("cannot read the mount table {path}: {source}")]
    MountTable {
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is no hierarchy for a controller.
    #[error(
        "no control group hierarchy has the {controller} controller: mount cgroup2 on /sys/fs/cgroup, or the v1 controller; a \
         kernel built without it lists it in neither /proc/cgroups nor cgroup.controllers"
    )]
    Missing {
        /// Its name.
        controller: &'static str,
    },
    /// The controller is there, but this version of it or this kernel knows no such limit.
    #[error("{controller}: cannot set {setting} to '{value}': {reason}; {remedy}")]
    Unsupported {
        /// The controller's name.
        controller: &'static str,
        /// What was to be limited: the file that would take it.
        setting: String,
        /// To how much.
        value: String,
        /// What is lacking.
        reason: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A limit that makes no sense, by itself or beside another.
    #[error("{controller}: {setting} cannot be '{value}': {reason}")]
    Invalid {
        /// The controller's name.
        controller: &'static str,
        /// Which limit.
        setting: &'static str,
        /// The value.
        value: String,
        /// Why not.
        reason: String,
    },
    /// The device rules cannot be kept.
    #[error("devices: {0}")]
    Devices(#[from] Hole),
    /// A group could not be made.
    #[error("cannot make control group {path}: {source}{}", remedy(path, source))]
    Create {
        /// Its folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write '{value}' to {path}: {source}{}", remedy(path, source))]
    Write {
        /// Which file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A process could not be signalled.
    #[error("cannot send signal {signal} to process {process} of {path}: {source}")]
    Signal {
        /// The group's folder.
        path: PathBuf,
        /// The process.
        process: i32,
        /// The signal.
        signal: i32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A device program could not be loaded or attached.
    #[error("cannot attach the device program to {path}: {source}")]
    DeviceProgram {
        /// The group's folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A node in `/dev` could not be examined.
    #[error("cannot limit {path}: {source}")]
    DeviceNode {
        /// The node.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Processes of the group did not stop.
    #[error("control group {path} is still {state} after {seconds} s: a process hangs in the kernel")]
    NotFrozen {
        /// The group's folder.
        path: PathBuf,
        /// What the kernel says of it.
        state: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Processes of the group did not go away.
    #[error("control group {path} still has processes {processes:?} after SIGKILL")]
    Busy {
        /// The group's folder.
        path: PathBuf,
        /// Their ids, as this process sees them.
        processes: Vec<i32>,
    },
    /// A group could not be removed.
    #[error("cannot remove control group {path}: {source}")]
    Remove {
        /// Its folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What the kernel's bare answer means for a file, and what helps; empty where the answer says it all.
fn remedy(path: &Path, source: &io::Error) -> &'static str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let errno = Errno::from_raw(source.raw_os_error().unwrap_or(0));
    match (name, errno) {
        (_, Errno::EROFS) => "; control groups are mounted read-only here: remount them writable",
        (_, Errno::EPERM | Errno::EACCES) => "; only root, or the user the group was delegated to, may do that",
        ("cgroup.procs", Errno::ESRCH) => "; the process has ended",
        ("cgroup.procs", Errno::ENOSPC) => "; cpuset.cpus or cpuset.mems of the group is empty",
        ("cgroup.procs" | "cgroup.subtree_control", Errno::EBUSY) => {
            "; in version 2 a group holds processes or passes controllers on, not both: move its processes below"
        }
        ("memory.limit_in_bytes" | "memory.memsw.limit_in_bytes" | "memory.max", Errno::EBUSY) => {
            "; more is in use already and cannot be reclaimed: stop something first, or set a higher limit"
        }
        ("memory.memsw.limit_in_bytes", Errno::EINVAL) => "; memory and swap together cannot be below the memory limit",
        ("cpuset.cpus", _) => "; it must name processors that are online and that the parent group has",
        ("cpuset.mems", _) => "; it must name memory nodes that exist and that the parent group has",
        ("cpu.max" | "cpu.cfs_quota_us" | "cpu.cfs_period_us", Errno::EINVAL) => {
            "; a period is 1,000 to 1,000,000 µs, a quota at least 1,000 µs, and not above the parent group's share"
        }
        ("cpu.cfs_burst_us" | "cpu.max.burst", Errno::EINVAL) => "; a burst is not above the quota",
        ("cpu.rt_runtime_us" | "cpu.rt_period_us", _) => {
            "; all groups together get at most kernel.sched_rt_runtime_us of each kernel.sched_rt_period_us"
        }
        ("cpu.shares" | "cpu.weight", Errno::EINVAL) => "; an idle group has no weight",
        (name, Errno::ENODEV | Errno::ENXIO) if name.starts_with("blkio.") || name.starts_with("io.") => {
            "; there is no such block device, or it is a partition: name the whole disk"
        }
        (name, Errno::EOPNOTSUPP) if name.starts_with("blkio.") || name.starts_with("io.") => {
            "; the device's scheduler has no weights: choose bfq in /sys/block/DEVICE/queue/scheduler"
        }
        ("devices.deny" | "devices.allow", Errno::EINVAL) => "; a group with groups below it cannot change its default",
        (_, Errno::ENOSPC) => "; the machine has reached its largest number of control groups: remove unused ones",
        _ => "",
    }
}

/// The kernel makes these files: asking to create a missing one would be answered with EACCES instead of ENOENT.
pub(crate) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    let opened = std::fs::File::options().write(true).open(path);
    let written = opened.and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()));
    written.map_err(|source| CgroupError::Write {
        path: path.to_path_buf(),
        value: value.to_string(),
        source,
    })
}

/// As [`write`], several values one after the other, each in a write of its own.
pub(crate) fn write_lines(path: &Path, values: &[String]) -> Result<(), CgroupError> {
    let failed = |value: &str| {
        let value = value.to_string();
        move |source| CgroupError::Write {
            path: path.to_path_buf(),
            value,
            source,
        }
    };
    let Some(first) = values.first() else { return Ok(()) };
    let opened = std::fs::File::options().write(true).open(path);
    let mut file = opened.map_err(failed(first))?;
    values
        .iter()
        .try_for_each(|value| std::io::Write::write_all(&mut file, value.as_bytes()).map_err(failed(value)))
}

/// A limit, and what lacks when the kernel has no file for it.
pub(crate) struct Setting<'a> {
    pub(crate) controller: &'static str,
    pub(crate) value: &'a str,
    pub(crate) reason: &'static str,
    pub(crate) remedy: &'static str,
}

/// Writes to a file that not every kernel has.
pub(crate) fn write_where_known(path: &Path, setting: &Setting<'_>) -> Result<(), CgroupError> {
    match write(path, setting.value) {
        // The folder is there, so a missing file is a missing feature.
        Err(CgroupError::Write { source, .. }) if source.kind() == io::ErrorKind::NotFound && exists_above(path) => {
            let name = path.file_name().unwrap_or_default();
            Err(CgroupError::Unsupported {
                controller: setting.controller,
                setting: name.to_string_lossy().into_owned(),
                value: setting.value.to_string(),
                reason: setting.reason,
                remedy: setting.remedy,
            })
        }
        outcome => outcome,
    }
}

fn exists_above(path: &Path) -> bool {
    path.parent().is_some_and(Path::is_dir)
}

pub(crate) fn read(path: &Path) -> Result<String, CgroupError> {
    std::fs::read_to_string(path).map_err(|source| CgroupError::Read {
        path: path.to_path_buf(),
        source,
    })
}

/// None when the kernel has no such file.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<String>, CgroupError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        // EOPNOTSUPP is what pressure files say where pressure is not counted.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::Unsupported => Ok(None),
        Err(source) => Err(CgroupError::Read {
            path: path.to_path_buf(),
            source,
        }),
    }
}

fn number(path: &Path, text: &str) -> Result<u64, CgroupError> {
    match text.trim() {
        "max" => Ok(u64::MAX),
        number => number.parse().map_err(|_| CgroupError::Read {
            path: path.to_path_buf(),
            source: io::Error::new(io::ErrorKind::InvalidData, format!("'{number}' is not a number")),
        }),
    }
}

/// The number in a file that holds just one; `max` is the largest.
pub(crate) fn read_number(path: &Path) -> Result<u64, CgroupError> {
    number(path, &read(path)?)
}

/// As [`read_number`]; none when the kernel has no such file.
pub(crate) fn read_number_if_there(path: &Path) -> Result<Option<u64>, CgroupError> {
    read_if_there(path)?.map(|text| number(path, &text)).transpose()
}

/// The number behind `key` in lines `key number`; 0 when the key is not there.
pub(crate) fn keyed(text: &str, key: &str) -> u64 {
    let found = text
        .lines()
        .find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key));
    found.and_then(|(_, number)| number.trim().parse().ok()).unwrap_or(0)
}

/// As [`keyed`], of a file.
pub(crate) fn read_keyed(path: &Path, key: &str) -> Result<u64, CgroupError> {
    Ok(keyed(&read(path)?, key))
}
