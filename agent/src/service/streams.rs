//! The streams of a container's process, between descriptors and messages.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use gantry_api::v1::TerminalSize;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::descriptor::on_event_loop;

/// Bytes read from a stream at once.
const READ_BYTES: usize = 32 * 1024;

/// A descriptor on the event loop.
pub(super) type Stream = Arc<AsyncFd<OwnedFd>>;

/// Which of its outputs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

pub(super) fn asynchronous(fd: OwnedFd, interest: Interest) -> io::Result<Stream> {
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    on_event_loop(fd, interest).map(Arc::new)
}

/// Rows and columns as the kernel takes them.
pub(super) fn dimensions(size: TerminalSize) -> (u16, u16) {
    let dimension = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    (dimension(size.rows), dimension(size.columns))
}

/// Hands on what a stream gives, until its end or until nobody takes it.
pub(super) async fn pump<F: Future<Output = bool>>(fd: Stream, mut hand_on: impl FnMut(Bytes) -> F) {
    let mut buffer = vec![0; READ_BYTES];
    // A terminal whose last process has ended answers with an error.
    while let Ok(length @ 1..) = fd
        .async_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, &mut buffer)?))
        .await
    {
        if !hand_on(Bytes::copy_from_slice(&buffer[..length])).await {
            return;
        }
    }
}

pub(super) async fn write_all(fd: &AsyncFd<OwnedFd>, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let written = fd
            .async_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, data)?))
            .await?;
        data = &data[written..];
    }
    Ok(())
}
