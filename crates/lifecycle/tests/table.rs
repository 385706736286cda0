//! Every state meets every event: what follows, and what is asked of the worker.

use gantry_lifecycle::{Action, Attempt, Event, Failure, Found, Machine, Policy, State};
use gantry_model::phase::{Desired, Exit, Phase};
use gantry_model::spec::{HealthCheck, HealthTest, RestartPolicy};
use gantry_model::{DurationMs, Timestamp};

const NOW: Timestamp = Timestamp(100_000);

fn policy() -> Policy {
    Policy {
        is_job: false,
        restart: RestartPolicy::default(),
        stop_grace: DurationMs::secs(10),
        health: Some(HealthCheck {
            retries: 1,
            interval: DurationMs(1000),
            ..HealthCheck::with_defaults(HealthTest::Shell("true".into()))
        }),
    }
}

fn exit(code: i32) -> Exit {
    Exit {
        code,
        oom_killed: false,
        at: NOW,
    }
}

fn failure(retryable: bool) -> Failure {
    Failure {
        reason: "no such image".into(),
        retryable,
    }
}

fn started() -> Event {
    Event::Started {
        attempt: Attempt(1),
        pid: 7,
        at: NOW,
    }
}

fn exited() -> Event {
    Event::Exited {
        attempt: Attempt(1),
        exit: exit(1),
    }
}

fn probed(healthy: bool) -> Event {
    Event::Probed {
        attempt: Attempt(1),
        healthy,
        output: "refused".into(),
    }
}

fn after(events: Vec<Event>) -> Machine {
    let mut machine = Machine::new(policy());
    for event in events {
        machine.step(event, NOW);
    }
    machine
}

const RUN: Event = Event::Desired(Desired::Run);
const PREPARED: Event = Event::Prepared { image_health: None };

/// The columns of the table: a machine in each state, by the way it gets there.
fn machines() -> Vec<(&'static str, Machine)> {
    let running = || vec![RUN, PREPARED, started()];
    let with = |mut events: Vec<Event>, more: Vec<Event>| {
        events.extend(more);
        after(events)
    };
    let mut probing = after(running());
    probing.step(Event::Tick, Timestamp(NOW.0 + 1000));
    let mut unhealthy = probing.clone();
    unhealthy.step(probed(false), NOW);
    vec![
        ("assigned", after(vec![])),
        ("preparing", after(vec![RUN])),
        ("waiting", after(vec![RUN, Event::PrepareFailed(failure(true))])),
        ("starting", after(vec![RUN, PREPARED])),
        ("running", after(running())),
        ("probing", probing),
        ("backoff", with(running(), vec![exited()])),
        ("told", with(running(), vec![Event::Desired(Desired::Stop)])),
        ("unhealthy", unhealthy),
        (
            "releasing",
            with(running(), vec![Event::Desired(Desired::Stop), exited()]),
        ),
        (
            "ended",
            with(
                running(),
                vec![Event::Desired(Desired::Stop), exited(), Event::Released],
            ),
        ),
        (
            "removing",
            with(
                running(),
                vec![Event::Desired(Desired::Remove), exited(), Event::Released],
            ),
        ),
        (
            "gone",
            with(
                running(),
                vec![
                    Event::Desired(Desired::Remove),
                    exited(),
                    Event::Released,
                    Event::Removed,
                ],
            ),
        ),
    ]
}

/// The rows: every event, with the time it comes at.
fn events() -> Vec<(&'static str, Event, Timestamp)> {
    let later = Timestamp(NOW.0 + 60_000);
    let found = |found| Event::Recovered(found);
    vec![
        ("want run", RUN, NOW),
        ("want drain", Event::Desired(Desired::Drain), NOW),
        ("want stop", Event::Desired(Desired::Stop), NOW),
        ("want remove", Event::Desired(Desired::Remove), NOW),
        ("prepared", PREPARED, NOW),
        ("unprepared", Event::PrepareFailed(failure(true)), NOW),
        ("impossible", Event::PrepareFailed(failure(false)), NOW),
        ("started", started(), NOW),
        (
            "unstarted",
            Event::StartFailed {
                attempt: Attempt(1),
                failure: failure(true),
            },
            NOW,
        ),
        (
            "bad program",
            Event::StartFailed {
                attempt: Attempt(1),
                failure: failure(false),
            },
            NOW,
        ),
        ("exited", exited(), NOW),
        (
            "exited old",
            Event::Exited {
                attempt: Attempt(0),
                exit: exit(0),
            },
            NOW,
        ),
        ("healthy", probed(true), NOW),
        ("sick", probed(false), NOW),
        ("released", Event::Released, NOW),
        ("removed", Event::Removed, NOW),
        ("unremoved", Event::RemoveFailed { reason: "busy".into() }, NOW),
        (
            "found run",
            found(Found::Running {
                pid: 9,
                started_at: NOW,
            }),
            NOW,
        ),
        ("found end", found(Found::Exited(exit(2))), NOW),
        ("found none", found(Found::Nothing), NOW),
        ("tick early", Event::Tick, Timestamp(0)),
        ("tick late", Event::Tick, later),
    ]
}

fn state(machine: &Machine) -> &'static str {
    match machine.state() {
        State::Assigned => "assigned",
        State::Preparing { retry_at: None, .. } => "preparing",
        State::Preparing { retry_at: Some(_), .. } => "waiting",
        State::Starting { .. } => "starting",
        State::Running { .. } => "running",
        State::Backoff { .. } => "backoff",
        State::Stopping { .. } => "stopping",
        State::Releasing { .. } => "releasing",
        State::Ended => "ended",
        State::Removing { .. } => "removing",
        State::Gone => "gone",
    }
}

/// One letter per action: sAve, Prepare, Start, siGnal, Kill, proBe, reLease, reMove, Forget; reports are left to other tests.
fn letters(actions: &[Action]) -> String {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Save => Some('A'),
            Action::Prepare => Some('P'),
            Action::Start { .. } => Some('S'),
            Action::Signal => Some('G'),
            Action::Kill => Some('K'),
            Action::Probe { .. } => Some('B'),
            Action::Release => Some('L'),
            Action::Remove => Some('M'),
            Action::Forget => Some('F'),
            Action::Report(_) => None,
        })
        .collect()
}

/// What is not in here: nothing happens, the state stays, no action is asked for.
const TABLE: &str = "
assigned   want run     preparing AP
assigned   want drain   releasing AL
assigned   want stop    releasing AL
assigned   want remove  releasing AL
assigned   found run    stopping  AK
assigned   found end    preparing AP
assigned   found none   preparing AP
preparing  want drain   releasing AL
preparing  want stop    releasing AL
preparing  want remove  releasing AL
preparing  prepared     starting  AS
preparing  unprepared   waiting
preparing  impossible   releasing AL
preparing  found run    stopping  AK
preparing  found end    preparing P
preparing  found none   preparing P
waiting    want drain   releasing AL
waiting    want stop    releasing AL
waiting    want remove  releasing AL
waiting    found run    stopping  AK
waiting    found end    preparing P
waiting    found none   preparing P
waiting    tick late    preparing P
starting   want drain   starting  A
starting   want stop    starting  A
starting   want remove  starting  A
starting   started      running   A
starting   unstarted    waiting   A
starting   bad program  releasing AL
starting   exited       backoff   A
starting   found run    running   A
starting   found end    backoff   A
starting   found none   preparing AP
running    want drain   running   A
running    want stop    stopping  AG
running    want remove  stopping  AG
running    exited       backoff   A
running    found end    backoff   A
running    found none   backoff   A
running    tick late    running   B
probing    want drain   running   A
probing    want stop    stopping  AG
probing    want remove  stopping  AG
probing    exited       backoff   A
probing    healthy      running   A
probing    sick         stopping  AG
probing    found end    backoff   A
probing    found none   backoff   A
backoff    want drain   releasing AL
backoff    want stop    releasing AL
backoff    want remove  releasing AL
backoff    found run    stopping  AK
backoff    tick late    preparing AP
told       want remove  stopping  A
told       exited       releasing AL
told       found run    stopping  G
told       found end    releasing AL
told       found none   releasing AL
told       tick late    stopping  K
unhealthy  want drain   stopping  A
unhealthy  want stop    stopping  A
unhealthy  want remove  stopping  A
unhealthy  exited       backoff   A
unhealthy  found run    stopping  G
unhealthy  found end    backoff   A
unhealthy  found none   backoff   A
unhealthy  tick late    stopping  K
releasing  want remove  releasing A
releasing  released     ended     A
releasing  found run    releasing L
releasing  found end    releasing L
releasing  found none   releasing L
ended      want remove  removing  AM
ended      found run    ended     L
removing   removed      gone      AF
removing   unremoved    removing
removing   found run    removing  M
removing   found end    removing  M
removing   found none   removing  M
gone       found run    gone      F
gone       found end    gone      F
gone       found none   gone      F
";

fn expected(column: &str, row: &str, unchanged: &str) -> (String, String) {
    let line = TABLE.lines().find(|line| {
        line.split_whitespace().next() == Some(column) && line[10..].trim_start().starts_with(&format!("{row} "))
    });
    let Some(line) = line else {
        return (unchanged.to_string(), String::new());
    };
    let mut rest = line[23..].split_whitespace();
    let mut word = || rest.next().unwrap_or_default().to_string();
    (word(), word())
}

#[test]
fn every_state_meets_every_event_as_the_table_says() {
    let mut wrong = Vec::new();
    for (column, machine) in machines() {
        for (row, event, now) in events() {
            let mut next = machine.clone();
            let actions = next.step(event, now);
            let got = (state(&next).to_string(), letters(&actions));
            let want = expected(column, row, state(&machine));
            if got != want {
                wrong.push(format!(
                    "{column:10} {row:12} got {} {} want {} {}",
                    got.0, got.1, want.0, want.1
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_line_of_the_table_names_a_state_and_an_event() {
    let (columns, rows) = (machines(), events());
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        let column = line.split_whitespace().next().unwrap_or_default();
        assert!(columns.iter().any(|(name, _)| *name == column), "{line}");
        let row = line[11..23].trim();
        assert!(rows.iter().any(|(name, _, _)| *name == row), "{line}");
    }
}

#[test]
fn what_changes_is_reported_once_and_with_a_higher_sequence() {
    for (column, machine) in machines() {
        for (row, event, now) in events() {
            let mut next = machine.clone();
            let actions = next.step(event, now);
            let reports: Vec<_> = actions
                .iter()
                .filter_map(|action| match action {
                    Action::Report(observed) => Some(observed),
                    _ => None,
                })
                .collect();
            let before = machine.observed();
            assert!(next.observed().phase >= before.phase, "{column} {row}: the phase fell");
            match reports.as_slice() {
                [] => assert_eq!(next.observed(), before, "{column} {row}: a change was not reported"),
                [report] => {
                    assert_eq!(report.sequence, before.sequence + 1, "{column} {row}");
                    assert_eq!(*report, next.observed(), "{column} {row}");
                }
                more => panic!("{column} {row}: {} reports", more.len()),
            }
        }
    }
}

#[test]
fn a_saved_machine_goes_on_where_it_was() {
    for (column, machine) in machines() {
        let text = serde_json::to_string(&machine).expect("a machine is data");
        let back: Machine = serde_json::from_str(&text).expect("its own form is readable");
        assert_eq!(state(&back), state(&machine), "{column}");
        assert_eq!(back.observed(), machine.observed(), "{column}");
    }
}

#[test]
fn only_the_end_of_a_release_is_a_terminal_phase() {
    for (column, machine) in machines() {
        let ended = matches!(column, "ended" | "removing" | "gone");
        assert_eq!(machine.observed().phase.is_terminal(), ended, "{column}");
    }
    let ended = after(vec![RUN, Event::PrepareFailed(failure(false)), Event::Released]);
    assert_eq!(ended.observed().phase, Phase::Rejected);
    assert_eq!(ended.observed().message, "no such image");
}
