//! `exec`: a further process in a container.

use gantry_runtime::plan::UnattendedExecPlan;
use gantry_runtime::{Launched, exec_unattended};

use super::{shim, write_pid_file};
use crate::OciError;
use crate::args::ExecArgs;
use crate::foreground::{self, Console};
use crate::plan::process_plan;
use crate::relay::own_size;
use crate::spec::{Capabilities, Linux, Process};
use crate::store::{Container, Status, Store};

/// Starts it and, unless detached, waits for its end.
pub(super) fn exec(store: &Store, args: &ExecArgs) -> Result<u8, OciError> {
    check(args)?;
    let container = store.load(&args.id)?;
    check_status(&container, args)?;
    let mut process = process(&container, args)?;
    if args.detach {
        start(&container, args, &process, None)?;
        return Ok(0);
    }
    process.console_size = process.console_size.or_else(own_size);
    foreground::adopt_orphans()?;
    let console = Console::new()?;
    let launched = start(&container, args, &process, Some(&console))?;
    console.attend(launched.pid)
}

fn check(args: &ExecArgs) -> Result<(), OciError> {
    if !args.cgroup.is_empty() {
        let text = "--cgroup is not supported: the process is in the container's own group";
        return Err(OciError::Usage(text.to_string()));
    }
    if args.process_label.as_deref().is_some_and(|label| !label.is_empty()) {
        return Err(OciError::Usage(
            "--process-label is not supported: there are no SELinux labels".to_string(),
        ));
    }
    if args.process.is_none() && args.command.is_empty() {
        return Err(OciError::Usage("name a command, or a --process file".to_string()));
    }
    Ok(())
}

fn check_status(container: &Container, args: &ExecArgs) -> Result<(), OciError> {
    match container.status() {
        Status::Running | Status::Created => Ok(()),
        Status::Paused if args.ignore_paused => Ok(()),
        Status::Paused => Err(OciError::WrongState {
            act: "exec in",
            status: "paused",
            remedy: ": resume it, or use --ignore-paused",
        }),
        status @ (Status::Creating | Status::Stopped) => Err(OciError::WrongState {
            act: "exec in",
            status: status.name(),
            remedy: "",
        }),
    }
}

fn start(
    container: &Container,
    args: &ExecArgs,
    process: &Process,
    console: Option<&Console>,
) -> Result<Launched, OciError> {
    let streams = foreground::streams(
        process.terminal,
        args.console_socket.as_deref(),
        console,
        args.preserve_fds,
    )?;
    let none = Linux::default();
    let linux = container.record.spec.linux.as_ref().unwrap_or(&none);
    let pid = container.pid().ok_or(OciError::NotRunning)?;
    let plan = UnattendedExecPlan {
        container_pid: i32::try_from(pid).unwrap_or(0),
        procs: container.group.join_files(),
        process: process_plan(process, linux, &streams.plan)?,
    };
    let launched = exec_unattended(&shim()?, &container.record.id, plan, streams.fds)?;
    if let Some(path) = &args.pid_file {
        write_pid_file(path, launched.pid)?;
    }
    Ok(launched)
}

/// The one of the file, or the container's own with what the options change.
fn process(container: &Container, args: &ExecArgs) -> Result<Process, OciError> {
    if let Some(path) = &args.process {
        let text = std::fs::read(path).map_err(|source| OciError::io("read", path, source))?;
        return serde_json::from_slice(&text).map_err(|source| OciError::Document {
            path: path.clone(),
            source,
        });
    }
    let mut process = container.record.spec.process.clone().unwrap_or_default();
    process.args.clone_from(&args.command);
    process.terminal = args.tty;
    process.env.extend(args.env.iter().cloned());
    process.no_new_privileges |= args.no_new_privs;
    if let Some(cwd) = &args.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some(profile) = &args.apparmor {
        process.apparmor_profile = Some(profile.clone());
    }
    if let Some(user) = &args.user {
        (process.user.uid, process.user.gid) = ids(user)?;
    }
    process.user.additional_gids.extend(&args.additional_gids);
    add_capabilities(&mut process, &args.cap);
    Ok(process)
}

fn ids(text: &str) -> Result<(u32, u32), OciError> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    let pair = uid.parse().ok().zip(gid.parse().ok());
    pair.ok_or_else(|| OciError::Usage(format!("user '{text}' is not UID or UID:GID by number")))
}

fn add_capabilities(process: &mut Process, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let sets = process.capabilities.get_or_insert_with(Capabilities::default);
    for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
        set.extend(names.iter().cloned());
    }
}
