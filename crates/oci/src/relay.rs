//! Between a person's terminal and that of a process: text both ways, and the size.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_sys::{socket, terminal};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket as make_socket};
use nix::unistd::{read, write};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::OciError;
use crate::spec::ConsoleSize;

/// Bytes passed on at once.
const CHUNK: usize = 16 * 1024;

/// A socket of this process's own that gets a terminal's master.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    folder: PathBuf,
    path: PathBuf,
    listener: OwnedFd,
}

impl ConsoleSocket {
    /// Listens in a folder that only this user can enter.
    pub(crate) fn listen() -> Result<Self, OciError> {
        let folder = std::env::temp_dir().join(format!("gantry-oci-{}", std::process::id()));
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .create(&folder)
            .map_err(|source| OciError::io("make folder", &folder, source))?;
        let path = folder.join("console.sock");
        let failed = OciError::call;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener =
            make_socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed("make a socket"))?;
        let address = UnixAddr::new(&path).map_err(failed("name a socket"))?;
        bind(listener.as_raw_fd(), &address).map_err(failed("bind a socket"))?;
        listen(&listener, Backlog::new(1).map_err(failed("listen"))?).map_err(failed("listen"))?;
        Ok(Self { folder, path, listener })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The master that was sent; none when there was none to send. It is sent before whoever makes the process answers.
    pub(crate) fn accept(&self) -> Result<Option<OwnedFd>, OciError> {
        let connection = match socket::accept(&self.listener) {
            Ok(connection) => connection,
            Err(nix::errno::Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(OciError::call("take the terminal")(errno)),
        };
        let mut name = [0; 256];
        let (_, fds) = socket::receive(&connection, &mut name).map_err(OciError::call("take the terminal"))?;
        Ok(fds.into_iter().next())
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The size of the person's terminal: a process has it from its first moment on, before anything is passed on.
pub(crate) fn own_size() -> Option<ConsoleSize> {
    let size = tcgetwinsize(std::io::stdin()).ok()?;
    Some(ConsoleSize {
        height: size.ws_row,
        width: size.ws_col,
    })
}

/// The way between two terminals, or from what is not one.
#[derive(Debug)]
pub(crate) struct Relay {
    master: OwnedFd,
    /// What the person's terminal was like; none when standard input is no terminal.
    before: Option<Termios>,
    input_ended: bool,
}

impl Relay {
    /// Takes the person's terminal over.
    pub(crate) fn start(master: OwnedFd) -> Result<Self, OciError> {
        let flags = fcntl(&master, FcntlArg::F_GETFL).map_err(OciError::call("read flags of the terminal"))?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        fcntl(&master, FcntlArg::F_SETFL(flags)).map_err(OciError::call("set flags of the terminal"))?;
        let before = tcgetattr(std::io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &raw);
        }
        let relay = Self {
            master,
            before,
            input_ended: false,
        };
        relay.take_size();
        Ok(relay)
    }

    /// The person's size becomes the process's.
    pub(crate) fn take_size(&self) {
        if let Ok(size) = tcgetwinsize(std::io::stdin()) {
            let _ = terminal::resize(&self.master, size.ws_row, size.ws_col);
        }
    }

    /// What to wait for.
    pub(crate) fn watched(&self) -> Vec<PollFd<'_>> {
        let mut watched = vec![PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if !self.input_ended {
            // Borrowed from the process, where it is open for ever.
            watched.push(PollFd::new(rustix::stdio::stdin(), PollFlags::POLLIN));
        }
        watched
    }

    /// Passes on what there is, in either direction.
    pub(crate) fn pass_on(&mut self) {
        self.to_person();
        if !self.input_ended && is_readable(rustix::stdio::stdin()) {
            let mut buffer = [0; CHUNK];
            match read(rustix::stdio::stdin(), &mut buffer) {
                Ok(0) | Err(_) => self.input_ended = true,
                Ok(length) => {
                    let _ = write_all(&self.master, &buffer[..length]);
                }
            }
        }
    }

    fn to_person(&self) {
        let mut buffer = [0; CHUNK];
        while let Ok(length @ 1..) = read(&self.master, &mut buffer) {
            let mut output = std::io::stdout();
            if output
                .write_all(&buffer[..length])
                .and_then(|()| output.flush())
                .is_err()
            {
                return;
            }
        }
    }

    /// The rest, and the person's terminal as it was.
    pub(crate) fn finish(&mut self) {
        self.to_person();
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn is_readable(fd: impl AsFd) -> bool {
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    nix::poll::poll(&mut polled, nix::poll::PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// A terminal that is full takes more once its process has read.
fn write_all(master: &OwnedFd, mut text: &[u8]) -> Result<(), nix::errno::Errno> {
    while !text.is_empty() {
        match write(master, text) {
            Ok(length) => text = &text[length..],
            Err(nix::errno::Errno::EAGAIN) => {
                let mut polled = [PollFd::new(master.as_fd(), PollFlags::POLLOUT)];
                nix::poll::poll(&mut polled, nix::poll::PollTimeout::NONE)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
