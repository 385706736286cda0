//! System calls that neither the standard library nor `nix` offers as safe functions.
//!
//! **Invariant:** all `unsafe` of the workspace is here; every block names its precondition and why it holds.
//! **Invariant:** one function is one system call (or the one fixed sequence it only makes sense in) and returns the bare
//! [`Errno`]; the caller knows what it was doing to what, and says so in its own error.
//! Deliberately not here: policy of any kind, and everything `nix` already wraps safely.

pub mod bpf;
pub mod capability;
pub mod loopback;
pub mod mount;
pub mod path;
pub mod process;
pub mod schedule;
pub mod seccomp;
pub mod socket;
pub mod terminal;

pub use nix::errno::Errno;

/// What every function of this crate returns.
pub type Result<T> = std::result::Result<T, Errno>;

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The outcome of a raw system call that returns a new descriptor.
fn owned_fd(outcome: libc::c_long) -> Result<OwnedFd> {
    let raw = Errno::result(outcome)?;
    let raw = RawFd::try_from(raw).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel just returned this descriptor to this call; nobody else can own it yet.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
