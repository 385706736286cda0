//! Standard streams: pipes, or a terminal of the container's own devpts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gantry_sys::{Errno, mount, path, socket, terminal};
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2};

use crate::Failure;
use crate::failure::During;
use crate::wire::MESSAGE_LENGTH_MAX;

/// Marks the message that carries the master of a terminal.
const TERMINAL_MARK: &[u8] = b"terminal";

/// The streams of a process before it executes its program.
#[derive(Debug)]
pub(crate) enum ChildStreams {
    /// It makes itself a terminal, once it is inside the container.
    Terminal,
    /// Standard input, output and error.
    Pipes([OwnedFd; 3]),
}

/// The shim's ends of the same streams; those of a terminal come later, over the [`Channel`].
#[derive(Debug, Default)]
pub(crate) struct ShimStreams {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) outputs: Vec<OwnedFd>,
}

/// Makes the streams of a process.
pub(crate) fn make(tty: bool, stdin: bool) -> Result<(ChildStreams, ShimStreams), Failure> {
    if tty {
        return Ok((ChildStreams::Terminal, ShimStreams::default()));
    }
    let pipe = || pipe2(OFlag::O_CLOEXEC).during("make", "a pipe");
    let (in_read, in_write) = if stdin {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        (open_null()?, None)
    };
    let ((out_read, out_write), (error_read, error_write)) = (pipe()?, pipe()?);
    let shim = ShimStreams {
        stdin: in_write,
        outputs: vec![out_read, error_read],
    };
    Ok((ChildStreams::Pipes([in_read, out_write, error_write]), shim))
}

/// `/dev/null` of the node.
pub(crate) fn open_null() -> Result<OwnedFd, Failure> {
    open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).during("open", "/dev/null")
}

/// Reads of it return at once.
pub(crate) fn stop_blocking(fd: impl AsFd) -> Result<(), Failure> {
    let flags = fcntl(&fd, FcntlArg::F_GETFL).during("read flags of", "a stream")?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(&fd, FcntlArg::F_SETFL(flags))
        .map(drop)
        .during("set flags of", "a stream")
}

/// Takes the streams as 0, 1 and 2; with a terminal its master goes to the shim first. Must run inside the container.
pub(crate) fn take(streams: ChildStreams, channel: &Channel, is_console: bool) -> Result<(), Failure> {
    match streams {
        ChildStreams::Pipes([input, output, error]) => stand_in(&input, &output, &error),
        ChildStreams::Terminal => {
            let (master, slave) = open_terminal()?;
            channel.send_terminal(&master)?;
            if is_console {
                bind_console(&slave)?;
            }
            terminal::control(&slave).during("take control of", "the terminal")?;
            stand_in(&slave, &slave, &slave)
        }
    }
}

/// The first process's terminal is also the container's console.
fn bind_console(slave: &OwnedFd) -> Result<(), Failure> {
    let path = "/dev/console";
    let flags = OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    drop(open(path, flags, Mode::from_bits_truncate(0o600)).during("make", path)?);
    let target = open(
        path,
        OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .during("open", path)?;
    let copy = mount::clone_tree(slave, "", false).during("clone", "the terminal")?;
    mount::attach(&copy, &target).during("mount", path)
}

fn stand_in(input: &OwnedFd, output: &OwnedFd, error: &OwnedFd) -> Result<(), Failure> {
    dup2_stdin(input).during("duplicate", "standard input")?;
    dup2_stdout(output).during("duplicate", "standard output")?;
    dup2_stderr(error).during("duplicate", "standard error")
}

/// A new terminal of the devpts at `/dev/pts`. What the container put in its place is refused.
fn open_terminal() -> Result<(OwnedFd, OwnedFd), Failure> {
    let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).during("open", "/")?;
    let multiplexer = Path::new("/dev/pts/ptmx");
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let master = path::open_in_root(&root, multiplexer, flags, Mode::empty()).during("open", "/dev/pts/ptmx")?;
    let file_system = fstatfs(&master).during("examine", "/dev/pts/ptmx")?;
    if file_system.filesystem_type() != DEVPTS_SUPER_MAGIC {
        return Err(Failure::found("open", "/dev/pts/ptmx", "not a terminal multiplexer"));
    }
    terminal::unlock(&master).during("unlock", "the terminal")?;
    let slave = terminal::open_peer(&master).during("open", "the terminal")?;
    Ok((master, slave))
}

/// The line from a process that is being set up back to the shim: a terminal, a failure, or its end, which means that the
/// program was executed.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What came over a [`Channel`].
#[derive(Debug)]
pub(crate) enum News {
    /// The master of its terminal.
    Terminal(OwnedFd),
    /// It failed.
    Failed(Failure),
    /// It executed its program.
    Executed,
}

impl Channel {
    /// The shim's end and the process's.
    pub(crate) fn pair() -> Result<(Self, Self), Failure> {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map(|(left, right)| (Self(left), Self(right)))
            .during("make", "a socket pair")
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn send_terminal(&self, master: &OwnedFd) -> Result<(), Failure> {
        socket::send(&self.0, TERMINAL_MARK, &[master.as_fd()]).during("hand over", "the terminal")
    }

    /// Tells the shim; when that fails as well there is nobody left to tell.
    pub(crate) fn send_failure(&self, failure: &Failure) {
        let _ = serde_json::to_vec(failure).map(|text| socket::send(&self.0, &text, &[]));
    }

    /// Waits for the next message.
    pub(crate) fn receive(&self) -> Result<News, Failure> {
        let mut buffer = vec![0; MESSAGE_LENGTH_MAX];
        let (length, fds) = match socket::receive(&self.0, &mut buffer) {
            Err(Errno::ECONNRESET) => return Ok(News::Executed),
            outcome => outcome.during("hear from", "the process")?,
        };
        let message = &buffer[..length];
        match fds.into_iter().next() {
            _ if length == 0 => Ok(News::Executed),
            Some(master) if message == TERMINAL_MARK => Ok(News::Terminal(master)),
            _ => serde_json::from_slice(message)
                .map(News::Failed)
                .map_err(|error| Failure::found("hear from", "the process", error)),
        }
    }
}
