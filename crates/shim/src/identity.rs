//! Who a process is and what it may do, given up step by step until only what the plan allows is left.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use gantry_sys::schedule::Schedule;
use gantry_sys::{capability, process as sys_process, schedule, seccomp};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, fchown, setgroups, setresgid, setresuid};

use crate::Failure;
use crate::failure::During;
use crate::namespaces::UserSpace;
use crate::plan::{ProcessPlan, UserPlan};
use crate::users::{FILE_LENGTH_MAX, Identity, home_of, resolve};

/// The highest number a capability can have in the two words of the kernel's interface.
const CAPABILITY_MAX: u32 = 63;

/// Looks the plan's user up in the root that this process is in by now.
pub(crate) fn look_up(plan: &ProcessPlan) -> Result<Identity, Failure> {
    let passwd = read_accounts("/etc/passwd")?;
    match &plan.user {
        UserPlan::Named { user, group, group_add } => {
            let groups = read_accounts("/etc/group")?;
            let name = if user.is_empty() { "0" } else { user };
            resolve((name, group.as_deref()), group_add, &passwd, &groups)
                .map_err(|unknown| Failure::found("run as", user, unknown))
        }
        UserPlan::Numbers { uid, gid, groups } => Ok(Identity {
            uid: *uid,
            gid: *gid,
            groups: groups.clone(),
            home: home_of(*uid, &passwd),
        }),
    }
}

/// An absent file has no accounts. A pipe or device in its place must not make us wait.
fn read_accounts(path: &str) -> Result<String, Failure> {
    let opened = File::options()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error).during("open", path),
    };
    if !file.metadata().during("examine", path)?.is_file() {
        return Err(Failure::found("read", path, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_LENGTH_MAX)
        .read_to_end(&mut bytes)
        .during("read", path)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Sets the plan's resource limits, while this process may still raise them.
pub(crate) fn limit(plan: &ProcessPlan) -> Result<(), Failure> {
    for (number, soft, hard) in &plan.rlimits {
        let resource = resource_of(*number).ok_or_else(|| Failure::found("limit", number, "no such resource"))?;
        setrlimit(resource, *soft, *hard).during("limit", format!("{resource:?} to {soft}:{hard}"))?;
    }
    if let Some(adjustment) = plan.oom_score_adj {
        let path = "/proc/self/oom_score_adj";
        std::fs::write(path, adjustment.to_string()).during("write", format!("{adjustment} to {path}"))?;
    }
    schedule(plan)
}

fn schedule(plan: &ProcessPlan) -> Result<(), Failure> {
    if let Some(wanted) = plan.scheduler {
        let wanted = Schedule {
            policy: wanted.policy,
            flags: wanted.flags,
            nice: wanted.nice,
            priority: wanted.priority,
            runtime_ns: wanted.runtime_ns,
            deadline_ns: wanted.deadline_ns,
            period_ns: wanted.period_ns,
        };
        schedule::set(wanted).during("set scheduler", format!("{wanted:?}"))?;
    }
    if let Some(wanted) = plan.io_priority {
        let what = || format!("class {} level {}", wanted.class, wanted.level);
        schedule::set_io_priority(wanted.class, wanted.level).during("set io priority", what())?;
    }
    if let Some(persona) = plan.personality {
        sys_process::set_personality(persona).during("set personality", format!("{persona:#x}"))?;
    }
    Ok(())
}

/// The profile takes effect when the program is executed. The kernel's own file first, then that of kernels before 5.8.
pub(crate) fn confine(plan: &ProcessPlan) -> Result<(), Failure> {
    let Some(profile) = &plan.apparmor else { return Ok(()) };
    let text = format!("exec {profile}");
    let mut outcome = Ok(());
    for file in ["/proc/self/attr/apparmor/exec", "/proc/self/attr/exec"] {
        outcome = std::fs::write(file, &text);
        if outcome.is_ok() {
            return Ok(());
        }
    }
    let is_absent = !std::path::Path::new("/sys/module/apparmor").exists();
    match outcome {
        Err(_) if is_absent => Err(Failure::found(
            "apply AppArmor profile",
            profile,
            "this node's kernel has no AppArmor",
        )),
        outcome => outcome.during("apply AppArmor profile", profile),
    }
}

fn resource_of(number: u32) -> Option<Resource> {
    const ALL: [Resource; 16] = [
        Resource::RLIMIT_CPU,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_DATA,
        Resource::RLIMIT_STACK,
        Resource::RLIMIT_CORE,
        Resource::RLIMIT_RSS,
        Resource::RLIMIT_NPROC,
        Resource::RLIMIT_NOFILE,
        Resource::RLIMIT_MEMLOCK,
        Resource::RLIMIT_AS,
        Resource::RLIMIT_LOCKS,
        Resource::RLIMIT_SIGPENDING,
        Resource::RLIMIT_MSGQUEUE,
        Resource::RLIMIT_NICE,
        Resource::RLIMIT_RTPRIO,
        Resource::RLIMIT_RTTIME,
    ];
    ALL.into_iter().find(|resource| *resource as u32 == number)
}

/// The process may open its own standard streams again by path (`/dev/stdout`), so they belong to its user.
pub(crate) fn hand_over_streams(identity: &Identity, space: Option<&UserSpace>) -> Result<(), Failure> {
    let (uid, gid) = match space {
        Some(space) => (space.uid(identity.uid)?, space.gid(identity.gid)?),
        None => (identity.uid, identity.gid),
    };
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for stream in [input.as_fd(), output.as_fd(), error.as_fd()] {
        let is_shared_device = nix::sys::stat::fstat(stream).is_ok_and(|status| is_null(&status));
        if !is_shared_device {
            // Where it cannot be given away the process can still use it, just not open it anew.
            let _ = fchown(stream, uid, if is_terminal(stream) { None } else { gid });
        }
    }
    Ok(())
}

fn is_terminal(stream: impl AsFd) -> bool {
    nix::unistd::isatty(stream).unwrap_or(false)
}

fn is_null(status: &nix::libc::stat) -> bool {
    status.st_rdev == nix::sys::stat::makedev(1, 3)
}

/// Becomes the user with the plan's capabilities and filter. The filter goes last where no_new_privs lets it; otherwise
/// loading it takes CAP_SYS_ADMIN, so it must come before the capabilities go.
pub(crate) fn assume(plan: &ProcessPlan, identity: &Identity) -> Result<(), Failure> {
    if plan.no_new_privileges {
        prctl::set_no_new_privs().during("set", "no_new_privs")?;
    } else {
        filter(plan)?;
    }
    for number in 0..=CAPABILITY_MAX {
        if plan.capabilities.bounding & 1 << number == 0 && capability::drop_bounding(number).is_err() {
            // Past the last one the kernel knows.
            break;
        }
    }
    prctl::set_keepcaps(true).during("keep", "capabilities")?;
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).during("set", "supplementary groups")?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    setresgid(gid, gid, gid).during("become group", gid)?;
    setresuid(uid, uid, uid).during("become user", uid)?;
    prctl::set_keepcaps(false).during("keep", "capabilities")?;
    let permitted = capability::permitted().during("read", "capabilities")?;
    let sets = plan.capabilities;
    let (may, inheritable) = (sets.permitted & permitted, sets.inheritable & permitted);
    capability::set(sets.effective & may, may, inheritable).during("set", "capabilities")?;
    capability::clear_ambient().during("clear", "ambient capabilities")?;
    for number in (0..=CAPABILITY_MAX).filter(|number| sets.ambient & may & inheritable & 1 << number != 0) {
        capability::raise_ambient(number).during("raise", format!("ambient capability {number}"))?;
    }
    if plan.no_new_privileges { filter(plan) } else { Ok(()) }
}

fn filter(plan: &ProcessPlan) -> Result<(), Failure> {
    let Some(filter) = &plan.seccomp else { return Ok(()) };
    let program: Vec<_> = filter.program.iter().copied().map(seccomp::unpack).collect();
    seccomp::load(&program, filter.flags).during("load", "the system call filter")
}
