//! What can go wrong, in words that callers written for runc look for where they look for some.

use std::io;
use std::path::{Path, PathBuf};

use gantry_cgroup::CgroupError;
use gantry_runtime::{Failure, HandleError, LaunchError};

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// A file or folder refused.
    #[error("cannot {act} {path}: {source}")]
    Io {
        /// What was being done.
        act: &'static str,
        /// To which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A document is not what the specification says.
    #[error("{path} is not valid: {source}")]
    Document {
        /// Which.
        path: PathBuf,
        /// Where in it, and why.
        source: serde_json::Error,
    },
    /// A property has a value that makes no sense.
    #[error("{property} in config.json: {reason}")]
    Invalid {
        /// Which property, with dots.
        property: String,
        /// Why not.
        reason: String,
    },
    /// A property that is known and cannot be kept.
    #[error("{property} in config.json is not supported: {reason}")]
    Unsupported {
        /// Which property, with dots.
        property: &'static str,
        /// Why not, and what to do.
        reason: &'static str,
    },
    /// The command line asks for what is not supported, or does not fit together.
    #[error("{0}")]
    Usage(String),
    /// There is no container of that id; containerd and Podman look for these words.
    #[error("container \"{id}\" does not exist")]
    NotFound {
        /// The id.
        id: String,
    },
    /// There is one already; containerd looks for these words.
    #[error("container with id exists: {id}")]
    Exists {
        /// The id.
        id: String,
    },
    /// Signals go to processes; callers look for these words.
    #[error("container not running")]
    NotRunning,
    /// The container is not in a state that the command is for.
    #[error("cannot {act} a container that is {status}{remedy}")]
    WrongState {
        /// The command.
        act: &'static str,
        /// Its state.
        status: &'static str,
        /// What to do, with a separator in front; or empty.
        remedy: &'static str,
    },
    /// Making it or a process of it failed.
    #[error("{}", of_launch(.0))]
    Launch(#[from] LaunchError),
    /// A process that was made could not be spoken with, or could not execute its program.
    #[error("{}", of_handle(.0))]
    Handle(#[from] HandleError),
    /// The control group refused.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A call of the kernel's failed.
    #[error("cannot {act}: {errno}")]
    Call {
        /// What was being done.
        act: &'static str,
        /// The kernel's answer.
        errno: nix::errno::Errno,
    },
}

impl OciError {
    pub(crate) fn io(act: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            act,
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn call(act: &'static str) -> impl FnOnce(nix::errno::Errno) -> Self {
        move |errno| Self::Call { act, errno }
    }

    pub(crate) fn invalid(property: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            property: property.into(),
            reason: reason.into(),
        }
    }
}

fn of_launch(error: &LaunchError) -> String {
    match error {
        LaunchError::Step(failure) => of_failure(failure),
        other => other.to_string(),
    }
}

fn of_handle(error: &HandleError) -> String {
    match error {
        HandleError::Refused(failure) => of_failure(failure),
        // Callers look for these words.
        HandleError::Ended { .. } => OciError::NotRunning.to_string(),
        other => other.to_string(),
    }
}

/// As runc says it: Docker, containerd and Podman derive the exit statuses 126 and 127 from these words.
fn of_failure(failure: &Failure) -> String {
    let program = &failure.object;
    match failure.exit_code() {
        127 if !program.contains('/') => format!("exec: \"{program}\": executable file not found in $PATH"),
        127 => format!("exec: \"{program}\": stat {program}: no such file or directory"),
        126 => format!("exec: \"{program}\": {}: permission denied", failure.reason),
        _ => failure.to_string(),
    }
}
