//! The last steps of any process of a container, first or exec'd: streams, environment, identity, program.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_sys::process::{close_at_exec_from, exit_now, reset_signal_actions};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, getcwd, setsid};

use crate::channel::Channel;
use crate::failure::During;
use crate::namespaces::UserSpace;
use crate::plan::{HookPlan, HookState, ProcessPlan};
use crate::stdio::{ChildStreams, take};
use crate::users::Identity;
use crate::{Failure, hooks, identity, program};

/// Where programs are looked for when the image does not say, as in Docker.
pub(crate) const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Mode bits that new files do not get when the plan does not say.
const UMASK_DEFAULT: u32 = 0o022;
/// CAP_SYS_ADMIN.
const MAY_MOUNT: u64 = 1 << 21;

/// Which of the container's processes this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Process 1: it ends with the shim, and everything else with it.
    First,
    /// The user's first, below a process 1 of ours.
    BelowInit,
    /// A later one.
    Exec,
}

/// A process that is to execute its program.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) plan: &'a ProcessPlan,
    pub(crate) role: Role,
    pub(crate) streams: ChildStreams,
    pub(crate) channel: Channel,
    /// The user namespace to enter.
    pub(crate) space: Option<&'a UserSpace>,
    /// It ends when whoever set it up ends.
    pub(crate) is_attended: bool,
    /// It waits before it executes its program.
    pub(crate) hold: Option<Hold>,
    /// Hooks to run last of all, and what they are told.
    pub(crate) hooks: Option<(&'a [HookPlan], HookState)>,
}

/// What a process waits for before it executes its program.
#[derive(Debug)]
pub(crate) enum Hold {
    /// Word over its channel.
    Channel,
    /// A connection, which is its channel from then on.
    Connection(OwnedFd),
}

/// Executes the plan's program, or tells the shim why not. Must run inside the container's namespaces and root.
pub(crate) fn execute(setup: Setup<'_>) -> ! {
    let Setup {
        plan,
        role,
        streams,
        mut channel,
        space,
        is_attended,
        hold,
        hooks,
    } = setup;
    let outcome = get_ready(plan, role, streams, &channel, space)
        .and_then(|identity| wait_for_start(hold, plan, &identity, &mut channel).map(|()| identity))
        .and_then(|identity| {
            identity::assume(plan, &identity)?;
            if let Some((hooks, state)) = &hooks {
                hooks::run_all(hooks, state)?;
            }
            if is_attended && role == Role::First {
                // A change of user clears it, so it comes after. Without the shim nobody would read output or exit status.
                prctl::set_pdeathsig(Signal::SIGKILL).during("tie", "the process to its shim")?;
            }
            run(plan, &identity)
        });
    let Err(failure) = outcome;
    channel.send_failure(&failure);
    exit_now(failure.exit_code())
}

fn get_ready(
    plan: &ProcessPlan,
    role: Role,
    streams: ChildStreams,
    channel: &Channel,
    space: Option<&UserSpace>,
) -> Result<Identity, Failure> {
    setsid().during("start", "a session")?;
    take(streams, plan, channel, role != Role::Exec)?;
    let identity = identity::look_up(plan)?;
    identity::hand_over_streams(&identity, space)?;
    identity::limit(plan)?;
    identity::confine(plan)?;
    enter_folder(&plan.cwd)?;
    reset_signals()?;
    umask(Mode::from_bits_truncate(plan.umask.unwrap_or(UMASK_DEFAULT)));
    // Without a filter there is none to get past here; with one, close_range is on its list.
    close_at_exec_from(3 + plan.passed_fds).during("mark", "descriptors to be closed")?;
    if let Some(space) = space {
        // A later process joins the namespace that the first one has made.
        space.enter(role != Role::Exec && plan.capabilities.bounding & MAY_MOUNT != 0)?;
    }
    Ok(identity)
}

/// A program that cannot be executed is found now, while its creator still listens.
fn wait_for_start(
    hold: Option<Hold>,
    plan: &ProcessPlan,
    identity: &Identity,
    channel: &mut Channel,
) -> Result<(), Failure> {
    let Some(hold) = hold else { return Ok(()) };
    program::find(plan, &environment(plan, identity))?;
    channel.send_created()?;
    match hold {
        Hold::Channel => channel.wait(),
        Hold::Connection(listener) => {
            let connection = gantry_sys::socket::accept_blocking(&listener).during("wait for", "the start")?;
            *channel = Channel::over(connection);
            channel.wait()
        }
    }
}

fn reset_signals() -> Result<(), Failure> {
    reset_signal_actions();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).during("unblock", "signals")
}

/// Enters the working folder, making it when missing, as Docker does.
fn enter_folder(cwd: &Path) -> Result<(), Failure> {
    let cwd = if cwd.as_os_str().is_empty() {
        Path::new("/")
    } else {
        cwd
    };
    let shown = cwd.display();
    match chdir(cwd) {
        Err(Errno::ENOENT) => {
            std::fs::create_dir_all(cwd).during("make working folder", &shown)?;
            chdir(cwd).during("enter working folder", &shown)?;
        }
        outcome => outcome.during("enter working folder", &shown)?,
    }
    // A folder outside the root has no path inside it: a descriptor of the node must not be a way out.
    getcwd().map(drop).during("stay inside the root in", shown)
}

fn run(plan: &ProcessPlan, identity: &Identity) -> Result<Infallible, Failure> {
    let environment = environment(plan, identity);
    let program = plan.args.first().map_or("", String::as_str);
    let c_string = |text: &String| {
        CString::new(text.as_str())
            .map_err(|_| Failure::found("exec", program, "an argument or variable holds a NUL byte"))
    };
    let args = plan.args.iter().map(c_string).collect::<Result<Vec<_>, _>>()?;
    let variables = environment.iter().map(c_string).collect::<Result<Vec<_>, _>>()?;
    program::execute(plan, &args, &variables, &environment)
}

/// The plan's variables, then those that every process has unless the plan says otherwise.
fn environment(plan: &ProcessPlan, identity: &Identity) -> Vec<String> {
    let mut variables = plan.env.clone();
    let mut add_missing = |name: &str, value: &str| {
        let is_set = variables
            .iter()
            .any(|variable| variable.split('=').next() == Some(name));
        if !is_set && !value.is_empty() {
            variables.push(format!("{name}={value}"));
        }
    };
    if plan.usual_env {
        let host_name = nix::unistd::gethostname().unwrap_or_default();
        add_missing("PATH", PATH_DEFAULT);
        add_missing("HOSTNAME", &host_name.to_string_lossy());
        add_missing("TERM", if plan.tty { "xterm" } else { "" });
    }
    add_missing("HOME", &identity.home);
    variables
}
