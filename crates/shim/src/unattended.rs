//! Containers and processes without a shim beside them: their parent is whoever reaps the orphans of their launcher, which
//! knows their exit status first hand. So do the shims of containerd and Podman call an OCI runtime.

use std::os::fd::{AsFd, OwnedFd};

use gantry_sys::process::{Cloned, exit_now, pidfd_open, pidfd_send_signal};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::channel::{Channel, News};
use crate::exec::join_container;
use crate::failure::During;
use crate::groups::Joining;
use crate::launch::{record_start, report_of, start_container, start_socket};
use crate::namespaces::{self, UserSpace};
use crate::plan::{LaunchPlan, ProcessPlan, UnattendedExecPlan};
use crate::process::{self, Role, Setup};
use crate::stdio::{self, ChildStreams};
use crate::wire::LaunchReport;
use crate::{Failure, groups, record};

/// Creates or starts a container, and leaves it.
pub(crate) fn launch(
    plan: &LaunchPlan,
    streams: Option<ChildStreams>,
    passed: Vec<OwnedFd>,
) -> Result<LaunchReport, Failure> {
    block_signals()?;
    let streams = streams_of(&plan.process, streams)?;
    let hold = start_socket(plan)?;
    let started = start_container(plan, streams, passed, hold)?;
    let state = record_start(plan, &started, 0)?;
    Ok(report_of(&state))
}

/// Starts a process in a container that runs, and leaves it.
pub(crate) fn exec(
    plan: &UnattendedExecPlan,
    streams: Option<ChildStreams>,
    passed: Vec<OwnedFd>,
) -> Result<LaunchReport, Failure> {
    block_signals()?;
    let streams = streams_of(&plan.process, streams)?;
    let what = || format!("process {}", plan.container_pid);
    let container = pidfd_open(Pid::from_raw(plan.container_pid)).during("open", what())?;
    let space = UserSpace::of_process(plan.container_pid)?;
    let (own_end, child_end) = Channel::pair()?;
    let pids = namespaces::open_namespace(format!("/proc/{}/ns/pid", plan.container_pid).as_ref())?;
    setns(&pids, CloneFlags::CLONE_NEWPID).during("enter", "the container's pid namespace")?;
    let (pid, pidfd) =
        match groups::clone_into(CloneFlags::empty(), &plan.procs).during("clone", "a process for exec")? {
            (Cloned::Parent { pid, pidfd }, _) => (pid, pidfd),
            (Cloned::Child, joining) => {
                drop(own_end);
                enter_and_execute(plan, (&container, space.as_ref()), joining, streams, child_end)
            }
        };
    drop((passed, streams));
    drop(child_end);
    let settled = settle(&plan.process, &own_end);
    settled.inspect_err(|_| {
        let _ = pidfd_send_signal(&pidfd, Signal::SIGKILL as i32);
        let _ = waitpid(pid, None);
    })?;
    Ok(LaunchReport::Running {
        pid: pid.as_raw(),
        shim_pid: 0,
        started_at_ms: record::wall_clock_ms(),
    })
}

/// Until the program is executed nothing may end this process half-way.
fn block_signals() -> Result<(), Failure> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).during("block", "signals")
}

/// What was passed along, or a terminal, or nothing.
fn streams_of(plan: &ProcessPlan, streams: Option<ChildStreams>) -> Result<ChildStreams, Failure> {
    match streams {
        _ if plan.tty => Ok(ChildStreams::Terminal),
        Some(streams) => Ok(streams),
        None => Ok(ChildStreams::Open([
            stdio::open_null()?,
            stdio::open_null()?,
            stdio::open_null()?,
        ])),
    }
}

fn enter_and_execute(
    plan: &UnattendedExecPlan,
    (container, space): (&OwnedFd, Option<&UserSpace>),
    joining: Joining,
    streams: ChildStreams,
    channel: Channel,
) -> ! {
    let entered = prctl::set_dumpable(false)
        .during("become", "undumpable")
        .and_then(|()| joining.finish())
        .and_then(|()| join_container(container.as_fd(), space));
    match entered {
        Ok(()) => process::execute(Setup {
            plan: &plan.process,
            role: Role::Exec,
            streams,
            channel,
            space,
            is_attended: false,
            hold: None,
            hooks: None,
        }),
        Err(failure) => {
            channel.send_failure(&failure);
            exit_now(failure.exit_code())
        }
    }
}

fn settle(plan: &ProcessPlan, channel: &Channel) -> Result<(), Failure> {
    loop {
        match channel.receive()? {
            News::Terminal(master) => match &plan.console_socket {
                Some(console) => stdio::give_away(&master, console)?,
                None => {
                    return Err(Failure::found(
                        "start",
                        "a terminal",
                        "there is no console socket to give it to",
                    ));
                }
            },
            News::Failed(failure) => return Err(failure),
            News::Executed => return Ok(()),
            News::Hooks | News::Created => {}
        }
    }
}
