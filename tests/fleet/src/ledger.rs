//! What all agents of the process did, counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Arrivals kept between two questions; later ones are counted only.
const ARRIVALS_MAX: usize = 100_000;

/// A replica of the watched namespace that an agent was told to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arrival {
    /// `service.slot`.
    pub replica: String,
    /// When.
    pub at: u64,
}

macro_rules! ledger {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters that only rise, except those that say what there is now.
        #[derive(Debug, Default)]
        pub struct Ledger {
            $($(#[$doc])* pub $name: AtomicU64,)*
            arrivals: Mutex<Vec<Arrival>>,
        }

        impl Ledger {
            /// All counters as they are.
            pub fn counts(&self) -> serde_json::Value {
                serde_json::json!({ "at": crate::clock::micros(), $(stringify!($name): self.$name.load(Ordering::Relaxed),)* })
            }
        }
    };
}

ledger! {
    /// Agents with an identity.
    enrolled,
    /// Sessions open now.
    sessions,
    /// Sessions opened so far.
    opened,
    /// Sessions that ended otherwise than by `vanish`.
    lost,
    /// Tries to open one that failed.
    refused,
    /// Replicas wanted on nodes that are here now.
    wanted,
    /// Replicas reported as running on nodes that are here now.
    running,
    /// Replicas that agents were told to run, so far.
    assigned,
    /// Complete sets.
    complete,
    /// Increments.
    increments,
    /// Items of sets.
    items,
    /// Bytes of items.
    item_bytes,
    /// Increments that did not apply.
    resyncs,
    /// Reports sent.
    statuses,
    /// Messages that carried them.
    batches,
    /// Acknowledgements sent.
    acknowledged,
    /// Heartbeats sent.
    heartbeats,
}

impl Ledger {
    /// Notes an arrival.
    pub fn arrived(&self, arrival: Arrival) {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        if arrivals.len() < ARRIVALS_MAX {
            arrivals.push(arrival);
        }
    }

    /// The arrivals since the last time.
    pub fn take_arrivals(&self) -> Vec<Arrival> {
        std::mem::take(&mut self.arrivals.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

/// Takes from a counter of what there is now.
pub fn subtract(counter: &AtomicU64, by: usize) {
    counter.fetch_sub(by as u64, Ordering::Relaxed);
}
