//! One group: the same path below every hierarchy that holds one of our controllers.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{read, write};
use crate::layout::{InV2, Place};
use crate::{
    CgroupError, Controller, Layout, Limits, OomSource, OomWatch, Stats, cpu, cpuset, devices, freezer, hugetlb, io,
    memory, network, pids, rdma, stats, unified,
};

/// How long killed processes may take to leave their group before that is an error. A dying process can hang on a disk.
const EMPTY_WAIT: Duration = Duration::from_secs(10);
/// How often is looked meanwhile.
const EMPTY_POLL: Duration = Duration::from_micros(500);

/// A control group of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    layout: Layout,
    /// `parent/name`, relative to the hierarchies' mounts.
    path: PathBuf,
}

impl Group {
    /// The group `name` below `parent` (`gantry`, or another agent's own), whether or not it exists.
    #[must_use]
    pub fn at(layout: &Layout, parent: &str, name: &str) -> Self {
        Self {
            layout: layout.clone(),
            path: Path::new(parent.trim_matches('/')).join(name),
        }
    }

    /// Makes the group, or takes over an existing one, and sets its limits.
    ///
    /// # Errors
    /// When a folder cannot be made or a limit is refused; what was made stays, for [`Group::remove`].
    pub fn create(layout: &Layout, parent: &str, name: &str, limits: &Limits) -> Result<Self, CgroupError> {
        let group = Self::at(layout, parent, name);
        if let Some(mount) = layout.unified() {
            group.enable_in_unified(mount, &group.controllers_in_unified())?;
        }
        for folder in group.folders() {
            make(&folder)?;
        }
        if let Ok(Place::V1(mount)) = layout.place(Controller::Cpuset) {
            cpuset::inherit_v1(mount, &mount.join(&group.path))?;
        }
        group.update(limits)?;
        Ok(group)
    }

    /// The path below the mount of each hierarchy.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it exists in any hierarchy.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.folders().iter().any(|folder| folder.exists())
    }

    /// What is passed on in version 2, as far as it lives there.
    fn controllers_in_unified(&self) -> BTreeSet<&'static str> {
        let listed = Controller::ALL.into_iter().filter_map(|controller| {
            let is_there = matches!(self.layout.place(controller), Ok(Place::V2(_)));
            match controller.in_v2() {
                InV2::Listed(name) if is_there => Some(name),
                InV2::Listed(_) | InV2::Core | InV2::Absent => None,
            }
        });
        listed.collect()
    }

    /// In version 2 a controller works in a group only when every group above passes it on. One by one: that one is refused
    /// must not keep the others out, and who needs it is told by the write to its file.
    fn enable_in_unified(&self, mount: &Path, wanted: &BTreeSet<&str>) -> Result<(), CgroupError> {
        let mut folder = mount.to_path_buf();
        for part in &self.path {
            make(&folder)?;
            let control = folder.join("cgroup.subtree_control");
            let enabled = read(&control)?;
            let is_missing = |name: &&&str| !enabled.split_whitespace().any(|have| have == **name);
            for controller in wanted.iter().filter(is_missing) {
                let outcome = write(&control, &format!("+{controller}"));
                if matches!(*controller, "cpu" | "memory" | "pids") {
                    outcome?;
                }
            }
            folder.push(part);
        }
        Ok(())
    }

    /// A hybrid's unified hierarchy holds little that anybody limits, and joining it takes longer than joining all others, so
    /// a group gets its folder there when a limit needs it. Processes that run already are moved there.
    fn extend_to_unified(&self, limits: &Limits) -> Result<(), CgroupError> {
        let in_v2 = |controller| matches!(self.layout.place(controller), Ok(Place::V2(_)));
        let mut wanted: BTreeSet<&str> = unified::controllers(&limits.unified).collect();
        if !limits.hugetlb.is_empty() && in_v2(Controller::HugeTlb) {
            wanted.insert("hugetlb");
        }
        if !limits.rdma.is_empty() && in_v2(Controller::Rdma) {
            wanted.insert("rdma");
        }
        if wanted.is_empty() && limits.unified.is_empty() {
            return Ok(());
        }
        let Some(mount) = self.layout.unified_mount() else {
            return Ok(());
        };
        let folder = mount.join(&self.path);
        let is_new = !folder.exists();
        self.enable_in_unified(mount, &wanted)?;
        make(&folder)?;
        if is_new {
            for process in self.processes()? {
                write(&folder.join("cgroup.procs"), &process.to_string())?;
            }
        }
        Ok(())
    }

    /// Sets the limits that are given, also while processes run in the group; the others stay as they are.
    ///
    /// # Errors
    /// When one is refused; those of the controllers before it (in the order of [`Limits`]) are set then.
    pub fn update(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.extend_to_unified(limits)?;
        if limits.cpu != Default::default() {
            cpu::apply(&self.folder(Controller::Cpu)?, &limits.cpu)?;
        }
        if limits.cpuset != Default::default() {
            cpuset::apply(&self.folder(Controller::Cpuset)?, &limits.cpuset)?;
        }
        if limits.memory != Default::default() {
            memory::apply(&self.folder(Controller::Memory)?, &limits.memory)?;
        }
        if let Some(limit) = limits.pids {
            pids::apply(self.folder(Controller::Pids)?.path(), limit)?;
        }
        if limits.io != Default::default() {
            io::apply(&self.folder(Controller::Io)?, &limits.io)?;
        }
        if !limits.hugetlb.is_empty() {
            hugetlb::apply(&self.folder(Controller::HugeTlb)?, &limits.hugetlb)?;
        }
        if !limits.rdma.is_empty() {
            rdma::apply(self.folder(Controller::Rdma)?.path(), &limits.rdma)?;
        }
        network::apply(&self.layout, self, &limits.network)?;
        if let Some(policy) = &limits.devices {
            devices::apply(&self.folder(Controller::Devices)?, policy)?;
        }
        self.apply_unified(limits)
    }

    fn apply_unified(&self, limits: &Limits) -> Result<(), CgroupError> {
        let Some((name, value)) = limits.unified.first_key_value() else {
            return Ok(());
        };
        let mount = self.layout.unified_mount().ok_or_else(|| CgroupError::Unsupported {
            controller: "unified",
            setting: name.clone(),
            value: value.clone(),
            reason: "cgroup version 2 is not mounted here",
            remedy: "use the limits that version 1 has a word for",
        })?;
        unified::apply(&mount.join(&self.path), &limits.unified)
    }

    /// The files that a process with a single thread writes `0` to in order to join, one per hierarchy. Those of version 1 take
    /// the thread alone, which spares it the wait for every other process that forks or ends just now: up to a grace period
    /// of the kernel, which is most of what starting a container would take. Version 2 can spare that at a clone.
    #[must_use]
    pub fn join_files(&self) -> Vec<PathBuf> {
        let unified = self.unified_folder();
        let file = |folder: &PathBuf| {
            if Some(folder) == unified.as_ref() {
                "cgroup.procs"
            } else {
                "tasks"
            }
        };
        self.folders().iter().map(|folder| folder.join(file(folder))).collect()
    }

    /// The files that list its processes, one per hierarchy, and take the id of one to be moved there.
    #[must_use]
    pub fn procs_files(&self) -> Vec<PathBuf> {
        self.folders()
            .into_iter()
            .map(|folder| folder.join("cgroup.procs"))
            .collect()
    }

    /// The folder in which a part of the group's processes can be gathered in groups of their own, to be killed together: of
    /// version 2, or of the freezer.
    ///
    /// # Errors
    /// When there is no such hierarchy.
    pub fn gathering_folder(&self) -> Result<PathBuf, CgroupError> {
        Ok(self.folder(Controller::Freezer)?.path().to_path_buf())
    }

    /// Moves a process into the group.
    ///
    /// # Errors
    /// When the process is gone or the kernel refuses.
    pub fn add(&self, process: u32) -> Result<(), CgroupError> {
        self.procs_files()
            .iter()
            .try_for_each(|file| write(file, &process.to_string()))
    }

    /// Where kills for lack of memory are counted.
    ///
    /// # Errors
    /// When there is no memory controller.
    pub fn oom_source(&self) -> Result<OomSource, CgroupError> {
        Ok(OomSource::of(&self.folder(Controller::Memory)?))
    }

    /// How many processes the kernel has killed for lack of memory.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        self.oom_source()?.count()
    }

    /// Tells of the next process killed for lack of memory.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn watch_oom(&self) -> Result<OomWatch, CgroupError> {
        OomWatch::open(&self.folder(Controller::Memory)?)
    }

    /// What the group uses now.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        stats::of(self)
    }

    /// Ids of its processes and of those in groups below it, as this process sees them.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        freezer::processes(self.folder(Controller::Freezer)?.path())
    }

    /// Stops every process of the group, and waits until all stand still.
    ///
    /// # Errors
    /// [`CgroupError::NotFrozen`] when one does not within 10 s.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        freezer::set_frozen(&self.folder(Controller::Freezer)?, true)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        freezer::set_frozen(&self.folder(Controller::Freezer)?, false)
    }

    /// Whether they stand still.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        freezer::is_frozen(&self.folder(Controller::Freezer)?)
    }

    /// Sends a signal to every process of the group and of the groups below it.
    ///
    /// # Errors
    /// When the signal does not exist.
    pub fn signal_all(&self, signal: i32) -> Result<(), CgroupError> {
        freezer::signal_listed(self.folder(Controller::Freezer)?.path(), signal)
    }

    /// Kills every process of the group, paused ones too, and waits until it is empty.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when a process does not die within 10 s.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        let at = self.folder(Controller::Freezer)?;
        if !at.path().exists() {
            return Ok(());
        }
        let mut waited = Duration::ZERO;
        loop {
            let processes = freezer::processes(at.path())?;
            if processes.is_empty() {
                return Ok(());
            }
            if waited >= EMPTY_WAIT {
                return Err(CgroupError::Busy {
                    path: at.path().to_path_buf(),
                    processes,
                });
            }
            freezer::kill_once(&at)?;
            std::thread::sleep(EMPTY_POLL);
            waited += EMPTY_POLL;
        }
    }

    /// Removes the group and the groups below it; one that is not there is removed already.
    ///
    /// # Errors
    /// When processes are left in it.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.folders().iter().try_for_each(|folder| remove(folder))
    }

    pub(crate) fn folder(&self, controller: Controller) -> Result<At, CgroupError> {
        Ok(match self.layout.place(controller)? {
            Place::V2(mount) => At::V2(mount.join(&self.path)),
            Place::V1(mount) => At::V1(mount.join(&self.path)),
        })
    }

    /// Its folder in the unified hierarchy, if it has one.
    pub(crate) fn unified_folder(&self) -> Option<PathBuf> {
        let folder = self.layout.unified_mount()?.join(&self.path);
        (self.layout.unified().is_some() || folder.exists()).then_some(folder)
    }

    /// The group's folder in each hierarchy, each once.
    fn folders(&self) -> BTreeSet<PathBuf> {
        let in_v1 = Controller::ALL
            .into_iter()
            .filter_map(|controller| match self.folder(controller) {
                Ok(At::V1(path)) => Some(path),
                Ok(At::V2(_)) | Err(_) => None,
            });
        in_v1.chain(self.unified_folder()).collect()
    }
}

/// A folder of a hierarchy of either version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum At {
    V2(PathBuf),
    V1(PathBuf),
}

impl At {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::V2(path) | Self::V1(path) => path,
        }
    }
}

fn make(folder: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(folder).map_err(|source| CgroupError::Create {
        path: folder.to_path_buf(),
        source,
    })
}

/// A process that was reaped may be counted for a moment longer, so a busy folder is tried again for a while.
fn remove(folder: &Path) -> Result<(), CgroupError> {
    let mut waited = Duration::ZERO;
    loop {
        freezer::subgroups(folder).iter().try_for_each(|below| remove(below))?;
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ResourceBusy && waited < EMPTY_WAIT => {
                std::thread::sleep(EMPTY_POLL);
                waited += EMPTY_POLL;
            }
            Err(source) => {
                return Err(CgroupError::Remove {
                    path: folder.to_path_buf(),
                    source,
                });
            }
        }
    }
}
