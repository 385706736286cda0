//! The control plane: a server process and the work of its leader.
//!
//! A thin driver of the pure crates. `api` and `session` translate what people and agents say, `term` runs the leader's
//! controller; what they write and send is decided by `leader`. Everything is written through `raft`, and everybody follows its
//! change feed.
//!
//! **Invariant:** nothing that must outlive a failover is only in memory.
//! Deliberately not here: decisions (layer 1), and anything of the agent: the two meet in `proto/` alone.

mod api;
mod config;
mod context;
mod enrollment;
mod init;
mod join;
mod leadership;
mod peer;
mod registry;
mod renewal;
mod server;
mod session;
mod term;

pub use config::{InitConfig, JoinConfig, SERVER_PORT, ServerConfig};
pub use init::{InitReport, identity_dir, init};
pub use server::run;
