//! A process, first or exec'd.

use std::path::PathBuf;

use gantry_runtime::plan::{CapabilitySets, IoPriorityPlan, ProcessPlan, SchedulerPlan, SeccompPlan, UserPlan};

use crate::OciError;
use crate::names;
use crate::spec::{Capabilities, IoPriority, Linux, Process, Scheduler};

/// Where a process's streams come from.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    /// Socket that gets the terminal's master.
    pub console_socket: Option<PathBuf>,
    /// Descriptors from 3 on that it inherits.
    pub passed_fds: u32,
}

/// The plan of a process.
///
/// # Errors
/// The first property that makes no sense or is not supported.
pub fn plan(process: &Process, linux: &Linux, streams: &Streams) -> Result<ProcessPlan, OciError> {
    if process.args.is_empty() {
        return Err(OciError::invalid("process.args", "it needs at least a program"));
    }
    if !process.cwd.is_absolute() {
        let reason = format!("'{}' is not an absolute path", process.cwd.display());
        return Err(OciError::invalid("process.cwd", reason));
    }
    if process.exec_cpu_affinity.as_ref().is_some_and(|value| !value.is_null()) {
        return Err(OciError::Unsupported {
            property: "process.execCPUAffinity",
            reason: "a process runs on the processors of its container's cpuset; leave it out",
        });
    }
    let capabilities = capability_sets(process.capabilities.as_ref());
    Ok(ProcessPlan {
        args: process.args.clone(),
        env: process.env.clone(),
        usual_env: false,
        cwd: process.cwd.clone(),
        user: UserPlan::Numbers {
            uid: process.user.uid,
            gid: process.user.gid,
            groups: process.user.additional_gids.clone(),
        },
        umask: process.user.umask,
        seccomp: seccomp(linux)?,
        capabilities,
        no_new_privileges: process.no_new_privileges,
        apparmor: apparmor(process)?,
        rlimits: rlimits(process)?,
        oom_score_adj: process.oom_score_adj,
        scheduler: process.scheduler.as_ref().map(scheduler).transpose()?,
        io_priority: process.io_priority.as_ref().map(io_priority).transpose()?,
        personality: personality(linux)?,
        tty: process.terminal,
        console_size: process
            .console_size
            .filter(|size| size.height > 0 && size.width > 0)
            .map(|size| (size.height, size.width)),
        stdin: true,
        passed_fds: streams.passed_fds,
        console_socket: streams.console_socket.clone(),
    })
}

/// A name that is not known is of a later kernel; the specification asks for a warning, not an error.
fn capability_sets(capabilities: Option<&Capabilities>) -> CapabilitySets {
    let Some(names) = capabilities else {
        return CapabilitySets::default();
    };
    let set = |list: &[String]| {
        list.iter().fold(0, |set, name| {
            let bit = names::capability(name);
            if bit.is_none() {
                eprintln!("warning: capability {name} is not known and left out");
            }
            set | bit.unwrap_or(0)
        })
    };
    CapabilitySets {
        bounding: set(&names.bounding),
        effective: set(&names.effective),
        permitted: set(&names.permitted),
        inheritable: set(&names.inheritable),
        ambient: set(&names.ambient),
    }
}

fn seccomp(linux: &Linux) -> Result<Option<SeccompPlan>, OciError> {
    match &linux.seccomp {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(profile) => names::seccomp(profile).map(Some),
    }
}

fn apparmor(process: &Process) -> Result<Option<String>, OciError> {
    let profile = process
        .apparmor_profile
        .clone()
        .filter(|name| !name.is_empty() && name != "unconfined");
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let is_enabled = enabled.is_ok_and(|text| text.starts_with('Y'));
    match profile {
        Some(_) if !is_enabled => Err(OciError::Unsupported {
            property: "process.apparmorProfile",
            reason: "this kernel has no AppArmor, so the profile would protect from nothing; leave it out",
        }),
        profile => Ok(profile),
    }
}

fn rlimits(process: &Process) -> Result<Vec<(u32, u64, u64)>, OciError> {
    let mut found: Vec<(u32, u64, u64)> = Vec::new();
    for (index, limit) in process.rlimits.iter().enumerate() {
        let wrong = |reason: String| OciError::invalid(format!("process.rlimits[{index}]"), reason);
        let number = names::rlimit(&limit.kind).ok_or_else(|| wrong(format!("there is no {}", limit.kind)))?;
        if found.iter().any(|(known, ..)| *known == number) {
            return Err(wrong(format!("{} is there twice", limit.kind)));
        }
        found.push((number, limit.soft, limit.hard));
    }
    Ok(found)
}

const POLICIES: &[(&str, u32)] = &[
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

const SCHEDULER_FLAGS: &[(&str, u64)] = &[
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

const IO_CLASSES: &[(&str, u32)] = &[("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];

fn known<T: Copy>(table: &[(&str, T)], name: &str, property: &str) -> Result<T, OciError> {
    let found = table.iter().find(|(known, _)| *known == name);
    let names = || table.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| OciError::invalid(property, format!("'{name}' is none of {}", names())))
}

fn scheduler(asked: &Scheduler) -> Result<SchedulerPlan, OciError> {
    let flags = asked.flags.iter().try_fold(0, |flags, name| {
        known(SCHEDULER_FLAGS, name, "process.scheduler.flags").map(|flag| flags | flag)
    })?;
    Ok(SchedulerPlan {
        policy: known(POLICIES, &asked.policy, "process.scheduler.policy")?,
        flags,
        nice: asked.nice,
        priority: u32::try_from(asked.priority)
            .map_err(|_| OciError::invalid("process.scheduler.priority", "it is not negative"))?,
        runtime_ns: asked.runtime,
        deadline_ns: asked.deadline,
        period_ns: asked.period,
    })
}

fn io_priority(asked: &IoPriority) -> Result<IoPriorityPlan, OciError> {
    if asked.priority > 7 {
        let reason = format!("it is 0 to 7, not {}", asked.priority);
        return Err(OciError::invalid("process.ioPriority.priority", reason));
    }
    Ok(IoPriorityPlan {
        class: known(IO_CLASSES, &asked.class, "process.ioPriority.class")?,
        level: asked.priority,
    })
}

/// `personality(2)`, `PER_LINUX` and `PER_LINUX32`.
fn personality(linux: &Linux) -> Result<Option<u32>, OciError> {
    let Some(asked) = &linux.personality else {
        return Ok(None);
    };
    if !asked.flags.is_empty() {
        return Err(OciError::invalid(
            "linux.personality.flags",
            "the specification defines none",
        ));
    }
    known(
        &[("LINUX", 0x0000), ("LINUX32", 0x0008)],
        &asked.domain,
        "linux.personality.domain",
    )
    .map(Some)
}
