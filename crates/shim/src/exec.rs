//! Further processes in a running container: same namespaces, same groups, and a group of their own within them, so that
//! everything one of them started can be killed together.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_sys::process::{Cloned, exit_now};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::channel::Channel;
use crate::failure::During;
use crate::groups::Joining;
use crate::namespaces::UserSpace;
use crate::plan::{CgroupPlan, ProcessPlan};
use crate::process::{Role, Setup};
use crate::stdio::{self, ChildStreams};
use crate::{Failure, groups, process};

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
    pub(crate) space: Option<&'a UserSpace>,
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
        // Its own group of version 2 is below the container's, which it need not pass through; in version 1 it is the freezer's.
        let own = groups::join_file(group);
        let (is_unified, of_container) = (own.ends_with("cgroup.procs"), &place.cgroup.procs);
        let joined = of_container
            .iter()
            .filter(|file| !is_unified || !file.ends_with("cgroup.procs"));
        let joined: Vec<PathBuf> = joined.cloned().chain([own]).collect();
        let cloned = groups::clone_into(CloneFlags::empty(), &joined);
        let restored = setns(place.own_pid_namespace, CloneFlags::CLONE_NEWPID);
        let pid = match cloned.during("clone", "a process for exec")? {
            (Cloned::Child, joining) => {
                drop(own_end);
                enter_and_execute(plan, place, joining, child_streams, child_end)
            }
            (Cloned::Parent { pid, .. }, _) => pid,
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

    /// Kills everything it started.
    pub(crate) fn kill_all(&self) -> Result<(), Failure> {
        kill_group(&self.group)
    }

    /// What it left running in the background stays, and so does its group; the agent removes both with the container.
    pub(crate) fn clean_up(&self) {
        remove_group(&self.group);
    }
}

/// Kills every process of a group and of those below. A group of version 2 does that at once.
pub(crate) fn kill_group(group: &Path) -> Result<(), Failure> {
    let at_once = group.join("cgroup.kill");
    if at_once.exists() {
        return fs::write(&at_once, "1").during("kill", group.display());
    }
    for below in fs::read_dir(group).during("list", group.display())?.flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            kill_group(&below.path())?;
        }
    }
    kill_listed(group)
}

/// A killed process cannot fork any more; what one had forked just before is in the next listing.
fn kill_listed(group: &Path) -> Result<(), Failure> {
    let mut killed = BTreeSet::new();
    loop {
        let listed = fs::read_to_string(group.join("cgroup.procs")).during("list", group.display())?;
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

/// A group that still has processes stays.
fn remove_group(group: &Path) {
    let _ = fs::remove_dir(group);
}

fn enter_and_execute(
    plan: &ProcessPlan,
    place: &Place<'_>,
    joining: Joining,
    streams: ChildStreams,
    channel: Channel,
) -> ! {
    match enter(place, joining) {
        Ok(()) => process::execute(Setup {
            plan,
            role: Role::Exec,
            streams,
            channel,
            space: place.space,
            is_attended: true,
            hold: None,
            hooks: None,
        }),
        Err(failure) => {
            channel.send_failure(&failure);
            exit_now(failure.exit_code())
        }
    }
}

fn enter(place: &Place<'_>, joining: Joining) -> Result<(), Failure> {
    // What runs inside must not trace this process while it still has the node's descriptors.
    prctl::set_dumpable(false).during("become", "undumpable")?;
    joining.finish()?;
    join_container(place.container, place.space)
}

/// All namespaces but for those of processes, which only children enter, and of users, which comes last.
pub(crate) fn join_container(container: BorrowedFd<'_>, space: Option<&UserSpace>) -> Result<(), Failure> {
    let mut namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    if Path::new("/proc/self/ns/time").exists() {
        namespaces |= CloneFlags::from_bits_retain(nix::libc::CLONE_NEWTIME);
    }
    setns(container, namespaces).during("enter", "the container's namespaces")?;
    space.map_or(Ok(()), UserSpace::own_new_files)
}
