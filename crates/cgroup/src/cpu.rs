//! Processor time: a quota per period, and what was used.

use std::path::Path;

use gantry_model::MilliCpu;

use crate::CgroupError;
use crate::error::{read_keyed, read_number, write};

/// The period over which a quota is counted: the kernel's default, as in Docker.
const PERIOD_US: u64 = 100_000;
/// The smallest quota the kernel takes (`kernel/sched/core.c`, min_cfs_quota_period).
const QUOTA_US_MIN: u64 = 1_000;

fn quota_us(limit: MilliCpu) -> u64 {
    (limit.0.saturating_mul(PERIOD_US) / 1000).max(QUOTA_US_MIN)
}

pub(crate) fn limit_v2(group: &Path, limit: MilliCpu) -> Result<(), CgroupError> {
    write(&group.join("cpu.max"), &format!("{} {PERIOD_US}", quota_us(limit)))
}

pub(crate) fn limit_v1(group: &Path, limit: MilliCpu) -> Result<(), CgroupError> {
    write(&group.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
    write(&group.join("cpu.cfs_quota_us"), &quota_us(limit).to_string())
}

/// Microseconds used.
pub(crate) fn used_v2(group: &Path) -> Result<u64, CgroupError> {
    read_keyed(&group.join("cpu.stat"), "usage_usec")
}

/// Microseconds used.
pub(crate) fn used_v1(group: &Path) -> Result<u64, CgroupError> {
    read_number(&group.join("cpuacct.usage")).map(|nanoseconds| nanoseconds / 1000)
}
