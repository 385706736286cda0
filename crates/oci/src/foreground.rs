//! A command that waits for the process it started: its streams, its signals, its end. And the streams of one that does not.
//!
//! The process is a child of the shim that made it, which has ended: it comes to this process, which adopts orphans, and so its
//! exit status is known first hand.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_runtime::PassedFds;
use gantry_sys::process::reap;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use crate::relay::{ConsoleSocket, Relay};
use crate::{OciError, plan};

/// The first descriptor that `--preserve-fds` is about.
const FIRST_PRESERVED: i32 = 3;

/// Where a process's streams come from.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) plan: plan::Streams,
    pub(crate) fds: PassedFds,
}

/// Checks that terminal and console socket fit together, and takes what the process is to inherit.
pub(crate) fn streams(
    terminal: bool,
    console_socket: Option<&Path>,
    console: Option<&Console>,
    preserve_fds: u32,
) -> Result<Streams, OciError> {
    let console_socket = match (terminal, console_socket, console) {
        (true, Some(socket), _) => Some(socket.to_path_buf()),
        (true, None, Some(console)) => Some(console.socket.path().to_path_buf()),
        (true, None, None) => {
            let text =
                "cannot allocate a terminal for a process that is left alone: name a --console-socket that gets it";
            return Err(OciError::Usage(text.to_string()));
        }
        (false, Some(_), _) => {
            let text = "a console socket is of no use without a terminal: set process.terminal, or leave it out";
            return Err(OciError::Usage(text.to_string()));
        }
        (false, None, _) => None,
    };
    let further = preserved(preserve_fds)?;
    Ok(Streams {
        plan: plan::Streams {
            console_socket: console_socket.map(absolute).transpose()?,
            passed_fds: u32::try_from(further.len()).unwrap_or(0),
        },
        fds: PassedFds {
            stdio: if terminal { None } else { Some(own_stdio()?) },
            further,
        },
    })
}

fn absolute(path: PathBuf) -> Result<PathBuf, OciError> {
    std::path::absolute(&path).map_err(|source| OciError::io("find", &path, source))
}

fn own_stdio() -> Result<[OwnedFd; 3], OciError> {
    let copy = |stream: &dyn AsFd| {
        let copied = stream.as_fd().try_clone_to_owned();
        copied.map_err(|source| OciError::io("duplicate", Path::new("a standard stream"), source))
    };
    Ok([
        copy(&std::io::stdin())?,
        copy(&std::io::stdout())?,
        copy(&std::io::stderr())?,
    ])
}

/// Those that a service manager passed (`LISTEN_FDS`), then those asked for; copied by number.
fn preserved(count: u32) -> Result<Vec<OwnedFd>, OciError> {
    let listening = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|text| text.parse::<u32>().ok())
        .unwrap_or(0);
    let total = i32::try_from(count.saturating_add(listening)).unwrap_or(0);
    let this = gantry_sys::process::pidfd_open(Pid::this()).map_err(OciError::call("open this process"))?;
    let copy = |number| pidfd_getfd(&this, number, PidfdGetfdFlags::empty());
    (FIRST_PRESERVED..FIRST_PRESERVED + total)
        .map(|number| {
            copy(number).map_err(|errno| {
                OciError::Usage(format!(
                    "--preserve-fds: descriptor {number} cannot be passed on: {errno}"
                ))
            })
        })
        .collect()
}

/// Orphans of this process's descendants become its children.
pub(crate) fn adopt_orphans() -> Result<(), OciError> {
    prctl::set_child_subreaper(true).map_err(OciError::call("adopt orphans"))
}

/// The terminal of the person, and signals as a descriptor.
#[derive(Debug)]
pub(crate) struct Console {
    socket: ConsoleSocket,
    signals: SignalFd,
}

impl Console {
    /// Signals come here from now on, none is lost before [`Console::attend`].
    pub(crate) fn new() -> Result<Self, OciError> {
        let mut taken = SigSet::all();
        // What this process brings upon itself by a bug must still end it.
        for signal in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGABRT,
        ] {
            taken.remove(signal);
        }
        taken.thread_block().map_err(OciError::call("block signals"))?;
        let signals = SignalFd::with_flags(&taken, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(OciError::call("take signals"))?;
        Ok(Self {
            socket: ConsoleSocket::listen()?,
            signals,
        })
    }

    /// Passes signals and the terminal's text on until the process ends: its exit status, or 128 and the signal's number.
    pub(crate) fn attend(&self, pid: u32) -> Result<u8, OciError> {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap_or(0));
        let mut relay = self.socket.accept()?.map(Relay::start).transpose()?;
        // It may have ended before the first signal is looked at.
        let mut ended = reap_until(pid);
        while ended.is_none() {
            self.wait(relay.as_ref())?;
            if let Some(relay) = &mut relay {
                relay.pass_on();
            }
            ended = self.take_signals(pid, relay.as_ref());
        }
        if let Some(mut relay) = relay {
            relay.finish();
        }
        Ok(u8::try_from(ended.unwrap_or(0)).unwrap_or(u8::MAX))
    }

    fn wait(&self, relay: Option<&Relay>) -> Result<(), OciError> {
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        polled.extend(relay.into_iter().flat_map(Relay::watched));
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(OciError::call("wait for the process")(errno)),
        }
    }

    fn take_signals(&self, pid: Pid, relay: Option<&Relay>) -> Option<i32> {
        let mut ended = None;
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => ended = ended.or_else(|| reap_until(pid)),
                Ok(Signal::SIGWINCH) => relay.map_or((), Relay::take_size),
                // One that has just ended needs none.
                Ok(signal) => drop(kill(pid, signal)),
                Err(_) => {}
            }
        }
        ended
    }
}

/// Reaps whatever has ended; the status of `pid` if it is among them.
fn reap_until(pid: Pid) -> Option<i32> {
    let mut found = None;
    while let Ok(Some((reaped, code))) = reap() {
        if reaped == pid {
            found = Some(code);
        }
    }
    found
}
