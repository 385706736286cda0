//! Descriptors that travel over unix sockets.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, recvmsg, sendmsg};

use crate::Result;

/// Most descriptors in one message. Three streams, a plan, and those that an OCI caller passes on (`LISTEN_FDS`) fit; the
/// kernel's own limit is 253.
pub const FDS_MAX: usize = 64;

/// Accepts a connection that does not block (`accept4(2)`).
///
/// # Errors
/// `EAGAIN` when none waits.
pub fn accept(listener: impl AsFd) -> Result<OwnedFd> {
    let raw = nix::sys::socket::accept4(
        listener.as_fd().as_raw_fd(),
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
    )?;
    // SAFETY: the kernel just made this descriptor for this call; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Accepts a connection that blocks, once there is one (`accept4(2)`).
///
/// # Errors
/// The kernel's.
pub fn accept_blocking(listener: impl AsFd) -> Result<OwnedFd> {
    loop {
        match nix::sys::socket::accept4(listener.as_fd().as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Err(nix::errno::Errno::EINTR) => {}
            // SAFETY: the kernel just made this descriptor for this call; nobody else owns it.
            outcome => return outcome.map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }),
        }
    }
}

/// Sends one message with descriptors.
///
/// # Errors
/// `EPIPE` when the other side is gone, `EMSGSIZE` when a message is too long for the socket.
pub fn send(socket: impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &control[..] };
    let flags = MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg::<()>(
            socket.as_fd().as_raw_fd(),
            &[IoSlice::new(message)],
            control,
            flags,
            None,
        ) {
            Err(nix::errno::Errno::EINTR) => {}
            outcome => return outcome.map(drop),
        }
    }
}

/// Receives one message and its descriptors; an empty message is the end.
///
/// # Errors
/// `EAGAIN` on a socket that does not block, `EMSGSIZE` when the message is longer than the buffer.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; FDS_MAX]);
    let mut slices = [IoSliceMut::new(buffer)];
    let raw = socket.as_fd().as_raw_fd();
    let message = loop {
        match recvmsg::<()>(raw, &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(nix::errno::Errno::EINTR) => {}
            outcome => break outcome?,
        }
    };
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel just made these descriptors for this process; nobody else owns them.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(nix::errno::Errno::EMSGSIZE);
    }
    Ok((message.bytes, fds))
}
