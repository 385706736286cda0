//! What a group may use, all controllers together.

use std::collections::BTreeMap;
use std::fmt;

use crate::{CpuLimits, CpusetLimits, DevicePolicy, IoLimits, MemoryLimits, NetworkLimits, RdmaLimit};

/// An upper limit, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ceiling {
    /// No limit.
    Unlimited,
    /// So much.
    At(u64),
}

impl Ceiling {
    /// From the convention of Docker, the OCI spec and version 1: negative is unlimited.
    #[must_use]
    pub fn from_signed(number: i64) -> Self {
        u64::try_from(number).map_or(Self::Unlimited, Self::At)
    }

    /// As version 2 writes it.
    pub(crate) fn v2(self) -> String {
        match self {
            Self::Unlimited => "max".to_string(),
            Self::At(number) => number.to_string(),
        }
    }

    /// As most files of version 1 have it.
    pub(crate) fn v1(self) -> String {
        match self {
            Self::Unlimited => "-1".to_string(),
            Self::At(number) => number.to_string(),
        }
    }
}

impl fmt::Display for Ceiling {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => formatter.write_str("unlimited"),
            Self::At(number) => number.fmt(formatter),
        }
    }
}

/// What a group may use. What is absent stays as it is: unlimited in a new group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Processor time.
    pub cpu: CpuLimits,
    /// Which processors and memory nodes.
    pub cpuset: CpusetLimits,
    /// Memory and swap.
    pub memory: MemoryLimits,
    /// Most processes and threads.
    pub pids: Option<Ceiling>,
    /// Disk input and output.
    pub io: IoLimits,
    /// Most bytes in huge pages, by the page's size as the kernel spells it: `2MB`, `1GB`.
    pub hugetlb: BTreeMap<String, u64>,
    /// Most RDMA resources, by device.
    pub rdma: BTreeMap<String, RdmaLimit>,
    /// Marks on what it sends.
    pub network: NetworkLimits,
    /// Usable devices; all when absent.
    pub devices: Option<DevicePolicy>,
    /// Files of version 2 with what is written to them, after everything else.
    pub unified: BTreeMap<String, String>,
}
