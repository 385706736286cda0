//! The line between a process that is being set up and whoever set it up: what it needs done for it, a failure, or the end of
//! the line, which means that the program was executed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::{Errno, socket};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::failure::During;
use crate::wire::MESSAGE_LENGTH_MAX;

/// One end of the line.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What a process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// The descriptor that comes along is the master of its terminal.
    Terminal,
    /// It waits for the hooks on the node.
    Hooks,
    /// It is set up, and waits to be started.
    Created,
    /// It failed.
    Failed(Failure),
}

/// What came over a [`Channel`].
#[derive(Debug)]
pub(crate) enum News {
    /// The master of its terminal.
    Terminal(OwnedFd),
    /// It waits for the hooks on the node, then for [`Channel::go_on`].
    Hooks,
    /// It is set up, and waits to be started.
    Created,
    /// It failed.
    Failed(Failure),
    /// It executed its program.
    Executed,
}

/// Tells a process that waits to go on.
const GO_ON: &[u8] = b"go on";

impl Channel {
    /// The parent's end and the process's.
    pub(crate) fn pair() -> Result<(Self, Self), Failure> {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map(|(left, right)| (Self(left), Self(right)))
            .during("make", "a socket pair")
    }

    /// Over a connection.
    pub(crate) fn over(connection: OwnedFd) -> Self {
        Self(connection)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(crate) fn send_terminal(&self, master: &OwnedFd) -> Result<(), Failure> {
        self.send(&Message::Terminal, &[master.as_fd()])
    }

    pub(crate) fn ask_for_hooks(&self) -> Result<(), Failure> {
        self.send(&Message::Hooks, &[])?;
        self.wait()
    }

    pub(crate) fn send_created(&self) -> Result<(), Failure> {
        self.send(&Message::Created, &[])
    }

    /// Tells the other side; when that fails as well there is nobody left to tell.
    pub(crate) fn send_failure(&self, failure: &Failure) {
        let _ = self.send(&Message::Failed(failure.clone()), &[]);
    }

    fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        let text = serde_json::to_vec(message).map_err(|error| Failure::found("tell", "the shim", error))?;
        socket::send(&self.0, &text, fds).during("tell", "the shim")
    }

    /// Lets a process that waits go on.
    pub(crate) fn go_on(&self) -> Result<(), Failure> {
        socket::send(&self.0, GO_ON, &[]).during("release", "the process")
    }

    /// Waits for [`Channel::go_on`].
    pub(crate) fn wait(&self) -> Result<(), Failure> {
        let mut buffer = [0; GO_ON.len()];
        match socket::receive(&self.0, &mut buffer) {
            Ok((length, _)) if buffer[..length] == *GO_ON => Ok(()),
            Ok(_) | Err(Errno::ECONNRESET) => Err(Failure::found(
                "wait for",
                "the start",
                "whoever was to start it is gone",
            )),
            Err(errno) => Err(Failure::new("wait for", "the start", errno)),
        }
    }

    /// Waits for the next message.
    pub(crate) fn receive(&self) -> Result<News, Failure> {
        let mut buffer = vec![0; MESSAGE_LENGTH_MAX];
        let (length, fds) = match socket::receive(&self.0, &mut buffer) {
            Err(Errno::ECONNRESET) => return Ok(News::Executed),
            outcome => outcome.during("hear from", "the process")?,
        };
        if length == 0 {
            return Ok(News::Executed);
        }
        let message = serde_json::from_slice(&buffer[..length])
            .map_err(|error| Failure::found("hear from", "the process", error))?;
        match (message, fds.into_iter().next()) {
            (Message::Terminal, Some(master)) => Ok(News::Terminal(master)),
            (Message::Terminal, None) => Err(Failure::found("hear from", "the process", "a terminal is missing")),
            (Message::Hooks, _) => Ok(News::Hooks),
            (Message::Created, _) => Ok(News::Created),
            (Message::Failed(failure), _) => Ok(News::Failed(failure)),
        }
    }
}

/// Starts a container that waits behind `connection` to its start socket: returns once it has executed its program.
///
/// # Errors
/// What kept it from executing its program; it has ended then.
pub fn start_held(connection: OwnedFd) -> Result<(), Failure> {
    let channel = Channel::over(connection);
    channel.go_on()?;
    loop {
        match channel.receive()? {
            News::Executed => return Ok(()),
            News::Failed(failure) => return Err(failure),
            News::Terminal(_) | News::Hooks | News::Created => {}
        }
    }
}
