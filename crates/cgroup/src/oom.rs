//! Kills for lack of memory: where they are counted, and a descriptor that tells of the next one.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::CgroupError;
use crate::error::{read_keyed, write};
use crate::group::At;
use crate::memory::{OOM_V1, OOM_V2};

/// Where kills for lack of memory are counted: a file of lines `key number`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OomSource {
    /// The file.
    pub file: PathBuf,
    /// The key of the line.
    pub key: &'static str,
}

impl OomSource {
    pub(crate) fn of(at: &At) -> Self {
        let (folder, (file, key)) = match at {
            At::V2(folder) => (folder, OOM_V2),
            At::V1(folder) => (folder, OOM_V1),
        };
        Self {
            file: folder.join(file),
            key,
        }
    }

    /// How many there were.
    pub(crate) fn count(&self) -> Result<u64, CgroupError> {
        read_keyed(&self.file, self.key)
    }
}

/// Becomes readable when memory ran out in the group.
#[derive(Debug)]
pub struct OomWatch {
    source: OomSource,
    told: u64,
    descriptor: Descriptor,
}

#[derive(Debug)]
enum Descriptor {
    /// Version 2 notifies of changes of `memory.events`.
    Inotify(Inotify),
    /// Version 1 has an interface of its own, which also needs the file that is watched open.
    Event(
        EventFd,
        #[expect(dead_code, reason = "held open: the kernel stops telling when it is closed")] File,
    ),
}

impl OomWatch {
    pub(crate) fn open(at: &At) -> Result<Self, CgroupError> {
        let source = OomSource::of(at);
        let failed = |error: std::io::Error| CgroupError::Read {
            path: source.file.clone(),
            source: error,
        };
        let descriptor = match at {
            At::V2(_) => {
                let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
                let inotify = inotify.map_err(|errno| failed(errno.into()))?;
                let added = inotify.add_watch(&source.file, AddWatchFlags::IN_MODIFY);
                added.map_err(|errno| failed(errno.into()))?;
                Descriptor::Inotify(inotify)
            }
            At::V1(folder) => {
                let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
                let event = event.map_err(|errno| failed(errno.into()))?;
                let control = File::open(&source.file).map_err(failed)?;
                let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
                write(&folder.join("cgroup.event_control"), &line)?;
                Descriptor::Event(event, control)
            }
        };
        let told = source.count()?;
        Ok(Self {
            source,
            told,
            descriptor,
        })
    }

    /// What to wait for; readable also when the group was removed.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.descriptor {
            Descriptor::Inotify(inotify) => inotify.as_fd(),
            Descriptor::Event(event, _) => event.as_fd(),
        }
    }

    /// Kills since the last call. Version 1 may tell of an emptied memory before the kill is counted: 0 then.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn take(&mut self) -> Result<u64, CgroupError> {
        match &self.descriptor {
            Descriptor::Inotify(inotify) => drop(inotify.read_events()),
            Descriptor::Event(event, _) => drop(event.read()),
        }
        let count = self.source.count()?;
        Ok(count.saturating_sub(std::mem::replace(&mut self.told, count)))
    }
}
