//! From the agent's spawn to a container that runs: read the plan, become a daemon, start, answer.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::time::Duration;

use gantry_sys::process::{close_inherited_from, fork};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, dup2_stdin, dup2_stdout, getpid, setsid};

use crate::daemon::{Container, Daemon};
use crate::failure::During;
use crate::log::{LogWriter, Stream};
use crate::output::Output;
use crate::plan::LaunchPlan;
use crate::record::{self, SOCKET_FILE, STATE_FILE, StateRecord};
use crate::stdio::{self, Channel, News, ShimStreams};
use crate::wire::LaunchReport;
use crate::{Failure, container};

/// Held by the shim of a bundle.
const LOCK_FILE: &str = "shim.lock";
/// With [`LOCK_POLL`] a second: a shim that has written its exit record ends within a millisecond.
const LOCK_TRIES_MAX: u32 = 500;
const LOCK_POLL: Duration = Duration::from_millis(2);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// The shim's life. Standard input is the plan, standard output takes the one answer, standard error goes to a file.
pub fn run() -> ExitCode {
    let outcome = read_plan().and_then(|plan| match detach()? {
        Side::Parent => Ok(None),
        Side::Daemon => launch(&plan).map(Some),
    });
    let mut daemon = match outcome {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(daemon)) => daemon,
        Err(failure) => {
            report(&LaunchReport::Failed(failure));
            return ExitCode::FAILURE;
        }
    };
    match daemon.serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("shim: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn read_plan() -> Result<LaunchPlan, Failure> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).during("read", "the launch plan")?;
    serde_json::from_slice(&text).map_err(|error| Failure::found("read", "the launch plan", error))
}

fn report(answer: &LaunchReport) {
    if let Ok(text) = serde_json::to_vec(answer) {
        let mut output = io::stdout();
        // An agent that died meanwhile finds the state record when it comes back.
        let _ = output.write_all(&text).and_then(|()| output.flush());
    }
}

enum Side {
    Parent,
    Daemon,
}

/// Leaves the agent's process tree and session, so that nothing meant for the agent hits the container.
fn detach() -> Result<Side, Failure> {
    close_inherited_from(3).during("close", "inherited descriptors")?;
    if fork().during("fork", "the shim")?.is_some() {
        return Ok(Side::Parent);
    }
    setsid().during("start", "a session")?;
    Ok(Side::Daemon)
}

fn launch(plan: &LaunchPlan) -> Result<Daemon, Failure> {
    let lock = lock_bundle(plan)?;
    let signals = prepare_self(plan)?;
    let listener = listen_in(plan)?;
    let log = LogWriter::open(&plan.log).during("open log", plan.log.path.display())?;
    let own_pid_namespace = open("/proc/self/ns/pid", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .during("open", "the pid namespace")?;
    let oom_kills_before = crate::daemon::oom_kills(&plan.cgroup);
    let (container, streams) = start_container(plan)?;
    let state = StateRecord {
        pid: container.pid.as_raw(),
        shim_pid: getpid().as_raw(),
        started_at_ms: record::wall_clock_ms(),
    };
    record::write(&plan.bundle, STATE_FILE, &state)?;
    report(&LaunchReport::Running {
        pid: state.pid,
        shim_pid: state.shim_pid,
        started_at_ms: state.started_at_ms,
    });
    // The agent reads to the end, and nothing may come from here any more.
    let null = stdio::open_null()?;
    dup2_stdin(&null).during("close", "standard input")?;
    dup2_stdout(&null).during("close", "standard output")?;
    let (terminal, stdin, outputs) = streams;
    Ok(Daemon {
        bundle: plan.bundle.clone(),
        cgroup: plan.cgroup.clone(),
        container,
        state,
        oom_kills_before,
        own_pid_namespace,
        signals,
        listener,
        log,
        outputs,
        stdin,
        terminal,
        clients: Vec::new(),
        execs_started: 0,
        _lock: lock,
    })
}

/// Two shims must never run one container: an agent that died while it was launching may try again too early. A shim that is
/// just about to end is waited for.
fn lock_bundle(plan: &LaunchPlan) -> Result<Flock<File>, Failure> {
    let path = plan.bundle.join(LOCK_FILE);
    let shown = path.display();
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .during("open", &shown)?;
    for _ in 0..LOCK_TRIES_MAX {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EWOULDBLOCK)) => file = same,
            Err((_, errno)) => return Err(Failure::new("lock", shown, errno)),
        }
        std::thread::sleep(LOCK_POLL);
    }
    Err(Failure::found("lock", shown, "another shim runs a container here"))
}

/// A home of its own: control group, signals as a descriptor, orphans as children.
fn prepare_self(plan: &LaunchPlan) -> Result<SignalFd, Failure> {
    container::join_cgroups(&plan.cgroup.shim_procs)?;
    prctl::set_child_subreaper(true).during("become", "a subreaper")?;
    // Every other signal stays pending for ever: only SIGKILL ends the shim before the container does.
    SigSet::all().thread_block().during("block", "signals")?;
    // Needs CAP_SYS_RESOURCE; without it the shim is as likely a victim as any process of its size, which is the least likely.
    let _ = fs::write("/proc/self/oom_score_adj", "-999");
    let mut child_ended = SigSet::empty();
    child_ended.add(Signal::SIGCHLD);
    SignalFd::with_flags(&child_ended, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .during("make", "a signal descriptor")
}

/// Listens on the bundle's socket. Bound by its bare name from within the folder: a unix address holds 108 bytes, paths more.
fn listen_in(plan: &LaunchPlan) -> Result<OwnedFd, Failure> {
    let shown = plan.bundle.join(SOCKET_FILE);
    let shown = shown.display();
    chdir(&plan.bundle).during("enter", plan.bundle.display())?;
    match fs::remove_file(SOCKET_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).during("remove", shown),
        _ => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).during("make", &shown)?;
    let address = UnixAddr::new(SOCKET_FILE).during("name", &shown)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &address).during("bind", &shown)?;
    fs::set_permissions(SOCKET_FILE, fs::Permissions::from_mode(0o600)).during("restrict", &shown)?;
    let backlog = Backlog::new(BACKLOG).during("listen on", &shown)?;
    listen(&listener, backlog).during("listen on", &shown)?;
    chdir("/").during("enter", "/")?;
    Ok(listener)
}

/// The terminal's master, standard input, and what is to be logged.
type OwnStreams = (Option<OwnedFd>, Option<OwnedFd>, Vec<Output>);

fn start_container(plan: &LaunchPlan) -> Result<(Container, OwnStreams), Failure> {
    let (child_streams, shim_streams) = stdio::make(plan.process.tty, plan.process.stdin)?;
    let (own_end, child_end) = Channel::pair()?;
    let (pid, pidfd) = container::start(plan, child_streams, child_end)?;
    let mut terminal = None;
    loop {
        match own_end.receive()? {
            News::Terminal(master) => terminal = Some(master),
            News::Executed => break,
            News::Failed(failure) => {
                // It ends by itself right after that message; reaped here so that nothing is left behind.
                let _ = nix::sys::wait::waitpid(pid, None);
                return Err(failure);
            }
        }
    }
    let streams = own_streams(terminal, shim_streams)?;
    Ok((Container { pid, pidfd }, streams))
}

fn own_streams(terminal: Option<OwnedFd>, streams: ShimStreams) -> Result<OwnStreams, Failure> {
    let named = [Stream::Stdout, Stream::Stderr];
    let mut outputs = Vec::new();
    for (fd, stream) in streams.outputs.into_iter().zip(named) {
        stdio::stop_blocking(&fd)?;
        outputs.push(Output::new(fd, stream));
    }
    if let Some(master) = &terminal {
        stdio::stop_blocking(master)?;
        let copy = master
            .as_fd()
            .try_clone_to_owned()
            .during("duplicate", "the terminal")?;
        outputs.push(Output::new(copy, Stream::Stdout));
    }
    Ok((terminal, streams.stdin, outputs))
}
