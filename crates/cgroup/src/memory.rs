//! Memory: a hard limit, swap as much again (as in Docker), a soft limit, and how often the kernel had to kill.

use std::path::Path;

use gantry_model::ByteSize;

use crate::CgroupError;
use crate::error::{read_keyed, read_number, write};

/// The file and key that count kills for lack of memory in version 2.
pub(crate) const OOM_V2: (&str, &str) = ("memory.events", "oom_kill");
/// The same in version 1.
pub(crate) const OOM_V1: (&str, &str) = ("memory.oom_control", "oom_kill");

pub(crate) fn limit_v2(group: &Path, limit: ByteSize) -> Result<(), CgroupError> {
    write(&group.join("memory.max"), &limit.0.to_string())?;
    write_if_there(&group.join("memory.swap.max"), limit.0)
}

pub(crate) fn limit_v1(group: &Path, limit: ByteSize) -> Result<(), CgroupError> {
    write(&group.join("memory.limit_in_bytes"), &limit.0.to_string())?;
    write_if_there(&group.join("memory.memsw.limit_in_bytes"), limit.0.saturating_mul(2))
}

pub(crate) fn reserve_v2(group: &Path, reservation: ByteSize) -> Result<(), CgroupError> {
    write(&group.join("memory.low"), &reservation.0.to_string())
}

pub(crate) fn reserve_v1(group: &Path, reservation: ByteSize) -> Result<(), CgroupError> {
    write(&group.join("memory.soft_limit_in_bytes"), &reservation.0.to_string())
}

/// Swap is accounted only where the kernel was told to.
fn write_if_there(path: &Path, value: u64) -> Result<(), CgroupError> {
    if path.exists() {
        write(path, &value.to_string())
    } else {
        Ok(())
    }
}

/// Bytes in use without file cache that can be dropped at once, as `docker stats` counts.
pub(crate) fn used_v2(group: &Path) -> Result<u64, CgroupError> {
    let used = read_number(&group.join("memory.current"))?;
    let idle = read_keyed(&group.join("memory.stat"), "inactive_file")?;
    Ok(used.saturating_sub(idle))
}

/// As [`used_v2`].
pub(crate) fn used_v1(group: &Path) -> Result<u64, CgroupError> {
    let used = read_number(&group.join("memory.usage_in_bytes"))?;
    let idle = read_keyed(&group.join("memory.stat"), "total_inactive_file")?;
    Ok(used.saturating_sub(idle))
}
