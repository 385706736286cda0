//! Waits between rounds over the servers: short and random first, doubling to a limit.

use gantry_model::DurationMs;

use crate::clock::Clock;
use crate::limits::{RECONNECT_FIRST_MAX, RECONNECT_MAX};

/// See the module.
pub(super) struct Backoff {
    clock: Clock,
    max: DurationMs,
}

impl Backoff {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            max: RECONNECT_FIRST_MAX,
        }
    }

    /// The next wait: random, so that a new leader does not meet all agents in one moment.
    pub(super) fn next(&mut self) -> DurationMs {
        let wait = self.clock.random_below(self.max);
        self.max = (self.max + self.max).min(RECONNECT_MAX);
        wait
    }

    /// It worked meanwhile: begin with short waits again.
    pub(super) fn reset(&mut self) {
        self.max = RECONNECT_FIRST_MAX;
    }

    pub(super) fn is_first(&self) -> bool {
        self.max == RECONNECT_FIRST_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_env::Seeded;
    use gantry_model::Timestamp;
    use std::sync::Arc;

    #[test]
    fn waits_grow_to_the_limit_and_start_over() {
        let mut backoff = Backoff::new(Clock::new(Arc::new(Seeded::new(1, Timestamp(0)))));
        assert!(backoff.next() < RECONNECT_FIRST_MAX && !backoff.is_first());
        let longest = (0..200).map(|_| backoff.next()).max();
        assert!(
            longest < Some(RECONNECT_MAX) && longest > Some(RECONNECT_FIRST_MAX),
            "{longest:?}"
        );
        backoff.reset();
        assert!(backoff.is_first() && backoff.next() < RECONNECT_FIRST_MAX);
    }
}
