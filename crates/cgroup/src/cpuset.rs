//! Which processors and memory nodes a group may use.

use std::path::Path;

use crate::CgroupError;
use crate::error::{read, write};
use crate::group::At;

/// Both files of the controller have the same names in both versions.
const CPUS: &str = "cpuset.cpus";
const MEMS: &str = "cpuset.mems";

/// Lists as the kernel writes them: `0-3,7`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpusetLimits {
    /// Processors.
    pub cpus: Option<String>,
    /// Memory nodes.
    pub mems: Option<String>,
}

pub(crate) fn apply(at: &At, limits: &CpusetLimits) -> Result<(), CgroupError> {
    for (file, list) in [(CPUS, &limits.cpus), (MEMS, &limits.mems)] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
            write(&at.path().join(file), list)?;
        }
    }
    Ok(())
}

/// A new group of version 1 has no processors and no memory, and no process can enter it: it takes its parent's, from the
/// outermost group in. In version 2 an empty list means just that by itself.
pub(crate) fn inherit_v1(mount: &Path, group: &Path) -> Result<(), CgroupError> {
    let mut folders: Vec<&Path> = group.ancestors().take_while(|folder| *folder != mount).collect();
    folders.reverse();
    let mut parent = mount;
    for folder in folders {
        for file in [CPUS, MEMS] {
            let path = folder.join(file);
            if read(&path)?.trim().is_empty() {
                write(&path, read(&parent.join(file))?.trim())?;
            }
        }
        parent = folder;
    }
    Ok(())
}
