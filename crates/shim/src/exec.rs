//! Further processes in a running container: same namespaces, same groups, and a group of their own within them, so that
//! everything one of them started can be killed together.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_sys::process::{Cloned, clone_process, exit_now};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::container::join_cgroups;
use crate::failure::During;
use crate::plan::{CgroupPlan, ProcessPlan};
use crate::stdio::{self, Channel, ChildStreams};
use crate::{Failure, process};

/// A process started by a request.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) pid: Pid,
    /// Until it has executed its program or failed to.
    pub(crate) channel: Option<Channel>,
    /// What its client gets once it runs: its terminal, or the other ends of its pipes.
    pub(crate) streams: Vec<OwnedFd>,
    group: PathBuf,
}

/// Where processes are started: the container, as descriptors.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// The container's first process.
    pub(crate) container: BorrowedFd<'a>,
    /// The shim's own pid namespace.
    pub(crate) own_pid_namespace: BorrowedFd<'a>,
    pub(crate) cgroup: &'a CgroupPlan,
    /// Distinguishes this exec's group from others.
    pub(crate) number: u64,
}

impl Exec {
    pub(crate) fn start(plan: &ProcessPlan, place: &Place<'_>) -> Result<Self, Failure> {
        let group = place.cgroup.gathering_folder.join(format!("exec-{}", place.number));
        fs::create_dir(&group).during("make control group", group.display())?;
        Self::start_in(plan, place, &group).inspect_err(|_| remove_group(&group))
    }

    fn start_in(plan: &ProcessPlan, place: &Place<'_>, group: &Path) -> Result<Self, Failure> {
        let (child_streams, shim_streams) = stdio::make(plan.tty, plan.stdin)?;
        let (own_end, child_end) = Channel::pair()?;
        // Only children enter the namespace. They are direct children of the shim, which therefore sees them end.
        setns(place.container, CloneFlags::CLONE_NEWPID).during("enter", "the container's pid namespace")?;
        let cloned = clone_process(CloneFlags::empty());
        let restored = setns(place.own_pid_namespace, CloneFlags::CLONE_NEWPID);
        let pid = match cloned.during("clone", "a process for exec")? {
            Cloned::Child => {
                drop(own_end);
                enter_and_execute(plan, place, group, child_streams, child_end)
            }
            Cloned::Parent { pid, .. } => pid,
        };
        restored.during("return to", "the node's pid namespace")?;
        let streams = shim_streams.stdin.into_iter().chain(shim_streams.outputs).collect();
        Ok(Self {
            pid,
            channel: Some(own_end),
            streams,
            group: group.to_path_buf(),
        })
    }

    /// Kills everything it started. A group of version 2 does that at once.
    pub(crate) fn kill_all(&self) -> Result<(), Failure> {
        let at_once = self.group.join("cgroup.kill");
        if at_once.exists() {
            return fs::write(&at_once, "1").during("kill", self.group.display());
        }
        self.kill_listed()
    }

    /// A killed process cannot fork any more; what one had forked just before is in the next listing.
    fn kill_listed(&self) -> Result<(), Failure> {
        let mut killed = BTreeSet::new();
        loop {
            let listed = fs::read_to_string(self.group.join("cgroup.procs")).during("list", self.group.display())?;
            let listed = listed.lines().filter_map(|line| line.parse::<i32>().ok());
            let fresh: Vec<i32> = listed.filter(|id| killed.insert(*id)).collect();
            if fresh.is_empty() {
                return Ok(());
            }
            for id in fresh {
                match kill(Pid::from_raw(id), Signal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    outcome => outcome.during("kill", id)?,
                }
            }
        }
    }

    /// What it left running in the background stays, and so does its group; the agent removes both with the container.
    pub(crate) fn clean_up(&self) {
        remove_group(&self.group);
    }
}

/// A group that still has processes stays.
fn remove_group(group: &Path) {
    let _ = fs::remove_dir(group);
}

fn enter_and_execute(
    plan: &ProcessPlan,
    place: &Place<'_>,
    group: &Path,
    streams: ChildStreams,
    channel: Channel,
) -> ! {
    match enter(place, group) {
        Ok(()) => process::execute(plan, streams, channel, process::Role::Exec),
        Err(failure) => {
            channel.send_failure(&failure);
            exit_now(failure.exit_code())
        }
    }
}

fn enter(place: &Place<'_>, group: &Path) -> Result<(), Failure> {
    // What runs inside must not trace this process while it still has the node's descriptors.
    prctl::set_dumpable(false).during("become", "undumpable")?;
    join_cgroups(&place.cgroup.procs)?;
    join_cgroups(&[group.join("cgroup.procs")])?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    setns(place.container.as_fd(), namespaces).during("enter", "the container's namespaces")
}
