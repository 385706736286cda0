//! Waiting for a cluster that is not there yet: the one back-off of everything that a newcomer asks first.
//!
//! Machines of a cluster start in any order, and a first server listens some milliseconds before its cluster is stored: for a
//! while "connection refused", "no leader" and "is being initialised" are what a healthy start looks like.
//! Deliberately not here: calls of members, which a [`crate::ServerPool`] repeats for as long as an election takes.

use gantry_env::{Env, System};
use gantry_model::{DurationMs, Problem};

/// First pause: servers that start together are ready within a fraction of a second.
const PAUSE_MIN: DurationMs = DurationMs(50);

/// Longest pause, reached by doubling: how late a newcomer notices that the cluster is there, and how often thousands of them
/// knock at one that is not.
const PAUSE_MAX: DurationMs = DurationMs::secs(2);

/// The same problem is told again after this time.
const REPEAT_AFTER: DurationMs = DurationMs::secs(30);

/// How long to wait for a cluster, and whom to tell about it.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// After this time the last problem is final.
    pub limit: DurationMs,
    /// Hears of each new problem that is waited out, and of a lasting one from time to time.
    pub tell: fn(&Problem),
}

impl Patience {
    /// Of a server or agent: long enough for a whole rack to come up after a power cut. Tells the log.
    pub const DAEMON: Self = Self {
        limit: DurationMs::secs(600),
        tell: |problem| tracing::warn!(%problem, "the cluster is not ready yet; trying again"),
    };

    /// Of somebody who watches.
    #[must_use]
    pub const fn person(tell: fn(&Problem)) -> Self {
        Self {
            limit: DurationMs::secs(15),
            tell,
        }
    }

    /// Acts until it succeeds, fails with a problem that does not `pass`, or the limit is reached.
    ///
    /// # Errors
    /// The problem that does not pass, or the last one.
    pub async fn until<T, Fut>(
        &self,
        passes: impl Fn(&Problem) -> bool,
        mut act: impl FnMut() -> Fut,
    ) -> Result<T, Problem>
    where
        Fut: Future<Output = Result<T, Problem>>,
    {
        let started = System.monotonic();
        let mut told: Option<(Problem, DurationMs)> = None;
        let mut pause = PAUSE_MIN;
        loop {
            let problem = match act().await {
                Err(problem) if passes(&problem) => problem,
                answer => return answer,
            };
            let now = System.monotonic();
            if now.0 - started.0 + pause.0 > self.limit.0 {
                return Err(problem);
            }
            let known = told
                .as_ref()
                .is_some_and(|(last, at)| *last == problem && now.0 - at.0 < REPEAT_AFTER.0);
            if !known {
                (self.tell)(&problem);
                told = Some((problem, now));
            }
            tokio::time::sleep(pause.to_std()).await;
            pause = (pause + pause).min(PAUSE_MAX);
        }
    }
}
