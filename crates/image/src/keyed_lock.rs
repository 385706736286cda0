//! One lock per digest: two callers that want the same layer unpacked or blob received don't do it twice.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};

use gantry_model::Digest;

/// The digests being worked on.
#[derive(Debug, Default)]
pub(crate) struct KeyedLock {
    held: Mutex<BTreeSet<Digest>>,
    released: Condvar,
}

/// Released when dropped.
pub(crate) struct KeyedGuard<'a> {
    lock: &'a KeyedLock,
    key: Digest,
}

impl KeyedLock {
    /// Waits until nobody else holds the digest.
    pub(crate) fn lock(&self, key: Digest) -> KeyedGuard<'_> {
        // The set stays whole when a holder panics: its guard is dropped all the same.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while !held.insert(key) {
            held = self.released.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        KeyedGuard { lock: self, key }
    }
}

impl Drop for KeyedGuard<'_> {
    fn drop(&mut self) {
        let mut held = self.lock.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&self.key);
        self.lock.released.notify_all();
    }
}
