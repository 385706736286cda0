//! Pseudo terminals of a devpts that was found by descriptor, not by path.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::{Errno, Result, owned_fd};

/// Unlocks the terminal behind a master (`TIOCSPTLCK`).
///
/// # Errors
/// The kernel's.
pub fn unlock(master: impl AsFd) -> Result<()> {
    let unlocked: libc::c_int = 0;
    // SAFETY: the argument is a pointer to an int that outlives the call.
    let outcome = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    Errno::result(outcome).map(drop)
}

/// Opens the terminal behind a master without any path (`TIOCGPTPEER`).
///
/// # Errors
/// The kernel's.
pub fn open_peer(master: impl AsFd) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes an integer.
    let outcome = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTPEER, flags) };
    owned_fd(libc::c_long::from(outcome))
}

/// Makes a terminal the controlling one of this session leader (`TIOCSCTTY`).
///
/// # Errors
/// `EPERM` when this process leads no session or has a terminal already.
pub fn control(terminal: impl AsFd) -> Result<()> {
    // SAFETY: takes an integer.
    Errno::result(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Sets the size of a terminal in characters (`TIOCSWINSZ`).
///
/// # Errors
/// `ENOTTY` when it is none.
pub fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the argument is a pointer to a winsize that outlives the call.
    let outcome = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(outcome).map(drop)
}
