//! What is done to a container while it runs: pausing, limits, looking at its processes, listening to its output.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;

use gantry_cgroup::{Limits, Stats};
use gantry_model::spec::Resources;
use gantry_shim::wire::Request;

use crate::handle::shim_error;
use crate::{Handle, HandleError};

/// Copies of what a container writes, from the moment of attaching on. The log gets everything as well. The container waits for
/// a reader that does not keep up; dropping them detaches and leaves it running. For input see [`Handle::stdin`].
#[derive(Debug)]
pub enum Attached {
    /// What comes out of its terminal.
    Terminal(OwnedFd),
    /// Pipes.
    Pipes {
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
}

impl Handle {
    /// Stops every process of the container until [`Handle::resume`].
    ///
    /// # Errors
    /// When they do not stop in time, or the group is gone.
    pub fn pause(&self) -> Result<(), HandleError> {
        Ok(self.group.freeze()?)
    }

    /// Lets every process of the container go on.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn resume(&self) -> Result<(), HandleError> {
        Ok(self.group.thaw()?)
    }

    /// Whether it is paused.
    ///
    /// # Errors
    /// When the group cannot be read.
    pub fn is_paused(&self) -> Result<bool, HandleError> {
        Ok(self.group.is_frozen()?)
    }

    /// What the container uses now.
    ///
    /// # Errors
    /// When its group cannot be read.
    pub fn stats(&self) -> Result<Stats, HandleError> {
        Ok(self.group.stats()?)
    }

    /// Its processes, execs included, in the pid namespace of the caller, in no order.
    ///
    /// # Errors
    /// When its group cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>, HandleError> {
        Ok(self.group.processes()?)
    }

    /// Changes the limits of the container. What `resources` leaves out stays as it is.
    ///
    /// # Errors
    /// When the kernel refuses one; those before it hold.
    pub fn update(&self, resources: &Resources) -> Result<(), HandleError> {
        Ok(self.group.update(&Limits::of(resources)?)?)
    }

    /// Copies of its output from now on. Any number of callers may be attached.
    ///
    /// # Errors
    /// When it has ended.
    pub fn attach(&self) -> Result<Attached, HandleError> {
        let (_, fds) = self.request("attach", &Request::Attach)?;
        let mut fds = fds.into_iter();
        match (fds.next(), fds.next()) {
            (Some(terminal), None) => Ok(Attached::Terminal(terminal)),
            (Some(stdout), Some(stderr)) => Ok(Attached::Pipes { stdout, stderr }),
            (None, _) => Err(shim_error("attach", &self.bundle, ErrorKind::UnexpectedEof.into())),
        }
    }
}
