//! The machine's monotonic clock, the same in all processes, so that one process times what another one began.

use nix::time::{ClockId, clock_gettime};

/// Microseconds.
pub fn micros() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
    seconds * 1_000_000 + u64::try_from(time.tv_nsec()).unwrap_or_default() / 1_000
}
