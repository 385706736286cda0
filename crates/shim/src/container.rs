//! The container's first process, from clone to exec: a list of steps in the only order that works.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use gantry_sys::process::{Cloned, clone_process, exit_now};
use gantry_sys::{loopback, path};
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, sethostname};

use crate::failure::During;
use crate::plan::{LaunchPlan, NetworkPlan};
use crate::stdio::{Channel, ChildStreams};
use crate::{Failure, devices, filesystem, mounts, process, reaper};

/// Clones the container's first process. It runs through [`become_container`] and reports over the channel.
pub(crate) fn start(plan: &LaunchPlan, streams: ChildStreams, channel: Channel) -> Result<(Pid, OwnedFd), Failure> {
    let mut flags =
        CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    if plan.network == NetworkPlan::Empty {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    match clone_process(flags).during("clone", "the container's first process")? {
        Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Cloned::Child => become_container(plan, streams, channel),
    }
}

fn become_container(plan: &LaunchPlan, streams: ChildStreams, channel: Channel) -> ! {
    if let Err(failure) = prepare(plan) {
        channel.send_failure(&failure);
        exit_now(failure.exit_code());
    }
    if plan.init {
        reaper::fork_user_process(&plan.process, streams, channel)
    } else {
        process::execute(&plan.process, streams, channel, process::Role::First)
    }
}

fn prepare(plan: &LaunchPlan) -> Result<(), Failure> {
    // What runs inside must not trace this process nor reach its descriptors while it still has the node's.
    prctl::set_dumpable(false).during("become", "undumpable")?;
    umask(Mode::empty());
    join_cgroups(&plan.cgroup.procs)?;
    // After joining, so that the container's own group is the root of what it sees.
    unshare(CloneFlags::CLONE_NEWCGROUP).during("unshare", "the cgroup namespace")?;
    join_network(&plan.network)?;
    sethostname(&plan.hostname).during("set host name", &plan.hostname)?;
    let sources = mounts::clone_sources(&plan.mounts)?;
    filesystem::stop_propagation()?;
    let files = filesystem::stage_files(&plan.files, &plan.root.mount_point)?;
    let root = filesystem::mount_root(&plan.root)?;
    mounts::attach_all(&root, &plan.mounts, sources)?;
    devices::make_all(&root, &plan.devices)?;
    filesystem::attach_files(&root, &plan.files, files)?;
    set_kernel_parameters(plan, &root)?;
    filesystem::restrict_paths(&root, plan)?;
    filesystem::enter_root(&root, plan.root.read_only)
}

/// Writing 0 moves the writer, whatever its id is in which namespace.
pub(crate) fn join_cgroups(files: &[std::path::PathBuf]) -> Result<(), Failure> {
    files
        .iter()
        .try_for_each(|file| std::fs::write(file, "0").during("join", file.display()))
}

fn join_network(network: &NetworkPlan) -> Result<(), Failure> {
    match network {
        NetworkPlan::Host => Ok(()),
        NetworkPlan::Empty => loopback::bring_up().during("bring up", "lo"),
        NetworkPlan::Path(file) => {
            let shown = file.display();
            let namespace = open(file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .during("open network namespace", &shown)?;
            setns(&namespace, CloneFlags::CLONE_NEWNET).during("join network namespace", shown)
        }
    }
}

fn set_kernel_parameters(plan: &LaunchPlan, root: impl AsFd) -> Result<(), Failure> {
    let write = |name: &str, value: &str| {
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        let opened =
            path::open_in_root(&root, &file, OFlag::O_WRONLY, Mode::empty()).during("set kernel parameter", name)?;
        let what = format!("{name} to '{value}'");
        nix::unistd::write(&opened, value.as_bytes())
            .map(drop)
            .during("set kernel parameter", what)
    };
    if !plan.domain_name.is_empty() {
        write("kernel.domainname", &plan.domain_name)?;
    }
    plan.sysctls.iter().try_for_each(|(name, value)| write(name, value))
}
