//! What can go wrong in a build, and how a person reads it.

use std::io;
use std::path::{Path, PathBuf};

use gantry_dockerfile::Diagnostic;
use gantry_image::ImageError;
use gantry_model::{Class, Digest, Problem};
use gantry_runtime::{HandleError, LaunchError};

/// Outcome of a part of a build.
pub type Result<T> = std::result::Result<T, BuildError>;

/// A failed part of a build.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile cannot be built as it stands.
    #[error("{0}")]
    Dockerfile(Diagnostic),
    /// The file system refused.
    #[error("{act} {}: {source}", path.display())]
    Io {
        /// What was tried, such as `write`.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The image store refused.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The command's container could not be started.
    #[error("start the command: {0}")]
    Launch(#[from] LaunchError),
    /// The command's container was lost.
    #[error("attend the command: {0}")]
    Attend(#[from] HandleError),
    /// The command ended with a failure.
    #[error("process {command:?} did not complete successfully: exit code: {code}{}", if *oom_killed { " (killed for lack of memory)" } else { "" })]
    Command {
        /// What was run.
        command: String,
        /// Its exit status.
        code: i32,
        /// The kernel ended it because memory ran out.
        oom_killed: bool,
    },
    /// What an instruction takes is not there.
    #[error("{path:?}: not found in {place}")]
    NotFound {
        /// As the Dockerfile has it.
        path: String,
        /// Such as `the build context`.
        place: String,
    },
    /// A place in the tree is of the wrong kind for what should be put there.
    #[error("cannot copy to {path:?}: {reason}")]
    Destination {
        /// Absolute path in the image.
        path: String,
        /// What is in the way.
        reason: &'static str,
    },
    /// A user or group that the tree does not know.
    #[error("{0}")]
    Account(String),
    /// An archive is damaged.
    #[error("unpack {name}: {source}")]
    Archive {
        /// Which.
        name: String,
        /// What is wrong.
        source: io::Error,
    },
    /// A download or file is not what its digest says.
    #[error("{what} has the digest {found}, expected {expected}")]
    WrongDigest {
        /// What was checked.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: Digest,
    },
    /// A secret or agent that the instruction needs was not given.
    #[error("{kind} {id:?} is required, and was not given")]
    Withheld {
        /// `secret` or `ssh agent`.
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// A tool of the node failed.
    #[error("{tool} {what}: {reason}")]
    Tool {
        /// Such as `git`.
        tool: &'static str,
        /// What it was to do.
        what: String,
        /// What it said.
        reason: String,
    },
    /// Something that this node cannot or must not do.
    #[error("{reason}")]
    Refused {
        /// What and why.
        reason: String,
        /// The next thing to do.
        remedy: &'static str,
    },
    /// Whoever gives images, networks or contexts says no.
    #[error("{0}")]
    Given(#[from] Problem),
    /// The person has gone.
    #[error("the build was cancelled")]
    Cancelled,
}

impl BuildError {
    pub(crate) fn io<P: AsRef<Path>>(act: &'static str, path: P) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            act,
            path: path.as_ref().to_path_buf(),
            source,
        }
    }

    pub(crate) fn errno<P: AsRef<Path>>(act: &'static str, path: P) -> impl FnOnce(nix::Error) -> Self {
        move |errno| Self::io(act, path)(errno.into())
    }

    pub(crate) fn os<P: AsRef<Path>>(act: &'static str, path: P) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::io(act, path)(errno.into())
    }

    pub(crate) fn refused(reason: impl Into<String>, remedy: &'static str) -> Self {
        Self::Refused {
            reason: reason.into(),
            remedy,
        }
    }

    /// The exit status of the command, where that is the reason.
    #[must_use]
    pub const fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Command { code, .. } => Some(*code),
            _ => None,
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::Io { source, .. } if is_full(source) => Class::Exhausted,
            Self::Io { .. } | Self::Launch(_) | Self::Attend(_) => Class::Internal,
            Self::Image(_) | Self::Given(_) | Self::Dockerfile(_) => Class::Internal,
            Self::NotFound { .. } => Class::NotFound,
            Self::Command { .. }
            | Self::Destination { .. }
            | Self::Account(_)
            | Self::Archive { .. }
            | Self::WrongDigest { .. }
            | Self::Withheld { .. }
            | Self::Tool { .. }
            | Self::Refused { .. } => Class::Invalid,
            Self::Cancelled => Class::Unavailable,
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::Io { source, .. } if is_full(source) => "free space on the node, such as with `gantry image prune`",
            Self::NotFound { .. } => "check the path, and that .dockerignore does not leave it out",
            Self::Withheld { kind: "secret", .. } => "give it with --secret",
            Self::Withheld { .. } => "give it with --ssh",
            Self::Refused { remedy, .. } => remedy,
            _ => "",
        }
    }

    /// The same for a person; `object` says which step, such as `Dockerfile:12`.
    #[must_use]
    pub fn into_problem(self, object: &str) -> Problem {
        match self {
            Self::Given(problem) => problem,
            Self::Dockerfile(diagnostic) => diagnostic.problem(object.split(':').next().unwrap_or(object)),
            Self::Image(error) => {
                let inner = Problem::from(error);
                Problem::new(inner.class, object, inner.to_string())
            }
            error => Problem::new(error.class(), object, error.to_string()).remedy(error.remedy()),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
