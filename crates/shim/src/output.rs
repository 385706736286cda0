//! What the container writes, cut into records.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::log::{LogWriter, Stream, TEXT_LENGTH_MAX};

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

    /// Reads once and logs what came.
    pub(crate) fn forward(&mut self, log: &mut LogWriter) -> Progress {
        let mut chunk = [0; CHUNK_LENGTH];
        match nix::unistd::read(&self.fd, &mut chunk) {
            Ok(0) => Progress::Ended,
            Ok(length) => {
                self.accept(&chunk[..length], log);
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
