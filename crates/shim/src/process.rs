//! The last steps of any process of a container, first or exec'd: streams, environment, identity, program.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use gantry_sys::process::{close_at_exec_from, exit_now, reset_signal_actions};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, execve, getcwd, setsid};

use crate::Failure;
use crate::failure::During;
use crate::identity;
use crate::plan::ProcessPlan;
use crate::stdio::{Channel, ChildStreams, take};
use crate::users::Identity;

/// Where programs are looked for when the image does not say, as in Docker.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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

/// Executes the plan's program, or tells the shim why not. Must run inside the container's namespaces and root.
pub(crate) fn execute(plan: &ProcessPlan, streams: ChildStreams, channel: Channel, role: Role) -> ! {
    let Err(failure) = try_execute(plan, streams, &channel, role);
    channel.send_failure(&failure);
    exit_now(failure.exit_code())
}

fn try_execute(
    plan: &ProcessPlan,
    streams: ChildStreams,
    channel: &Channel,
    role: Role,
) -> Result<std::convert::Infallible, Failure> {
    setsid().during("start", "a session")?;
    take(streams, channel, role != Role::Exec)?;
    let identity = identity::look_up(plan)?;
    identity::hand_over_streams(&identity);
    identity::limit(plan)?;
    enter_folder(&plan.cwd)?;
    reset_signals()?;
    umask(Mode::from_bits_truncate(0o022));
    // Without a filter there is none to get past here; with one, close_range is on its list.
    close_at_exec_from(3).during("mark", "descriptors to be closed")?;
    identity::assume(plan, &identity)?;
    if role == Role::First {
        // A change of user clears it, so it comes after. Without the shim nobody would read output or exit status.
        prctl::set_pdeathsig(Signal::SIGKILL).during("tie", "the process to its shim")?;
    }
    run(plan, &identity)
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

fn run(plan: &ProcessPlan, identity: &Identity) -> Result<std::convert::Infallible, Failure> {
    let program = plan
        .args
        .first()
        .ok_or_else(|| Failure::found("exec", "", "no command: neither the image nor the spec has one"))?;
    let environment = environment(plan, identity);
    let c_string = |text: &String| {
        CString::new(text.as_str())
            .map_err(|_| Failure::found("exec", program, "an argument or variable holds a NUL byte"))
    };
    let args = plan.args.iter().map(c_string).collect::<Result<Vec<_>, _>>()?;
    let variables = environment.iter().map(c_string).collect::<Result<Vec<_>, _>>()?;
    let mut refused = Errno::ENOENT;
    for candidate in candidates(program, &environment) {
        let path = CString::new(candidate.into_os_string().into_encoded_bytes());
        let Err(errno) = execve(
            &path.map_err(|_| Failure::new("exec", program, Errno::EINVAL))?,
            &args,
            &variables,
        );
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => refused = errno,
            _ => return Err(Failure::new("exec", program, errno)),
        }
    }
    let searched = !program.contains('/');
    Err(match refused {
        Errno::ENOENT if searched => Failure {
            reason: "not found in PATH".to_string(),
            ..Failure::new("exec", program, Errno::ENOENT)
        },
        errno => Failure::new("exec", program, errno),
    })
}

/// The paths that a program may mean, as `execvp(3)` tries them.
fn candidates(program: &str, environment: &[String]) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![PathBuf::from(program)];
    }
    let path = environment.iter().find_map(|variable| variable.strip_prefix("PATH="));
    path.unwrap_or(PATH_DEFAULT)
        .split(':')
        .map(|folder| Path::new(if folder.is_empty() { "." } else { folder }).join(program))
        .collect()
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
    let host_name = nix::unistd::gethostname().unwrap_or_default();
    add_missing("PATH", PATH_DEFAULT);
    add_missing("HOSTNAME", &host_name.to_string_lossy());
    add_missing("TERM", if plan.tty { "xterm" } else { "" });
    add_missing("HOME", &identity.home);
    variables
}
