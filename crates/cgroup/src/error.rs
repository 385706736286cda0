//! What can go wrong with a control group: the act, the file, the kernel's answer.

use std::io;
use std::path::{Path, PathBuf};

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
        "no control group hierarchy has the {controller} controller: mount cgroup2 on /sys/fs/cgroup, or the v1 controller"
    )]
    Missing {
        /// Its name.
        controller: &'static str,
    },
    /// A group could not be made.
    #[error("cannot make control group {path}: {source}")]
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
    #[error("cannot write '{value}' to {path}: {source}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// What was to be written.
        value: String,
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

pub(crate) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    std::fs::write(path, value).map_err(|source| CgroupError::Write {
        path: path.to_path_buf(),
        value: value.to_string(),
        source,
    })
}

pub(crate) fn read(path: &Path) -> Result<String, CgroupError> {
    std::fs::read_to_string(path).map_err(|source| CgroupError::Read {
        path: path.to_path_buf(),
        source,
    })
}

/// The number in a file that holds just one; `max` is the largest.
pub(crate) fn read_number(path: &Path) -> Result<u64, CgroupError> {
    let text = read(path)?;
    match text.trim() {
        "max" => Ok(u64::MAX),
        number => number.parse().map_err(|_| CgroupError::Read {
            path: path.to_path_buf(),
            source: io::Error::new(io::ErrorKind::InvalidData, format!("'{number}' is not a number")),
        }),
    }
}

/// The number behind `key` in a file of lines `key number`; 0 when the key is not there.
pub(crate) fn read_keyed(path: &Path, key: &str) -> Result<u64, CgroupError> {
    let text = read(path)?;
    let found = text
        .lines()
        .find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key));
    Ok(found.and_then(|(_, number)| number.trim().parse().ok()).unwrap_or(0))
}
