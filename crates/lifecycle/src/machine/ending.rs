//! Whether an end is the end: restart, retry, or which terminal phase and why.

use gantry_model::phase::{Desired, Exit, Phase};
use gantry_model::{DurationMs, Timestamp};

use super::{End, Machine, PREPARE_ATTEMPTS_MAX, PREPARE_RETRY, State};
use crate::event::{Action, Failure};

/// Longest part of a health check's output in a message; Docker keeps 4 KiB of it, people read a line.
const OUTPUT_LENGTH_MAX: usize = 256;

impl Machine {
    /// A container ended, or a start of one that has run before failed.
    pub(super) fn after_end(&mut self, failed: bool, reason: &str, ran: DurationMs, now: Timestamp) -> Vec<Action> {
        self.observed.ready = false;
        if self.desired != Desired::Run {
            return self.release(self.stopped());
        }
        let policy = &self.policy.restart;
        let is_done = self.policy.is_job && !failed;
        let decision = if is_done {
            None
        } else {
            self.restarts.decide(policy, failed, ran, now)
        };
        let Some(delay) = decision else {
            let phase = if failed { Phase::Failed } else { Phase::Completed };
            return self.release(End {
                phase,
                message: reason.to_string(),
            });
        };
        self.observed.message = format!("{reason}; starts again after {delay}");
        self.state = State::Backoff {
            until: now.after(delay),
        };
        vec![]
    }

    /// A replica that has run falls under its restart policy; one that has not is tried a few times, then rejected.
    pub(super) fn try_again_or_reject(&mut self, failures: u32, failure: Failure, now: Timestamp) -> Vec<Action> {
        if self.desired != Desired::Run {
            return self.release(self.stopped());
        }
        if self.has_run {
            return self.after_end(true, &failure.reason, DurationMs::ZERO, now);
        }
        let failures = failures + 1;
        if !failure.retryable || failures >= PREPARE_ATTEMPTS_MAX {
            return self.release(End {
                phase: Phase::Rejected,
                message: failure.reason,
            });
        }
        let delay = DurationMs(PREPARE_RETRY.0 << (failures - 1));
        self.observed.message = format!("{}; tries again after {delay}", failure.reason);
        self.state = State::Preparing {
            failures,
            retry_at: Some(now.after(delay)),
        };
        vec![]
    }

    pub(super) fn stopped(&self) -> End {
        let message = match self.observed.last_exit {
            Some(exit) if self.has_run => format!("stopped: {}", describe(exit)),
            Some(_) | None => "stopped before it ran".to_string(),
        };
        End {
            phase: Phase::Stopped,
            message,
        }
    }
}

/// `exit status 3`, `killed by signal 9`, `killed for lack of memory`.
pub(super) fn describe(exit: Exit) -> String {
    match exit.code {
        _ if exit.oom_killed && exit.code != 0 => "killed for lack of memory: raise its memory limit".to_string(),
        code @ 129..=192 => format!("killed by signal {}", code - 128),
        code => format!("exit status {code}"),
    }
}

pub(super) fn shorten(output: &str) -> String {
    let line = output.trim();
    match line.char_indices().nth(OUTPUT_LENGTH_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_string(),
    }
}
