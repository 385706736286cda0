//! A further process in a running container.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use gantry_shim::plan::{CapabilitySets, ProcessPlan, UserPlan};
use gantry_shim::wire::{Request, Response};

use crate::handle::{Handle, read_record, readable_within, send, shim_error};
use crate::prepare::PROCESS_FILE;
use crate::process::split_user;
use crate::{HandleError, capability};

/// What to run; what is absent is as in the container's first process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Further variables as `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// Folder to start in.
    pub cwd: Option<PathBuf>,
    /// A terminal is allocated.
    pub tty: bool,
    /// Standard input is a pipe, not `/dev/null`.
    pub stdin: bool,
    /// All capabilities and no system call filter.
    pub privileged: bool,
}

/// The streams of an exec. They do not block its client's other calls: read and write them from threads or an event loop.
#[derive(Debug)]
pub enum ExecStreams {
    /// Its terminal, for both directions.
    Terminal(OwnedFd),
    /// Pipes.
    Pipes {
        /// Standard input, if asked for; dropping it ends it.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
}

/// An exec that runs. Dropping it leaves the process running.
#[derive(Debug)]
pub struct ExecSession<'a> {
    handle: &'a Handle,
    connection: OwnedFd,
    /// Its process, in the pid namespace of whoever launched the container.
    pub pid: u32,
    /// Its streams, to be taken.
    pub streams: Option<ExecStreams>,
}

impl Handle {
    /// Starts a process; returns once it has executed its program.
    ///
    /// # Errors
    /// [`HandleError::Refused`] when a step failed ([`gantry_shim::Failure::exit_code`] says 126 or 127 as a shell would),
    /// [`HandleError::Ended`] when the container has ended.
    pub fn exec(&self, spec: &ExecSpec) -> Result<ExecSession<'_>, HandleError> {
        let act = "exec";
        let first: ProcessPlan = read_record(&self.bundle, PROCESS_FILE)?.ok_or_else(|| HandleError::NotFound {
            path: self.bundle.clone(),
        })?;
        let plan = plan(first, spec);
        let connection = self.connect(act)?;
        send(&connection, &Request::Exec(Box::new(plan))).map_err(|errno| self.broken(act, errno))?;
        let (response, fds) = self.receive(&connection, act)?;
        let unexpected = || shim_error(act, &self.bundle, std::io::ErrorKind::InvalidData.into());
        let Response::ExecStarted { pid } = response else {
            return Err(unexpected());
        };
        let streams = streams(spec, fds).ok_or_else(unexpected)?;
        Ok(ExecSession {
            handle: self,
            connection,
            pid: u32::try_from(pid).unwrap_or(0),
            streams: Some(streams),
        })
    }
}

fn plan(first: ProcessPlan, spec: &ExecSpec) -> ProcessPlan {
    let user = match &spec.user {
        // As in Docker, groups that were added to the container's user are not added to another.
        Some(user) => {
            let (user, group) = split_user(user);
            UserPlan::Named {
                user,
                group,
                group_add: Vec::new(),
            }
        }
        None => first.user,
    };
    let name_of = |variable: &str| variable.split('=').next().unwrap_or_default().to_string();
    let is_kept = |variable: &String| !spec.env.iter().any(|new| name_of(new) == name_of(variable));
    let mut env: Vec<String> = first.env.into_iter().filter(is_kept).collect();
    env.extend(spec.env.iter().cloned());
    ProcessPlan {
        args: spec.args.clone(),
        env,
        cwd: spec.cwd.clone().unwrap_or(first.cwd),
        user,
        capabilities: if spec.privileged {
            CapabilitySets::alike(capability::ALL)
        } else {
            first.capabilities
        },
        seccomp: if spec.privileged { None } else { first.seccomp },
        tty: spec.tty,
        console_size: None,
        stdin: spec.stdin,
        ..first
    }
}

fn streams(spec: &ExecSpec, fds: Vec<OwnedFd>) -> Option<ExecStreams> {
    let mut fds = fds.into_iter();
    if spec.tty {
        return fds.next().map(ExecStreams::Terminal);
    }
    let stdin = if spec.stdin { Some(fds.next()?) } else { None };
    Some(ExecStreams::Pipes {
        stdin,
        stdout: fds.next()?,
        stderr: fds.next()?,
    })
}

impl ExecSession<'_> {
    /// Blocks until the process has ended: its exit status, or 128 plus the signal's number.
    ///
    /// # Errors
    /// [`HandleError::Ended`] when the container ended first.
    pub fn wait(&self) -> Result<i32, HandleError> {
        loop {
            if let (Response::ExecExited { code }, _) = self.handle.receive(&self.connection, "wait for exec")? {
                return Ok(code);
            }
        }
    }

    /// As [`ExecSession::wait`], at most so long (in whole milliseconds); none when it still runs then.
    ///
    /// # Errors
    /// As [`ExecSession::wait`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<i32>, HandleError> {
        let readable = readable_within(&self.connection, timeout);
        if readable.map_err(|source| shim_error("wait for exec", &self.handle.bundle, source))? {
            self.wait().map(Some)
        } else {
            Ok(None)
        }
    }

    /// Kills the process and everything it started.
    ///
    /// # Errors
    /// When the shim cannot be reached.
    pub fn kill(&self) -> Result<(), HandleError> {
        match send(&self.connection, &Request::KillExec).map_err(|errno| self.handle.broken("kill exec", errno)) {
            Err(HandleError::Ended { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// When it has none, or its streams were taken: then call [`gantry_sys::terminal::resize`] on the terminal taken.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), HandleError> {
        let Some(ExecStreams::Terminal(terminal)) = &self.streams else {
            return Err(shim_error(
                "resize",
                &self.handle.bundle,
                std::io::ErrorKind::Unsupported.into(),
            ));
        };
        let resized = gantry_sys::terminal::resize(terminal, rows, columns);
        resized.map_err(|errno| shim_error("resize", &self.handle.bundle, errno.into()))
    }
}
