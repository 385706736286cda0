//! Standard streams: pipes, or a terminal of the container's own devpts.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use gantry_sys::{mount, path, socket, terminal};
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect};
use nix::sys::stat::Mode;
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2};

use crate::Failure;
use crate::channel::Channel;
use crate::failure::During;
use crate::plan::ProcessPlan;

/// What a console socket gets along with the master, as from runc.
const CONSOLE_MESSAGE: &[u8] = b"/dev/ptmx";

/// The streams of a process before it executes its program.
#[derive(Debug)]
pub(crate) enum ChildStreams {
    /// It makes itself a terminal, once it is inside the container.
    Terminal,
    /// Standard input, output and error: pipes, or whatever was passed on with the plan.
    Open([OwnedFd; 3]),
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
    Ok((ChildStreams::Open([in_read, out_write, error_write]), shim))
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
pub(crate) fn take(
    streams: ChildStreams,
    plan: &ProcessPlan,
    channel: &Channel,
    is_console: bool,
) -> Result<(), Failure> {
    match streams {
        ChildStreams::Open([input, output, error]) => stand_in(&input, &output, &error),
        ChildStreams::Terminal => {
            let (master, slave) = open_terminal()?;
            if let Some((rows, columns)) = plan.console_size {
                terminal::resize(&master, rows, columns).during("resize", "the terminal")?;
            }
            channel.send_terminal(&master)?;
            if is_console {
                bind_console(&slave)?;
            }
            terminal::control(&slave).during("take control of", "the terminal")?;
            stand_in(&slave, &slave, &slave)
        }
    }
}

/// Gives the master of a terminal away, as an OCI runtime does with `--console-socket`.
pub(crate) fn give_away(master: &OwnedFd, console: &Path) -> Result<(), Failure> {
    let shown = console.display();
    let connection = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .during("make", "a socket")?;
    let address = UnixAddr::new(console).during("connect to console socket", &shown)?;
    connect(connection.as_raw_fd(), &address).during("connect to console socket", &shown)?;
    socket::send(&connection, CONSOLE_MESSAGE, &[master.as_fd()]).during("hand the terminal to", shown)
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
