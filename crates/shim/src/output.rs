//! What the container writes, cut into records.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::Failure;
use crate::failure::During;
use crate::log::{LogWriter, Stream, TEXT_LENGTH_MAX};
use crate::stdio::stop_blocking;

/// Read at once from a pipe; a pipe holds 64 KiB.
const CHUNK_LENGTH: usize = 16 * 1024;

/// The shim's end of one of the container's output streams.
#[derive(Debug)]
pub(crate) struct Output {
    fd: OwnedFd,
    stream: Stream,
    /// The start of a line whose end has not come yet.
    rest: Vec<u8>,
    /// Nothing comes any more.
    pub(crate) has_ended: bool,
}

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There may be more.
    More,
    /// Nothing now.
    Empty,
    /// Nothing any more.
    Ended,
}

impl Output {
    /// `fd` must not block.
    pub(crate) fn new(fd: OwnedFd, stream: Stream) -> Self {
        Self {
            fd,
            stream,
            rest: Vec::new(),
            has_ended: false,
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn stream(&self) -> Stream {
        self.stream
    }

    /// Reads once, logs what came and passes it on to whoever is attached.
    pub(crate) fn forward(&mut self, log: &mut LogWriter, attached: &mut [Attachment]) -> Progress {
        let mut chunk = [0; CHUNK_LENGTH];
        match nix::unistd::read(&self.fd, &mut chunk) {
            Ok(0) => Progress::Ended,
            Ok(length) => {
                self.accept(&chunk[..length], log);
                for attachment in attached.iter_mut().filter(|one| one.stream == self.stream) {
                    attachment.pass_on(&chunk[..length]);
                }
                Progress::More
            }
            Err(Errno::EAGAIN) => Progress::Empty,
            Err(Errno::EINTR) => Progress::More,
            // A terminal whose last user has gone says EIO.
            Err(_) => Progress::Ended,
        }
    }

    fn accept(&mut self, mut bytes: &[u8], log: &mut LogWriter) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&bytes[..end], &bytes[end + 1..]);
            self.rest.extend_from_slice(line);
            self.cut(log);
            log.append(self.stream, true, &self.rest);
            self.rest.clear();
            bytes = after;
        }
        self.rest.extend_from_slice(bytes);
        self.cut(log);
    }

    fn cut(&mut self, log: &mut LogWriter) {
        while self.rest.len() > TEXT_LENGTH_MAX {
            let after = self.rest.split_off(TEXT_LENGTH_MAX);
            log.append(self.stream, false, &self.rest);
            self.rest = after;
        }
    }

    /// Logs a last line that has no end.
    pub(crate) fn finish(&mut self, log: &mut LogWriter) {
        if !self.rest.is_empty() {
            log.append(self.stream, false, &self.rest);
            self.rest.clear();
        }
    }
}

/// Somebody who gets a copy of one output stream. The container waits for a reader that does not keep up, as with a pipe.
#[derive(Debug)]
pub(crate) struct Attachment {
    fd: OwnedFd,
    stream: Stream,
    /// What did not fit into the pipe.
    pending: Vec<u8>,
    /// The reader has gone.
    pub(crate) has_ended: bool,
}

impl Attachment {
    /// With the end to read from.
    pub(crate) fn make(stream: Stream) -> Result<(Self, OwnedFd), Failure> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).during("make", "a pipe")?;
        stop_blocking(&write)?;
        let attachment = Self {
            fd: write,
            stream,
            pending: Vec::new(),
            has_ended: false,
        };
        Ok((attachment, read))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn stream(&self) -> Stream {
        self.stream
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn pass_on(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        self.flush();
    }

    /// Writes what fits.
    pub(crate) fn flush(&mut self) {
        while !self.pending.is_empty() {
            match nix::unistd::write(&self.fd, &self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => {
                    self.pending.clear();
                    self.has_ended = true;
                }
            }
        }
    }
}
