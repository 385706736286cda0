//! What a machine hears of, and what it asks for.

use std::fmt;

use gantry_model::Timestamp;
use gantry_model::phase::{Desired, Exit, Observed};
use gantry_model::spec::HealthCheck;
use serde::{Deserialize, Serialize};

/// Counts the starts of a replica's container from 1, so that news of a former container is told from news of this one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attempt(pub u32);

impl fmt::Display for Attempt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In words for the user.
    pub reason: String,
    /// Whether trying again here may help.
    pub retryable: bool,
}

/// What an agent found of a replica's container after it was started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It runs.
    Running {
        /// Its first process.
        pid: u32,
        /// When it was started.
        started_at: Timestamp,
    },
    /// It ended meanwhile.
    Exited(Exit),
    /// There is no trace of it: it was never started, or the machine was.
    Nothing,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The leader wants this of the replica. Only the first one, and higher ones, change anything.
    Desired(Desired),
    /// Image, volumes, files and network are ready.
    Prepared {
        /// The image's own health check, for a spec that has none.
        image_health: Option<HealthCheck>,
    },
    /// They could not be made ready.
    PrepareFailed(Failure),
    /// The container's first process runs its program.
    Started {
        /// Which start.
        attempt: Attempt,
        /// Its process id on the node.
        pid: u32,
        /// When.
        at: Timestamp,
    },
    /// It could not be started, and nothing of it runs.
    StartFailed {
        /// Which start.
        attempt: Attempt,
        /// Why.
        failure: Failure,
    },
    /// The container ended.
    Exited {
        /// Which start.
        attempt: Attempt,
        /// How.
        exit: Exit,
    },
    /// A health check ended.
    Probed {
        /// Which start.
        attempt: Attempt,
        /// Exit status 0 within the timeout.
        healthy: bool,
        /// What it printed, or why it could not be run.
        output: String,
    },
    /// [`Action::Release`] is done.
    Released,
    /// [`Action::Remove`] is done.
    Removed,
    /// Something of the replica could not be removed.
    RemoveFailed {
        /// Why.
        reason: String,
    },
    /// The agent was started anew and looked for the container of the last attempt.
    Recovered(Found),
    /// The worker has something to tell of a container that runs, such as the connections that it waits for before it stops it.
    Note(String),
    /// The time that [`crate::Machine::wake_at`] named has come.
    Tick,
}

/// What the worker has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Save the machine; what follows must not happen before it is on disk.
    Save,
    /// Make image, volumes, files and network ready. Everything that is ready already is left as it is.
    Prepare,
    /// Start the container.
    Start {
        /// Which start.
        attempt: Attempt,
    },
    /// Send the stop signal.
    Signal,
    /// Kill every process of the container.
    Kill,
    /// Run the health check once.
    Probe {
        /// For which start.
        attempt: Attempt,
        /// The check.
        check: HealthCheck,
    },
    /// End a preparation under way, kill what is left of the container, release its network and its root; logs stay.
    Release,
    /// Remove everything of the replica from the node, logs and anonymous volumes included.
    Remove,
    /// Tell the leader, and forget the machine: nothing of the replica is left.
    Forget,
    /// Tell the leader.
    Report(Observed),
}
