//! A clock that moves only when told to, and numbers that follow from a seed.

use std::sync::Mutex;

use gantry_model::{DurationMs, Timestamp};

use crate::Env;

/// Deterministic time and randomness for simulations and tests: the same seed and calls give the same results.
#[derive(Debug)]
pub struct Seeded {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    now: Timestamp,
    monotonic: DurationMs,
    state: u64,
}

impl Seeded {
    /// Starts at `now` with the numbers that follow from `seed`.
    #[must_use]
    pub fn new(seed: u64, now: Timestamp) -> Self {
        Self {
            inner: Mutex::new(Inner {
                now,
                monotonic: DurationMs::ZERO,
                state: seed,
            }),
        }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: DurationMs) {
        let mut inner = self.lock();
        inner.now = inner.now.after(by);
        inner.monotonic += by;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014): full period, passes BigCrush.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Env for Seeded {
    fn now(&self) -> Timestamp {
        self.lock().now
    }

    fn monotonic(&self) -> DurationMs {
        self.lock().monotonic
    }

    fn fill_random(&self, buffer: &mut [u8]) {
        let mut inner = self.lock();
        for chunk in buffer.chunks_mut(8) {
            let bytes = split_mix(&mut inner.state).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FreshIds;

    #[test]
    fn the_same_seed_gives_the_same_history() {
        let (left, right) = (Seeded::new(7, Timestamp(1)), Seeded::new(7, Timestamp(1)));
        for _ in 0..100 {
            assert_eq!(left.replica_id(), right.replica_id());
        }
        left.advance(DurationMs(5));
        assert_eq!((left.now(), left.monotonic()), (Timestamp(6), DurationMs(5)));
        assert_ne!(left.random_u64(), Seeded::new(8, Timestamp(1)).random_u64());
    }
}
