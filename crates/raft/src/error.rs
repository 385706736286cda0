//! What can go wrong, as callers tell it apart and as a person reads it.

use std::io;
use std::path::{Path, PathBuf};

use gantry_model::{Class, Problem, ServerId};
use serde::{Deserialize, Serialize};

/// A server that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made or read.
    #[error("opening the folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A later version wrote it.
    #[error("{} has format {found}, this version reads up to {supported}", path.display())]
    Newer {
        /// The `FORMAT` file.
        path: PathBuf,
        /// The format it has.
        found: u32,
        /// The newest that this version reads.
        supported: u32,
    },
    /// Another process works on it.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The folder of the log.
        path: PathBuf,
    },
    /// It belongs to another server.
    #[error("{} belongs to server {found}, not to {wanted}", path.display())]
    OtherServer {
        /// The folder of the log.
        path: PathBuf,
        /// Whose it is.
        found: ServerId,
        /// Who opened it.
        wanted: ServerId,
    },
    /// A file does not hold what was written to it.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file, or the folder of RocksDB.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The timing makes no sense.
    #[error("the Raft settings are not usable: {0}")]
    Settings(String),
    /// Raft did not start.
    #[error("starting Raft: {0}")]
    Raft(String),
}

/// A transaction without an outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was surely not done: no leader with a majority was found in time.
    #[error("no leader with a majority of the servers was found within {waited_ms} ms")]
    NoLeader {
        /// How long was waited.
        waited_ms: u64,
    },
    /// It may or may not have been done, or may be done later.
    #[error("whether the change was made is not known: {reason}")]
    Unknown {
        /// What happened to it.
        reason: String,
    },
    /// It was surely not done: it is larger than [`crate::PROPOSAL_BYTES_MAX`].
    #[error("the change has {bytes} bytes, at most {} fit into one", crate::PROPOSAL_BYTES_MAX)]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It was surely not done: this server has stopped.
    #[error("this server takes no part in Raft any more: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// A read that could not be made sure to be current.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader could confirm with a majority.
    #[error("no leader confirmed the read with a majority of the servers within {waited_ms} ms")]
    NoLeader {
        /// How long was waited.
        waited_ms: u64,
    },
    /// This server has stopped.
    #[error("this server takes no part in Raft any more: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// A change of members or of the leader that was not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ChangeError {
    /// No leader with a majority was found, or it did not finish, in time.
    #[error("the servers did not agree on the change within {waited_ms} ms")]
    NoLeader {
        /// How long was waited.
        waited_ms: u64,
    },
    /// There is no such server.
    #[error("server {0} is not a member of the cluster")]
    NotFound(ServerId),
    /// It cannot lead.
    #[error("server {0} is a learner and cannot lead")]
    NotVoter(ServerId),
    /// Nobody would be left to decide.
    #[error("server {0} is the only voter")]
    LastVoter(ServerId),
    /// It lacks too many entries to vote.
    #[error("server {id} is {behind} entries behind")]
    Behind {
        /// The server.
        id: ServerId,
        /// Entries it lacks.
        behind: u64,
    },
    /// Nobody can take over.
    #[error("no other voter is reachable and up to date")]
    NoSuccessor,
    /// Openraft refuses it.
    #[error("the change is not possible: {0}")]
    Refused(String),
    /// This server has stopped.
    #[error("this server takes no part in Raft any more: {0}")]
    Stopped(String),
}

/// A frame that was not acted upon: to whoever sent it this is [`crate::TransportError::NotSent`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// It cannot be read.
    #[error("the frame cannot be read: {0}")]
    Malformed(String),
    /// It is meant for another server.
    #[error("this is server {this}, the frame is for {wanted}")]
    OtherServer {
        /// Who got it.
        this: ServerId,
        /// Who should have.
        wanted: ServerId,
    },
    /// A snapshot could not be stored here.
    #[error("storing the snapshot: {0}")]
    Snapshot(String),
    /// This server has stopped.
    #[error("this server takes no part in Raft any more: {0}")]
    Stopped(String),
}

impl OpenError {
    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }
}

const REJOIN: &str =
    "move the folder away and join the cluster again, or restore it from a backup if this is its only server";
const QUORUM: &str = "see `gantry cluster status` and bring back a majority of the servers";
const RESTART: &str = "see the log of this server and restart it";

impl From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        let (class, remedy) = match &error {
            OpenError::Folder { .. } => (Class::Internal, "check its owner, its mode and the space on its disk"),
            OpenError::Newer { .. } => (
                Class::Invalid,
                "run the version of gantry that wrote it, or a later one",
            ),
            OpenError::Locked { .. } => (
                Class::Conflict,
                "stop the other gantry server, or give this one a folder of its own",
            ),
            OpenError::OtherServer { .. } => (Class::Invalid, "give every server a folder of its own"),
            OpenError::Damaged { .. } => (Class::Internal, REJOIN),
            OpenError::Settings(_) => (
                Class::Invalid,
                "keep heartbeat < shortest election time < longest election time",
            ),
            OpenError::Raft(_) => (Class::Internal, REJOIN),
        };
        Self::new(class, "this server", error.to_string()).remedy(remedy)
    }
}

impl From<ProposeError> for Problem {
    fn from(error: ProposeError) -> Self {
        let (class, remedy) = match &error {
            ProposeError::NoLeader { .. } => (Class::Unavailable, QUORUM),
            ProposeError::Unknown { .. } => (Class::Timeout, "look whether it was made before trying again"),
            ProposeError::TooLarge { .. } => (Class::Invalid, "split it"),
            ProposeError::Stopped { .. } => (Class::Unavailable, RESTART),
        };
        Self::new(class, "cluster", error.to_string()).remedy(remedy)
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let remedy = match &error {
            ReadError::NoLeader { .. } => QUORUM,
            ReadError::Stopped { .. } => RESTART,
        };
        Self::new(Class::Unavailable, "cluster", error.to_string()).remedy(remedy)
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let (class, remedy) = match &error {
            ChangeError::NoLeader { .. } => (Class::Timeout, QUORUM),
            ChangeError::NotFound(_) => (Class::NotFound, "see `gantry cluster status`"),
            ChangeError::NotVoter(_) => (Class::Invalid, "promote it first"),
            ChangeError::LastVoter(_) => (Class::Invalid, "promote another server first"),
            ChangeError::Behind { .. } => (Class::Unavailable, "try again when it has caught up"),
            ChangeError::NoSuccessor => (Class::Unavailable, QUORUM),
            ChangeError::Refused(_) => (Class::Conflict, "see `gantry cluster status`"),
            ChangeError::Stopped(_) => (Class::Unavailable, RESTART),
        };
        Self::new(class, "servers", error.to_string()).remedy(remedy)
    }
}
