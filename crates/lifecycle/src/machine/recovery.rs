//! After the agent was started anew: what was saved meets what is found.

use gantry_model::phase::Exit;
use gantry_model::{DurationMs, Timestamp};

use super::{KILL_AGAIN, Machine, State, StopCause};
use crate::event::{Action, Found};

/// The exit status given to a container of which there is no trace after a restart of the agent; Docker's too.
const EXIT_UNKNOWN: i32 = 255;

impl Machine {
    pub(super) fn on_recovered(&mut self, found: Found, now: Timestamp) -> Vec<Action> {
        match (&mut self.state, found) {
            (State::Running { .. }, Found::Running { pid, started_at }) => {
                self.observed.pid = Some(pid);
                self.observed.started_at = Some(started_at);
                self.resume_health(now);
                vec![]
            }
            (State::Starting { .. }, Found::Running { pid, started_at }) => self.run(pid, started_at, now),
            (State::Assigned | State::Preparing { .. } | State::Backoff { .. }, Found::Running { .. }) => {
                self.kill_stranger(now)
            }
            (State::Stopping { kill_at, .. }, Found::Running { .. }) => {
                *kill_at = (*kill_at).min(now.after(self.policy.stop_grace));
                vec![Action::Signal]
            }
            (State::Starting { .. } | State::Running { .. } | State::Stopping { .. }, Found::Exited(exit)) => {
                self.on_exited(exit, now)
            }
            (State::Running { .. } | State::Stopping { .. }, Found::Nothing) => self.on_vanished(now),
            (State::Starting { failures }, Found::Nothing) => {
                let failures = *failures;
                self.prepare_unless_stopped(failures)
            }
            (State::Assigned, Found::Exited(_) | Found::Nothing) => self.prepare_unless_stopped(0),
            (State::Preparing { failures, .. }, Found::Exited(_) | Found::Nothing) => {
                let failures = *failures;
                self.prepare_unless_stopped(failures)
            }
            (State::Backoff { until }, Found::Exited(_) | Found::Nothing) => {
                *until = (*until).min(now.after(self.policy.restart.delay_max));
                vec![]
            }
            (State::Releasing { .. }, _) => vec![Action::Release],
            (State::Ended, Found::Running { .. }) => vec![Action::Release],
            (State::Ended, Found::Exited(_) | Found::Nothing) => vec![],
            (State::Removing { .. }, _) => self.remove(),
            (State::Gone, _) => vec![Action::Forget],
        }
    }

    fn on_vanished(&mut self, now: Timestamp) -> Vec<Action> {
        let exit = Exit {
            code: EXIT_UNKNOWN,
            oom_killed: false,
            at: now,
        };
        let reason = "its container was gone when the agent came back, as after a restart of the machine";
        let ran = self
            .observed
            .started_at
            .map_or(DurationMs::ZERO, |start| now.since(start));
        self.observed.last_exit = Some(exit);
        self.observed.pid = None;
        self.after_end(true, reason, ran, now)
    }

    fn resume_health(&mut self, now: Timestamp) {
        if let (State::Running { health }, Some(check)) = (&mut self.state, &self.health_check) {
            health.resume(check, now);
        }
        self.observe_running(now);
    }

    /// A container runs that the saved machine has not started: its disk is behind. Nothing is known of its health, so it
    /// makes way for one that is watched.
    fn kill_stranger(&mut self, now: Timestamp) -> Vec<Action> {
        self.observed.message = "a container was found that was not on record".to_string();
        self.state = State::Stopping {
            cause: StopCause::Unhealthy,
            kill_at: now.after(KILL_AGAIN),
        };
        vec![Action::Kill]
    }
}
