//! The number of processes and threads; the files are the same in both versions.

use std::path::Path;

use crate::CgroupError;
use crate::error::{read_number, write};

pub(crate) fn limit(group: &Path, limit: u32) -> Result<(), CgroupError> {
    write(&group.join("pids.max"), &limit.to_string())
}

pub(crate) fn used(group: &Path) -> Result<u64, CgroupError> {
    read_number(&group.join("pids.current"))
}
