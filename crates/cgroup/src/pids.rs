//! The number of processes and threads; the files are the same in both versions.

use std::path::Path;

use crate::error::{read_number, read_number_if_there, write};
use crate::{Ceiling, CgroupError};

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// How many there are.
    pub current: u64,
    /// How many there may be; none without a limit.
    pub limit: Option<u64>,
}

pub(crate) fn apply(group: &Path, limit: Ceiling) -> Result<(), CgroupError> {
    write(&group.join("pids.max"), &limit.v2())
}

pub(crate) fn stats(group: &Path) -> Result<PidsStats, CgroupError> {
    let limit = read_number_if_there(&group.join("pids.max"))?;
    Ok(PidsStats {
        current: read_number(&group.join("pids.current"))?,
        limit: limit.filter(|limit| *limit != u64::MAX),
    })
}
