//! The shim: a small static process that starts one container and stays beside it, so that the container, its output and its
//! exit status do not depend on the agent's life.
//!
//! It takes a [`plan::Task`] over the socket that is its standard input, answers once, and then lives on as a daemon that owns
//! the container's standard streams, serves [`wire`] requests on a socket in the bundle, and writes the exit record. Or it only
//! helps a container to life and leaves it to others, as an OCI runtime does.
//!
//! **Invariant:** the shim never has a second thread; everything after a clone relies on that.
//! **Invariant:** the exit record is on disk before anybody is told of the exit.
//! **Invariant:** a path that an image or volume can influence is only ever resolved inside the container's root.
//! Deliberately not here: choosing anything. Which capabilities, which filter, which mounts is decided by `gantry-runtime`.

mod channel;
mod container;
mod copy_up;
mod daemon;
mod devices;
mod exec;
mod failure;
mod filesystem;
mod groups;
mod hooks;
mod identity;
mod launch;
mod log;
mod mounts;
mod namespaces;
mod output;
pub mod plan;
mod process;
mod program;
mod reaper;
mod record;
mod serve;
mod stdio;
mod task;
mod unattended;
pub mod users;
pub mod wire;

pub use channel::start_held;
pub use failure::Failure;
pub use launch::run;
pub use log::{Rotation, Stream, stamp_of};
pub use record::{
    EXIT_FILE, ExitRecord, SHIM_LOG_FILE, SOCKET_FILE, START_SOCKET_FILE, STATE_FILE, StateRecord, born_ticks,
};
