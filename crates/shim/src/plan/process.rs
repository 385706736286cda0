//! A process to run in a container.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A process, first or exec'd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Variables as `NAME=value`; HOME is added when missing.
    pub env: Vec<String>,
    /// Also PATH, HOSTNAME and, with a terminal, TERM are added when missing.
    pub usual_env: bool,
    /// Folder to start in; made when missing.
    pub cwd: PathBuf,
    /// Who it runs as.
    pub user: UserPlan,
    /// Mode bits that new files do not get; 0o022 when absent.
    pub umask: Option<u32>,
    /// What it may do.
    pub capabilities: CapabilitySets,
    /// Nothing it executes gains privileges.
    pub no_new_privileges: bool,
    /// The system call filter; none for none.
    pub seccomp: Option<SeccompPlan>,
    /// Name of an AppArmor profile that the node has loaded.
    pub apparmor: Option<String>,
    /// Resource limits: number of the resource, soft, hard; `u64::MAX` is unlimited.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// −1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// How it is scheduled.
    pub scheduler: Option<SchedulerPlan>,
    /// How its input and output are scheduled.
    pub io_priority: Option<IoPriorityPlan>,
    /// Execution domain (`personality(2)`).
    pub personality: Option<u32>,
    /// A terminal is allocated.
    pub tty: bool,
    /// Lines and characters per line of that terminal at its start.
    pub console_size: Option<(u16, u16)>,
    /// Standard input is a pipe that stays open, not `/dev/null`. Without meaning for an unattended container, which has the
    /// streams that were passed to [`crate::wire`] with its plan.
    pub stdin: bool,
    /// Descriptors from 3 on that it inherits, of those that were passed with the plan of an unattended container.
    pub passed_fds: u32,
    /// Unix socket of the node that gets the terminal's master; otherwise the shim keeps it.
    pub console_socket: Option<PathBuf>,
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserPlan {
    /// Names or numbers, looked up in the container's own accounts.
    Named {
        /// User; root when empty.
        user: String,
        /// Group; the user's own when absent.
        group: Option<String>,
        /// Supplementary groups.
        group_add: Vec<String>,
    },
    /// Exactly these.
    Numbers {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// Supplementary groups.
        groups: Vec<u32>,
    },
}

/// The five sets of `capabilities(7)` as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    /// What any program it executes may ever gain.
    pub bounding: u64,
    /// What it may do now. A user other than root gets this set only as far as it is ambient.
    pub effective: u64,
    /// What it may make effective.
    pub permitted: u64,
    /// What files may add when executed.
    pub inheritable: u64,
    /// What it keeps when it executes a program without capabilities of its own.
    pub ambient: u64,
}

impl CapabilitySets {
    /// Bounding, effective and permitted alike, as Docker has them.
    #[must_use]
    pub const fn alike(set: u64) -> Self {
        Self {
            bounding: set,
            effective: set,
            permitted: set,
            inheritable: 0,
            ambient: 0,
        }
    }
}

/// A system call filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompPlan {
    /// Packed instructions ([`gantry_sys::seccomp::pack`]).
    pub program: Vec<u64>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// See `sched_setattr(2)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerPlan {
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

/// See `ioprio_set(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoPriorityPlan {
    /// 1 real-time, 2 best effort, 3 idle.
    pub class: u32,
    /// 0 (first) to 7.
    pub level: u32,
}
