//! The life of one container run by hand: what has happened, and what follows from it. Pure.
//!
//! Unlike a replica, it can be started again after its end, is never stopped for failing health checks, and is started at once
//! or not at all: Docker's rules, which are also those of the restart policies.

use gantry_lifecycle::{Attempt, HealthState, RestartBook};
use gantry_model::container::{ContainerState, ContainerStatus};
use gantry_model::phase::{Exit, Health};
use gantry_model::spec::{HealthCheck, RestartCondition, RestartPolicy};
use gantry_model::{DurationMs, Timestamp};
use serde::{Deserialize, Serialize};

/// Exit status of a container of which there is no trace after a restart of the machine; Docker's too.
const EXIT_UNKNOWN: i32 = 255;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Life {
    /// What people see.
    pub(crate) state: ContainerState,
    /// Counts the starts.
    pub(crate) attempt: Attempt,
    /// Runs and starts that have ended.
    pub(crate) ends: u64,
    /// It was stopped by a person and not started since.
    pub(crate) stopped_by_hand: bool,
    book: RestartBook,
    check: Option<HealthCheck>,
    health: HealthState,
    /// When an unhealthy container is looked at again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unhealthy_look_at: Option<Timestamp>,
}

/// Whether it is started again, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy<'a> {
    pub(crate) restart: &'a RestartPolicy,
    pub(crate) unless_stopped: bool,
}

/// What follows from an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterEnd {
    /// It stays ended.
    Over,
    /// It is started again then.
    Again(Timestamp),
}

impl Life {
    /// Whether a process of it exists.
    pub(crate) fn has_process(&self) -> bool {
        matches!(self.state.status, ContainerStatus::Running | ContainerStatus::Paused)
    }

    /// Whether it neither runs nor is going to by itself.
    pub(crate) fn is_at_rest(&self) -> bool {
        matches!(
            self.state.status,
            ContainerStatus::Created | ContainerStatus::Exited | ContainerStatus::Removing
        )
    }

    /// A start begins.
    pub(crate) fn begin(&mut self) -> Attempt {
        self.attempt = Attempt(self.attempt.0 + 1);
        self.stopped_by_hand = false;
        self.state.error.clear();
        self.attempt
    }

    /// Its program runs.
    pub(crate) fn started(&mut self, pid: u32, at: Timestamp, check: Option<HealthCheck>) {
        self.health = HealthState::new(check.as_ref(), at);
        self.check = check;
        self.unhealthy_look_at = None;
        self.state = ContainerState {
            status: ContainerStatus::Running,
            pid: Some(pid),
            started_at: Some(at),
            finished_at: self.state.finished_at,
            exit_code: None,
            oom_killed: false,
            error: String::new(),
            health: self.health.status(),
            restarts: self.state.restarts,
        };
    }

    /// It could not be started.
    pub(crate) fn start_failed(&mut self, reason: &str, exit_code: i32) {
        self.ends += 1;
        self.state.error = reason.to_string();
        self.state.exit_code = Some(exit_code);
        self.state.pid = None;
        if self.state.status != ContainerStatus::Created {
            self.state.status = ContainerStatus::Exited;
        }
    }

    /// Its first process ended.
    pub(crate) fn exited(&mut self, exit: Exit, policy: &Policy<'_>, now: Timestamp) -> AfterEnd {
        let ran = self
            .state
            .started_at
            .map_or(DurationMs::ZERO, |started| exit.at.since(started));
        self.ends += 1;
        self.state.pid = None;
        self.state.exit_code = Some(exit.code);
        self.state.oom_killed = exit.oom_killed;
        self.state.finished_at = Some(exit.at);
        self.state.health = Health::None;
        self.health = HealthState::default();
        self.unhealthy_look_at = None;
        let delay = if self.stopped_by_hand {
            None
        } else {
            self.book.decide(policy.restart, exit.code != 0, ran, now)
        };
        match delay {
            Some(delay) => {
                self.state.status = ContainerStatus::Restarting;
                self.state.restarts = self.book.count();
                AfterEnd::Again(now.after(delay))
            }
            None => {
                self.state.status = ContainerStatus::Exited;
                AfterEnd::Over
            }
        }
    }

    /// It waited to be started again, and is not to be any more.
    pub(crate) fn give_up(&mut self) {
        if self.state.status == ContainerStatus::Restarting {
            self.state.status = ContainerStatus::Exited;
        }
    }

    /// A person starts it: former restarts no longer count.
    pub(crate) fn forget_restarts(&mut self) {
        self.book = RestartBook::default();
        self.state.restarts = 0;
    }

    /// A new agent found no trace of it, as after a restart of the machine.
    pub(crate) fn vanished(&mut self, now: Timestamp) {
        if !self.has_process() && self.state.status != ContainerStatus::Restarting {
            return;
        }
        if self.has_process() {
            self.ends += 1;
            self.state.exit_code = Some(EXIT_UNKNOWN);
            self.state.finished_at = Some(now);
        }
        self.state.pid = None;
        self.state.health = Health::None;
        self.state.status = ContainerStatus::Exited;
    }

    /// Whether a new agent starts it, as Docker does when it starts.
    pub(crate) fn starts_with_agent(&self, policy: &Policy<'_>) -> bool {
        if self.state.status != ContainerStatus::Exited {
            return false;
        }
        match policy.restart.condition {
            RestartCondition::None => false,
            RestartCondition::OnFailure => !self.stopped_by_hand && self.state.exit_code.is_some_and(|code| code != 0),
            RestartCondition::Any => !(policy.unless_stopped && self.stopped_by_hand),
        }
    }

    /// When its health is to be looked at.
    pub(crate) fn check_at(&self) -> Option<Timestamp> {
        if self.state.status != ContainerStatus::Running {
            return None;
        }
        self.health.next_at().or(self.unhealthy_look_at)
    }

    /// A look at its health begins, if one is due.
    pub(crate) fn begin_check(&mut self, now: Timestamp) -> Option<HealthCheck> {
        let is_due = self.check_at().is_some_and(|at| at <= now);
        let check = self.check.clone().filter(|_| is_due)?;
        self.unhealthy_look_at = None;
        self.health.begin(now);
        Some(check)
    }

    /// It ended.
    pub(crate) fn checked(&mut self, is_healthy: bool, now: Timestamp) {
        let (Some(check), true) = (self.check.clone(), self.has_process()) else {
            return;
        };
        let started_at = self.state.started_at.unwrap_or(now);
        self.state.health = self.health.conclude(&check, is_healthy, started_at, now);
        if self.state.health == Health::Unhealthy {
            self.unhealthy_look_at = Some(now.after(check.interval));
        }
    }

    /// A new agent found it running.
    pub(crate) fn adopted(&mut self, pid: u32, started_at: Timestamp, now: Timestamp) {
        if !self.has_process() {
            self.state.status = ContainerStatus::Running;
        }
        self.state.pid = Some(pid);
        self.state.started_at = Some(started_at);
        self.state.exit_code = None;
        if let Some(check) = &self.check {
            self.health.resume(check, now);
            if self.state.health == Health::Unhealthy {
                self.unhealthy_look_at = Some(now.after(check.interval));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::spec::HealthTest;

    fn policy(condition: RestartCondition) -> RestartPolicy {
        RestartPolicy {
            condition,
            max_attempts: Some(3),
            ..RestartPolicy::default()
        }
    }

    fn exit(code: i32, at: u64) -> Exit {
        Exit {
            code,
            oom_killed: false,
            at: Timestamp(at),
        }
    }

    fn running(at: u64) -> Life {
        let mut life = Life::default();
        life.begin();
        life.started(7, Timestamp(at), None);
        life
    }

    #[test]
    fn an_end_is_over_or_not_by_policy_and_by_hand() {
        for (condition, code, by_hand, again) in [
            (RestartCondition::None, 1, false, false),
            (RestartCondition::OnFailure, 1, false, true),
            (RestartCondition::OnFailure, 0, false, false),
            (RestartCondition::Any, 0, false, true),
            (RestartCondition::Any, 1, true, false),
        ] {
            let mut life = running(0);
            life.stopped_by_hand = by_hand;
            let restart = policy(condition);
            let policy = Policy {
                restart: &restart,
                unless_stopped: false,
            };
            let after = life.exited(exit(code, 5), &policy, Timestamp(5));
            assert_eq!(
                matches!(after, AfterEnd::Again(_)),
                again,
                "{condition:?} {code} {by_hand}"
            );
            let status = if again {
                ContainerStatus::Restarting
            } else {
                ContainerStatus::Exited
            };
            assert_eq!(life.state.status, status);
            assert_eq!((life.ends, life.state.exit_code, life.state.pid), (1, Some(code), None));
        }
    }

    #[test]
    fn restarts_wait_longer_each_time_and_end_at_the_maximum() {
        let restart = policy(RestartCondition::OnFailure);
        let policy = Policy {
            restart: &restart,
            unless_stopped: false,
        };
        let mut life = running(0);
        let mut delays = Vec::new();
        while let AfterEnd::Again(at) = life.exited(exit(1, 10), &policy, Timestamp(10)) {
            delays.push(at.0 - 10);
            life.begin();
            life.started(8, Timestamp(10), None);
        }
        assert_eq!(delays, [100, 200, 400]);
        assert_eq!((life.state.status, life.state.restarts), (ContainerStatus::Exited, 3));
        life.forget_restarts();
        life.begin();
        life.started(9, Timestamp(10), None);
        assert!(matches!(
            life.exited(exit(1, 10), &policy, Timestamp(10)),
            AfterEnd::Again(_)
        ));
    }

    #[test]
    fn a_new_agent_starts_what_docker_would() {
        for (condition, unless_stopped, by_hand, starts) in [
            (RestartCondition::None, false, false, false),
            (RestartCondition::OnFailure, false, false, true),
            (RestartCondition::OnFailure, false, true, false),
            (RestartCondition::Any, false, true, true),
            (RestartCondition::Any, true, true, false),
            (RestartCondition::Any, true, false, true),
        ] {
            let mut life = running(0);
            life.stopped_by_hand = by_hand;
            life.vanished(Timestamp(9));
            assert_eq!(life.state.exit_code, Some(EXIT_UNKNOWN));
            let restart = policy(condition);
            let policy = Policy {
                restart: &restart,
                unless_stopped,
            };
            assert_eq!(
                life.starts_with_agent(&policy),
                starts,
                "{condition:?} {unless_stopped} {by_hand}"
            );
        }
        let restart = policy(RestartCondition::Any);
        let policy = Policy {
            restart: &restart,
            unless_stopped: false,
        };
        assert!(!Life::default().starts_with_agent(&policy), "never started by anybody");
    }

    #[test]
    fn a_failed_start_leaves_it_where_it_was() {
        let mut life = Life::default();
        life.begin();
        life.start_failed("no such program", 127);
        assert_eq!(life.state.status, ContainerStatus::Created);
        assert_eq!((life.state.exit_code, life.ends), (Some(127), 1));
        life.begin();
        assert_eq!(life.state.error, "");
    }

    #[test]
    fn an_unhealthy_container_runs_on_and_may_recover() {
        let check = HealthCheck {
            interval: DurationMs(1000),
            retries: 1,
            ..HealthCheck::with_defaults(HealthTest::Shell("true".into()))
        };
        let mut life = Life::default();
        life.begin();
        life.started(7, Timestamp(0), Some(check));
        assert_eq!(life.state.health, Health::Starting);
        let mut seen = Vec::new();
        for healthy in [true, false, false, true] {
            let at = life.check_at().expect("a look is due");
            assert!(life.begin_check(at).is_some());
            assert!(life.begin_check(at).is_none(), "one at a time");
            life.checked(healthy, at);
            seen.push(life.state.health);
        }
        assert_eq!(
            seen,
            [Health::Healthy, Health::Unhealthy, Health::Unhealthy, Health::Healthy]
        );
        assert_eq!(life.state.status, ContainerStatus::Running);
    }
}
