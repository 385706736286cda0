//! Wall clock time that does not jump while the agent runs.
//!
//! Deadlines of replicas are points in time, because they are saved. Taken from a clock that is set back by an hour, a back-off
//! would last an hour longer; so the time of the start is kept, and what has passed since is measured.

use std::sync::Arc;

use gantry_env::Env;
use gantry_model::{DurationMs, Timestamp};

/// A steady clock.
#[derive(Clone)]
pub struct Clock {
    env: Arc<dyn Env>,
    started_at: Timestamp,
    offset: DurationMs,
}

impl Clock {
    /// Starts from the present wall clock time.
    #[must_use]
    pub fn new(env: Arc<dyn Env>) -> Self {
        let (started_at, offset) = (env.now(), env.monotonic());
        Self {
            env,
            started_at,
            offset,
        }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.started_at.after(self.env.monotonic() - self.offset)
    }

    /// Randomness for jitter.
    #[must_use]
    pub fn random_below(&self, bound: DurationMs) -> DurationMs {
        DurationMs(self.env.random_below(bound.0))
    }

    /// Sleeps until then; for ever without a time.
    pub async fn sleep_until(&self, at: Option<Timestamp>) {
        match at {
            Some(at) => tokio::time::sleep(at.since(self.now()).to_std()).await,
            None => std::future::pending().await,
        }
    }
}
