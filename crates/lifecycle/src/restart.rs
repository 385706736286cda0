//! Whether and when a container is started again.

use std::collections::VecDeque;

use gantry_model::spec::{RestartCondition, RestartPolicy};
use gantry_model::{DurationMs, Timestamp};
use serde::{Deserialize, Serialize};

/// A container that ran this long is not in a crash loop, when the policy has no window; Docker's figure
/// (`restartmanager.go`, 10 s).
pub const RAN_LONG_ENOUGH: DurationMs = DurationMs::secs(10);

/// What must be remembered of former starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartBook {
    /// Ends in a row after too short a run: the power of two of the next delay.
    short_runs: u32,
    /// Restarts without a window, or all ever decided.
    count: u32,
    /// When restarts that may still count were decided; kept only under a policy with a window and a maximum, and then never
    /// longer than the maximum.
    recent: VecDeque<Timestamp>,
}

impl RestartBook {
    /// Decides about an end: the delay before the next start, or none when the policy says it is over. `ran` is how long the
    /// container had run.
    pub fn decide(
        &mut self,
        policy: &RestartPolicy,
        failed: bool,
        ran: DurationMs,
        now: Timestamp,
    ) -> Option<DurationMs> {
        let wanted = match policy.condition {
            RestartCondition::None => false,
            RestartCondition::OnFailure => failed,
            RestartCondition::Any => true,
        };
        if !wanted || policy.max_attempts.is_some_and(|max| self.used(policy, now) >= max) {
            return None;
        }
        if ran >= long_enough(policy) {
            self.short_runs = 0;
        }
        let delay = delay_after(policy, self.short_runs);
        self.short_runs = self.short_runs.saturating_add(1);
        self.count = self.count.saturating_add(1);
        if policy.max_attempts.is_some() && policy.window > DurationMs::ZERO {
            self.recent.push_back(now);
        }
        Some(delay)
    }

    /// Restarts decided so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Restarts that count towards the maximum now.
    fn used(&mut self, policy: &RestartPolicy, now: Timestamp) -> u32 {
        if policy.window == DurationMs::ZERO {
            return self.count;
        }
        while self.recent.front().is_some_and(|at| now.since(*at) > policy.window) {
            self.recent.pop_front();
        }
        u32::try_from(self.recent.len()).unwrap_or(u32::MAX)
    }
}

fn long_enough(policy: &RestartPolicy) -> DurationMs {
    if policy.window == DurationMs::ZERO {
        RAN_LONG_ENOUGH
    } else {
        policy.window
    }
}

fn delay_after(policy: &RestartPolicy, short_runs: u32) -> DurationMs {
    let factor = 1u64.checked_shl(short_runs).unwrap_or(u64::MAX);
    DurationMs(policy.delay.0.saturating_mul(factor).min(policy.delay_max.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(max_attempts: Option<u32>, window: DurationMs) -> RestartPolicy {
        RestartPolicy {
            max_attempts,
            window,
            ..RestartPolicy::default()
        }
    }

    #[test]
    fn delays_double_up_to_the_longest_and_start_over_after_a_long_run() {
        let policy = policy(None, DurationMs::ZERO);
        let mut book = RestartBook::default();
        let mut next = |ran| book.decide(&policy, true, ran, Timestamp(0)).map(|delay| delay.0);
        let delays: Vec<_> = (0..11).map(|_| next(DurationMs(5))).collect();
        let expected = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000];
        assert_eq!(delays, expected.map(Some).to_vec());
        assert_eq!(next(RAN_LONG_ENOUGH), Some(100));
        assert_eq!(next(DurationMs(9_999)), Some(200));
    }

    #[test]
    fn a_very_long_crash_loop_does_not_overflow() {
        let policy = policy(None, DurationMs::ZERO);
        let mut book = RestartBook {
            short_runs: u32::MAX,
            count: u32::MAX,
            recent: VecDeque::new(),
        };
        assert_eq!(
            book.decide(&policy, true, DurationMs::ZERO, Timestamp(0)),
            Some(policy.delay_max)
        );
    }

    #[test]
    fn the_condition_is_heeded() {
        for (condition, failed, restarts) in [
            (RestartCondition::None, true, false),
            (RestartCondition::None, false, false),
            (RestartCondition::OnFailure, true, true),
            (RestartCondition::OnFailure, false, false),
            (RestartCondition::Any, true, true),
            (RestartCondition::Any, false, true),
        ] {
            let policy = RestartPolicy {
                condition,
                ..RestartPolicy::default()
            };
            let decision = RestartBook::default().decide(&policy, failed, DurationMs::ZERO, Timestamp(0));
            assert_eq!(decision.is_some(), restarts, "{condition:?}, failed: {failed}");
        }
    }

    #[test]
    fn without_a_window_all_restarts_count() {
        let policy = policy(Some(2), DurationMs::ZERO);
        let mut book = RestartBook::default();
        for (at, restarts) in [(0, true), (1_000_000, true), (2_000_000, false)] {
            let decision = book.decide(&policy, true, DurationMs::secs(1000), Timestamp(at));
            assert_eq!(decision.is_some(), restarts, "{at}");
        }
    }

    #[test]
    fn within_a_window_only_recent_restarts_count() {
        let policy = policy(Some(2), DurationMs::secs(10));
        let mut book = RestartBook::default();
        for (at, restarts) in [
            (0, true),
            (5_000, true),
            (9_000, false),
            (10_001, true),
            (10_002, false),
        ] {
            let decision = book.decide(&policy, true, DurationMs::ZERO, Timestamp(at));
            assert_eq!(decision.is_some(), restarts, "{at}");
        }
    }
}
