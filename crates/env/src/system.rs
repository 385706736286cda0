//! The real clock and the kernel's random numbers.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use gantry_model::{DurationMs, Timestamp};

use crate::Env;

/// The machine this process runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one door to the clock and to randomness"
)]
impl Env for System {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> DurationMs {
        DurationMs(self.monotonic_us() / 1000)
    }

    fn monotonic_us(&self) -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        let elapsed = START.get_or_init(Instant::now).elapsed();
        u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
    }

    fn fill_random(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the kernel provides random numbers once it has booted");
    }
}
