//! Capabilities as bit sets, and the calls that drop them.

use crate::{Errno, Result};

/// Version 3 of the interface: two words of 32 bits each (`capset(2)`).
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Replaces the effective, permitted and inheritable capabilities of this thread.
///
/// # Errors
/// `EPERM` when one of them is not permitted.
pub fn set(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let word = |shift: u32| Word {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let words = [word(0), word(32)];
    // SAFETY: both have the kernel's layout for version 3 and outlive the call.
    let outcome = unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) };
    Errno::result(outcome).map(drop)
}

/// The permitted capabilities of this thread.
///
/// # Errors
/// The kernel's.
pub fn permitted() -> Result<u64> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut words = [Word {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: both have the kernel's layout for version 3 and outlive the call.
    let outcome = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
    Errno::result(outcome)?;
    Ok(u64::from(words[0].permitted) | u64::from(words[1].permitted) << 32)
}

/// Drops one capability from the bounding set: no exec can bring it back.
///
/// # Errors
/// `EINVAL` past the last capability that the kernel knows.
pub fn drop_bounding(capability: u32) -> Result<()> {
    // SAFETY: takes integers.
    Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, u64::from(capability), 0, 0, 0) }).map(drop)
}

/// Empties the ambient set.
///
/// # Errors
/// The kernel's.
pub fn clear_ambient() -> Result<()> {
    // SAFETY: takes integers.
    let outcome = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Errno::result(outcome).map(drop)
}

/// Adds one capability to the ambient set.
///
/// # Errors
/// `EPERM` when it is not both permitted and inheritable, `EINVAL` past the last capability that the kernel knows.
pub fn raise_ambient(capability: u32) -> Result<()> {
    let capability = u64::from(capability);
    // SAFETY: takes integers.
    let outcome = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) };
    Errno::result(outcome).map(drop)
}

/// A change of user no longer changes the capabilities of this thread (`SECBIT_NO_SETUID_FIXUP`), until it enters another user
/// namespace.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP.
pub fn keep_over_change_of_user() -> Result<()> {
    const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    // SAFETY: takes integers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0, 0, 0) }).map(drop)
}
