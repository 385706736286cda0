//! From a spawn to a container that runs: take the task, become a daemon unless nobody wants one, start, answer.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use gantry_sys::process::{Cloned, pidfd_send_signal};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::wait::waitpid;
use nix::unistd::{chdir, getpid, setsid};

use crate::channel::{Channel, News};
use crate::container::{First, own_pid_namespace};
use crate::daemon::{Container, Daemon};
use crate::failure::During;
use crate::log::{LogWriter, Stream};
use crate::namespaces::{Prepared, UserSpace};
use crate::output::Output;
use crate::plan::{AttendancePlan, LaunchPlan, NamespacePlan, Task};
use crate::process::Hold;
use crate::record::{self, EXIT_FILE, SOCKET_FILE, START_SOCKET_FILE, STATE_FILE, StateRecord, born_ticks};
use crate::stdio::{self, ChildStreams, ShimStreams};
use crate::task::{self, Given, Line};
use crate::wire::LaunchReport;
use crate::{Failure, container, groups, hooks, unattended};

/// Held by the shim of a bundle.
const LOCK_FILE: &str = "shim.lock";
/// With [`LOCK_POLL`] a second: a shim that has written its exit record ends within a millisecond.
const LOCK_TRIES_MAX: u32 = 500;
const LOCK_POLL: Duration = Duration::from_millis(2);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// The shim's life. Standard input is a socket that brings the task and takes the one answer, standard error goes to a file.
pub fn run() -> ExitCode {
    match task::take() {
        Ok(given) => attempt(given),
        Err(failure) => {
            // Nobody can be told otherwise.
            eprintln!("shim: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn attempt(given: Given) -> ExitCode {
    let Given {
        task,
        line,
        streams,
        passed,
    } = given;
    let outcome = match task {
        Task::Launch(plan) => match plan.attendance.clone() {
            Some(attendance) => return attend(&plan, &attendance, line),
            None => unattended::launch(&plan, streams, passed),
        },
        Task::Exec(plan) => unattended::exec(&plan, streams, passed),
        Task::Hooks {
            hooks,
            state,
            must_succeed: true,
        } => hooks::run_all(&hooks, &state).map(|()| LaunchReport::Done),
        Task::Hooks { hooks, state, .. } => {
            hooks::run_and_log(&hooks, &state);
            Ok(LaunchReport::Done)
        }
    };
    answer(&line, outcome)
}

fn answer(line: &Line, outcome: Result<LaunchReport, Failure>) -> ExitCode {
    match outcome {
        Ok(report) => {
            line.report(&report);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            line.report(&LaunchReport::Failed(failure));
            ExitCode::FAILURE
        }
    }
}

/// Starts the container and stays.
fn attend(plan: &LaunchPlan, attendance: &AttendancePlan, line: Line) -> ExitCode {
    // Leaves the agent's process tree and session, so that nothing meant for the agent hits the container.
    let joining = match groups::clone_into(CloneFlags::empty(), &attendance.shim_procs).during("clone", "the shim") {
        Ok((Cloned::Parent { .. }, _)) => return ExitCode::SUCCESS,
        Ok((Cloned::Child, joining)) => joining,
        Err(failure) => return answer(&line, Err(failure)),
    };
    let launched = setsid()
        .during("start", "a session")
        .and_then(|_| joining.finish())
        .and_then(|()| launch(plan, attendance));
    let mut daemon = match launched {
        Ok(daemon) => daemon,
        Err(failure) => return answer(&line, Err(failure)),
    };
    line.report(&report_of(&daemon.state));
    drop(line);
    match daemon.serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("shim: {failure}");
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn report_of(state: &StateRecord) -> LaunchReport {
    let StateRecord {
        pid,
        shim_pid,
        started_at_ms,
        ..
    } = *state;
    if state.is_held {
        LaunchReport::Created {
            pid,
            shim_pid,
            created_at_ms: started_at_ms,
        }
    } else {
        LaunchReport::Running {
            pid,
            shim_pid,
            started_at_ms,
        }
    }
}

fn launch(plan: &LaunchPlan, attendance: &AttendancePlan) -> Result<Daemon, Failure> {
    let lock = lock_bundle(plan)?;
    let signals = prepare_self()?;
    let listener = listen_in(&plan.bundle, SOCKET_FILE, SockFlag::SOCK_NONBLOCK)?;
    let log = &attendance.log;
    let log = LogWriter::open(log).during("open log", log.path.display())?;
    let own_pid_namespace = own_pid_namespace()?;
    let oom_kills_before = crate::daemon::oom_kills(&plan.cgroup);
    let (streams, shim_streams) = stdio::make(plan.process.tty, plan.process.stdin)?;
    let hold = plan.hold.then_some(Hold::Channel);
    let started = start_container(plan, streams, Vec::new(), hold)?;
    let state = record_start(plan, &started, getpid().as_raw())?;
    let (terminal, stdin, outputs) = own_streams(started.terminal, shim_streams)?;
    Ok(Daemon {
        bundle: plan.bundle.clone(),
        cgroup: plan.cgroup.clone(),
        container: Container {
            pid: started.pid,
            pidfd: started.pidfd,
            has_own_pids: plan.namespaces.pid == NamespacePlan::New,
            space: started.space,
        },
        held: started.held,
        after_start: (
            plan.hooks.poststart.clone(),
            hooks::state_of(plan, "running", state.pid),
        ),
        after_stop: (plan.hooks.poststop.clone(), hooks::state_of(plan, "stopped", 0)),
        state,
        oom_kills_before,
        own_pid_namespace,
        signals,
        listener,
        log,
        outputs,
        attached: Vec::new(),
        stdin,
        terminal,
        clients: Vec::new(),
        execs_started: 0,
        lock: Some(lock),
    })
}

/// What is known of a container once it has a process.
pub(crate) fn record_start(plan: &LaunchPlan, started: &Started, shim_pid: i32) -> Result<StateRecord, Failure> {
    let state = StateRecord {
        pid: started.pid.as_raw(),
        shim_pid,
        started_at_ms: record::wall_clock_ms(),
        born_ticks: born_ticks(started.pid.as_raw()).unwrap_or(0),
        is_held: plan.hold,
    };
    record::write(&plan.bundle, STATE_FILE, &state)?;
    Ok(state)
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

/// Signals as a descriptor, orphans as children.
fn prepare_self() -> Result<SignalFd, Failure> {
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

/// Listens on a socket of the bundle. Bound by its bare name from within the folder: a unix address holds 108 bytes, paths
/// more.
pub(crate) fn listen_in(bundle: &Path, name: &str, flags: SockFlag) -> Result<OwnedFd, Failure> {
    let shown = bundle.join(name);
    let shown = shown.display();
    chdir(bundle).during("enter", bundle.display())?;
    match fs::remove_file(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).during("remove", shown),
        _ => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | flags;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).during("make", &shown)?;
    let address = UnixAddr::new(name).during("name", &shown)?;
    bind(listener.as_raw_fd(), &address).during("bind", &shown)?;
    fs::set_permissions(name, fs::Permissions::from_mode(0o600)).during("restrict", &shown)?;
    let backlog = Backlog::new(BACKLOG).during("listen on", &shown)?;
    listen(&listener, backlog).during("listen on", &shown)?;
    chdir("/").during("enter", "/")?;
    Ok(listener)
}

/// A container that executed its program, or waits to.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: nix::unistd::Pid,
    pub(crate) pidfd: OwnedFd,
    /// The master of its terminal, unless that was given away.
    pub(crate) terminal: Option<OwnedFd>,
    /// What it waits for word over.
    pub(crate) held: Option<Channel>,
    pub(crate) space: Option<UserSpace>,
}

/// Makes the container's first process and does for it what it cannot do itself.
pub(crate) fn start_container(
    plan: &LaunchPlan,
    streams: ChildStreams,
    passed: Vec<OwnedFd>,
    hold: Option<Hold>,
) -> Result<Started, Failure> {
    let prepared = Prepared::make(&plan.namespaces)?;
    let First { pid, pidfd, channel } = container::start(plan, &prepared, streams, hold)?;
    drop(passed);
    let settled = settle(plan, pid.as_raw(), &channel);
    let (terminal, is_held) = settled.inspect_err(|_| {
        // It ends by itself right after it said so; reaped here so that nothing is left behind.
        let _ = pidfd_send_signal(&pidfd, Signal::SIGKILL as i32);
        let _ = waitpid(pid, None);
    })?;
    Ok(Started {
        pid,
        pidfd,
        terminal,
        held: is_held.then_some(channel),
        space: prepared.user,
    })
}

/// Until it waits to be started or has executed its program: its terminal, and whether it waits.
fn settle(plan: &LaunchPlan, pid: i32, channel: &Channel) -> Result<(Option<OwnedFd>, bool), Failure> {
    let mut terminal = None;
    loop {
        match channel.receive()? {
            News::Terminal(master) => match &plan.process.console_socket {
                Some(console) => stdio::give_away(&master, console)?,
                None => terminal = Some(master),
            },
            News::Hooks => {
                let state = hooks::state_of(plan, "creating", pid);
                hooks::run_all(&plan.hooks.prestart, &state)?;
                hooks::run_all(&plan.hooks.create_runtime, &state)?;
                channel.go_on()?;
            }
            News::Created => return Ok((terminal, true)),
            News::Failed(failure) => return Err(failure),
            News::Executed => {
                if !plan.hooks.poststart.is_empty() {
                    hooks::run_and_log(&plan.hooks.poststart, &hooks::state_of(plan, "running", pid));
                }
                return Ok((terminal, false));
            }
        }
    }
}

/// The terminal's master, standard input, and what is to be logged.
type OwnStreams = (Option<OwnedFd>, Option<OwnedFd>, Vec<Output>);

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

/// For a container without a shim: where it waits to be started.
pub(crate) fn start_socket(plan: &LaunchPlan) -> Result<Option<Hold>, Failure> {
    // What an earlier run left must not be taken for this one's.
    for stale in [EXIT_FILE, START_SOCKET_FILE] {
        match fs::remove_file(plan.bundle.join(stale)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).during("remove", plan.bundle.join(stale).display());
            }
            _ => {}
        }
    }
    if !plan.hold {
        return Ok(None);
    }
    listen_in(&plan.bundle, START_SOCKET_FILE, SockFlag::empty()).map(|listener| Some(Hold::Connection(listener)))
}
