//! Where each controller lives: one unified hierarchy, one hierarchy per controller, or some of both.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::CgroupError;

/// A controller that Gantry uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Processor time limits.
    Cpu,
    /// Processor time used (version 1 only; part of `cpu` in version 2).
    CpuAccount,
    /// Which processors and memory nodes.
    Cpuset,
    /// Memory.
    Memory,
    /// Number of processes.
    Pids,
    /// Disk input and output.
    Io,
    /// Huge pages.
    HugeTlb,
    /// RDMA resources.
    Rdma,
    /// Access to devices (a BPF program in version 2).
    Devices,
    /// Stopping all processes (part of the core in version 2).
    Freezer,
    /// Class of traffic control (version 1 only).
    NetClass,
    /// Priority per interface (version 1 only).
    NetPriority,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Cpu,
        Self::CpuAccount,
        Self::Cpuset,
        Self::Memory,
        Self::Pids,
        Self::Io,
        Self::HugeTlb,
        Self::Rdma,
        Self::Devices,
        Self::Freezer,
        Self::NetClass,
        Self::NetPriority,
    ];

    /// The kernel's name in version 1.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::CpuAccount => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Io => "blkio",
            Self::HugeTlb => "hugetlb",
            Self::Rdma => "rdma",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::NetClass => "net_cls",
            Self::NetPriority => "net_prio",
        }
    }

    pub(crate) const fn in_v2(self) -> InV2 {
        match self {
            Self::Cpu => InV2::Listed("cpu"),
            Self::Cpuset => InV2::Listed("cpuset"),
            Self::Memory => InV2::Listed("memory"),
            Self::Pids => InV2::Listed("pids"),
            Self::Io => InV2::Listed("io"),
            Self::HugeTlb => InV2::Listed("hugetlb"),
            Self::Rdma => InV2::Listed("rdma"),
            Self::CpuAccount | Self::Devices | Self::Freezer => InV2::Core,
            Self::NetClass | Self::NetPriority => InV2::Absent,
        }
    }

    /// Whether every group needs it, not only one with a limit for it.
    const fn is_always_used(self) -> bool {
        !matches!(self, Self::HugeTlb | Self::Rdma | Self::NetClass | Self::NetPriority)
    }
}

/// What version 2 makes of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InV2 {
    /// Listed under this name where it is available.
    Listed(&'static str),
    /// Part of every group.
    Core,
    /// Gone.
    Absent,
}

/// The place of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// Below this mount of the unified hierarchy.
    V2(&'a Path),
    /// Below this mount of its own hierarchy.
    V1(&'a Path),
}

/// The control group hierarchies that this process sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    v1: BTreeMap<Controller, PathBuf>,
    v2: Option<PathBuf>,
    /// Controllers of [`Controller::ALL`] that the unified hierarchy offers.
    in_v2: Vec<Controller>,
}

impl Layout {
    /// Reads this process's mount table.
    ///
    /// # Errors
    /// When it cannot be read, or no hierarchy can limit processor time, memory or processes.
    pub fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let table = fs::read_to_string(path).map_err(|source| CgroupError::MountTable {
            path: path.to_path_buf(),
            source,
        })?;
        let listed = |mount: &Path| fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        let layout = Self::from_table(&table, listed);
        for controller in [Controller::Cpu, Controller::Memory, Controller::Pids] {
            layout.place(controller)?;
        }
        Ok(layout)
    }

    /// From the text of a mount table; `listed` reads the controllers of a unified hierarchy.
    fn from_table(table: &str, listed: impl Fn(&Path) -> String) -> Self {
        let mut layout = Self {
            v1: BTreeMap::new(),
            v2: None,
            in_v2: Vec::new(),
        };
        for line in table.lines() {
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let Some(mount) = before.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut fields = after.split(' ');
            match (fields.next(), fields.nth(1)) {
                (Some("cgroup2"), _) if layout.v2.is_none() => layout.v2 = Some(mount),
                (Some("cgroup"), Some(options)) => layout.add_v1(&mount, options),
                _ => {}
            }
        }
        let listed = layout.v2.as_deref().map(listed).unwrap_or_default();
        layout.in_v2 = Controller::ALL
            .into_iter()
            .filter(|controller| match controller.in_v2() {
                InV2::Listed(name) => listed.split_whitespace().any(|listed| listed == name),
                InV2::Core => true,
                InV2::Absent => false,
            })
            .collect();
        layout
    }

    fn add_v1(&mut self, mount: &Path, options: &str) {
        for controller in Controller::ALL {
            if options.split(',').any(|option| option == controller.name()) {
                self.v1.entry(controller).or_insert_with(|| mount.to_path_buf());
            }
        }
    }

    /// Where a controller lives; version 1 first, since a controller mounted there is absent from version 2.
    pub(crate) fn place(&self, controller: Controller) -> Result<Place<'_>, CgroupError> {
        if let Some(mount) = self.v1.get(&controller) {
            return Ok(Place::V1(mount));
        }
        match &self.v2 {
            Some(mount) if self.in_v2.contains(&controller) => Ok(Place::V2(mount)),
            _ => Err(CgroupError::Missing {
                controller: controller.name(),
            }),
        }
    }

    /// The unified hierarchy, when a controller that every group needs lives there.
    pub(crate) fn unified(&self) -> Option<&Path> {
        let is_used = Controller::ALL
            .into_iter()
            .filter(|controller| controller.is_always_used())
            .any(|controller| matches!(self.place(controller), Ok(Place::V2(_))));
        self.v2.as_deref().filter(|_| is_used)
    }

    /// The unified hierarchy, whatever lives there.
    pub(crate) fn unified_mount(&self) -> Option<&Path> {
        self.v2.as_deref()
    }

    /// The mounts of version 1 that are used, each once, with their controllers.
    #[must_use]
    pub fn v1_mounts(&self) -> BTreeMap<PathBuf, Vec<Controller>> {
        let mut mounts: BTreeMap<PathBuf, Vec<Controller>> = BTreeMap::new();
        for (controller, mount) in &self.v1 {
            mounts.entry(mount.clone()).or_default().push(*controller);
        }
        mounts
    }

    /// Whether everything lives in the unified hierarchy.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        self.v1.is_empty() && self.v2.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 27 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct,cpuset
31 27 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 27 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
33 27 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
";

    #[test]
    fn a_hybrid_takes_each_controller_where_it_is() {
        let layout = Layout::from_table(HYBRID, |_| "pids hugetlb\n".to_string());
        assert_eq!(
            layout.place(Controller::Memory).ok(),
            Some(Place::V1(Path::new("/sys/fs/cgroup/memory")))
        );
        assert_eq!(
            layout.place(Controller::CpuAccount).ok(),
            Some(Place::V1(Path::new("/sys/fs/cgroup/cpu,cpuacct")))
        );
        assert_eq!(
            layout.place(Controller::Pids).ok(),
            Some(Place::V2(Path::new("/sys/fs/cgroup/unified")))
        );
        assert_eq!(layout.unified(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(layout.v1_mounts().len(), 2);
        assert!(!layout.is_v2());
    }

    #[test]
    fn a_unified_hierarchy_with_only_huge_pages_is_not_where_groups_are() {
        let table = HYBRID.replace("rw,memory", "rw,memory,pids,devices,freezer,blkio");
        let layout = Layout::from_table(&table, |_| "hugetlb\n".to_string());
        assert_eq!(layout.unified(), None);
        let unified = Path::new("/sys/fs/cgroup/unified");
        assert_eq!(layout.place(Controller::HugeTlb).ok(), Some(Place::V2(unified)));
    }

    #[test]
    fn a_controller_that_is_nowhere_is_named() {
        let layout = Layout::from_table(HYBRID, |_| String::new());
        let error = layout.place(Controller::Pids).err().map(|error| error.to_string());
        assert!(error.is_some_and(|text| text.contains("the pids controller")));
    }

    #[test]
    fn unified_has_everything() {
        let table = "25 22 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let layout = Layout::from_table(table, |_| "cpuset cpu io memory pids\n".to_string());
        for controller in Controller::ALL {
            let is_there = controller.is_always_used();
            assert_eq!(
                layout.place(controller).ok(),
                is_there.then_some(Place::V2(Path::new("/sys/fs/cgroup"))),
                "{controller:?}"
            );
        }
        assert!(layout.is_v2() && layout.v1_mounts().is_empty());
    }
}
