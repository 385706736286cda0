//! Making and joining namespaces.
//!
//! A user namespace of its own is made by a process that does nothing else: the container's first process stays privileged
//! until everything is mounted, and enters the namespace last. The namespaces that it should own are made together with it.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use gantry_sys::capability::keep_over_change_of_user;
use gantry_sys::process::{Cloned, clone_process, pidfd_send_signal};
use gantry_sys::{Errno, loopback};
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, pause, setfsgid, setfsuid};

use crate::Failure;
use crate::failure::During;
use crate::plan::{IdRanges, NamespacePlan, NamespacesPlan, UserNamespacePlan};

/// A user namespace that is not the node's.
#[derive(Debug)]
pub(crate) struct UserSpace {
    pub(crate) namespace: OwnedFd,
    pub(crate) ranges: IdRanges,
}

impl UserSpace {
    /// Of a process; none when it is in this process's own.
    pub(crate) fn of_process(pid: i32) -> Result<Option<Self>, Failure> {
        let own = fs::read_link("/proc/self/ns/user").during("examine", "the user namespace")?;
        let path = format!("/proc/{pid}/ns/user");
        if fs::read_link(&path).during("examine", &path)? == own {
            return Ok(None);
        }
        let ranges = |name: &str| -> Result<Vec<crate::plan::IdRange>, Failure> {
            let path = format!("/proc/{pid}/{name}");
            let text = fs::read_to_string(&path).during("read", &path)?;
            Ok(text.lines().filter_map(parse_range).collect())
        };
        Ok(Some(Self {
            namespace: open_namespace(Path::new(&path))?,
            ranges: IdRanges {
                uids: ranges("uid_map")?,
                gids: ranges("gid_map")?,
            },
        }))
    }

    /// From now on, files that this process makes belong to root of the namespace, while it keeps its privileges over all
    /// others. The node's own ids have no place in a mapped mount.
    pub(crate) fn own_new_files(&self) -> Result<(), Failure> {
        let (uid, gid) = (self.uid(0)?, self.gid(0)?);
        keep_over_change_of_user().during("keep", "capabilities")?;
        setfsgid(Gid::from_raw(gid));
        setfsuid(Uid::from_raw(uid));
        // It tells only what it was before: asked again, it must be what was wanted.
        if setfsuid(Uid::from_raw(uid)) == Uid::from_raw(uid) {
            Ok(())
        } else {
            Err(Failure::new("own files as", uid, Errno::EPERM))
        }
    }

    pub(crate) fn uid(&self, inside: u32) -> Result<u32, Failure> {
        let missing = || {
            Failure::found(
                "map",
                format!("user {inside}"),
                "the container's user namespace does not have it",
            )
        };
        self.ranges.uid_outside(inside).ok_or_else(missing)
    }

    pub(crate) fn gid(&self, inside: u32) -> Result<u32, Failure> {
        let missing = || {
            Failure::found(
                "map",
                format!("group {inside}"),
                "the container's user namespace does not have it",
            )
        };
        self.ranges.gid_outside(inside).ok_or_else(missing)
    }

    /// All capabilities in it, none outside. With `mounts`, also a mount namespace that belongs to it, which a container that
    /// may mount needs; the mounts made before stay as they are and cannot be taken apart.
    pub(crate) fn enter(&self, mounts: bool) -> Result<(), Failure> {
        setns(&self.namespace, CloneFlags::CLONE_NEWUSER).during("enter", "the user namespace")?;
        if mounts {
            unshare(CloneFlags::CLONE_NEWNS).during("unshare", "the mount namespace")?;
        }
        Ok(())
    }
}

fn parse_range(line: &str) -> Option<crate::plan::IdRange> {
    let mut numbers = line.split_whitespace().map(str::parse::<u32>);
    Some(crate::plan::IdRange {
        inside: numbers.next()?.ok()?,
        outside: numbers.next()?.ok()?,
        count: numbers.next()?.ok()?,
    })
}

/// Keeps namespaces alive until somebody has joined them; gone with the value.
#[derive(Debug)]
pub(crate) struct Holder {
    pid: Pid,
    pidfd: OwnedFd,
    flags: CloneFlags,
}

impl Holder {
    fn start(flags: CloneFlags) -> Result<Self, Failure> {
        match clone_process(flags).during("clone", "a process for namespaces")? {
            Cloned::Child => {
                // Killed by the parent, or with it.
                let _ = prctl::set_pdeathsig(Signal::SIGKILL);
                loop {
                    pause();
                }
            }
            Cloned::Parent { pid, pidfd } => Ok(Self { pid, pidfd, flags }),
        }
    }

    fn map(&self, ranges: &IdRanges) -> Result<(), Failure> {
        for (file, ranges) in [("uid_map", &ranges.uids), ("gid_map", &ranges.gids)] {
            let path = format!("/proc/{}/{file}", self.listed_pid()?);
            // One write: the kernel takes a map only once.
            let text: String = ranges.iter().map(|range| range.line()).collect();
            fs::write(&path, text).during("write", &path)?;
        }
        Ok(())
    }

    /// Its id in the pid namespace that `/proc` lists, which a first process that is about to become a container's still sees
    /// the node's of, while [`Self::pid`] is an id of its own.
    fn listed_pid(&self) -> Result<i32, Failure> {
        let path = format!("/proc/self/fdinfo/{}", self.pidfd.as_raw_fd());
        let text = fs::read_to_string(&path).during("read", &path)?;
        let pid = text
            .lines()
            .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
        pid.ok_or_else(|| Failure::found("read", path, "it names no process"))
    }

    fn user_namespace(&self) -> Result<OwnedFd, Failure> {
        open_namespace(Path::new(&format!("/proc/{}/ns/user", self.listed_pid()?)))
    }

    /// Joins what it was started with, but for the user namespace.
    pub(crate) fn join(&self) -> Result<(), Failure> {
        let flags = self.flags - CloneFlags::CLONE_NEWUSER;
        if flags.is_empty() {
            return Ok(());
        }
        setns(&self.pidfd, flags).during("join", "the container's namespaces")
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It cannot fail to die; a copy of this value in another process must not wait for what is not its child.
        let _ = pidfd_send_signal(&self.pidfd, Signal::SIGKILL as i32);
        let _ = waitpid(self.pid, None);
    }
}

/// The namespaces that are made before the container's first process.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    pub(crate) user: Option<UserSpace>,
    pub(crate) holder: Option<Holder>,
}

impl Prepared {
    /// Makes or opens the user namespace and what it owns.
    pub(crate) fn make(plan: &NamespacesPlan) -> Result<Self, Failure> {
        match &plan.user {
            UserNamespacePlan::Host => Ok(Self::default()),
            UserNamespacePlan::Path { path, ranges } => Ok(Self {
                user: Some(UserSpace {
                    namespace: open_namespace(path)?,
                    ranges: ranges.clone(),
                }),
                holder: None,
            }),
            UserNamespacePlan::New(ranges) => {
                let holder = Holder::start(CloneFlags::CLONE_NEWUSER | new_in_user_namespace(plan))?;
                holder.map(ranges)?;
                let namespace = holder.user_namespace()?;
                Ok(Self {
                    user: Some(UserSpace {
                        namespace,
                        ranges: ranges.clone(),
                    }),
                    holder: Some(holder),
                })
            }
        }
    }
}

/// A user namespace that is only there for its mapping.
pub(crate) fn mapping(ranges: &IdRanges) -> Result<OwnedFd, Failure> {
    let holder = Holder::start(CloneFlags::CLONE_NEWUSER)?;
    holder.map(ranges)?;
    holder.user_namespace()
}

fn new_in_user_namespace(plan: &NamespacesPlan) -> CloneFlags {
    let kinds = [
        (&plan.network, CloneFlags::CLONE_NEWNET),
        (&plan.ipc, CloneFlags::CLONE_NEWIPC),
        (&plan.uts, CloneFlags::CLONE_NEWUTS),
    ];
    kinds
        .into_iter()
        .filter(|(kind, _)| **kind == NamespacePlan::New)
        .fold(CloneFlags::empty(), |flags, (_, flag)| flags | flag)
}

/// What the container's first process is cloned into.
pub(crate) fn clone_flags(plan: &NamespacesPlan) -> CloneFlags {
    let mut flags = CloneFlags::CLONE_NEWNS;
    if plan.pid == NamespacePlan::New {
        flags |= CloneFlags::CLONE_NEWPID;
    }
    if let UserNamespacePlan::New(_) = plan.user {
        flags
    } else {
        flags | new_in_user_namespace(plan)
    }
}

/// Joins all others, in the container's first process.
pub(crate) fn join(plan: &NamespacesPlan, holder: Option<&Holder>) -> Result<(), Failure> {
    holder.map_or(Ok(()), Holder::join)?;
    for (kind, flag, name) in [
        (&plan.network, CloneFlags::CLONE_NEWNET, "network"),
        (&plan.ipc, CloneFlags::CLONE_NEWIPC, "ipc"),
        (&plan.uts, CloneFlags::CLONE_NEWUTS, "uts"),
        (&plan.cgroup, CloneFlags::CLONE_NEWCGROUP, "cgroup"),
        (
            &plan.time,
            CloneFlags::from_bits_retain(nix::libc::CLONE_NEWTIME),
            "time",
        ),
    ] {
        if let NamespacePlan::Path(path) = kind {
            let what = || format!("{name} namespace {}", path.display());
            setns(open_namespace(path)?, flag).during("join", what())?;
        }
    }
    if plan.cgroup == NamespacePlan::New {
        // After joining the groups, so that the container's own is the root of what it sees.
        unshare(CloneFlags::CLONE_NEWCGROUP).during("unshare", "the cgroup namespace")?;
    }
    if plan.network == NamespacePlan::New {
        loopback::bring_up().during("bring up", "lo")?;
    }
    make_time(plan)
}

/// The offsets can be set until the first process enters.
fn make_time(plan: &NamespacesPlan) -> Result<(), Failure> {
    if plan.time != NamespacePlan::New {
        return Ok(());
    }
    let flag = CloneFlags::from_bits_retain(nix::libc::CLONE_NEWTIME);
    unshare(flag).during("unshare", "the time namespace")?;
    for offset in &plan.time_offsets {
        let text = format!("{} {} {}", offset.clock, offset.seconds, offset.nanoseconds);
        fs::write("/proc/self/timens_offsets", &text).during("set clock offset", text)?;
    }
    let namespace = open_namespace(Path::new("/proc/self/ns/time_for_children"))?;
    setns(namespace.as_fd(), flag).during("enter", "the time namespace")
}

/// A namespace by its file.
pub(crate) fn open_namespace(path: &Path) -> Result<OwnedFd, Failure> {
    open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).during("open namespace", path.display())
}
