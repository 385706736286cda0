//! Handing a plan to a shim and waiting for its answer.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use gantry_model::Timestamp;
use gantry_shim::SHIM_LOG_FILE;
use gantry_shim::plan::LaunchPlan;
use gantry_shim::wire::LaunchReport;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::LaunchError;

/// A container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launched {
    /// The shim's process.
    pub shim_pid: u32,
    /// The container's first process, in this process's pid namespace.
    pub pid: u32,
    /// When it executed its program.
    pub started_at: Timestamp,
}

/// Starts a container; returns once its process has executed its program. Takes about as long as the slowest volume to be
/// filled with the image's content, otherwise a few milliseconds.
///
/// # Errors
/// When a step failed; nothing runs then, and what [`crate::prepare`] made is still there for another try or for
/// [`crate::Handle::delete`].
pub fn launch(shim: &Path, plan: &LaunchPlan) -> Result<Launched, LaunchError> {
    let input = plan_file(plan).map_err(|source| LaunchError::Io {
        act: "write plan for",
        path: plan.bundle.clone(),
        source,
    })?;
    let log_path = plan.bundle.join(SHIM_LOG_FILE);
    let log = File::options().create(true).append(true).open(&log_path);
    let log = log.map_err(|source| LaunchError::Io {
        act: "open",
        path: log_path.clone(),
        source,
    })?;
    let spawn_failed = |source| LaunchError::Spawn {
        path: shim.to_path_buf(),
        source,
    };
    let mut child = Command::new(shim)
        .arg(&plan.id)
        .env_clear()
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(spawn_failed)?;
    let mut answer = Vec::new();
    let read = child
        .stdout
        .take()
        .map_or(Ok(0), |mut output| output.read_to_end(&mut answer));
    // What was spawned only forks the daemon and ends.
    let status = child.wait().map_err(spawn_failed)?;
    let silent = |detail: String| LaunchError::Silent {
        path: shim.to_path_buf(),
        detail,
        log: log_path.clone(),
    };
    read.map_err(|error| silent(error.to_string()))?;
    if answer.is_empty() {
        return Err(silent(status.to_string()));
    }
    match serde_json::from_slice(&answer).map_err(|error| silent(error.to_string()))? {
        LaunchReport::Running {
            pid,
            shim_pid,
            started_at_ms,
        } => Ok(Launched {
            shim_pid: u32::try_from(shim_pid).unwrap_or(0),
            pid: u32::try_from(pid).unwrap_or(0),
            started_at: Timestamp(started_at_ms),
        }),
        LaunchReport::Failed(failure) => Err(LaunchError::Step(failure)),
    }
}

/// The plan on an anonymous file: it holds secrets, which no disk may see.
fn plan_file(plan: &LaunchPlan) -> std::io::Result<File> {
    use std::io::Seek;
    let mut file = File::from(memfd_create(c"launch-plan", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(plan)?)?;
    file.rewind()?;
    Ok(file)
}
