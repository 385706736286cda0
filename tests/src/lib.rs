//! Black-box tests: the real binary on several hosts of this machine.
//!
//! A [`Lab`] is a set of hosts in namespaces (`deploy/lab`), a [`Cluster`] is servers and agents on them. Both clean up when
//! they are dropped, also while a test fails. Nothing here knows the crates of the project: what is tested is what a person
//! has, the command line and the network.

mod cluster;
mod image;
mod lab;
mod load;
mod look;
mod wait;

pub use cluster::{Cluster, Shape, binary};
pub use image::{busybox_rootfs, program_rootfs, web_rootfs};
pub use lab::{Answer, Lab, Process};
pub use load::{Load, Stream, Tally, under_load};
pub use look::Container;
pub use wait::{DEADLINE, Stopwatch, elapsed_ms, machine_ms, until, within};
