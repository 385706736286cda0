//! Health checks of one container, by Docker's rules.
//!
//! A check runs one interval after the start and one interval after each result; `start_interval` takes its place during the
//! start period, whose failures do not count, and which the first success ends. As many counted failures in a row as `retries`
//! says make the container unhealthy.
//!
//! Beyond Docker: before the first regular check, early ones run at growing distances. A failure of these never counts; a
//! success makes the replica ready seconds before Docker would have looked, which is what a rollout waits for.

use gantry_model::phase::Health;
use gantry_model::spec::HealthCheck;
use gantry_model::{DurationMs, Timestamp};
use serde::{Deserialize, Serialize};

/// Wait before the first early check; each further one waits twice as long.
pub const EARLY_PROBE_DELAY: DurationMs = DurationMs(100);

/// What is known of a container's health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthState {
    status: Health,
    failures_in_row: u32,
    has_succeeded: bool,
    /// When the check under way began.
    #[serde(skip)]
    probe_begun_at: Option<Timestamp>,
    next_at: Timestamp,
    early_delay: DurationMs,
}

impl HealthState {
    /// Of a container that was started just now.
    #[must_use]
    pub fn new(check: Option<&HealthCheck>, started_at: Timestamp) -> Self {
        match check {
            None => Self::default(),
            Some(check) => Self {
                status: Health::Starting,
                next_at: started_at.after(EARLY_PROBE_DELAY.min(first_interval(check))),
                early_delay: EARLY_PROBE_DELAY,
                ..Self::default()
            },
        }
    }

    /// The result for people.
    #[must_use]
    pub fn status(&self) -> Health {
        self.status
    }

    /// Whether the container may get traffic.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.status, Health::None | Health::Healthy)
    }

    /// When the next check is due; none while one is under way, or when there is none.
    #[must_use]
    pub fn next_at(&self) -> Option<Timestamp> {
        let is_idle = self.probe_begun_at.is_none();
        (is_idle && self.status != Health::None && self.status != Health::Unhealthy).then_some(self.next_at)
    }

    /// A check begins.
    pub fn begin(&mut self, now: Timestamp) {
        self.probe_begun_at = Some(now);
    }

    /// A check that was under way was lost with the agent; the next one is due soon whatever the clock has done.
    pub fn resume(&mut self, check: &HealthCheck, now: Timestamp) {
        self.probe_begun_at = None;
        self.next_at = self.next_at.min(now.after(check.interval));
    }

    /// A check ended; the new status. A result that nothing waits for changes nothing.
    pub fn conclude(&mut self, check: &HealthCheck, healthy: bool, started_at: Timestamp, now: Timestamp) -> Health {
        let Some(begun_at) = self.probe_begun_at.take() else {
            return self.status;
        };
        let first_regular_at = started_at.after(first_interval(check));
        if healthy {
            self.status = Health::Healthy;
            self.has_succeeded = true;
            self.failures_in_row = 0;
        } else if self.has_succeeded || (begun_at >= first_regular_at && !in_start_period(check, started_at, begun_at))
        {
            self.failures_in_row = self.failures_in_row.saturating_add(1);
            if self.failures_in_row >= check.retries {
                self.status = Health::Unhealthy;
            }
        }
        self.schedule(check, started_at, now);
        self.status
    }

    fn schedule(&mut self, check: &HealthCheck, started_at: Timestamp, now: Timestamp) {
        let first_regular_at = started_at.after(first_interval(check));
        self.next_at = if self.has_succeeded {
            now.after(check.interval)
        } else if now < first_regular_at {
            self.early_delay = self.early_delay + self.early_delay;
            now.after(self.early_delay).min(first_regular_at)
        } else if in_start_period(check, started_at, now) {
            now.after(check.start_interval)
        } else {
            now.after(check.interval)
        };
    }
}

fn first_interval(check: &HealthCheck) -> DurationMs {
    if check.start_period > DurationMs::ZERO {
        check.start_interval
    } else {
        check.interval
    }
}

fn in_start_period(check: &HealthCheck, started_at: Timestamp, at: Timestamp) -> bool {
    at < started_at.after(check.start_period)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::spec::HealthTest;

    fn check() -> HealthCheck {
        HealthCheck {
            interval: DurationMs(1000),
            retries: 2,
            ..HealthCheck::with_defaults(HealthTest::Shell("true".into()))
        }
    }

    /// Runs every check as it falls due, with results from `results`; the times of the checks and the last status.
    fn run(check: &HealthCheck, results: &[bool]) -> (Vec<u64>, Health) {
        let mut state = HealthState::new(Some(check), Timestamp(0));
        let mut times = Vec::new();
        for healthy in results {
            let at = state.next_at().expect("a check is due");
            state.begin(at);
            assert_eq!(state.next_at(), None, "one check at a time");
            state.conclude(check, *healthy, Timestamp(0), at);
            times.push(at.0);
        }
        (times, state.status())
    }

    #[test]
    fn early_failures_do_not_count_and_regular_ones_do() {
        let (times, status) = run(&check(), &[false; 5]);
        assert_eq!(times, [100, 300, 700, 1000, 2000]);
        assert_eq!(status, Health::Unhealthy);
        assert_eq!(run(&check(), &[false; 4]).1, Health::Starting);
    }

    #[test]
    fn an_early_success_makes_it_ready_and_later_failures_count() {
        assert_eq!(run(&check(), &[true]), (vec![100], Health::Healthy));
        assert_eq!(run(&check(), &[true, false]), (vec![100, 1100], Health::Healthy));
        assert_eq!(run(&check(), &[true, false, false]).1, Health::Unhealthy);
        assert_eq!(run(&check(), &[true, false, true, false]).1, Health::Healthy);
    }

    #[test]
    fn failures_in_the_start_period_do_not_count_until_the_first_success() {
        let check = HealthCheck {
            start_period: DurationMs(1000),
            start_interval: DurationMs(400),
            ..check()
        };
        let (times, status) = run(&check, &[false; 6]);
        assert_eq!(times, [100, 300, 400, 800, 1200, 2200]);
        assert_eq!(status, Health::Unhealthy, "those at 1200 and 2200 count");
        assert_eq!(run(&check, &[false, false, true, false]).1, Health::Healthy);
        assert_eq!(run(&check, &[false, false, true, false, false]).1, Health::Unhealthy);
    }

    #[test]
    fn no_check_is_ready_at_once() {
        let state = HealthState::new(None, Timestamp(0));
        assert!(state.is_ready());
        assert_eq!((state.status(), state.next_at()), (Health::None, None));
    }

    #[test]
    fn a_clock_set_back_does_not_postpone_the_next_check_for_ever() {
        let mut state = HealthState::new(Some(&check()), Timestamp(1_000_000));
        state.begin(Timestamp(1_000_100));
        state.resume(&check(), Timestamp(0));
        assert_eq!(state.next_at(), Some(Timestamp(1000)));
    }
}
