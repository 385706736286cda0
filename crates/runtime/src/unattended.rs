//! A container without a shim: created, started and killed through what its launch left in the bundle. Its exit status is known
//! only to its parent, which is whoever reaps the orphans of its launcher.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use gantry_model::Timestamp;
use gantry_shim::{START_SOCKET_FILE, STATE_FILE, StateRecord, born_ticks, start_held};
use gantry_sys::Errno;
use gantry_sys::process::{pidfd_open, pidfd_send_signal};
use nix::libc;
use nix::unistd::Pid;

use crate::HandleError;
use crate::handle::{dial_at, read_record, shim_error};

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It is set up, and waits for [`Unattended::start`].
    Created,
    /// Its first process runs.
    Running,
    /// Its first process has ended, or waits for its parent to be told.
    Stopped,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unattended {
    bundle: PathBuf,
    state: StateRecord,
}

/// Signals that end a process which has no handlers, and which a first process without them would ignore.
const ENDING: [i32; 5] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGABRT];

impl Unattended {
    /// The container whose launch left its records in `bundle`.
    ///
    /// # Errors
    /// [`HandleError::NotFound`] when nothing was ever launched there.
    pub fn open(bundle: &Path) -> Result<Self, HandleError> {
        let state = read_record(bundle, STATE_FILE)?.ok_or_else(|| HandleError::NotFound {
            path: bundle.to_path_buf(),
        })?;
        Ok(Self {
            bundle: bundle.to_path_buf(),
            state,
        })
    }

    /// Its first process, in the pid namespace of whoever launched it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        u32::try_from(self.state.pid).unwrap_or(0)
    }

    /// When it was launched.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        Timestamp(self.state.started_at_ms)
    }

    /// How far it has come. Another process with the same id is not taken for it.
    #[must_use]
    pub fn progress(&self) -> Progress {
        if born_ticks(self.state.pid) != Some(self.state.born_ticks) {
            Progress::Stopped
        } else if self.bundle.join(START_SOCKET_FILE).exists() {
            Progress::Created
        } else {
            Progress::Running
        }
    }

    /// Lets it execute its program; returns when it has. Hooks for after the start are the caller's ([`crate::run_hooks`]).
    ///
    /// # Errors
    /// [`HandleError::Refused`] when it could not, [`HandleError::Ended`] when it has ended or was started before.
    pub fn start(&self) -> Result<(), HandleError> {
        let act = "start";
        let connection = dial_at(&self.bundle, START_SOCKET_FILE).map_err(|errno| match errno {
            Errno::ENOENT | Errno::ECONNREFUSED => HandleError::Ended {
                path: self.bundle.clone(),
            },
            errno => shim_error(act, &self.bundle, errno.into()),
        })?;
        let outcome = start_held(connection).map_err(HandleError::Refused);
        match fs::remove_file(self.bundle.join(START_SOCKET_FILE)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(shim_error(act, &self.bundle, error)),
            _ => outcome,
        }
    }

    /// Sends a signal to its first process. One that waits to be started has no handlers yet, and as first process of its
    /// namespace would ignore what ends others: that becomes SIGKILL.
    ///
    /// # Errors
    /// [`HandleError::Ended`] when it has ended.
    pub fn signal(&self, number: i32) -> Result<(), HandleError> {
        let ended = || HandleError::Ended {
            path: self.bundle.clone(),
        };
        // Opened before it is looked at: a descriptor never changes its process.
        let pidfd = pidfd_open(Pid::from_raw(self.state.pid)).map_err(|_| ended())?;
        let number = match self.progress() {
            Progress::Stopped => return Err(ended()),
            Progress::Created if ENDING.contains(&number) => libc::SIGKILL,
            Progress::Created | Progress::Running => number,
        };
        match pidfd_send_signal(&pidfd, number) {
            Err(Errno::ESRCH) => Err(ended()),
            outcome => outcome.map_err(|errno| shim_error("signal", &self.bundle, errno.into())),
        }
    }
}
