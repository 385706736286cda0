//! Whatever happens, in whatever order: what must always hold, and what must hold once the world behaves.

use gantry_lifecycle::{Action, Attempt, Event, Failure, Found, Machine, Policy, State};
use gantry_model::phase::{Desired, Exit, Phase};
use gantry_model::spec::{HealthCheck, HealthTest, RestartCondition, RestartPolicy};
use gantry_model::{DurationMs, Timestamp};
use proptest::prelude::*;

fn policies() -> impl Strategy<Value = Policy> {
    let condition = prop_oneof![
        Just(RestartCondition::None),
        Just(RestartCondition::OnFailure),
        Just(RestartCondition::Any)
    ];
    let health = proptest::option::of((0u64..3000, 0u64..3000, 1u32..4).prop_map(
        |(interval, start_period, retries)| HealthCheck {
            interval: DurationMs(interval),
            start_period: DurationMs(start_period),
            retries,
            ..HealthCheck::with_defaults(HealthTest::Shell("true".into()))
        },
    ));
    let attempts = proptest::option::of(0u32..4);
    (condition, attempts, 0u64..3, 0u64..2, any::<bool>(), health).prop_map(
        |(condition, max_attempts, grace, window, is_job, health)| Policy {
            is_job,
            restart: RestartPolicy {
                condition,
                max_attempts,
                window: DurationMs::secs(window * 5),
                ..RestartPolicy::default()
            },
            stop_grace: DurationMs::secs(grace),
            health,
        },
    )
}

/// An event as a worker could send it at any time, late ones included; `choice` picks among those for the last attempts.
fn event(choice: u8, lag: u32, attempt: Attempt, now: Timestamp) -> Event {
    let attempt = Attempt(attempt.0.saturating_sub(lag));
    let exit = |code| Exit {
        code,
        oom_killed: code == 137,
        at: now,
    };
    let failure = |retryable| Failure {
        reason: "broken".into(),
        retryable,
    };
    match choice {
        0 => Event::Desired(Desired::Run),
        1 => Event::Desired(Desired::Drain),
        2 => Event::Desired(Desired::Stop),
        3 => Event::Desired(Desired::Remove),
        4..=7 => Event::Prepared { image_health: None },
        8 => Event::PrepareFailed(failure(true)),
        9 => Event::PrepareFailed(failure(false)),
        10..=14 => Event::Started {
            attempt,
            pid: 1,
            at: now,
        },
        15 => Event::StartFailed {
            attempt,
            failure: failure(true),
        },
        16 => Event::StartFailed {
            attempt,
            failure: failure(false),
        },
        17 | 18 => Event::Exited { attempt, exit: exit(0) },
        19 => Event::Exited {
            attempt,
            exit: exit(137),
        },
        20..=22 => Event::Probed {
            attempt,
            healthy: true,
            output: String::new(),
        },
        23..=25 => Event::Probed {
            attempt,
            healthy: false,
            output: "refused".into(),
        },
        26 => Event::Released,
        27 => Event::Removed,
        28 => Event::RemoveFailed { reason: "busy".into() },
        29 => Event::Recovered(Found::Running {
            pid: 2,
            started_at: now,
        }),
        30 => Event::Recovered(Found::Exited(exit(3))),
        31 => Event::Recovered(Found::Nothing),
        _ => Event::Tick,
    }
}

/// Checks every step against what must always hold.
struct Watch {
    machine: Machine,
    was_stopped: bool,
}

impl Watch {
    fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let before = self.machine.clone();
        self.was_stopped |= matches!(event, Event::Desired(desired) if desired >= Desired::Stop);
        let actions = self.machine.step(event.clone(), now);
        let (old, new) = (before.observed(), self.machine.observed());
        assert!(
            new.phase == old.phase || old.phase.may_become(new.phase),
            "{} became {} by {event:?}",
            old.phase,
            new.phase
        );
        assert_eq!(new.sequence > old.sequence, new != old, "a report for each change");
        assert!(!new.ready || (new.phase == Phase::Running && matches!(self.machine.state(), State::Running { .. })));
        for action in &actions {
            let starts = matches!(action, Action::Start { .. } | Action::Prepare);
            assert!(!(self.was_stopped && starts), "{action:?} by {event:?} after a stop");
        }
        if actions
            .iter()
            .any(|action| matches!(action, Action::Start { .. } | Action::Release | Action::Remove))
        {
            let moved = std::mem::discriminant(before.state()) != std::mem::discriminant(self.machine.state());
            assert!(!moved || actions[0] == Action::Save, "{actions:?} must be saved first");
        }
        actions
    }
}

/// Carries out actions as a world does in which everything works, and all programs end at once when told to.
fn obey(watch: &mut Watch, actions: Vec<Action>, now: Timestamp) {
    let mut pending = std::collections::VecDeque::from(actions);
    while let Some(action) = pending.pop_front() {
        let attempt = watch.machine.attempt();
        let exit = Exit {
            code: 143,
            oom_killed: false,
            at: now,
        };
        let event = match action {
            Action::Prepare => Event::Prepared { image_health: None },
            Action::Start { attempt } => Event::Started {
                attempt,
                pid: 1,
                at: now,
            },
            Action::Signal | Action::Kill => Event::Exited { attempt, exit },
            Action::Probe { attempt, .. } => Event::Probed {
                attempt,
                healthy: true,
                output: String::new(),
            },
            Action::Release => Event::Released,
            Action::Remove => Event::Removed,
            Action::Save | Action::Forget | Action::Report(_) => continue,
        };
        pending.extend(watch.step(event, now));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_rank_only_rises_and_nothing_starts_after_a_stop(
        policy in policies(),
        steps in proptest::collection::vec((0u8..40, 0u32..2, 0u64..3000), 1..80),
    ) {
        let mut watch = Watch { machine: Machine::new(policy), was_stopped: false };
        let mut now = Timestamp(1);
        for (choice, lag, wait) in steps {
            now = now.after(DurationMs(wait));
            watch.step(event(choice, lag, watch.machine.attempt(), now), now);
        }
    }

    #[test]
    fn whatever_happened_before_a_removal_leaves_nothing_once_the_agent_is_started_anew(
        policy in policies(),
        steps in proptest::collection::vec((0u8..40, 0u32..2, 0u64..3000), 1..60),
        runs in any::<bool>(),
    ) {
        let mut watch = Watch { machine: Machine::new(policy), was_stopped: false };
        let mut now = Timestamp(1);
        for (choice, lag, wait) in steps {
            now = now.after(DurationMs(wait));
            watch.step(event(choice, lag, watch.machine.attempt(), now), now);
        }
        let text = serde_json::to_string(&watch.machine).expect("a machine is data");
        watch.machine = serde_json::from_str(&text).expect("its own form is readable");
        watch.step(Event::Desired(Desired::Remove), now);
        let found = if runs { Found::Running { pid: 1, started_at: now } } else { Found::Nothing };
        let actions = watch.step(Event::Recovered(found), now);
        obey(&mut watch, actions, now);
        for _ in 0..20 {
            now = now.after(DurationMs::secs(120));
            let actions = watch.step(Event::Tick, now);
            obey(&mut watch, actions, now);
        }
        prop_assert_eq!(watch.machine.state(), &State::Gone);
        prop_assert!(watch.machine.observed().phase.is_terminal());
    }

    #[test]
    fn a_crash_loop_restarts_at_most_as_often_as_allowed(
        policy in policies(),
        code in 0i32..2,
        run_ms in 0u64..20_000,
    ) {
        let policy = Policy { restart: RestartPolicy { window: DurationMs::ZERO, ..policy.restart }, health: None, ..policy };
        let max = policy.restart.max_attempts;
        let mut machine = Machine::new(policy);
        let mut now = Timestamp(1);
        let mut starts = 0u32;
        let mut pending = machine.step(Event::Desired(Desired::Run), now);
        for _ in 0..60 {
            let actions = std::mem::take(&mut pending);
            starts += u32::try_from(actions.iter().filter(|a| matches!(a, Action::Start { .. })).count()).expect("few");
            let attempt = machine.attempt();
            now = match machine.state() {
                State::Backoff { until } => *until,
                State::Running { .. } => now.after(DurationMs(run_ms)),
                _ => now,
            };
            let exit = Exit { code, oom_killed: false, at: now };
            pending = match machine.state() {
                State::Preparing { .. } => machine.step(Event::Prepared { image_health: None }, now),
                State::Starting { .. } => machine.step(Event::Started { attempt, pid: 1, at: now }, now),
                State::Running { .. } => machine.step(Event::Exited { attempt, exit }, now),
                State::Backoff { .. } => machine.step(Event::Tick, now),
                State::Releasing { .. } => machine.step(Event::Released, now),
                _ => vec![],
            };
        }
        if let Some(max) = max {
            prop_assert!(starts <= max + 1, "{} starts with {} restarts allowed", starts, max);
            prop_assert!(machine.observed().phase.is_terminal());
        }
        let restarts = machine.observed().restarts;
        prop_assert!(restarts == starts || restarts + 1 == starts, "{} restarts, {} starts", restarts, starts);
    }
}
