//! Waiting for conditions, with a deadline, never for time to pass.

use std::time::{Duration, Instant};

use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

/// Longest wait for anything that is not a matter of seconds by design.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until `look` gives something, or panics with what it said last.
///
/// # Panics
/// When the deadline passes.
pub fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let started = now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) if started.elapsed() > limit => panic!("not within {limit:?}: {what}; last seen: {last}"),
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// [`within`] the usual deadline.
///
/// # Panics
/// When the deadline passes.
pub fn until<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    within(DEADLINE, what, look)
}

/// How long `act` took, in milliseconds.
pub fn elapsed_ms(act: impl FnOnce()) -> u128 {
    let started = now();
    act();
    started.elapsed().as_millis()
}

/// Time since a moment of a test.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(now())
    }

    /// How long ago that was.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// The same in milliseconds.
    #[must_use]
    pub fn ms(&self) -> u128 {
        self.elapsed().as_millis()
    }
}

/// Milliseconds on the clock that all processes of the machine share, for moments that several of them speak of.
///
/// # Panics
/// When the kernel has no such clock.
#[must_use]
pub fn machine_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has a monotonic clock");
    now.num_milliseconds().unsigned_abs()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test outside of the system measures real time"
)]
fn now() -> Instant {
    Instant::now()
}
