//! The container's first process, from clone to exec: a list of steps in the only order that works.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use gantry_sys::path;
use gantry_sys::process::{Cloned, exit_now, set_domain_name};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, getpid, sethostname};

use crate::channel::Channel;
use crate::failure::During;
use crate::groups::Joining;
use crate::namespaces::{self, Prepared};
use crate::plan::{LaunchPlan, NamespacePlan};
use crate::process::{Hold, Role, Setup};
use crate::stdio::ChildStreams;
use crate::{Failure, devices, filesystem, groups, hooks, mounts, process, reaper};

/// The container's first process, as whoever set it up sees it.
#[derive(Debug)]
pub(crate) struct First {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    /// The line to it.
    pub(crate) channel: Channel,
}

/// Clones the container's first process. It runs through [`become_container`] and reports over the channel.
pub(crate) fn start(
    plan: &LaunchPlan,
    prepared: &Prepared,
    streams: ChildStreams,
    hold: Option<Hold>,
) -> Result<First, Failure> {
    let (channel, child_end) = Channel::pair()?;
    let foreign = match &plan.namespaces.pid {
        NamespacePlan::Path(path) => Some((namespaces::open_namespace(path)?, own_pid_namespace()?)),
        NamespacePlan::Host | NamespacePlan::New => None,
    };
    if let Some((foreign, _)) = &foreign {
        // Only children enter it.
        setns(foreign, CloneFlags::CLONE_NEWPID).during("join", "the pid namespace")?;
    }
    let cloned = groups::clone_into(namespaces::clone_flags(&plan.namespaces), &plan.cgroup.procs);
    let started = match cloned.during("clone", "the container's first process")? {
        (Cloned::Parent { pid, pidfd }, _) => First { pid, pidfd, channel },
        (Cloned::Child, joining) => {
            // Only the shim keeps this end open: the line ends when the shim does.
            drop(channel);
            become_container(plan, prepared, joining, streams, child_end, hold)
        }
    };
    if let Some((_, own)) = &foreign {
        setns(own, CloneFlags::CLONE_NEWPID).during("return to", "the node's pid namespace")?;
    }
    Ok(started)
}

/// The shim's own.
pub(crate) fn own_pid_namespace() -> Result<OwnedFd, Failure> {
    namespaces::open_namespace(Path::new("/proc/self/ns/pid"))
}

fn become_container(
    plan: &LaunchPlan,
    prepared: &Prepared,
    joining: Joining,
    streams: ChildStreams,
    channel: Channel,
    hold: Option<Hold>,
) -> ! {
    if let Err(failure) = prepare(plan, prepared, joining, &channel) {
        channel.send_failure(&failure);
        exit_now(failure.exit_code());
    }
    let last = &plan.hooks.start_container;
    let setup = Setup {
        plan: &plan.process,
        role: Role::First,
        streams,
        channel,
        space: prepared.user.as_ref(),
        is_attended: plan.attendance.is_some(),
        hold,
        hooks: (!last.is_empty()).then(|| (last.as_slice(), hooks::state_of(plan, "created", getpid().as_raw()))),
    };
    if plan.init {
        reaper::fork_user_process(setup)
    } else {
        process::execute(setup)
    }
}

fn prepare(plan: &LaunchPlan, prepared: &Prepared, joining: Joining, channel: &Channel) -> Result<(), Failure> {
    // What runs inside must not trace this process nor reach its descriptors while it still has the node's.
    prctl::set_dumpable(false).during("become", "undumpable")?;
    umask(Mode::empty());
    joining.finish()?;
    namespaces::join(&plan.namespaces, prepared.holder.as_ref())?;
    set_names(plan)?;
    let space = prepared.user.as_ref();
    let sources = mounts::clone_sources(&plan.mounts, space)?;
    filesystem::stop_propagation()?;
    let files = filesystem::stage_files(&plan.files, &plan.root.mount_point, space)?;
    if let Some(space) = space {
        space.own_new_files()?;
    }
    let root = filesystem::mount_root(&plan.root, space)?;
    mounts::attach_all(&root, &plan.mounts, sources, space)?;
    devices::make_all(&root, plan, space)?;
    filesystem::attach_files(&root, &plan.files, files)?;
    if plan.hooks.has_runtime_hooks() {
        channel.ask_for_hooks()?;
    }
    let state = hooks::state_of(plan, "creating", getpid().as_raw());
    hooks::run_all(&plan.hooks.create_container, &state)?;
    set_kernel_parameters(plan, &root)?;
    filesystem::restrict_paths(&root, plan)?;
    filesystem::enter_root(&root, &plan.root)
}

fn set_names(plan: &LaunchPlan) -> Result<(), Failure> {
    if let Some(name) = &plan.hostname {
        sethostname(name).during("set host name", name)?;
    }
    if let Some(name) = &plan.domain_name {
        set_domain_name(name).during("set domain name", name)?;
    }
    Ok(())
}

fn set_kernel_parameters(plan: &LaunchPlan, root: impl AsFd) -> Result<(), Failure> {
    plan.sysctls.iter().try_for_each(|(name, value)| {
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        let opened =
            path::open_in_root(&root, &file, OFlag::O_WRONLY, Mode::empty()).during("set kernel parameter", name)?;
        let what = format!("{name} to '{value}'");
        nix::unistd::write(&opened, value.as_bytes())
            .map(drop)
            .during("set kernel parameter", what)
    })
}
