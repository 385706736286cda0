//! The transitions of a replica on its node.
//!
//! | state | waits for | leads to |
//! |---|---|---|
//! | assigned | the first `Desired` | preparing, releasing |
//! | preparing | `Prepared`, `PrepareFailed`, a retry | starting, backoff, releasing |
//! | starting | `Started`, `StartFailed` | running, stopping, backoff, preparing, releasing |
//! | running | `Exited`, `Desired`, a health check | stopping, backoff, releasing |
//! | backoff | its time | preparing, releasing |
//! | stopping | `Exited`, the end of the grace | backoff, releasing |
//! | releasing | `Released` | ended, removing |
//! | ended | `Desired(Remove)` | removing |
//! | removing | `Removed`, a retry | gone |
//! | gone | nothing | – |
//!
//! Every start is preceded by a preparation, so that what a restart of the machine took away (network namespaces, files in
//! memory) is there again. An event that a state does not wait for changes nothing.

mod ending;
mod recovery;
mod state;

use gantry_model::phase::{Desired, Exit, Health, Observed, Phase};
use gantry_model::spec::HealthCheck;
use gantry_model::{DurationMs, Timestamp};
use serde::{Deserialize, Serialize};

use crate::event::{Action, Attempt, Event, Failure};
use crate::health::HealthState;
use crate::policy::Policy;
use crate::restart::RestartBook;
use ending::{describe, shorten};

pub use state::{End, State, StopCause};

/// How often a replica that has never run is prepared or started before this node rejects it. With the doubling delays below
/// that is 7.5 s, enough for an image on its way to another node, short enough for the leader to try another node.
pub const PREPARE_ATTEMPTS_MAX: u32 = 5;
/// Wait before the second preparation; doubled for each further one.
pub const PREPARE_RETRY: DurationMs = DurationMs(500);
/// SIGKILL is sent again when a container is still there after so long (a process in an uninterruptible wait).
pub const KILL_AGAIN: DurationMs = DurationMs::secs(5);
/// Wait before a removal that failed is tried again.
pub const REMOVE_RETRY: DurationMs = DurationMs::secs(5);
/// One replica on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    policy: Policy,
    desired: Desired,
    state: State,
    attempt: Attempt,
    has_run: bool,
    health_check: Option<HealthCheck>,
    restarts: RestartBook,
    observed: Observed,
}

/// What a saved machine must not be behind in.
#[derive(PartialEq)]
struct Mark {
    state: std::mem::Discriminant<State>,
    cause: Option<StopCause>,
    desired: Desired,
    is_ready: bool,
}

impl Machine {
    /// A replica that was just assigned; nothing happens before its first [`Event::Desired`].
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            desired: Desired::Run,
            state: State::Assigned,
            attempt: Attempt(0),
            has_run: false,
            health_check: None,
            restarts: RestartBook::default(),
            observed: Observed {
                phase: Phase::Assigned,
                ..Observed::default()
            },
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What the leader wants, as far as this machine has heard.
    #[must_use]
    pub fn desired(&self) -> Desired {
        self.desired
    }

    /// What was last reported.
    #[must_use]
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// The last start.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// When it wants a [`Event::Tick`].
    #[must_use]
    pub fn wake_at(&self) -> Option<Timestamp> {
        match &self.state {
            State::Preparing { retry_at, .. } | State::Removing { retry_at } => *retry_at,
            State::Running { health } => health.next_at(),
            State::Backoff { until } => Some(*until),
            State::Stopping { kill_at, .. } => Some(*kill_at),
            State::Assigned | State::Starting { .. } | State::Releasing { .. } | State::Ended | State::Gone => None,
        }
    }

    /// Takes in what happened; what to do now, in order.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let (mark, before) = (self.mark(), self.observed.clone());
        let mut actions = self.transition(event, now);
        if self.mark() != mark {
            actions.insert(0, Action::Save);
        }
        if self.observed != before {
            self.observed.sequence += 1;
            self.observed.at = now;
            actions.push(Action::Report(self.observed.clone()));
        }
        actions
    }

    fn transition(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        match event {
            Event::Desired(desired) => self.on_desired(desired, now),
            Event::Prepared { image_health } => self.on_prepared(image_health),
            Event::PrepareFailed(failure) => self.on_prepare_failed(failure, now),
            Event::Started { attempt, pid, at } if attempt == self.attempt => self.on_started(pid, at, now),
            Event::StartFailed { attempt, failure } if attempt == self.attempt => self.on_start_failed(failure, now),
            Event::Exited { attempt, exit } if attempt == self.attempt => self.on_exited(exit, now),
            Event::Probed {
                attempt,
                healthy,
                output,
            } if attempt == self.attempt => self.on_probed(healthy, &output, now),
            Event::Started { .. } | Event::StartFailed { .. } | Event::Exited { .. } | Event::Probed { .. } => vec![],
            Event::Released => self.on_released(),
            Event::Removed => self.on_removed(),
            Event::RemoveFailed { reason } => self.on_remove_failed(reason, now),
            Event::Recovered(found) => self.on_recovered(found, now),
            Event::Note(text) => self.on_note(text),
            Event::Tick => self.on_tick(now),
        }
    }

    fn on_desired(&mut self, desired: Desired, now: Timestamp) -> Vec<Action> {
        self.desired = self.desired.max(desired);
        let goes_on = self.desired == Desired::Run;
        let stops = self.desired >= Desired::Stop;
        match &mut self.state {
            State::Assigned if goes_on => self.prepare(0),
            State::Assigned | State::Preparing { .. } | State::Backoff { .. } if !goes_on => {
                self.release(self.stopped())
            }
            State::Running { .. } if stops => self.stop(StopCause::Told, now),
            State::Stopping { cause, .. } if stops => {
                *cause = StopCause::Told;
                vec![]
            }
            State::Ended if self.desired == Desired::Remove => self.remove(),
            State::Assigned
            | State::Preparing { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Backoff { .. }
            | State::Stopping { .. }
            | State::Releasing { .. }
            | State::Ended
            | State::Removing { .. }
            | State::Gone => vec![],
        }
    }

    fn on_prepared(&mut self, image_health: Option<HealthCheck>) -> Vec<Action> {
        let State::Preparing {
            failures,
            retry_at: None,
        } = self.state
        else {
            return vec![];
        };
        self.health_check = self.policy.effective_health(image_health);
        self.attempt = Attempt(self.attempt.0 + 1);
        self.state = State::Starting { failures };
        self.raise(Phase::Starting);
        self.observed.message.clear();
        vec![Action::Start { attempt: self.attempt }]
    }

    fn on_prepare_failed(&mut self, failure: Failure, now: Timestamp) -> Vec<Action> {
        match self.state {
            State::Preparing {
                failures,
                retry_at: None,
            } => self.try_again_or_reject(failures, failure, now),
            _ => vec![],
        }
    }

    fn on_started(&mut self, pid: u32, at: Timestamp, now: Timestamp) -> Vec<Action> {
        match self.state {
            State::Starting { .. } => self.run(pid, at, now),
            _ => vec![],
        }
    }

    fn on_start_failed(&mut self, failure: Failure, now: Timestamp) -> Vec<Action> {
        match self.state {
            State::Starting { failures } => self.try_again_or_reject(failures, failure, now),
            _ => vec![],
        }
    }

    fn on_exited(&mut self, exit: Exit, now: Timestamp) -> Vec<Action> {
        let unhealthy = match self.state {
            State::Starting { .. } | State::Running { .. } => false,
            State::Stopping { cause, .. } => cause == StopCause::Unhealthy,
            _ => return vec![],
        };
        let ran = self
            .observed
            .started_at
            .map_or(DurationMs::ZERO, |start| exit.at.since(start));
        self.observed.last_exit = Some(exit);
        self.observed.pid = None;
        let mut reason = describe(exit);
        if unhealthy {
            reason = format!("{} ({reason})", self.observed.message);
        }
        self.after_end(exit.code != 0 || unhealthy, &reason, ran, now)
    }

    fn on_probed(&mut self, healthy: bool, output: &str, now: Timestamp) -> Vec<Action> {
        let State::Running { health } = &mut self.state else {
            return vec![];
        };
        let Some(check) = &self.health_check else {
            return vec![];
        };
        let started_at = self.observed.started_at.unwrap_or(now);
        let retries = check.retries;
        let status = health.conclude(check, healthy, started_at, now);
        self.observe_running(now);
        if status == Health::Unhealthy {
            self.observed.message = format!("health check failed {retries} times: {}", shorten(output));
            return self.stop(StopCause::Unhealthy, now);
        }
        vec![]
    }

    fn on_released(&mut self) -> Vec<Action> {
        let State::Releasing { end } = &self.state else {
            return vec![];
        };
        let end = end.clone();
        self.raise(end.phase);
        self.observed.message = end.message;
        self.state = State::Ended;
        if self.desired == Desired::Remove {
            return self.remove();
        }
        vec![]
    }

    fn on_removed(&mut self) -> Vec<Action> {
        match self.state {
            State::Removing { .. } => {
                self.state = State::Gone;
                vec![Action::Forget]
            }
            _ => vec![],
        }
    }

    fn on_remove_failed(&mut self, reason: String, now: Timestamp) -> Vec<Action> {
        if let State::Removing { retry_at } = &mut self.state {
            *retry_at = Some(now.after(REMOVE_RETRY));
            self.observed.message = format!("cannot be removed, trying again: {reason}");
        }
        vec![]
    }

    fn on_note(&mut self, text: String) -> Vec<Action> {
        if let State::Running { .. } = self.state {
            self.observed.message = text;
        }
        vec![]
    }

    fn on_tick(&mut self, now: Timestamp) -> Vec<Action> {
        if self.wake_at().is_none_or(|at| at > now) {
            return vec![];
        }
        match &mut self.state {
            State::Preparing { retry_at, .. } => {
                *retry_at = None;
                vec![Action::Prepare]
            }
            State::Running { health } => {
                health.begin(now);
                let attempt = self.attempt;
                let check = self.health_check.clone();
                check
                    .map(|check| vec![Action::Probe { attempt, check }])
                    .unwrap_or_default()
            }
            State::Backoff { .. } => {
                self.observed.restarts = self.restarts.count();
                self.prepare(0)
            }
            State::Stopping { kill_at, .. } => {
                *kill_at = now.after(KILL_AGAIN);
                vec![Action::Kill]
            }
            State::Removing { retry_at } => {
                *retry_at = None;
                vec![Action::Remove]
            }
            State::Assigned | State::Starting { .. } | State::Releasing { .. } | State::Ended | State::Gone => vec![],
        }
    }

    fn prepare_unless_stopped(&mut self, failures: u32) -> Vec<Action> {
        if self.desired == Desired::Run {
            self.prepare(failures)
        } else {
            self.release(self.stopped())
        }
    }

    fn prepare(&mut self, failures: u32) -> Vec<Action> {
        self.state = State::Preparing {
            failures,
            retry_at: None,
        };
        self.raise(Phase::Preparing);
        vec![Action::Prepare]
    }

    /// The container runs; if the leader changed its mind meanwhile, it is stopped right away.
    fn run(&mut self, pid: u32, started_at: Timestamp, now: Timestamp) -> Vec<Action> {
        self.has_run = true;
        self.raise(Phase::Running);
        self.observed.pid = Some(pid);
        self.observed.started_at = Some(started_at);
        self.observed.message.clear();
        self.state = State::Running {
            health: HealthState::new(self.health_check.as_ref(), started_at),
        };
        if self.desired >= Desired::Stop {
            return self.stop(StopCause::Told, now);
        }
        self.observe_running(now);
        vec![]
    }

    fn stop(&mut self, cause: StopCause, now: Timestamp) -> Vec<Action> {
        self.observed.ready = false;
        let grace = self.policy.stop_grace;
        let (kill_at, act) = if grace == DurationMs::ZERO {
            (now.after(KILL_AGAIN), Action::Kill)
        } else {
            (now.after(grace), Action::Signal)
        };
        if cause == StopCause::Told {
            self.observed.message = "stopping".to_string();
        }
        self.state = State::Stopping { cause, kill_at };
        vec![act]
    }

    fn release(&mut self, end: End) -> Vec<Action> {
        self.observed.ready = false;
        self.state = State::Releasing { end };
        vec![Action::Release]
    }

    fn remove(&mut self) -> Vec<Action> {
        self.state = State::Removing { retry_at: None };
        vec![Action::Remove]
    }

    fn observe_running(&mut self, now: Timestamp) {
        if let State::Running { health } = &self.state {
            self.observed.health = health.status();
            self.observed.ready = health.is_ready();
            if self.observed.ready && self.observed.ready_since.is_none() {
                self.observed.ready_since = Some(now);
            }
        }
    }

    fn raise(&mut self, phase: Phase) {
        self.observed.phase = self.observed.phase.max(phase);
    }

    fn mark(&self) -> Mark {
        Mark {
            state: std::mem::discriminant(&self.state),
            cause: match self.state {
                State::Stopping { cause, .. } => Some(cause),
                _ => None,
            },
            desired: self.desired,
            is_ready: self.observed.ready,
        }
    }
}
