//! Jobs by the clock.

use gantry_model::object::Service;
use gantry_model::phase::{Observed, Phase};
use gantry_model::spec::{Concurrency, CronSpec, Mode, ServiceSpec};
use gantry_model::{DurationMs, ServiceId, Timestamp};
use gantry_reconcile::{Target, converged, dependants, explain};
use gantry_state::Op;

use crate::world::World;
use crate::world::people::plain;

const MINUTE: DurationMs = DurationMs::secs(60);

/// Every ten minutes.
fn cron(edit: impl FnOnce(&mut CronSpec)) -> ServiceSpec {
    let mut spec = plain(Mode::ReplicatedJob {
        completions: 1,
        parallelism: 1,
    });
    let mut cron = CronSpec::with_defaults("*/10 * * * *".parse().expect("a valid schedule"));
    edit(&mut cron);
    spec.cron = Some(cron);
    spec
}

/// A world shortly after 15:00.
fn world() -> World {
    let (mut world, _) = World::with_nodes(2);
    world.now = Timestamp(1_795_446_030_000);
    world
}

fn runs(world: &World, id: ServiceId) -> Vec<&Service> {
    let mut runs: Vec<&Service> = world.state.services().filter(|one| one.owner == Some(id)).collect();
    runs.sort_by_key(|run| run.created_at);
    runs
}

fn names(world: &World, id: ServiceId) -> Vec<String> {
    runs(world, id).iter().map(|run| run.name.to_string()).collect()
}

fn events(world: &World, kind: &str) -> usize {
    world.state.events().filter(|event| event.kind == kind).count()
}

/// Goes to the time that the service asks to be looked at.
fn to_next_run(world: &mut World, id: ServiceId) {
    world.control_until_quiet();
    world.now = world.plan(id).wake_at.expect("a next run");
    world.control_until_quiet();
}

#[test]
fn each_time_is_one_run_that_is_a_job_of_its_own() {
    let mut world = world();
    let id = world.apply_spec("backup", cron(|_| {}));
    world.control_until_quiet();
    assert!(runs(&world, id).is_empty(), "nothing before it is due");
    to_next_run(&mut world, id);
    assert_eq!(names(&world, id), ["backup-202611231510"]);
    world.fail_over();
    world.control_until_quiet();
    assert_eq!(runs(&world, id).len(), 1, "a new leader does not run it again");
    let run = runs(&world, id)[0].id;
    assert_eq!(
        dependants(&world.state, run),
        [id],
        "the end of a run wakes the cron job"
    );
    world.rounds(10);
    assert!(converged(&world.state, run).done);
    to_next_run(&mut world, id);
    assert_eq!(names(&world, id), ["backup-202611231510", "backup-202611231520"]);
    assert!(world.state.service(id).expect("it exists").job.last_success.is_some());
    let answer = explain(&world.state, Target::Service(id)).expect("it exists");
    assert!(
        answer
            .reasons
            .iter()
            .any(|one| one == "was last due at 2026-11-23 15:20 UTC"),
        "{answer:?}"
    );
    assert!(
        answer
            .reasons
            .iter()
            .any(|one| one == "is next due at 2026-11-23 15:30 UTC"),
        "{answer:?}"
    );
}

#[test]
fn a_cron_job_has_no_replicas_of_its_own_and_is_done_at_once() {
    let mut world = world();
    let id = world.apply_spec("backup", cron(|_| {}));
    world.rounds(3);
    assert_eq!(world.state.replicas_of(id).count(), 0);
    let progress = converged(&world.state, id);
    assert!(
        progress.done && progress.message == "runs at '*/10 * * * *' UTC",
        "{progress:?}"
    );
}

#[test]
fn of_many_missed_runs_the_latest_is_made_up_for() {
    let mut world = world();
    let id = world.apply_spec("backup", cron(|_| {}));
    world.control_until_quiet();
    world.advance(DurationMs(MINUTE.0 * 60 * 24 * 3));
    world.control_until_quiet();
    assert_eq!(names(&world, id), ["backup-202611261500"]);
}

#[test]
fn a_run_that_is_too_late_is_skipped() {
    let mut world = world();
    let id = world.apply_spec("backup", cron(|cron| cron.starting_deadline = Some(MINUTE)));
    world.control_until_quiet();
    world.advance(DurationMs(MINUTE.0 * 15));
    world.control_until_quiet();
    assert!(runs(&world, id).is_empty());
    assert_eq!(events(&world, "run_missed"), 1);
    to_next_run(&mut world, id);
    assert_eq!(names(&world, id), ["backup-202611231520"]);
}

#[test]
fn runs_overlap_take_over_or_are_skipped() {
    for (concurrency, expected) in [
        (Concurrency::Allow, vec!["backup-202611231510", "backup-202611231520"]),
        (Concurrency::Forbid, vec!["backup-202611231510"]),
        (Concurrency::Replace, vec!["backup-202611231520"]),
    ] {
        let mut world = world();
        let id = world.apply_spec("backup", cron(|cron| cron.concurrency = concurrency));
        to_next_run(&mut world, id);
        to_next_run(&mut world, id);
        let left: Vec<String> = runs(&world, id)
            .iter()
            .filter(|run| !run.deleting)
            .map(|run| run.name.to_string())
            .collect();
        assert_eq!(left, expected, "{concurrency:?}");
        assert_eq!(
            events(&world, "run_skipped"),
            usize::from(concurrency == Concurrency::Forbid)
        );
    }
}

#[test]
fn a_suspended_cron_job_runs_nothing_and_makes_up_for_nothing() {
    let mut world = world();
    let id = world.apply_spec("backup", cron(|cron| cron.suspend = true));
    world.control_until_quiet();
    assert_eq!(world.plan(id).wake_at, None);
    world.advance(DurationMs(MINUTE.0 * 45));
    world.apply_spec("backup", cron(|_| {}));
    world.control_until_quiet();
    assert!(runs(&world, id).is_empty());
    to_next_run(&mut world, id);
    assert_eq!(names(&world, id), ["backup-202611231550"]);
}

#[test]
fn only_so_many_ended_runs_are_kept() {
    let mut world = world();
    let id = world.apply_spec("backup", cron(|_| {}));
    for turn in 0..8 {
        to_next_run(&mut world, id);
        let run = runs(&world, id).last().expect("a run").id;
        if turn % 2 == 0 {
            world.rounds(8);
            continue;
        }
        let replica = world.state.replicas_of(run).next().expect("a replica").id;
        let observed = Observed {
            phase: Phase::Failed,
            sequence: 99,
            ..Observed::default()
        };
        world.write(vec![Op::Observe { replica, observed }]);
        world.rounds(8);
    }
    let failed = |run: &&&Service| run.job.ended.as_ref().is_some_and(|end| end.failure.is_some());
    let runs = runs(&world, id);
    assert_eq!(runs.iter().filter(failed).count(), 1, "{:#?}", world.describe());
    assert_eq!(runs.len(), 4, "{:#?}", world.describe());
}

#[test]
fn a_deleted_cron_job_takes_its_runs_with_it() {
    let mut world = world();
    let id = world.apply_spec("backup", cron(|_| {}));
    to_next_run(&mut world, id);
    world.delete_service(id);
    world.rounds(8);
    assert_eq!(world.state.services().count(), 0, "{:#?}", world.describe());
    assert_eq!(world.state.replicas().count(), 0);
}

#[test]
fn a_name_that_is_taken_costs_one_run() {
    let mut world = world();
    let id = world.apply_spec("backup", cron(|_| {}));
    world.apply_spec("backup-202611231510", plain(Mode::Replicated { replicas: 1 }));
    to_next_run(&mut world, id);
    assert!(runs(&world, id).is_empty());
    assert_eq!(events(&world, "run_skipped"), 1);
    to_next_run(&mut world, id);
    assert_eq!(names(&world, id), ["backup-202611231520"]);
}
