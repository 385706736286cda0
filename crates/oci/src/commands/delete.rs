//! `delete`: what is left of a container goes.

use std::os::fd::AsFd;
use std::time::Duration;

use gantry_runtime::HandleError;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::shim;
use crate::OciError;
use crate::args::DeleteArgs;
use crate::plan::hook_plans;
use crate::store::{Container, Status, Store};

/// How long a killed process may take to end.
const END_WAIT: Duration = Duration::from_secs(10);

/// Removes a container that has ended, or was never started; with force also one that runs.
pub(super) fn delete(store: &Store, args: &DeleteArgs) -> Result<(), OciError> {
    if args.force {
        return force(store, &args.id);
    }
    let container = store.load(&args.id)?;
    match container.status() {
        Status::Stopped => {}
        Status::Created => end(&container)?,
        status @ (Status::Creating | Status::Running | Status::Paused) => {
            return Err(OciError::WrongState {
                act: "delete",
                status: status.name(),
                remedy: ": kill it first, or use --force",
            });
        }
    }
    destroy(&container)
}

/// Removes a container whatever it is doing; none is no error.
pub(super) fn force(store: &Store, id: &str) -> Result<(), OciError> {
    match store.load(id) {
        Ok(container) => {
            end(&container)?;
            destroy(&container)
        }
        Err(OciError::NotFound { .. }) => {
            store.release(id);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Kills the first process and waits until it is gone.
fn end(container: &Container) -> Result<(), OciError> {
    let Some(process) = container.process() else {
        return Ok(());
    };
    let pid = nix::unistd::Pid::from_raw(i32::try_from(process.pid()).unwrap_or(0));
    let Ok(pidfd) = gantry_sys::process::pidfd_open(pid) else {
        return Ok(());
    };
    match process.signal(libc::SIGKILL) {
        Err(HandleError::Ended { .. }) => return Ok(()),
        outcome => outcome?,
    }
    if container.group.is_frozen().unwrap_or(false) {
        container.group.thaw()?;
    }
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(END_WAIT).unwrap_or(PollTimeout::MAX);
    match poll(&mut polled, timeout) {
        Ok(0) => Err(OciError::WrongState {
            act: "delete",
            status: "running 10 s after SIGKILL",
            remedy: ": a process hangs in the kernel",
        }),
        Ok(_) => Ok(()),
        Err(errno) => Err(OciError::call("wait for the container")(errno)),
    }
}

/// Group, hooks, folder; in this order, so that a failure can be tried again.
pub(super) fn destroy(container: &Container) -> Result<(), OciError> {
    container.group.kill_all()?;
    container.group.remove()?;
    let hooks = container.record.spec.hooks.as_ref();
    let hooks = hook_plans(hooks.map(|hooks| hooks.poststop.as_slice()).unwrap_or_default());
    if !hooks.is_empty() {
        gantry_runtime::run_hooks(&shim()?, &hooks, &container.hook_state(Status::Stopped), false)?;
    }
    std::fs::remove_dir_all(&container.folder).map_err(|source| OciError::io("remove", &container.folder, source))
}
