//! How jobs end, and what their limits do.

use gantry_model::phase::{Observed, Phase};
use gantry_model::spec::{JobSpec, Mode, ServiceSpec};
use gantry_model::{DurationMs, ReplicaId, ServiceId};
use gantry_reconcile::converged;
use gantry_state::Op;

use crate::world::World;
use crate::world::people::plain;

fn job(completions: u32, limits: JobSpec) -> ServiceSpec {
    let mut spec = plain(Mode::ReplicatedJob {
        completions,
        parallelism: 0,
    });
    spec.job = limits;
    spec
}

fn active(world: &World, id: ServiceId) -> Vec<ReplicaId> {
    let replicas = world.state.replicas_of(id).filter(|one| one.is_active());
    replicas.map(|one| one.id).collect()
}

fn fail_all(world: &mut World, id: ServiceId) {
    for replica in active(world, id) {
        let before = world.state.replica(replica).expect("it exists").observed.clone();
        let observed = Observed {
            phase: Phase::Failed,
            sequence: before.sequence + 1,
            message: "exit status 3".to_string(),
            at: world.now,
            ..before
        };
        world.write(vec![Op::Observe { replica, observed }]);
    }
}

fn failure(world: &World, id: ServiceId) -> Option<String> {
    let service = world.state.service(id).expect("it exists");
    service.job.ended.clone().and_then(|end| end.failure)
}

#[test]
fn a_job_that_completes_is_over_and_stays_so() {
    let (mut world, _) = World::with_nodes(2);
    let id = world.apply_spec("import", job(3, JobSpec::default()));
    world.rounds(10);
    let service = world.state.service(id).expect("it exists").clone();
    let end = service.job.ended.expect("it ended");
    assert_eq!(end.failure, None);
    assert!(service.job.started_at.expect("it started") < end.at);
    world.rounds(10);
    assert_eq!(world.state.replicas_of(id).count(), 3);
    assert!(world.plan(id).is_empty());
}

#[test]
fn more_completions_go_on_where_the_job_ended() {
    let (mut world, _) = World::with_nodes(2);
    let id = world.apply_spec("import", job(1, JobSpec::default()));
    world.rounds(10);
    world.edit_service(id, |service| {
        service.spec = std::sync::Arc::new(job(3, JobSpec::default()))
    });
    world.rounds(10);
    assert_eq!(world.state.replicas_of(id).count(), 3);
    assert!(converged(&world.state, id).done);
}

#[test]
fn a_job_that_takes_too_long_fails_and_is_stopped() {
    let (mut world, _) = World::with_nodes(1);
    let limits = JobSpec {
        deadline: Some(DurationMs::secs(60)),
        ..JobSpec::default()
    };
    let id = world.apply_spec("import", job(2, limits));
    world.control_until_quiet();
    let started = world
        .state
        .service(id)
        .and_then(|service| service.job.started_at)
        .expect("it started");
    assert_eq!(world.plan(id).wake_at, Some(started.after(DurationMs::secs(60))));
    world.fail_over();
    world.advance(DurationMs::secs(60));
    world.control_until_quiet();
    assert_eq!(failure(&world, id).as_deref(), Some("it was not complete after 1m"));
    assert!(active(&world, id).is_empty());
    let progress = converged(&world.state, id);
    assert!(
        progress.failed && progress.message.contains("not complete"),
        "{progress:?}"
    );
    world.rounds(5);
    assert!(active(&world, id).is_empty(), "what was given up is not started again");
}

#[test]
fn a_job_is_tried_again_with_growing_waits_up_to_its_limit() {
    let (mut world, _) = World::with_nodes(1);
    let limits = JobSpec {
        backoff_limit: Some(6),
        ..JobSpec::default()
    };
    let id = world.apply_spec("import", job(1, limits));
    let mut waits = Vec::new();
    for _ in 0..7 {
        world.control_until_quiet();
        assert_eq!(active(&world, id).len(), 1, "{:#?}", world.describe());
        let made = world.now;
        fail_all(&mut world, id);
        world.fail_over();
        world.control_until_quiet();
        let Some(at) = world.plan(id).wake_at else { break };
        waits.push(at.since(made).0 / 1000);
        world.now = at;
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 320]);
    let failure = failure(&world, id).expect("it failed");
    assert!(failure.starts_with("it failed 7 times, 6 are allowed"), "{failure}");
    assert!(failure.ends_with("exit status 3"), "{failure}");
}

#[test]
fn without_a_limit_a_failed_slot_fails_the_job_once_nothing_else_runs() {
    let (mut world, _) = World::with_nodes(1);
    let id = world.apply_spec("import", job(2, JobSpec::default()));
    world.control_until_quiet();
    let first = active(&world, id)[0];
    let observed = Observed {
        phase: Phase::Failed,
        sequence: 9,
        ..Observed::default()
    };
    world.write(vec![Op::Observe {
        replica: first,
        observed,
    }]);
    world.control_until_quiet();
    assert_eq!(failure(&world, id), None, "the other one still runs");
    world.rounds(10);
    let failure = failure(&world, id).expect("it failed");
    assert!(failure.starts_with("import."), "{failure}");
}

#[test]
fn a_job_is_deleted_some_time_after_it_ended() {
    let (mut world, _) = World::with_nodes(1);
    let limits = JobSpec {
        ttl: Some(DurationMs::secs(100)),
        ..JobSpec::default()
    };
    let id = world.apply_spec("import", job(1, limits));
    world.rounds(10);
    let ended = world
        .state
        .service(id)
        .and_then(|service| service.job.ended.clone())
        .expect("it ended");
    assert_eq!(world.plan(id).wake_at, Some(ended.at.after(DurationMs::secs(100))));
    world.rounds(110);
    assert!(world.state.service(id).is_none(), "{:#?}", world.describe());
    assert_eq!(world.state.replicas_of(id).count(), 0);
}

#[test]
fn a_new_revision_of_a_failed_job_begins_anew() {
    let (mut world, _) = World::with_nodes(1);
    let limits = JobSpec {
        backoff_limit: Some(0),
        ..JobSpec::default()
    };
    let id = world.apply_spec("import", job(1, limits.clone()));
    world.control_until_quiet();
    fail_all(&mut world, id);
    world.rounds(3);
    assert!(failure(&world, id).is_some());
    world.apply_spec("import", job(1, limits));
    world.rounds(10);
    assert_eq!(failure(&world, id), None, "{:#?}", world.describe());
    assert!(converged(&world.state, id).done);
}
