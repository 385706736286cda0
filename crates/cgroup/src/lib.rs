//! Control groups: limits, membership, figures, and killing everything in a group. One file per controller.
//!
//! Version 2, version 1 and the hybrid of both look alike from outside: [`Layout`] finds out where each controller lives, and a
//! [`Group`] is one path below each of those hierarchies.
//!
//! **Invariant:** only groups below the parent that the caller names are ever made, written or removed.
//! Deliberately not here: which limits a replica gets (`runtime` decides from its spec).

mod cpu;
mod devices;
mod error;
mod freezer;
mod group;
mod layout;
mod memory;
mod pids;

pub use devices::{Access, DeviceKind, DeviceRule};
pub use error::CgroupError;
pub use group::{Group, Limits, OomSource, Stats};
pub use layout::{Controller, Layout};
