//! How many steps work at once, and that no two make the same layer.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use gantry_dockerfile::Key;

use crate::cancel::Cancel;
use crate::error::Result;

/// Whoever waits looks for a cancelled build so often.
const WAIT: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(crate) struct Permits {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: usize,
    making: BTreeSet<Key>,
}

/// The right to make one layer.
#[derive(Debug)]
pub(crate) struct Making<'a> {
    permits: &'a Permits,
    key: Key,
}

/// The right to use a processor.
#[derive(Debug)]
pub(crate) struct Permit<'a>(&'a Permits);

impl Permits {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            state: Mutex::new(State {
                free: count.max(1),
                making: BTreeSet::new(),
            }),
            changed: Condvar::new(),
        }
    }

    fn wait(&self, cancel: &Cancel, mut try_now: impl FnMut(&mut State) -> bool) -> Result<()> {
        // Every change is one step, so a panicking holder leaves it whole.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !try_now(&mut state) {
            cancel.check()?;
            state = self
                .changed
                .wait_timeout(state, WAIT)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits until nobody makes the layer of this key.
    pub(crate) fn making(&self, key: Key, cancel: &Cancel) -> Result<Making<'_>> {
        self.wait(cancel, |state| state.making.insert(key))?;
        Ok(Making { permits: self, key })
    }

    /// Waits for a processor.
    pub(crate) fn permit(&self, cancel: &Cancel) -> Result<Permit<'_>> {
        self.wait(cancel, |state| {
            let is_free = state.free > 0;
            state.free -= usize::from(is_free);
            is_free
        })?;
        Ok(Permit(self))
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.permits.change(|state| {
            state.making.remove(&self.key);
        });
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.free += 1);
    }
}
