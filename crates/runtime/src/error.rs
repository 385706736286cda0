//! What can go wrong, and how a person should read it.

use std::io;
use std::path::PathBuf;

use gantry_cgroup::CgroupError;
use gantry_model::{Class, Problem};
use gantry_shim::Failure;

/// A container that could not be prepared or launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The spec or the image asks for something that does not exist or does not fit together.
    #[error("{0}")]
    Invalid(Problem),
    /// Something on the node's disk refused.
    #[error("cannot {act} {path}: {source}")]
    Io {
        /// What was being done.
        act: &'static str,
        /// To which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The control group refused.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The shim's program could not be run.
    #[error("cannot run shim {path}: {source}")]
    Spawn {
        /// Its program.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The shim ended without an answer.
    #[error("shim {path} ended without an answer ({detail}); its log is {log}")]
    Silent {
        /// Its program.
        path: PathBuf,
        /// How it ended, or what it said.
        detail: String,
        /// What it had to say.
        log: PathBuf,
    },
    /// A step of the start failed; nothing of the container is left.
    #[error("{0}")]
    Step(Failure),
}

impl LaunchError {
    /// What a shell would report: 127 for a program that is not there, 126 for one that cannot be executed, 125 otherwise.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Step(failure) => failure.exit_code(),
            Self::Invalid(_) | Self::Io { .. } | Self::Cgroup(_) | Self::Spawn { .. } | Self::Silent { .. } => 125,
        }
    }

    /// As a person should read it; `object` is what was to be launched.
    #[must_use]
    pub fn into_problem(self, object: &str) -> Problem {
        match self {
            Self::Invalid(problem) => Problem {
                object: object.to_string(),
                ..problem
            },
            Self::Step(failure) => {
                let remedy = match failure.exit_code() {
                    127 => "check the command and entrypoint, and that the image has the program",
                    126 => "the program must be executable, and built for this node's architecture",
                    _ => "",
                };
                Problem::new(Class::Invalid, object, failure.to_string()).remedy(remedy)
            }
            other => Problem::new(Class::Unavailable, object, other.to_string()),
        }
    }
}

/// A container that could not be spoken with.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// There is no container in the bundle.
    #[error("no container in {path}")]
    NotFound {
        /// The bundle.
        path: PathBuf,
    },
    /// A file of the bundle refused.
    #[error("cannot {act} {path}: {source}")]
    Io {
        /// What was being done.
        act: &'static str,
        /// To which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A record of the bundle does not read.
    #[error("cannot read record {path}: {source}")]
    Record {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The conversation with the shim broke off.
    #[error("cannot {act} through the shim of {path}: {source}")]
    Shim {
        /// What was asked.
        act: &'static str,
        /// The bundle.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The shim could not do it.
    #[error("{0}")]
    Refused(Failure),
    /// The container has ended.
    #[error("the container in {path} has ended")]
    Ended {
        /// The bundle.
        path: PathBuf,
    },
    /// The control group refused.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}
