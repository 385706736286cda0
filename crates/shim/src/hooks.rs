//! Runs hooks: one program after the other, the container's state on standard input, killed when its time is up.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use gantry_sys::process::{close_at_exec_from, exit_now, fork, pidfd_open, pidfd_send_signal, reset_signal_actions};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, execve, pipe2};

use crate::Failure;
use crate::failure::During;
use crate::plan::{HookPlan, HookState, LaunchPlan};
use crate::stdio::open_null;

/// Version of the specification that the state names.
const OCI_VERSION: &str = "1.2.0";
/// Most bytes of a failed hook's standard error that are passed on.
const COMPLAINT_LENGTH_MAX: u64 = 4096;

/// What hooks of a container are told.
pub(crate) fn state_of(plan: &LaunchPlan, status: &str, pid: i32) -> HookState {
    HookState {
        oci_version: OCI_VERSION.to_string(),
        id: plan.id.clone(),
        status: status.to_string(),
        pid: Some(pid),
        bundle: plan.hooks.bundle.clone().unwrap_or_else(|| plan.bundle.clone()),
        annotations: plan.hooks.annotations.clone(),
    }
}

/// Runs all; the first that fails ends it.
pub(crate) fn run_all(hooks: &[HookPlan], state: &HookState) -> Result<(), Failure> {
    hooks.iter().try_for_each(|hook| run(hook, state))
}

/// Runs all, whatever happens; failures go to standard error.
pub(crate) fn run_and_log(hooks: &[HookPlan], state: &HookState) {
    for hook in hooks {
        if let Err(failure) = run(hook, state) {
            eprintln!("shim: {failure}");
        }
    }
}

fn run(hook: &HookPlan, state: &HookState) -> Result<(), Failure> {
    let shown = hook.path.display();
    let text = serde_json::to_vec(state).map_err(|error| Failure::found("run hook", &shown, error))?;
    let pipe = || pipe2(OFlag::O_CLOEXEC).during("make", "a pipe");
    let ((state_read, state_write), (complaint_read, complaint_write)) = (pipe()?, pipe()?);
    // Not clone3: a hook of the container runs below its filter, which may refuse that.
    let Some(pid) = fork().during("fork", "a process for a hook")? else {
        execute(hook, &state_read, &complaint_write)
    };
    let pidfd = pidfd_open(pid).during("open process of hook", &shown)?;
    drop((state_read, complaint_write));
    // A hook need not read it; the state is far smaller than a pipe, so this cannot block.
    let _ = File::from(state_write).write_all(&text);
    let in_time = ends_within(&pidfd, hook.timeout_s)?;
    if !in_time {
        pidfd_send_signal(&pidfd, Signal::SIGKILL as i32).during("kill hook", &shown)?;
    }
    let status = waitpid(pid, None).during("wait for hook", &shown)?;
    if !in_time {
        let seconds = hook.timeout_s.unwrap_or(0);
        return Err(Failure::found(
            "run hook",
            shown,
            format!("it took longer than {seconds} s"),
        ));
    }
    match status {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Exited(_, code) => {
            let complaint = complaint_of(complaint_read);
            Err(Failure::found(
                "run hook",
                shown,
                format!("exit status {code}{complaint}"),
            ))
        }
        other => Err(Failure::found("run hook", shown, format!("{other:?}"))),
    }
}

/// What is in the pipe by now: a process that the hook left behind may hold it open for ever.
fn complaint_of(pipe: OwnedFd) -> String {
    let mut bytes = Vec::new();
    if crate::stdio::stop_blocking(&pipe).is_ok() {
        let _ = File::from(pipe).take(COMPLAINT_LENGTH_MAX).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    match text.trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

fn ends_within(pidfd: &OwnedFd, timeout_s: Option<u32>) -> Result<bool, Failure> {
    use std::os::fd::AsFd;
    let timeout = timeout_s.map_or(PollTimeout::NONE, |seconds| {
        PollTimeout::try_from(Duration::from_secs(u64::from(seconds))).unwrap_or(PollTimeout::MAX)
    });
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, timeout)
        .map(|count| count > 0)
        .during("wait for", "a hook")
}

fn execute(hook: &HookPlan, state: &OwnedFd, complaint: &OwnedFd) -> ! {
    let outcome = try_execute(hook, state, complaint);
    if let Err(failure) = outcome {
        eprintln!("{failure}");
    }
    exit_now(127)
}

fn try_execute(hook: &HookPlan, state: &OwnedFd, complaint: &OwnedFd) -> Result<(), Failure> {
    reset_signal_actions();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).during("unblock", "signals")?;
    let shown = hook.path.display();
    dup2_stdin(state).during("duplicate", "standard input")?;
    dup2_stderr(complaint).during("duplicate", "standard error")?;
    // In a container there may be no /dev/null; standard error serves as well then.
    match open_null() {
        Ok(null) => dup2_stdout(null),
        Err(_) => dup2_stdout(complaint),
    }
    .during("duplicate", "standard output")?;
    close_at_exec_from(3).during("mark", "descriptors to be closed")?;
    let text = |text: &[u8]| CString::new(text).map_err(|_| Failure::found("run hook", &shown, "it holds a NUL byte"));
    let path = text(hook.path.as_os_str().as_encoded_bytes())?;
    let mut args = hook
        .args
        .iter()
        .map(|argument| text(argument.as_bytes()))
        .collect::<Result<Vec<_>, _>>()?;
    if args.is_empty() {
        args.push(path.clone());
    }
    let env = hook
        .env
        .iter()
        .map(|variable| text(variable.as_bytes()))
        .collect::<Result<Vec<_>, _>>()?;
    execve(&path, &args, &env).map(drop).during("exec", shown)
}
