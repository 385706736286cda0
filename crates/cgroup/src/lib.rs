//! Control groups: limits, membership, figures, pausing, and killing everything in a group. One file per controller.
//!
//! Version 2, version 1 and the hybrid of both look alike from outside: [`Layout`] finds out where each controller lives, and a
//! [`Group`] is one path below each of those hierarchies. [`Limits`] are said once, in the words of the OCI runtime spec and of
//! Docker, which are those of version 1; each controller's file translates them for version 2.
//!
//! **Invariant:** only groups below the parent that the caller names are ever made, written or removed. Two things of the
//! groups above are written because nothing works below without: which controllers version 2 passes on, and what version 1
//! leaves empty in a parent that was just made (cpuset, real-time budget).
//! **Invariant:** a limit that the kernel cannot keep is an error that says so, never dropped.
//! Deliberately not here: which limits a replica gets (`runtime` decides from its spec).

mod cpu;
mod cpuset;
mod devices;
mod error;
mod freezer;
mod group;
mod hugetlb;
mod io;
mod layout;
mod limits;
mod memory;
mod network;
mod oom;
mod pids;
mod pressure;
mod rdma;
mod resources;
mod stats;
mod unified;

pub use cpu::{CpuLimits, CpuStats};
pub use cpuset::CpusetLimits;
pub use devices::{Access, DeviceKind, DevicePolicy, DeviceRule, Hole};
pub use error::CgroupError;
pub use group::Group;
pub use hugetlb::HugePageStats;
pub use io::{Device, IoDeviceStats, IoLimits};
pub use layout::{Controller, Layout};
pub use limits::{Ceiling, Limits};
pub use memory::{MemoryLimits, MemoryStats, Swap};
pub use network::NetworkLimits;
pub use oom::{OomSource, OomWatch};
pub use pids::PidsStats;
pub use pressure::{Pressure, Stall};
pub use rdma::RdmaLimit;
pub use stats::Stats;
