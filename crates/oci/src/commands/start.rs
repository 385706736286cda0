//! `start`: lets a container that waits execute its program.

use super::shim;
use crate::OciError;
use crate::plan::hook_plans;
use crate::store::{Container, Status};

/// Returns once its program runs.
pub(super) fn start(container: &Container) -> Result<(), OciError> {
    match container.status() {
        Status::Created => {}
        Status::Stopped => {
            return Err(OciError::WrongState {
                act: "start",
                status: "stopped",
                remedy: ": delete it and create it anew",
            });
        }
        status @ (Status::Creating | Status::Running | Status::Paused) => {
            return Err(OciError::WrongState {
                act: "start",
                status: status.name(),
                remedy: "",
            });
        }
    }
    container.process().ok_or(OciError::NotRunning)?.start()?;
    let hooks = container.record.spec.hooks.as_ref();
    let hooks = hook_plans(hooks.map(|hooks| hooks.poststart.as_slice()).unwrap_or_default());
    if !hooks.is_empty() {
        gantry_runtime::run_hooks(&shim()?, &hooks, &container.hook_state(Status::Running), false)?;
    }
    Ok(())
}
