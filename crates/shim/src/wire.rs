//! What travels over the shim's socket: one JSON document per message of a sequenced-packet socket.
//!
//! Every connection sees its end when the container has ended and the exit record is on disk; a connection is therefore also
//! the way to wait.

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::plan::ProcessPlan;

/// Largest message in bytes. The default send buffer of a unix socket holds 208 KiB (`net.core.wmem_default`), and a
/// sequenced packet must fit into it with the kernel's own overhead.
pub const MESSAGE_LENGTH_MAX: usize = 128 * 1024;

/// What the agent asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Who is there.
    State,
    /// Let a container that is held execute its program.
    Start,
    /// Copies of everything the container writes from now on: descriptors of pipes for standard output and error, or one for
    /// the terminal. The container waits for whoever does not read; closing them ends it.
    Attach,
    /// Send a signal to the container's first process.
    Signal(i32),
    /// Set the size of its terminal.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters per line.
        columns: u16,
    },
    /// A descriptor that writes to its standard input or terminal.
    Stdin,
    /// Drop the shim's own descriptor of its standard input: it ends when every other is dropped too.
    CloseStdin,
    /// Start a further process; the connection then belongs to it.
    Exec(Box<ProcessPlan>),
    /// Kill every process of this connection's exec.
    KillExec,
}

/// What the shim answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The container is set up and waits to be started.
    Created {
        /// Its first process in the shim's pid namespace.
        pid: i32,
        /// The shim's own process.
        shim_pid: i32,
    },
    /// The container runs.
    Running {
        /// Its first process in the shim's pid namespace.
        pid: i32,
        /// Milliseconds since the Unix epoch.
        started_at_ms: u64,
        /// The shim's own process.
        shim_pid: i32,
    },
    /// The request was carried out; a descriptor may come along.
    Done,
    /// The request failed.
    Failed(Failure),
    /// The exec's process runs. Descriptors come along: its terminal, or standard input (if asked for), output and error.
    ExecStarted {
        /// Its process in the shim's pid namespace.
        pid: i32,
    },
    /// The exec's process ended.
    ExecExited {
        /// Exit status, or 128 plus the signal's number.
        code: i32,
    },
}

/// What comes with the descriptors of a [`crate::plan::Task`], over the socket that a shim has as its standard input.
///
/// The descriptors come in this order: those that the process inherits from 3 on (a fresh shim gets them under these numbers),
/// the task as a file, and, when told so, standard input, output and error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// How many descriptors the process inherits from 3 on.
    pub passed_fds: u32,
    /// Its standard streams come along.
    pub has_stdio: bool,
}

/// The one answer over the same socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchReport {
    /// The container's process has executed its program.
    Running {
        /// Its process.
        pid: i32,
        /// The shim's own process.
        shim_pid: i32,
        /// Milliseconds since the Unix epoch.
        started_at_ms: u64,
    },
    /// The container is set up and waits to be started.
    Created {
        /// Its process.
        pid: i32,
        /// The shim's own process.
        shim_pid: i32,
        /// Milliseconds since the Unix epoch.
        created_at_ms: u64,
    },
    /// The task is done; there is no process.
    Done,
    /// It has not, and nothing is left of it.
    Failed(Failure),
}
