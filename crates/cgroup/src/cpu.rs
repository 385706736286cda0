//! Processor time: a weight when processors are short, a quota per period, real-time time, and what was used.

use std::path::Path;

use gantry_model::MilliCpu;

use crate::error::{Setting, keyed, read, read_if_there, read_number, read_number_if_there, write, write_where_known};
use crate::group::At;
use crate::{Ceiling, CgroupError};

/// The period over which a quota is counted: the kernel's default, as in Docker.
const PERIOD_US: u64 = 100_000;
/// The smallest quota the kernel takes (`kernel/sched/core.c`, min_cfs_quota_period).
const QUOTA_US_MIN: u64 = 1_000;
/// What version 1 takes as shares (`kernel/sched/sched.h`, MIN_SHARES and MAX_SHARES); it silently clamps what is outside.
const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;
/// The same for weights of version 2 (`kernel/cgroup.h`, CGROUP_WEIGHT_MIN and MAX).
const WEIGHT_MIN: u64 = 1;
const WEIGHT_MAX: u64 = 10_000;
/// Nanoseconds, as version 1 counts, in a microsecond.
const NS_PER_US: u64 = 1_000;

/// How much processor time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuLimits {
    /// Weight among its siblings when processors are short: 2 to 262,144, 1024 is the default.
    pub shares: Option<u64>,
    /// Microseconds of processor time per period.
    pub quota_us: Option<Ceiling>,
    /// Length of the period; 100,000 is the default.
    pub period_us: Option<u64>,
    /// Unused quota that may be saved up.
    pub burst_us: Option<u64>,
    /// Runs only when nothing else wants to.
    pub idle: Option<bool>,
    /// Microseconds of real-time scheduling per real-time period (version 1 only).
    pub realtime_runtime_us: Option<i64>,
    /// Length of that period (version 1 only).
    pub realtime_period_us: Option<u64>,
}

impl CpuLimits {
    /// So much processor time at most.
    #[must_use]
    pub fn at_most(limit: MilliCpu) -> Self {
        Self::at_most_per(limit, PERIOD_US)
    }

    /// So much processor time at most, counted over a period of so many microseconds.
    #[must_use]
    pub fn at_most_per(limit: MilliCpu, period_us: u64) -> Self {
        let quota = (limit.0.saturating_mul(period_us) / 1000).max(QUOTA_US_MIN);
        Self {
            quota_us: Some(Ceiling::At(quota)),
            period_us: Some(period_us),
            ..Self::default()
        }
    }
}

/// The weight of version 2 that stands for shares of version 1: a curve through both minima, defaults (1024 is 100) and maxima,
/// as runc 1.4 and crun 1.23 have it. The straight line before would make a container with the default shares the poorest
/// group of its machine.
fn weight_of_shares(shares: u64) -> u64 {
    if shares <= SHARES_MIN {
        return WEIGHT_MIN;
    }
    if shares >= SHARES_MAX {
        return WEIGHT_MAX;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // Within 1 to 10,000 by construction.
    10f64.powf(exponent).ceil() as u64
}

pub(crate) fn apply(at: &At, limits: &CpuLimits) -> Result<(), CgroupError> {
    if let Some(shares) = limits.shares
        && !(SHARES_MIN..=SHARES_MAX).contains(&shares)
    {
        return Err(CgroupError::Invalid {
            controller: "cpu",
            setting: "shares",
            value: shares.to_string(),
            reason: format!("the kernel takes {SHARES_MIN} to {SHARES_MAX}"),
        });
    }
    match at {
        At::V2(group) => apply_v2(group, limits),
        At::V1(group) => apply_v1(group, limits),
    }
}

fn set_idle(group: &Path, idle: bool) -> Result<(), CgroupError> {
    let setting = Setting {
        controller: "cpu",
        value: if idle { "1" } else { "0" },
        reason: "this kernel has no idle groups",
        remedy: "use Linux 5.15 or later, or leave it out",
    };
    write_where_known(&group.join("cpu.idle"), &setting)
}

/// A group that is idle takes no weight, so the order depends on which way it goes.
fn set_weight(group: &Path, limits: &CpuLimits, file: &str, weight: Option<u64>) -> Result<(), CgroupError> {
    if limits.idle == Some(false) {
        set_idle(group, false)?;
    }
    if let Some(weight) = weight
        && limits.idle != Some(true)
    {
        write(&group.join(file), &weight.to_string())?;
    }
    if limits.idle == Some(true) {
        set_idle(group, true)?;
    }
    Ok(())
}

/// A burst is never above the quota: it is lowered before, and raised after.
fn with_burst(
    path: &Path,
    burst: Option<u64>,
    set_quota: impl FnOnce() -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    let Some(burst) = burst else { return set_quota() };
    let value = burst.to_string();
    let setting = Setting {
        controller: "cpu",
        value: &value,
        reason: "this kernel cannot save up quota",
        remedy: "use Linux 5.14 or later, or leave the burst out",
    };
    if read_number_if_there(path)?.is_some_and(|current| burst < current) {
        write_where_known(path, &setting)?;
        return set_quota();
    }
    set_quota()?;
    write_where_known(path, &setting)
}

fn apply_v2(group: &Path, limits: &CpuLimits) -> Result<(), CgroupError> {
    refuse_realtime(limits)?;
    set_weight(group, limits, "cpu.weight", limits.shares.map(weight_of_shares))?;
    with_burst(&group.join("cpu.max.burst"), limits.burst_us, || {
        if limits.quota_us.is_none() && limits.period_us.is_none() {
            return Ok(());
        }
        // Both stand in one file: what is not changed is written as it was.
        let path = group.join("cpu.max");
        let current = read(&path)?;
        let (quota, period) = current.trim().split_once(' ').unwrap_or(("max", "100000"));
        let quota = limits.quota_us.map_or_else(|| quota.to_string(), Ceiling::v2);
        let period = limits
            .period_us
            .map_or_else(|| period.to_string(), |period| period.to_string());
        write(&path, &format!("{quota} {period}"))
    })
}

fn refuse_realtime(limits: &CpuLimits) -> Result<(), CgroupError> {
    let runtime = limits.realtime_runtime_us.filter(|runtime| *runtime != 0);
    let period = limits.realtime_period_us.filter(|period| *period != 0);
    let (setting, value) = match (runtime, period) {
        (Some(runtime), _) => ("cpu.rt_runtime_us", runtime.to_string()),
        (None, Some(period)) => ("cpu.rt_period_us", period.to_string()),
        (None, None) => return Ok(()),
    };
    Err(CgroupError::Unsupported {
        controller: "cpu",
        setting: setting.to_string(),
        value,
        reason: "cgroup version 2 has no real-time budget for groups",
        remedy: "leave it out, and give the process a real-time priority by its scheduler setting",
    })
}

fn apply_v1(group: &Path, limits: &CpuLimits) -> Result<(), CgroupError> {
    set_weight(group, limits, "cpu.shares", limits.shares)?;
    with_burst(&group.join("cpu.cfs_burst_us"), limits.burst_us, || {
        set_quota_v1(group, limits)
    })?;
    set_realtime(group, limits)
}

/// Quota and period are two files, and the kernel checks their ratio against the parent's at each write: when the first order
/// is refused on the way, the other is not.
fn set_quota_v1(group: &Path, limits: &CpuLimits) -> Result<(), CgroupError> {
    let set_period = || match limits.period_us {
        Some(period) => write(&group.join("cpu.cfs_period_us"), &period.to_string()),
        None => Ok(()),
    };
    let set_quota = || match limits.quota_us {
        Some(quota) => write(&group.join("cpu.cfs_quota_us"), &quota.v1()),
        None => Ok(()),
    };
    if set_period().is_ok() {
        return set_quota();
    }
    set_quota()?;
    set_period()
}

fn set_realtime(group: &Path, limits: &CpuLimits) -> Result<(), CgroupError> {
    let set = |file: &str, value: String| {
        let setting = Setting {
            controller: "cpu",
            value: &value,
            reason: "this kernel has no real-time groups (CONFIG_RT_GROUP_SCHED)",
            remedy: "leave it out, or use a kernel that has them",
        };
        write_where_known(&group.join(file), &setting)
    };
    if let Some(period) = limits.realtime_period_us.filter(|period| *period != 0) {
        set("cpu.rt_period_us", period.to_string())?;
    }
    match limits.realtime_runtime_us {
        None | Some(0) => Ok(()),
        Some(runtime) => {
            make_room_above(group, runtime);
            set("cpu.rt_runtime_us", runtime.to_string())
        }
    }
}

/// A new group has no real-time budget, and none below it can have more. What cannot be raised is told by the write that
/// follows.
fn make_room_above(group: &Path, runtime: i64) {
    let budget = |group: &Path| {
        let text = std::fs::read_to_string(group.join("cpu.rt_runtime_us")).unwrap_or_default();
        text.trim().parse::<i64>().unwrap_or(0)
    };
    let is_group =
        |folder: &&Path| folder.join("cpu.rt_runtime_us").exists() && folder.join("notify_on_release").exists();
    let above: Vec<&Path> = group.ancestors().skip(1).take_while(is_group).collect();
    // The outermost is the hierarchy's root.
    for folder in above.iter().rev().skip(1) {
        let spent: i64 = crate::freezer::subgroups(folder)
            .iter()
            .map(|below| budget(below))
            .sum();
        let wanted = spent.saturating_add(runtime);
        if budget(folder) < wanted {
            let _ = std::fs::write(folder.join("cpu.rt_runtime_us"), wanted.to_string());
        }
    }
}

/// Processor time used since the group was made, in microseconds where not said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// All of it.
    pub total_us: u64,
    /// In the programs themselves.
    pub user_us: u64,
    /// In the kernel.
    pub system_us: u64,
    /// Nanoseconds on each processor; empty in version 2, which does not count that.
    pub per_processor_ns: Vec<u64>,
    /// Periods that had a quota.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Time spent waiting for the next period.
    pub throttled_us: u64,
}

/// `cpu` is where the controller lives, `account` where version 1 counts.
pub(crate) fn stats(cpu: &At, account: &At) -> Result<CpuStats, CgroupError> {
    let text = read_if_there(&cpu.path().join("cpu.stat"))?.unwrap_or_default();
    let mut stats = CpuStats {
        periods: keyed(&text, "nr_periods"),
        throttled_periods: keyed(&text, "nr_throttled"),
        ..CpuStats::default()
    };
    stats.throttled_us = match cpu {
        At::V2(_) => keyed(&text, "throttled_usec"),
        At::V1(_) => keyed(&text, "throttled_time") / NS_PER_US,
    };
    match account {
        At::V2(group) => {
            let text = read(&group.join("cpu.stat"))?;
            stats.total_us = keyed(&text, "usage_usec");
            stats.user_us = keyed(&text, "user_usec");
            stats.system_us = keyed(&text, "system_usec");
        }
        At::V1(group) => {
            let microseconds = |file: &str| read_number(&group.join(file)).map(|nanoseconds| nanoseconds / NS_PER_US);
            stats.total_us = microseconds("cpuacct.usage")?;
            stats.user_us = microseconds("cpuacct.usage_user")?;
            stats.system_us = microseconds("cpuacct.usage_sys")?;
            let each = read(&group.join("cpuacct.usage_percpu"))?;
            stats.per_processor_ns = each
                .split_whitespace()
                .filter_map(|number| number.parse().ok())
                .collect();
        }
    }
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_that_keep_minimum_default_and_maximum() {
        let expected = [(2, 1), (1024, 100), (262_144, 10_000), (512, 59), (2048, 174), (0, 1)];
        for (shares, weight) in expected {
            assert_eq!(weight_of_shares(shares), weight, "{shares} shares");
        }
        let all: Vec<u64> = (2..=262_144).step_by(97).map(weight_of_shares).collect();
        assert!(all.is_sorted());
    }

    #[test]
    fn a_limit_in_thousandths_is_a_quota_of_the_period() {
        let limits = CpuLimits::at_most(MilliCpu(1500));
        assert_eq!(
            (limits.quota_us, limits.period_us),
            (Some(Ceiling::At(150_000)), Some(100_000))
        );
        assert_eq!(
            CpuLimits::at_most(MilliCpu(1)).quota_us,
            Some(Ceiling::At(QUOTA_US_MIN))
        );
    }
}
