//! A build that nobody waits for any more ends, wherever it is.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::{BuildError, Result};

/// Set once, seen by all clones: as a flag between steps, as a descriptor while waiting.
#[derive(Debug, Clone)]
pub struct Cancel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    is_set: AtomicBool,
    event: EventFd,
}

impl Cancel {
    /// Not set yet.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let inner = Inner {
            is_set: AtomicBool::new(false),
            event: event.map_err(BuildError::errno("make", "an event descriptor"))?,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Ends the build.
    pub fn set(&self) {
        self.inner.is_set.store(true, Ordering::Release);
        // Its counter cannot overflow: nobody reads it, and 2⁶⁴ calls are not made.
        let _ = self.inner.event.write(1);
    }

    /// Whether it was set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.inner.is_set.load(Ordering::Acquire)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() {
            Err(BuildError::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Readable from the moment that it is set.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.inner.event.as_fd()
    }
}
