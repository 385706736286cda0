//! Whole servers in one process, over a network in memory that can be cut.
//!
//! What is promised about one server's files and about a cluster, one subject per file. Deliberately not here: gRPC, and machines.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod damage;
mod disk;
mod feed;
mod harness;
mod kill;
mod leadership;
mod members;
mod partition;
mod proposals;
mod restart;
mod snapshots;
