//! File descriptors of any kind on the event loop.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor.
///
/// # Errors
/// When the kernel refuses, as for a regular file.
#[expect(
    deprecated,
    reason = "the constructor is unsound for types that change their descriptor, which an owned one cannot; its unsafe \
              replacement would be this crate's only unsafe code"
)]
pub(crate) fn on_event_loop(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}
