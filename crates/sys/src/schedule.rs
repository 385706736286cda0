//! How this process gets processor time and disk time.

use crate::{Errno, Result};

/// How a thread is scheduled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Schedule {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// −20 to 19.
    pub nice: i32,
    /// 1 to 99 for real-time policies.
    pub priority: u32,
    /// Deadline policy, in nanoseconds.
    pub runtime_ns: u64,
    /// Deadline policy, in nanoseconds.
    pub deadline_ns: u64,
    /// Deadline policy, in nanoseconds.
    pub period_ns: u64,
}

/// `struct sched_attr`, first version (48 bytes, `sched_setattr(2)`).
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

/// Changes how this thread is scheduled (`sched_setattr(2)`).
///
/// # Errors
/// `EPERM` without CAP_SYS_NICE, `EBUSY` when a deadline cannot be met, `EINVAL` for values that do not fit together.
pub fn set(schedule: Schedule) -> Result<()> {
    let attributes = Attributes {
        size: std::mem::size_of::<Attributes>() as u32,
        policy: schedule.policy,
        flags: schedule.flags,
        nice: schedule.nice,
        priority: schedule.priority,
        runtime_ns: schedule.runtime_ns,
        deadline_ns: schedule.deadline_ns,
        period_ns: schedule.period_ns,
    };
    // SAFETY: the structure has the kernel's layout, names its own size and outlives the call.
    let outcome = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    Errno::result(outcome).map(drop)
}

/// Sets class (1 real-time, 2 best effort, 3 idle) and level (0 to 7) of this thread's disk time (`ioprio_set(2)`).
///
/// # Errors
/// `EPERM` without the privilege for the class, `EINVAL` for an unknown one.
pub fn set_io_priority(class: u32, level: u32) -> Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: u32 = 13;
    let value = class << CLASS_SHIFT | level;
    // SAFETY: takes integers.
    let outcome = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
    Errno::result(outcome).map(drop)
}
