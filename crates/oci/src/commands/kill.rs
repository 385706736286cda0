//! `kill`, `pause`, `resume`.

use nix::libc;

use crate::args::KillArgs;
use crate::store::{Container, Status};
use crate::{OciError, names};

/// Sends a signal to the first process, or to all.
pub(super) fn kill(container: &Container, args: &KillArgs) -> Result<(), OciError> {
    let unknown = || OciError::Usage(format!("there is no signal '{}'", args.signal));
    let signal = names::signal(&args.signal).ok_or_else(unknown)?;
    if args.all {
        return kill_all(container, signal);
    }
    if signal == libc::SIGKILL && !container.has_pid_namespace() && container.pid().is_some() {
        // Its other processes would outlive the first one.
        return Ok(container.group.kill_all()?);
    }
    container.process().ok_or(OciError::NotRunning)?.signal(signal)?;
    if signal == libc::SIGKILL && container.status() == Status::Paused {
        // What stands still does not die.
        container.group.thaw()?;
    }
    Ok(())
}

fn kill_all(container: &Container, signal: i32) -> Result<(), OciError> {
    if !container.group.exists() {
        return Err(OciError::NotRunning);
    }
    if signal == libc::SIGKILL {
        container.group.kill_all()?;
    } else {
        container.group.signal_all(signal)?;
    }
    Ok(())
}

/// Stops all its processes.
pub(super) fn pause(container: &Container) -> Result<(), OciError> {
    match container.status() {
        Status::Running | Status::Created => Ok(container.group.freeze()?),
        Status::Stopped => Err(OciError::NotRunning),
        status @ (Status::Creating | Status::Paused) => Err(OciError::WrongState {
            act: "pause",
            status: status.name(),
            remedy: "",
        }),
    }
}

/// Lets them go on.
pub(super) fn resume(container: &Container) -> Result<(), OciError> {
    match container.status() {
        Status::Paused => Ok(container.group.thaw()?),
        Status::Stopped => Err(OciError::NotRunning),
        // One that was paused before it was started counts as created.
        Status::Created if container.group.is_frozen()? => Ok(container.group.thaw()?),
        status @ (Status::Creating | Status::Created | Status::Running) => Err(OciError::WrongState {
            act: "resume",
            status: status.name(),
            remedy: "",
        }),
    }
}
