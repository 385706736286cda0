//! One group: the same path below every hierarchy that holds one of our controllers.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_model::{ByteSize, MilliCpu};

use crate::error::{read, write};
use crate::layout::Place;
use crate::{CgroupError, Controller, DeviceRule, Layout, cpu, devices, freezer, memory, pids};

/// How long killed processes may take to leave their group before that is an error. A dying process can hang on a disk.
const EMPTY_WAIT: Duration = Duration::from_secs(10);
/// How often is looked meanwhile.
const EMPTY_POLL: Duration = Duration::from_micros(500);

/// What a group may use; what is absent is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most processor time.
    pub cpu: Option<MilliCpu>,
    /// Most memory; swap may be as much again.
    pub memory: Option<ByteSize>,
    /// Memory that is taken from the group last when the machine runs short.
    pub memory_reservation: ByteSize,
    /// Most processes and threads.
    pub pids: Option<u32>,
    /// Usable devices; all when absent.
    pub devices: Option<Vec<DeviceRule>>,
}

/// What a group uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time used since it was made, in microseconds.
    pub cpu_us: u64,
    /// Memory in use without idle file cache.
    pub memory: ByteSize,
    /// Processes and threads.
    pub pids: u64,
}

/// Where kills for lack of memory are counted: a file of lines `key number`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OomSource {
    /// The file.
    pub file: PathBuf,
    /// The key of the line.
    pub key: &'static str,
}

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
            group.enable_controllers(mount)?;
        }
        for folder in group.folders() {
            make(&folder)?;
        }
        group.limit(limits)?;
        Ok(group)
    }

    /// In version 2 a controller works in a group only when every group above passes it on.
    fn enable_controllers(&self, mount: &Path) -> Result<(), CgroupError> {
        let wanted: String = [Controller::Cpu, Controller::Memory, Controller::Pids]
            .into_iter()
            .filter(|controller| matches!(self.layout.place(*controller), Ok(Place::V2(_))))
            .map(|controller| format!("+{} ", controller.name()))
            .collect();
        let mut folder = mount.to_path_buf();
        for part in &self.path {
            make(&folder)?;
            let control = folder.join("cgroup.subtree_control");
            let enabled = read(&control)?;
            let missing = |name: &str| {
                !enabled
                    .split_whitespace()
                    .any(|have| have == name.trim_start_matches('+'))
            };
            if wanted.split_whitespace().any(missing) {
                write(&control, wanted.trim())?;
            }
            folder.push(part);
        }
        Ok(())
    }

    fn limit(&self, limits: &Limits) -> Result<(), CgroupError> {
        if let Some(limit) = limits.cpu {
            match self.folder(Controller::Cpu)? {
                At::V2(folder) => cpu::limit_v2(&folder, limit)?,
                At::V1(folder) => cpu::limit_v1(&folder, limit)?,
            }
        }
        if let Some(limit) = limits.memory {
            match self.folder(Controller::Memory)? {
                At::V2(folder) => memory::limit_v2(&folder, limit)?,
                At::V1(folder) => memory::limit_v1(&folder, limit)?,
            }
        }
        if limits.memory_reservation != ByteSize::ZERO {
            match self.folder(Controller::Memory)? {
                At::V2(folder) => memory::reserve_v2(&folder, limits.memory_reservation)?,
                At::V1(folder) => memory::reserve_v1(&folder, limits.memory_reservation)?,
            }
        }
        if let Some(limit) = limits.pids {
            pids::limit(self.folder(Controller::Pids)?.path(), limit)?;
        }
        if let Some(rules) = &limits.devices {
            match self.folder(Controller::Devices)? {
                At::V2(folder) => devices::allow_v2(&folder, rules)?,
                At::V1(folder) => devices::allow_v1(&folder, rules)?,
            }
        }
        Ok(())
    }

    /// The files that a process writes `0` to in order to join, one per hierarchy.
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
        let (folder, (file, key)) = match self.folder(Controller::Memory)? {
            At::V2(folder) => (folder, memory::OOM_V2),
            At::V1(folder) => (folder, memory::OOM_V1),
        };
        Ok(OomSource {
            file: folder.join(file),
            key,
        })
    }

    /// How many processes the kernel has killed for lack of memory.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let source = self.oom_source()?;
        crate::error::read_keyed(&source.file, source.key)
    }

    /// What the group uses now.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        Ok(Stats {
            cpu_us: match self.folder(Controller::CpuAccount)? {
                At::V2(folder) => cpu::used_v2(&folder)?,
                At::V1(folder) => cpu::used_v1(&folder)?,
            },
            memory: ByteSize(match self.folder(Controller::Memory)? {
                At::V2(folder) => memory::used_v2(&folder)?,
                At::V1(folder) => memory::used_v1(&folder)?,
            }),
            pids: pids::used(self.folder(Controller::Pids)?.path())?,
        })
    }

    /// Kills every process of the group and waits until it is empty.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when a process does not die within 10 s.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        let (folder, is_v2) = match self.folder(Controller::Freezer)? {
            At::V2(folder) => (folder, true),
            At::V1(folder) => (folder, false),
        };
        if !folder.exists() {
            return Ok(());
        }
        let mut waited = Duration::ZERO;
        loop {
            let processes = freezer::processes(&folder)?;
            if processes.is_empty() {
                return Ok(());
            }
            if waited >= EMPTY_WAIT {
                return Err(CgroupError::Busy {
                    path: folder,
                    processes,
                });
            }
            if is_v2 {
                freezer::kill_v2(&folder)?;
            } else {
                freezer::kill_v1(&folder)?;
            }
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

    fn folder(&self, controller: Controller) -> Result<At, CgroupError> {
        Ok(match self.layout.place(controller)? {
            Place::V2(mount) => At::V2(mount.join(&self.path)),
            Place::V1(mount) => At::V1(mount.join(&self.path)),
        })
    }

    /// The group's folder in each hierarchy, each once.
    fn folders(&self) -> BTreeSet<PathBuf> {
        Controller::ALL
            .into_iter()
            .filter_map(|controller| self.folder(controller).ok())
            .map(|at| at.path().to_path_buf())
            .collect()
    }
}

/// A folder of a hierarchy of either version.
enum At {
    V2(PathBuf),
    V1(PathBuf),
}

impl At {
    fn path(&self) -> &Path {
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
