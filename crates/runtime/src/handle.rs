//! A container that was launched, by this process or an earlier one: state, signals, waiting, deletion.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_cgroup::{Group, Layout};
use gantry_model::Timestamp;
use gantry_model::phase::Exit;
use gantry_shim::wire::{MESSAGE_LENGTH_MAX, Request, Response};
use gantry_shim::{EXIT_FILE, ExitRecord, SOCKET_FILE, STATE_FILE, StateRecord};
use gantry_sys::{Errno, socket};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket as make_socket};
use nix::sys::stat::Mode;

use crate::HandleError;
use crate::prepare::{CONTAINER_FILE, ContainerRecord};

/// Status recorded for a container whose shim was killed: nobody saw how it ended, and it was killed in turn.
const CODE_SHIM_LOST: i32 = 128 + nix::libc::SIGKILL;

/// Whether a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is set up, and waits for [`Handle::start`].
    Created {
        /// Its first process, in the pid namespace of whoever launched it.
        pid: u32,
    },
    /// It runs.
    Running {
        /// Its first process, in the pid namespace of whoever launched it.
        pid: u32,
        /// When it executed its program.
        started_at: Timestamp,
    },
    /// It has ended.
    Exited(Exit),
}

/// One container. Requests go over connections of their own, so a handle can be shared between threads.
#[derive(Debug)]
pub struct Handle {
    pub(crate) bundle: PathBuf,
    pub(crate) group: Group,
    /// A connection that ends when the container has; none when it had ended before.
    watch: Option<OwnedFd>,
}

impl Handle {
    /// Adopts the container in `bundle`, whether it runs or has ended, and whoever launched it.
    ///
    /// # Errors
    /// [`HandleError::NotFound`] when nothing was ever launched there.
    pub fn open(bundle: &Path, layout: &Layout) -> Result<Self, HandleError> {
        let record: ContainerRecord = read_record(bundle, CONTAINER_FILE)?.ok_or_else(|| HandleError::NotFound {
            path: bundle.to_path_buf(),
        })?;
        let group = Group::at(layout, &record.cgroup_parent, &record.id);
        let watch = match dial(bundle) {
            Ok(connection) => Some(connection),
            Err(Errno::ENOENT | Errno::ECONNREFUSED) => None,
            Err(errno) => return Err(shim_error("connect", bundle, errno.into())),
        };
        Ok(Self {
            bundle: bundle.to_path_buf(),
            group,
            watch,
        })
    }

    /// Becomes readable when the container has ended and its exit is recorded; none when it had ended before [`Handle::open`].
    /// Register it with an event loop to wait for many containers at once, then call [`Handle::state`].
    #[must_use]
    pub fn exit_fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// Whether it runs. A container whose shim was killed is killed here, and recorded as ended by SIGKILL.
    ///
    /// # Errors
    /// When the records cannot be read or written.
    pub fn state(&self) -> Result<State, HandleError> {
        if let Some(exit) = self.recorded_exit()? {
            return Ok(State::Exited(exit));
        }
        match self.request("ask", &Request::State) {
            Ok((Response::Created { pid, .. }, _)) => Ok(State::Created {
                pid: u32::try_from(pid).unwrap_or(0),
            }),
            Ok((Response::Running { pid, started_at_ms, .. }, _)) => Ok(State::Running {
                pid: u32::try_from(pid).unwrap_or(0),
                started_at: Timestamp(started_at_ms),
            }),
            Ok(_) | Err(HandleError::Ended { .. }) => self.exit_of_the_lost().map(State::Exited),
            Err(error) => Err(error),
        }
    }

    fn recorded_exit(&self) -> Result<Option<Exit>, HandleError> {
        let record: Option<ExitRecord> = read_record(&self.bundle, EXIT_FILE)?;
        Ok(record.map(|record| Exit {
            code: record.code,
            oom_killed: record.oom_killed,
            at: Timestamp(record.at_ms),
        }))
    }

    /// No shim answers: either it has just recorded the exit, or it is gone without.
    fn exit_of_the_lost(&self) -> Result<Exit, HandleError> {
        if let Some(exit) = self.recorded_exit()? {
            return Ok(exit);
        }
        if read_record::<StateRecord>(&self.bundle, STATE_FILE)?.is_none() {
            return Err(HandleError::NotFound {
                path: self.bundle.clone(),
            });
        }
        self.group.kill_all()?;
        let path = self.bundle.join(STATE_FILE);
        let failed = |source| HandleError::Io {
            act: "examine",
            path: path.clone(),
            source,
        };
        // When it ended is unknown; the last sign of life is the end of its log, or else its start.
        let started = fs::metadata(&path).and_then(|found| found.modified()).map_err(failed)?;
        let since_epoch = started.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(0);
        let record = ExitRecord {
            code: CODE_SHIM_LOST,
            oom_killed: false,
            at_ms,
        };
        let path = self.bundle.join(EXIT_FILE);
        let fresh = self.bundle.join("exit.json.new");
        let text = serde_json::to_vec(&record).map_err(io::Error::from);
        let written = text
            .and_then(|text| fs::write(&fresh, text))
            .and_then(|()| fs::rename(&fresh, &path));
        written.map_err(|source| HandleError::Io {
            act: "write",
            path,
            source,
        })?;
        Ok(Exit {
            code: record.code,
            oom_killed: false,
            at: Timestamp(at_ms),
        })
    }

    /// Blocks until the container has ended.
    ///
    /// # Errors
    /// As [`Handle::state`].
    pub fn wait(&self) -> Result<Exit, HandleError> {
        loop {
            if let Some(exit) = self.wait_timeout(Duration::from_secs(3600))? {
                return Ok(exit);
            }
        }
    }

    /// Blocks until the container has ended, at most so long (in whole milliseconds); none when it still runs then, or a
    /// signal came.
    ///
    /// # Errors
    /// As [`Handle::state`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<Exit>, HandleError> {
        if let Some(watch) = &self.watch
            && !readable_within(watch, timeout).map_err(|source| shim_error("wait", &self.bundle, source))?
        {
            return Ok(None);
        }
        match self.state()? {
            State::Exited(exit) => Ok(Some(exit)),
            State::Created { .. } | State::Running { .. } => Ok(None),
        }
    }

    /// Lets a container that is held execute its program; returns when it has. One that is paused goes on.
    ///
    /// # Errors
    /// [`HandleError::Refused`] when it could not, or was started before, [`HandleError::Ended`] when it has ended meanwhile.
    pub fn start(&self) -> Result<Timestamp, HandleError> {
        // The shim waits for the program, and could wait for ever.
        if self.is_paused().unwrap_or(false) {
            self.resume()?;
        }
        match self.request("start", &Request::Start)? {
            (Response::Running { started_at_ms, .. }, _) => Ok(Timestamp(started_at_ms)),
            _ => Err(shim_error("start", &self.bundle, ErrorKind::InvalidData.into())),
        }
    }

    /// Sends a signal to the container's first process. One that has ended takes any signal.
    ///
    /// # Errors
    /// When the shim cannot be reached, or the signal does not exist.
    pub fn signal(&self, number: i32) -> Result<(), HandleError> {
        match self.request("signal", &Request::Signal(number)) {
            Ok(_) | Err(HandleError::Ended { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Kills every process of the container and waits until they are gone, at most 10 s.
    ///
    /// # Errors
    /// When a process survives.
    pub fn kill_all(&self) -> Result<(), HandleError> {
        Ok(self.group.kill_all()?)
    }

    /// Sets the size of the container's terminal.
    ///
    /// # Errors
    /// When it has none, or has ended.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), HandleError> {
        self.request("resize", &Request::Resize { rows, columns }).map(drop)
    }

    /// A descriptor that writes to the container's standard input, or its terminal.
    ///
    /// # Errors
    /// When it was started without (`stdin_open`, `tty`), or has ended.
    pub fn stdin(&self) -> Result<OwnedFd, HandleError> {
        let (_, fds) = self.request("open standard input", &Request::Stdin)?;
        let missing = || shim_error("open standard input", &self.bundle, ErrorKind::UnexpectedEof.into());
        fds.into_iter().next().ok_or_else(missing)
    }

    /// Ends the container's standard input once every descriptor of [`Handle::stdin`] is dropped.
    ///
    /// # Errors
    /// When the container has ended.
    pub fn close_stdin(&self) -> Result<(), HandleError> {
        self.request("close standard input", &Request::CloseStdin).map(drop)
    }

    /// Kills what still runs, and removes the control group and the bundle. The container's mounts are gone with its processes.
    ///
    /// # Errors
    /// When a process survives, or a file cannot be removed; calling it again goes on where it failed.
    pub fn delete(self) -> Result<(), HandleError> {
        self.group.kill_all()?;
        if let Some(watch) = &self.watch {
            // The shim writes its record into the bundle before it goes.
            readable_within(watch, Duration::from_secs(10))
                .map_err(|source| shim_error("wait", &self.bundle, source))?;
        }
        self.group.remove()?;
        let record = self.bundle.join(CONTAINER_FILE);
        remove_bundle(&self.bundle, &record).map_err(|source| HandleError::Io {
            act: "remove",
            path: self.bundle.clone(),
            source,
        })
    }

    /// One request over a connection of its own.
    pub(crate) fn request(
        &self,
        act: &'static str,
        request: &Request,
    ) -> Result<(Response, Vec<OwnedFd>), HandleError> {
        let connection = self.connect(act)?;
        send(&connection, request).map_err(|errno| self.broken(act, errno))?;
        self.receive(&connection, act)
    }

    pub(crate) fn connect(&self, act: &'static str) -> Result<OwnedFd, HandleError> {
        dial(&self.bundle).map_err(|errno| self.broken(act, errno))
    }

    pub(crate) fn receive(
        &self,
        connection: &OwnedFd,
        act: &'static str,
    ) -> Result<(Response, Vec<OwnedFd>), HandleError> {
        let mut buffer = vec![0; MESSAGE_LENGTH_MAX];
        let (length, fds) = socket::receive(connection, &mut buffer).map_err(|errno| self.broken(act, errno))?;
        if length == 0 {
            return Err(HandleError::Ended {
                path: self.bundle.clone(),
            });
        }
        match serde_json::from_slice(&buffer[..length]) {
            Ok(Response::Failed(failure)) => Err(HandleError::Refused(failure)),
            Ok(response) => Ok((response, fds)),
            Err(error) => Err(shim_error(act, &self.bundle, error.into())),
        }
    }

    /// A shim that is not there has ended with its container.
    pub(crate) fn broken(&self, act: &'static str, errno: Errno) -> HandleError {
        match errno {
            Errno::ENOENT | Errno::ECONNREFUSED | Errno::ECONNRESET | Errno::EPIPE => HandleError::Ended {
                path: self.bundle.clone(),
            },
            errno => shim_error(act, &self.bundle, errno.into()),
        }
    }
}

pub(crate) fn send(connection: &OwnedFd, request: &Request) -> Result<(), Errno> {
    let text = serde_json::to_vec(request).map_err(|_| Errno::EINVAL)?;
    socket::send(connection, &text, &[])
}

pub(crate) fn shim_error(act: &'static str, bundle: &Path, source: io::Error) -> HandleError {
    HandleError::Shim {
        act,
        path: bundle.to_path_buf(),
        source,
    }
}

/// Connects by a short name through the folder's descriptor: a unix address holds 108 bytes, paths more.
fn dial(bundle: &Path) -> Result<OwnedFd, Errno> {
    dial_at(bundle, SOCKET_FILE)
}

pub(crate) fn dial_at(bundle: &Path, name: &str) -> Result<OwnedFd, Errno> {
    let folder = open(
        bundle,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let connection = make_socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    let name = format!("/proc/self/fd/{}/{name}", std::os::fd::AsRawFd::as_raw_fd(&folder));
    connect(
        std::os::fd::AsRawFd::as_raw_fd(&connection),
        &UnixAddr::new(name.as_str())?,
    )?;
    Ok(connection)
}

/// Whether a shim listens in the bundle and has not recorded an exit.
pub(crate) fn is_attended(bundle: &Path) -> bool {
    dial(bundle).is_ok() && !bundle.join(EXIT_FILE).exists()
}

pub(crate) fn readable_within(fd: impl AsFd, timeout: Duration) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    match poll(&mut polled, timeout) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

pub(crate) fn read_record<T: serde::de::DeserializeOwned>(bundle: &Path, name: &str) -> Result<Option<T>, HandleError> {
    let path = bundle.join(name);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(HandleError::Io {
                act: "read",
                path,
                source,
            });
        }
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|source| HandleError::Record { path, source })
}

/// The container's record goes last: as long as it is there, another [`Handle::open`] can go on.
fn remove_bundle(bundle: &Path, record: &Path) -> io::Result<()> {
    for entry in fs::read_dir(bundle)? {
        let path = entry?.path();
        if path != record {
            let is_folder = fs::symlink_metadata(&path)?.is_dir();
            if is_folder {
                fs::remove_dir_all(&path)?
            } else {
                fs::remove_file(&path)?
            }
        }
    }
    fs::remove_file(record)?;
    fs::remove_dir(bundle)
}
