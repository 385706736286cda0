//! Output of a command as it comes, until it ends or the build is cancelled.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use gantry_model::phase::Exit;
use gantry_runtime::logs::{Range, Reader, Stream};
use gantry_runtime::{Handle, State};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::cancel::Cancel;
use crate::error::{BuildError, Result};

/// Lines are gathered up to so many bytes before they are passed on.
const GATHERED_BYTES: usize = 16 << 10;
/// A container whose end nobody announces is looked at so often.
const LOOK_EVERY_MS: u16 = 1000;

/// See the module.
pub(super) struct Follower {
    reader: Reader,
    changes: Inotify,
}

impl Follower {
    pub(super) fn new(log: &Path) -> Result<Self> {
        // The shim appends to it; made here so that it can be watched from the first byte on.
        File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(BuildError::io("open", log))?;
        let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let changes = changes.map_err(BuildError::errno("watch", log))?;
        changes
            .add_watch(log, AddWatchFlags::IN_MODIFY)
            .map_err(BuildError::errno("watch", log))?;
        Ok(Self {
            reader: Reader::open(log, Range::default()).map_err(BuildError::io("read", log))?,
            changes,
        })
    }

    /// Returns how the command ended; a cancelled build kills it.
    pub(super) fn follow(&mut self, handle: &Handle, cancel: &Cancel, log: &dyn Fn(u8, Vec<u8>)) -> Result<Exit> {
        loop {
            let state = handle.state()?;
            self.pass_on(log)?;
            if let State::Exited(exit) = state {
                return Ok(exit);
            }
            if cancel.is_set() {
                handle.kill_all()?;
                return Err(BuildError::Cancelled);
            }
            self.wait(handle, cancel)?;
        }
    }

    fn wait(&self, handle: &Handle, cancel: &Cancel) -> Result<()> {
        let mut polled = vec![
            PollFd::new(self.changes.as_fd(), PollFlags::POLLIN),
            PollFd::new(cancel.fd(), PollFlags::POLLIN),
        ];
        polled.extend(handle.exit_fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut polled, PollTimeout::from(LOOK_EVERY_MS)) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(BuildError::errno("wait for", "the command")(errno)),
        }
        // Only emptied: that there was something is all that it says.
        let _ = self.changes.read_events();
        Ok(())
    }

    fn pass_on(&mut self, log: &dyn Fn(u8, Vec<u8>)) -> Result<()> {
        let mut gathered: (u8, Vec<u8>) = (1, Vec::new());
        let path = self.reader.path().to_path_buf();
        while let Some(record) = self.reader.next_record().map_err(BuildError::io("read", &path))? {
            let stream = match record.stream {
                Stream::Stdout => 1,
                Stream::Stderr => 2,
            };
            let is_full = gathered.1.len() >= GATHERED_BYTES;
            if (is_full || stream != gathered.0) && !gathered.1.is_empty() {
                log(gathered.0, std::mem::take(&mut gathered.1));
            }
            gathered.0 = stream;
            gathered.1.extend_from_slice(&record.text);
            if !record.is_partial {
                gathered.1.push(b'\n');
            }
        }
        if !gathered.1.is_empty() {
            log(gathered.0, gathered.1);
        }
        Ok(())
    }
}
