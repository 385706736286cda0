//! Pausing and killing everything in a group, also what forks meanwhile.

use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::CgroupError;
use crate::error::{read, read_keyed, write};
use crate::group::At;

/// How long processes may take to stop: one in the middle of a disk request stops when it is done.
const FREEZE_WAIT: Duration = Duration::from_secs(10);
/// How often is looked meanwhile.
const FREEZE_POLL: Duration = Duration::from_millis(1);

/// Stops every process of the group, or lets them go on, and waits until that is so.
pub(crate) fn set_frozen(at: &At, frozen: bool) -> Result<(), CgroupError> {
    let mut waited = Duration::ZERO;
    loop {
        // Version 1 loses processes that fork on the way; writing again catches them.
        ask(at, frozen)?;
        if is_frozen(at)? == frozen {
            return Ok(());
        }
        if waited >= FREEZE_WAIT {
            let state = match at {
                At::V2(group) => format!("frozen {}", read_keyed(&group.join("cgroup.events"), "frozen")?),
                At::V1(group) => read(&group.join("freezer.state"))?.trim().to_string(),
            };
            return Err(CgroupError::NotFrozen {
                path: at.path().to_path_buf(),
                state,
                seconds: FREEZE_WAIT.as_secs(),
            });
        }
        std::thread::sleep(FREEZE_POLL);
        waited += FREEZE_POLL;
    }
}

fn ask(at: &At, frozen: bool) -> Result<(), CgroupError> {
    match at {
        At::V2(group) => write(&group.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
        At::V1(group) => write(&group.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" }),
    }
}

/// Whether every process of the group is stopped.
pub(crate) fn is_frozen(at: &At) -> Result<bool, CgroupError> {
    match at {
        At::V2(group) => Ok(read_keyed(&group.join("cgroup.events"), "frozen")? == 1),
        At::V1(group) => Ok(read(&group.join("freezer.state"))?.trim() == "FROZEN"),
    }
}

/// Kills everything in the group, once.
pub(crate) fn kill_once(at: &At) -> Result<(), CgroupError> {
    let kill_file = at.path().join("cgroup.kill");
    match at {
        // Linux 5.14: atomic, nothing can fork away from it, and what is frozen dies all the same.
        At::V2(_) if kill_file.exists() => write(&kill_file, "1"),
        At::V2(_) | At::V1(_) => {
            ask(at, true)?;
            let outcome = signal_listed(at.path(), Signal::SIGKILL as i32);
            // They die when they go on.
            ask(at, false)?;
            outcome
        }
    }
}

/// Sends a signal to every process that is in the group and in the groups below.
pub(crate) fn signal_listed(group: &Path, signal: i32) -> Result<(), CgroupError> {
    for process in processes(group)? {
        match raw_kill(process, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => {
                return Err(CgroupError::Signal {
                    path: group.to_path_buf(),
                    process,
                    signal,
                    source: error.into(),
                });
            }
        }
    }
    Ok(())
}

fn raw_kill(process: i32, signal: i32) -> Result<(), Errno> {
    let signal = Signal::try_from(signal)?;
    kill(Pid::from_raw(process), signal)
}

/// Ids of the processes in a group and in the groups below; 0, a process outside this pid namespace, is left out.
pub(crate) fn processes(group: &Path) -> Result<Vec<i32>, CgroupError> {
    let mut found = Vec::new();
    for line in read(&group.join("cgroup.procs"))?.lines() {
        found.extend(line.parse::<i32>().ok().filter(|process| *process > 0));
    }
    for below in subgroups(group) {
        match processes(&below) {
            // What it was made for has ended meanwhile, and it was removed.
            Err(_) if !below.exists() => {}
            outcome => found.extend(outcome?),
        }
    }
    Ok(found)
}

/// The groups right below a group.
pub(crate) fn subgroups(group: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}
