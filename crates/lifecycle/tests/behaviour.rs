//! Whole lives: what the user sees of restarts, health, jobs, stops and failures.

use gantry_lifecycle::{Action, Event, Failure, KILL_AGAIN, Machine, Policy, State};
use gantry_model::phase::{Desired, Exit, Health, Phase};
use gantry_model::spec::{HealthCheck, HealthTest, RestartCondition, RestartPolicy};
use gantry_model::{DurationMs, Timestamp};

/// A machine, its clock, and everything it asked for.
struct Life {
    machine: Machine,
    now: Timestamp,
    log: Vec<Action>,
}

impl Life {
    fn new(policy: Policy) -> Self {
        let mut life = Self {
            machine: Machine::new(policy),
            now: Timestamp(1_000),
            log: vec![],
        };
        life.step(Event::Desired(Desired::Run));
        life
    }

    fn running(policy: Policy) -> Self {
        let mut life = Self::new(policy);
        life.start();
        life
    }

    fn start(&mut self) {
        self.step(Event::Prepared { image_health: None });
        let (attempt, at) = (self.machine.attempt(), self.now);
        self.step(Event::Started { attempt, pid: 7, at });
    }

    fn step(&mut self, event: Event) {
        self.log = self.machine.step(event, self.now);
    }

    fn exit(&mut self, code: i32) {
        let exit = Exit {
            code,
            oom_killed: false,
            at: self.now,
        };
        let attempt = self.machine.attempt();
        self.step(Event::Exited { attempt, exit });
    }

    fn probe(&mut self, healthy: bool) {
        let attempt = self.machine.attempt();
        let output = if healthy { "" } else { "connection refused\n" };
        self.step(Event::Probed {
            attempt,
            healthy,
            output: output.into(),
        });
    }

    /// Lets time pass until the machine wants to be woken.
    fn wake(&mut self) {
        self.now = self.machine.wake_at().expect("it waits for a time");
        self.step(Event::Tick);
    }

    fn phase(&self) -> Phase {
        self.machine.observed().phase
    }

    fn message(&self) -> &str {
        &self.machine.observed().message
    }
}

fn policy() -> Policy {
    Policy {
        is_job: false,
        restart: RestartPolicy::default(),
        stop_grace: DurationMs::secs(10),
        health: None,
    }
}

fn on_failure(max_attempts: u32) -> Policy {
    Policy {
        restart: RestartPolicy {
            condition: RestartCondition::OnFailure,
            max_attempts: Some(max_attempts),
            ..RestartPolicy::default()
        },
        ..policy()
    }
}

fn checked() -> Policy {
    Policy {
        health: Some(HealthCheck {
            interval: DurationMs(1000),
            retries: 2,
            ..HealthCheck::with_defaults(HealthTest::Shell("true".into()))
        }),
        ..policy()
    }
}

#[test]
fn a_replica_without_a_check_is_ready_when_it_runs() {
    let life = Life::running(policy());
    let observed = life.machine.observed();
    assert_eq!(
        (observed.phase, observed.ready, observed.health),
        (Phase::Running, true, Health::None)
    );
    assert_eq!((observed.pid, observed.ready_since), (Some(7), Some(life.now)));
}

#[test]
fn a_replica_with_a_check_is_ready_when_it_is_healthy() {
    let mut life = Life::running(checked());
    assert!(!life.machine.observed().ready);
    assert_eq!(life.machine.observed().health, Health::Starting);
    life.wake();
    assert!(matches!(life.log.as_slice(), [Action::Probe { .. }]));
    life.probe(true);
    assert!(life.machine.observed().ready);
    assert_eq!(life.machine.observed().health, Health::Healthy);
}

#[test]
fn an_unhealthy_container_is_stopped_and_started_again() {
    let mut life = Life::running(checked());
    life.wake();
    life.probe(true);
    for _ in 0..2 {
        life.wake();
        life.probe(false);
    }
    assert!(life.log.contains(&Action::Signal), "{:?}", life.log);
    let observed = life.machine.observed();
    assert_eq!((observed.ready, observed.health), (false, Health::Unhealthy));
    assert_eq!(observed.message, "health check failed 2 times: connection refused");
    life.exit(0);
    assert_eq!(
        life.message(),
        "health check failed 2 times: connection refused (exit status 0); starts again after 100ms"
    );
    life.wake();
    life.start();
    assert_eq!((life.phase(), life.machine.observed().restarts), (Phase::Running, 1));
    assert_eq!(life.machine.observed().health, Health::Starting);
}

#[test]
fn being_unhealthy_is_a_failure_even_with_exit_status_0() {
    let mut life = Life::running(Policy {
        health: checked().health,
        ..on_failure(0)
    });
    life.wake();
    life.probe(true);
    for _ in 0..2 {
        life.wake();
        life.probe(false);
    }
    life.exit(0);
    life.step(Event::Released);
    assert_eq!(life.phase(), Phase::Failed);
}

#[test]
fn a_job_completes_with_exit_status_0_whatever_its_restart_condition() {
    let mut life = Life::running(Policy {
        is_job: true,
        ..policy()
    });
    life.exit(0);
    assert!(life.log.contains(&Action::Release));
    assert_eq!(life.phase(), Phase::Running, "its address is not free yet");
    life.step(Event::Released);
    assert_eq!((life.phase(), life.message()), (Phase::Completed, "exit status 0"));
}

#[test]
fn a_service_that_gives_up_has_failed_and_says_how() {
    let mut life = Life::running(on_failure(1));
    life.exit(137);
    assert_eq!(life.message(), "killed by signal 9; starts again after 100ms");
    life.wake();
    assert_eq!(life.machine.observed().restarts, 1);
    life.start();
    life.exit(3);
    life.step(Event::Released);
    assert_eq!((life.phase(), life.message()), (Phase::Failed, "exit status 3"));
}

#[test]
fn a_failed_start_of_a_container_that_has_run_falls_under_the_restart_policy() {
    let mut life = Life::running(on_failure(2));
    life.exit(1);
    life.wake();
    life.step(Event::PrepareFailed(Failure {
        reason: "bind /srv/data: no such directory".into(),
        retryable: false,
    }));
    assert!(matches!(life.machine.state(), State::Backoff { .. }));
    life.wake();
    life.step(Event::PrepareFailed(Failure {
        reason: "bind /srv/data: no such directory".into(),
        retryable: false,
    }));
    life.step(Event::Released);
    assert_eq!(
        (life.phase(), life.message()),
        (Phase::Failed, "bind /srv/data: no such directory")
    );
}

#[test]
fn an_image_that_stays_away_is_rejected_after_some_tries() {
    let mut life = Life::new(policy());
    let missing = || {
        Event::PrepareFailed(Failure {
            reason: "image web:v1 is on no node".into(),
            retryable: true,
        })
    };
    let mut waits = vec![];
    for _ in 0..4 {
        let before = life.now;
        life.step(missing());
        life.wake();
        waits.push(life.now.since(before).0);
        assert!(life.log.contains(&Action::Prepare));
    }
    life.step(missing());
    life.step(Event::Released);
    assert_eq!(waits, [500, 1000, 2000, 4000]);
    assert_eq!(
        (life.phase(), life.message()),
        (Phase::Rejected, "image web:v1 is on no node")
    );
}

#[test]
fn a_stop_signals_then_kills_then_kills_again() {
    let mut life = Life::running(policy());
    life.step(Event::Desired(Desired::Stop));
    assert!(life.log.contains(&Action::Signal) && !life.machine.observed().ready);
    let begun = life.now;
    life.wake();
    assert_eq!(life.now.since(begun), DurationMs::secs(10));
    assert_eq!(life.log, [Action::Kill]);
    let killed = life.now;
    life.wake();
    assert_eq!(
        (life.now.since(killed), life.log.as_slice()),
        (KILL_AGAIN, [Action::Kill].as_slice())
    );
    life.exit(137);
    life.step(Event::Released);
    assert_eq!(
        (life.phase(), life.message()),
        (Phase::Stopped, "stopped: killed by signal 9")
    );
}

#[test]
fn without_a_grace_a_stop_kills_at_once() {
    let mut life = Life::running(Policy {
        stop_grace: DurationMs::ZERO,
        ..policy()
    });
    life.step(Event::Desired(Desired::Stop));
    assert!(life.log.contains(&Action::Kill) && !life.log.contains(&Action::Signal));
}

#[test]
fn a_stop_during_a_start_waits_for_it_and_then_stops() {
    let mut life = Life::new(policy());
    life.step(Event::Prepared { image_health: None });
    life.step(Event::Desired(Desired::Stop));
    assert!(!life.log.contains(&Action::Signal), "there is no process yet");
    let (attempt, at) = (life.machine.attempt(), life.now);
    life.step(Event::Started { attempt, pid: 7, at });
    assert!(life.log.contains(&Action::Signal));
}

#[test]
fn a_drained_replica_keeps_serving_and_is_not_started_again() {
    let mut life = Life::running(policy());
    life.step(Event::Desired(Desired::Drain));
    assert!(life.machine.observed().ready, "who is connected is still served");
    life.exit(1);
    life.step(Event::Released);
    assert_eq!(life.phase(), Phase::Stopped);
}

#[test]
fn a_desire_never_falls() {
    let mut life = Life::running(policy());
    life.step(Event::Desired(Desired::Stop));
    life.step(Event::Desired(Desired::Run));
    assert_eq!(life.machine.desired(), Desired::Stop);
    life.exit(0);
    life.step(Event::Released);
    assert_eq!(life.phase(), Phase::Stopped);
}

#[test]
fn a_result_of_the_former_container_does_not_touch_the_new_one() {
    let mut life = Life::running(checked());
    let former = life.machine.attempt();
    life.wake();
    life.exit(1);
    life.wake();
    life.start();
    let before = life.machine.clone();
    life.step(Event::Probed {
        attempt: former,
        healthy: true,
        output: String::new(),
    });
    assert_eq!(life.machine, before);
}

#[test]
fn an_image_brings_its_own_health_check_unless_the_spec_switches_it_off() {
    let image = checked().health;
    let disabled = HealthCheck::with_defaults(HealthTest::Disabled);
    for (spec, ready) in [(None, false), (Some(disabled), true)] {
        let mut life = Life::new(Policy {
            health: spec,
            ..policy()
        });
        life.step(Event::Prepared {
            image_health: image.clone(),
        });
        let (attempt, at) = (life.machine.attempt(), life.now);
        life.step(Event::Started { attempt, pid: 7, at });
        assert_eq!(life.machine.observed().ready, ready);
    }
}
