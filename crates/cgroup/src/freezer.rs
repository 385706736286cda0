//! Stopping and killing everything in a group, also what forks meanwhile.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::CgroupError;
use crate::error::{read, write};

/// `cgroup.kill` (Linux 5.14): atomic, nothing can fork away from it.
pub(crate) fn kill_v2(group: &Path) -> Result<(), CgroupError> {
    write(&group.join("cgroup.kill"), "1")
}

/// Frozen processes cannot fork, so one pass finds all; they die when thawed.
pub(crate) fn kill_v1(group: &Path) -> Result<(), CgroupError> {
    let state = group.join("freezer.state");
    write(&state, "FROZEN")?;
    let outcome = kill_listed(group);
    write(&state, "THAWED")?;
    outcome
}

/// Sends SIGKILL to every process in the group and in the groups below.
fn kill_listed(group: &Path) -> Result<(), CgroupError> {
    for process in processes(group)? {
        match kill(Pid::from_raw(process), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => {
                return Err(CgroupError::Write {
                    path: group.to_path_buf(),
                    value: format!("SIGKILL to {process}"),
                    source: error.into(),
                });
            }
        }
    }
    Ok(())
}

/// Ids of the processes in a group and in the groups below; 0, a process outside this pid namespace, is left out.
pub(crate) fn processes(group: &Path) -> Result<Vec<i32>, CgroupError> {
    let mut found = Vec::new();
    for line in read(&group.join("cgroup.procs"))?.lines() {
        found.extend(line.parse::<i32>().ok().filter(|process| *process > 0));
    }
    for below in subgroups(group) {
        found.extend(processes(&below)?);
    }
    Ok(found)
}

/// The groups right below a group.
pub(crate) fn subgroups(group: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}
