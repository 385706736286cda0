//! Memory and swap: a hard limit, what is reclaimed last, and what was used. Swap is said as Docker and the OCI spec say it:
//! memory and swap together.

use std::collections::BTreeMap;
use std::path::Path;

use gantry_model::ByteSize;

use crate::error::{
    Setting, keyed, read, read_if_there, read_keyed, read_number, read_number_if_there, write, write_where_known,
};
use crate::group::At;
use crate::{Ceiling, CgroupError};

/// The file and key that count kills for lack of memory in version 2.
pub(crate) const OOM_V2: (&str, &str) = ("memory.events", "oom_kill");
/// The same in version 1.
pub(crate) const OOM_V1: (&str, &str) = ("memory.oom_control", "oom_kill");

/// From here on a number in a file of version 1 means no limit: the largest page-aligned one (`mm/memcontrol-v1.c`).
const UNLIMITED_V1: u64 = 0x7fff_ffff_ffff_0000;

/// How much swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// Memory and swap together at most so much.
    Total(Ceiling),
    /// As much swap as memory, where the kernel counts swap: what Docker does when only memory is limited.
    AsMuchAgain,
}

/// How much memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Hard limit.
    pub limit: Option<Ceiling>,
    /// What is left to the group when the machine runs short: `memory.low`, or the soft limit of version 1.
    pub reservation: Option<Ceiling>,
    /// Swap.
    pub swap: Option<Swap>,
    /// From here on the group is slowed down and reclaimed from (version 2 only).
    pub high: Option<Ceiling>,
    /// 0 to 100: how readily it is swapped out (version 1 only).
    pub swappiness: Option<u64>,
    /// Processes wait for memory instead of being killed (version 1 only).
    pub oom_kill_disable: Option<bool>,
    /// When one process is killed for lack of memory, all are (version 2 only).
    pub oom_group: Option<bool>,
    /// Kernel memory for TCP buffers (version 1 only).
    pub kernel_tcp: Option<Ceiling>,
    /// A limit below what is in use is refused, instead of reclaiming or killing down to it.
    pub check_before_update: bool,
}

impl MemoryLimits {
    /// So much memory at most, and as much swap again.
    #[must_use]
    pub fn at_most(limit: ByteSize) -> Self {
        Self {
            limit: Some(Ceiling::At(limit.0)),
            swap: Some(Swap::AsMuchAgain),
            ..Self::default()
        }
    }

    /// Memory and swap together; none when nothing is said of swap.
    fn total(&self) -> Option<Ceiling> {
        match (self.swap, self.limit) {
            (Some(Swap::Total(total)), _) => Some(total),
            (Some(Swap::AsMuchAgain), Some(Ceiling::At(limit))) => Some(Ceiling::At(limit.saturating_mul(2))),
            // Unlimited memory cannot stand beside limited memory and swap.
            (Some(Swap::AsMuchAgain) | None, Some(Ceiling::Unlimited)) => Some(Ceiling::Unlimited),
            (Some(Swap::AsMuchAgain), None) | (None, _) => None,
        }
    }

    fn swap_is_asked_for(&self) -> bool {
        matches!(self.swap, Some(Swap::Total(_)))
    }
}

fn check(limits: &MemoryLimits) -> Result<(), CgroupError> {
    let (Some(Ceiling::At(limit)), Some(Swap::Total(Ceiling::At(total)))) = (limits.limit, limits.swap) else {
        return Ok(());
    };
    if total >= limit {
        return Ok(());
    }
    Err(CgroupError::Invalid {
        controller: "memory",
        setting: "swap",
        value: total.to_string(),
        reason: format!("it is memory and swap together, and memory alone may be {limit}"),
    })
}

pub(crate) fn apply(at: &At, limits: &MemoryLimits) -> Result<(), CgroupError> {
    check(limits)?;
    if limits.check_before_update {
        check_usage(at, limits)?;
    }
    match at {
        At::V2(group) => apply_v2(group, limits),
        At::V1(group) => apply_v1(group, limits),
    }
}

fn check_usage(at: &At, limits: &MemoryLimits) -> Result<(), CgroupError> {
    let file = match at {
        At::V2(_) => "memory.current",
        At::V1(_) => "memory.usage_in_bytes",
    };
    let used = read_number(&at.path().join(file))?;
    match limits.limit {
        Some(Ceiling::At(limit)) if limit < used => Err(CgroupError::Invalid {
            controller: "memory",
            setting: "limit",
            value: limit.to_string(),
            reason: format!("{used} bytes are in use"),
        }),
        _ => Ok(()),
    }
}

fn unsupported(setting: &str, value: impl ToString, reason: &'static str, remedy: &'static str) -> CgroupError {
    CgroupError::Unsupported {
        controller: "memory",
        setting: setting.to_string(),
        value: value.to_string(),
        reason,
        remedy,
    }
}

fn apply_v2(group: &Path, limits: &MemoryLimits) -> Result<(), CgroupError> {
    if let Some(swappiness) = limits.swappiness {
        let remedy = "leave it out; limit swap instead";
        return Err(unsupported(
            "memory.swappiness",
            swappiness,
            "version 2 has no swappiness of groups",
            remedy,
        ));
    }
    if limits.oom_kill_disable == Some(true) {
        let reason = "version 2 always kills when memory is used up";
        return Err(unsupported(
            "memory.oom_control",
            1,
            reason,
            "leave it out; set memory.high to be slowed down before",
        ));
    }
    if let Some(tcp) = limits.kernel_tcp.filter(|tcp| *tcp != Ceiling::Unlimited) {
        let reason = "version 2 counts TCP buffers as memory";
        return Err(unsupported(
            "memory.kmem.tcp.limit_in_bytes",
            tcp,
            reason,
            "leave it out; limit memory instead",
        ));
    }
    set_swap_v2(group, limits)?;
    let files = [
        ("memory.max", limits.limit),
        ("memory.low", limits.reservation),
        ("memory.high", limits.high),
    ];
    for (file, value) in files {
        if let Some(value) = value {
            write(&group.join(file), &value.v2())?;
        }
    }
    match limits.oom_group {
        Some(all) => write(&group.join("memory.oom.group"), if all { "1" } else { "0" }),
        None => Ok(()),
    }
}

/// Version 2 limits swap by itself, so the memory limit is taken off.
fn set_swap_v2(group: &Path, limits: &MemoryLimits) -> Result<(), CgroupError> {
    let swap = match limits.total() {
        None => return Ok(()),
        Some(Ceiling::Unlimited) => Ceiling::Unlimited,
        Some(Ceiling::At(total)) => {
            let memory = match limits.limit {
                Some(limit) => limit,
                None => match read_number(&group.join("memory.max"))? {
                    u64::MAX => Ceiling::Unlimited,
                    limit => Ceiling::At(limit),
                },
            };
            let Ceiling::At(memory) = memory else {
                return Err(CgroupError::Invalid {
                    controller: "memory",
                    setting: "swap",
                    value: total.to_string(),
                    reason: "it is memory and swap together, and memory is unlimited: limit that too".to_string(),
                });
            };
            let swap = total.checked_sub(memory).ok_or_else(|| CgroupError::Invalid {
                controller: "memory",
                setting: "swap",
                value: total.to_string(),
                reason: format!("it is memory and swap together, and memory alone may be {memory}"),
            })?;
            Ceiling::At(swap)
        }
    };
    let path = group.join("memory.swap.max");
    let holds_anyway = !limits.swap_is_asked_for() || matches!(swap, Ceiling::Unlimited | Ceiling::At(0));
    if holds_anyway && !path.exists() {
        return Ok(());
    }
    write_where_known(&path, &swap_setting(&swap.v2()))
}

fn swap_setting(value: &str) -> Setting<'_> {
    Setting {
        controller: "memory",
        value,
        reason: "this kernel does not count swap per group",
        remedy: "boot it with swapaccount=1, or leave the swap limit out",
    }
}

fn apply_v1(group: &Path, limits: &MemoryLimits) -> Result<(), CgroupError> {
    if let Some(high) = limits.high.filter(|high| *high != Ceiling::Unlimited) {
        return Err(unsupported(
            "memory.high",
            high,
            "version 1 only has a hard limit",
            "use the limit or the reservation",
        ));
    }
    if limits.oom_group == Some(true) {
        let reason = "version 1 kills one process at a time";
        return Err(unsupported(
            "memory.oom.group",
            1,
            reason,
            "use cgroup version 2, or leave it out",
        ));
    }
    set_limit_and_swap_v1(group, limits)?;
    if let Some(reservation) = limits.reservation {
        write(&group.join("memory.soft_limit_in_bytes"), &reservation.v1())?;
    }
    if let Some(tcp) = limits.kernel_tcp {
        write(&group.join("memory.kmem.tcp.limit_in_bytes"), &tcp.v1())?;
    }
    if let Some(swappiness) = limits.swappiness {
        if swappiness > 100 {
            return Err(CgroupError::Invalid {
                controller: "memory",
                setting: "swappiness",
                value: swappiness.to_string(),
                reason: "it is 0 to 100".to_string(),
            });
        }
        write(&group.join("memory.swappiness"), &swappiness.to_string())?;
    }
    match limits.oom_kill_disable {
        Some(disable) => write(&group.join("memory.oom_control"), if disable { "1" } else { "0" }),
        None => Ok(()),
    }
}

/// The kernel never lets memory alone be above both together: when growing, both together goes first.
fn set_limit_and_swap_v1(group: &Path, limits: &MemoryLimits) -> Result<(), CgroupError> {
    let memory_file = group.join("memory.limit_in_bytes");
    let total_file = group.join("memory.memsw.limit_in_bytes");
    let set_memory = || limits.limit.map_or(Ok(()), |limit| write(&memory_file, &limit.v1()));
    let counts_swap = total_file.exists();
    let total = limits
        .total()
        .filter(|total| counts_swap || (limits.swap_is_asked_for() && *total != Ceiling::Unlimited));
    let Some(total) = total else { return set_memory() };
    let set_total = || write_where_known(&total_file, &swap_setting(&total.v1()));
    let grows = match total {
        Ceiling::Unlimited => true,
        Ceiling::At(total) => read_number(&memory_file)? < total,
    };
    let is_new = counts_swap && read_number(&total_file)? >= UNLIMITED_V1;
    if grows && !is_new {
        set_total()?;
        return set_memory();
    }
    set_memory()?;
    set_total()
}

/// Memory in use, in bytes where not said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// All of it, file cache included.
    pub usage: ByteSize,
    /// The part that is file cache.
    pub cache: ByteSize,
    /// Without the file cache that can be dropped at once, as `docker stats` counts.
    pub working_set: ByteSize,
    /// The most that was ever in use; none where the kernel does not keep it (version 2 before Linux 5.19).
    pub peak: Option<ByteSize>,
    /// The limit.
    pub limit: Option<ByteSize>,
    /// How often the limit was hit.
    pub limit_hits: u64,
    /// Swap in use; none where the kernel does not count it.
    pub swap: Option<ByteSize>,
    /// Most swap (version 2), or memory and swap together (version 1).
    pub swap_limit: Option<ByteSize>,
    /// The kernel's own memory on the group's behalf.
    pub kernel: ByteSize,
    /// Processes killed for lack of memory.
    pub oom_kills: u64,
    /// Every figure of `memory.stat`, under the kernel's names.
    pub details: BTreeMap<String, u64>,
}

fn details(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs
        .filter_map(|(name, number)| Some((name.to_string(), number.trim().parse().ok()?)))
        .collect()
}

pub(crate) fn stats(at: &At) -> Result<MemoryStats, CgroupError> {
    match at {
        At::V2(group) => stats_v2(group),
        At::V1(group) => stats_v1(group),
    }
}

fn stats_v2(group: &Path) -> Result<MemoryStats, CgroupError> {
    let text = read(&group.join("memory.stat"))?;
    let usage = read_number(&group.join("memory.current"))?;
    let bytes_of = |file: &str| read_number_if_there(&group.join(file)).map(|number| number.map(ByteSize));
    let limit_of = |file: &str| bytes_of(file).map(|limit| limit.filter(|limit| limit.0 != u64::MAX));
    let events = read_if_there(&group.join("memory.events"))?.unwrap_or_default();
    Ok(MemoryStats {
        usage: ByteSize(usage),
        cache: ByteSize(keyed(&text, "file")),
        working_set: ByteSize(usage.saturating_sub(keyed(&text, "inactive_file"))),
        peak: bytes_of("memory.peak")?,
        limit: limit_of("memory.max")?,
        limit_hits: keyed(&events, "max"),
        swap: bytes_of("memory.swap.current")?,
        swap_limit: limit_of("memory.swap.max")?,
        kernel: ByteSize(keyed(&text, "kernel")),
        oom_kills: keyed(&events, OOM_V2.1),
        details: details(&text),
    })
}

fn stats_v1(group: &Path) -> Result<MemoryStats, CgroupError> {
    let text = read(&group.join("memory.stat"))?;
    let usage = read_number(&group.join("memory.usage_in_bytes"))?;
    let bytes_of = |file: &str| read_number_if_there(&group.join(file)).map(|number| number.map(ByteSize));
    let limit_of = |file: &str| bytes_of(file).map(|limit| limit.filter(|limit| limit.0 < UNLIMITED_V1));
    let both = bytes_of("memory.memsw.usage_in_bytes")?;
    Ok(MemoryStats {
        usage: ByteSize(usage),
        cache: ByteSize(keyed(&text, "total_cache")),
        working_set: ByteSize(usage.saturating_sub(keyed(&text, "total_inactive_file"))),
        peak: bytes_of("memory.max_usage_in_bytes")?,
        limit: limit_of("memory.limit_in_bytes")?,
        limit_hits: read_number(&group.join("memory.failcnt"))?,
        swap: both.map(|both| ByteSize(both.0.saturating_sub(usage))),
        swap_limit: limit_of("memory.memsw.limit_in_bytes")?,
        kernel: bytes_of("memory.kmem.usage_in_bytes")?.unwrap_or(ByteSize::ZERO),
        oom_kills: read_keyed(&group.join(OOM_V1.0), OOM_V1.1)?,
        details: details(&text),
    })
}
