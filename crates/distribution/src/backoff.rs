//! When to try again: doubling waits with jitter, or what the registry asks for.

use std::time::Duration;

use gantry_env::Env;

use crate::error::Cause;
use crate::limits::CONNECT_ATTEMPTS_MAX;
use crate::options::Timing;

/// Counts the attempts at one thing since it last made progress.
#[derive(Debug)]
pub(crate) struct Backoff {
    timing: Timing,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(timing: Timing) -> Self {
        Self { timing, failures: 0 }
    }

    /// Something moved, so the patience is whole again.
    pub(crate) const fn progress(&mut self) {
        self.failures = 0;
    }

    /// How long to wait before the next attempt; none when it is time to give up.
    pub(crate) fn after(&mut self, cause: &Cause, env: &dyn Env) -> Option<Duration> {
        if !cause.may_pass() {
            return None;
        }
        self.failures += 1;
        let attempts = match cause {
            Cause::Connect { .. } => self.timing.attempts_max.min(CONNECT_ATTEMPTS_MAX),
            _ => self.timing.attempts_max,
        };
        if self.failures >= attempts {
            return None;
        }
        if let Cause::RateLimited {
            wait_seconds: Some(seconds),
            ..
        } = cause
        {
            let asked = Duration::from_secs(*seconds);
            // Many nodes are told the same; they need not all come back in the same moment.
            return (asked <= self.timing.retry_after_max).then(|| asked + jitter(self.timing.backoff_min, env));
        }
        let doubled = self.timing.backoff_min.saturating_mul(1 << (self.failures - 1).min(16));
        let longest = doubled.min(self.timing.backoff_max);
        Some(longest / 2 + jitter(longest / 2, env))
    }
}

fn jitter(below: Duration, env: &dyn Env) -> Duration {
    let bound = u64::try_from(below.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(env.random_below(bound))
}

#[cfg(test)]
mod tests {
    use gantry_env::Seeded;
    use gantry_model::Timestamp;
    use hyper::StatusCode;

    use super::*;

    fn waits(cause: &Cause) -> Vec<Duration> {
        let env = Seeded::new(7, Timestamp(0));
        let mut backoff = Backoff::new(Timing::default());
        std::iter::from_fn(|| backoff.after(cause, &env)).collect()
    }

    #[test]
    fn waits_double_within_their_bounds_and_end() {
        let waits = waits(&Cause::Broken("reset".into()));
        assert_eq!(waits.len(), 5, "{waits:?}");
        for (step, wait) in waits.iter().enumerate() {
            let longest = Duration::from_millis(250 << step);
            assert!(longest / 2 <= *wait && *wait <= longest, "{step}: {wait:?}");
        }
    }

    #[test]
    fn a_registry_that_asks_for_hours_is_not_waited_for() {
        let limited = |seconds| Cause::RateLimited {
            status: StatusCode::TOO_MANY_REQUESTS,
            message: String::new(),
            wait_seconds: Some(seconds),
        };
        assert_eq!(waits(&limited(3600)), []);
        let short = waits(&limited(2));
        assert!(short.len() == 5 && short.iter().all(|wait| *wait >= Duration::from_secs(2)));
    }

    #[test]
    fn what_cannot_pass_is_not_tried_again() {
        let denied = Cause::Denied {
            status: StatusCode::FORBIDDEN,
            message: String::new(),
            logged_in: true,
        };
        assert_eq!(waits(&denied), []);
        let refused = Cause::Connect {
            host: "h".into(),
            reason: "refused".into(),
        };
        assert_eq!(waits(&refused).len(), 2);
    }

    #[test]
    fn progress_renews_the_patience() {
        let env = Seeded::new(7, Timestamp(0));
        let mut backoff = Backoff::new(Timing::default());
        for _ in 0..100 {
            assert!(backoff.after(&Cause::Stalled { seconds: 30 }, &env).is_some());
            backoff.progress();
        }
    }
}
