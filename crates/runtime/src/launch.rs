//! Handing a task to a shim and waiting for its answer.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use gantry_model::Timestamp;
use gantry_shim::SHIM_LOG_FILE;
use gantry_shim::plan::{HookPlan, HookState, LaunchPlan, Task, UnattendedExecPlan};
use gantry_shim::wire::{Delivery, LaunchReport, MESSAGE_LENGTH_MAX};
use gantry_sys::socket;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::LaunchError;

/// A container that runs or, held, is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launched {
    /// The shim's process; 0 when there is none.
    pub shim_pid: u32,
    /// The container's first process, in this process's pid namespace.
    pub pid: u32,
    /// When it executed its program or, held, when it was set up.
    pub started_at: Timestamp,
    /// It waits to be started.
    pub is_held: bool,
}

/// Descriptors that a process without a shim inherits.
#[derive(Debug, Default)]
pub struct PassedFds {
    /// Standard input, output and error; `/dev/null` when absent. Without meaning when it has a terminal.
    pub stdio: Option<[OwnedFd; 3]>,
    /// What it finds from 3 on; as many as its plan's `passed_fds`.
    pub further: Vec<OwnedFd>,
}

/// Starts a container; returns once its process has executed its program or, held, waits to. Takes about as long as the slowest
/// volume to be filled with the image's content, otherwise a few milliseconds.
///
/// # Errors
/// When a step failed; nothing runs then, and what [`crate::prepare`] made is still there for another try or for
/// [`crate::Handle::delete`].
pub fn launch(shim: &Path, plan: &LaunchPlan) -> Result<Launched, LaunchError> {
    launch_with(shim, plan, PassedFds::default())
}

/// As [`launch`], for a container without a shim that inherits descriptors. It becomes the child of whoever reaps orphans of
/// this process: the nearest ancestor that is a child subreaper, this process included.
///
/// # Errors
/// As [`launch`].
pub fn launch_with(shim: &Path, plan: &LaunchPlan, fds: PassedFds) -> Result<Launched, LaunchError> {
    let task = Task::Launch(Box::new(plan.clone()));
    launched(shim, run(shim, &plan.id, Some(&plan.bundle), &task, fds)?)
}

/// Starts a further process in a container without a shim; returns once it has executed its program. It becomes the child of
/// whoever reaps orphans of this process.
///
/// # Errors
/// When a step failed; nothing runs then.
pub fn exec_unattended(
    shim: &Path,
    id: &str,
    plan: UnattendedExecPlan,
    fds: PassedFds,
) -> Result<Launched, LaunchError> {
    let task = Task::Exec(Box::new(plan));
    launched(shim, run(shim, id, None, &task, fds)?)
}

/// Runs programs on the node one after the other, as the hooks of a container.
///
/// # Errors
/// The first that failed, when they must succeed.
pub fn run_hooks(shim: &Path, hooks: &[HookPlan], state: &HookState, must_succeed: bool) -> Result<(), LaunchError> {
    if hooks.is_empty() {
        return Ok(());
    }
    let task = Task::Hooks {
        hooks: hooks.to_vec(),
        state: state.clone(),
        must_succeed,
    };
    run(shim, &state.id, None, &task, PassedFds::default()).map(drop)
}

fn launched(shim: &Path, report: LaunchReport) -> Result<Launched, LaunchError> {
    let launched = |pid, shim_pid, at_ms, is_held| Launched {
        shim_pid: u32::try_from(shim_pid).unwrap_or(0),
        pid: u32::try_from(pid).unwrap_or(0),
        started_at: Timestamp(at_ms),
        is_held,
    };
    match report {
        LaunchReport::Running {
            pid,
            shim_pid,
            started_at_ms,
        } => Ok(launched(pid, shim_pid, started_at_ms, false)),
        LaunchReport::Created {
            pid,
            shim_pid,
            created_at_ms,
        } => Ok(launched(pid, shim_pid, created_at_ms, true)),
        LaunchReport::Failed(failure) => Err(LaunchError::Step(failure)),
        LaunchReport::Done => Err(LaunchError::Silent {
            path: shim.to_path_buf(),
            detail: "it did something else".to_string(),
            log: shim.to_path_buf(),
        }),
    }
}

/// Runs a shim and takes its answer. Its log goes into the bundle, or to this process's standard error.
fn run(shim: &Path, id: &str, bundle: Option<&Path>, task: &Task, fds: PassedFds) -> Result<LaunchReport, LaunchError> {
    let log_path = bundle.map(|bundle| bundle.join(SHIM_LOG_FILE));
    let log = match &log_path {
        Some(path) => {
            let opened = File::options().create(true).append(true).open(path);
            Stdio::from(opened.map_err(|source| LaunchError::Io {
                act: "open",
                path: path.clone(),
                source,
            })?)
        }
        None => Stdio::inherit(),
    };
    let failed = |source| LaunchError::Spawn {
        path: shim.to_path_buf(),
        source,
    };
    let (line, far_end) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|errno| failed(errno.into()))?;
    deliver(&line, task, &fds).map_err(failed)?;
    let mut child = Command::new(shim)
        .arg(id)
        .env_clear()
        .stdin(far_end)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(failed)?;
    drop(fds);
    let mut buffer = vec![0; MESSAGE_LENGTH_MAX];
    let received = socket::receive(&line, &mut buffer);
    // What was spawned only forks the daemon and ends, or has done everything by now.
    let status = child.wait().map_err(failed)?;
    let silent = |detail: String| LaunchError::Silent {
        path: shim.to_path_buf(),
        detail,
        log: log_path.clone().unwrap_or_default(),
    };
    match received {
        Ok((0, _)) => Err(silent(status.to_string())),
        Ok((length, _)) => match serde_json::from_slice(&buffer[..length]) {
            Ok(LaunchReport::Failed(failure)) => Err(LaunchError::Step(failure)),
            Ok(report) => Ok(report),
            Err(error) => Err(silent(error.to_string())),
        },
        Err(errno) => Err(silent(errno.to_string())),
    }
}

/// Leaves the task in the socket for the shim to find. See [`Delivery`] for the order.
fn deliver(line: &OwnedFd, task: &Task, fds: &PassedFds) -> std::io::Result<()> {
    let file = task_file(task)?;
    let mut all: Vec<BorrowedFd<'_>> = fds.further.iter().map(AsFd::as_fd).collect();
    all.push(file.as_fd());
    all.extend(fds.stdio.iter().flatten().map(AsFd::as_fd));
    if all.len() > socket::FDS_MAX {
        return Err(std::io::Error::other(format!("{} descriptors are too many", all.len())));
    }
    let delivery = Delivery {
        passed_fds: u32::try_from(fds.further.len()).unwrap_or(u32::MAX),
        has_stdio: fds.stdio.is_some(),
    };
    socket::send(line, &serde_json::to_vec(&delivery)?, &all).map_err(Into::into)
}

/// The task on an anonymous file: it holds secrets, which no disk may see.
fn task_file(task: &Task) -> std::io::Result<File> {
    let mut file = File::from(memfd_create(c"task", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(task)?)?;
    file.rewind()?;
    Ok(file)
}
