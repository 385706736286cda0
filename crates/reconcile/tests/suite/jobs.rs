//! Work that completes.

use gantry_model::object::NodeStatus;
use gantry_model::phase::{Observed, Phase};
use gantry_model::spec::Mode;
use gantry_model::{ReplicaId, ServiceId};
use gantry_reconcile::converged;
use gantry_state::Op;

use crate::world::World;
use crate::world::people::plain;

fn job(completions: u32, parallelism: u32) -> gantry_model::spec::ServiceSpec {
    plain(Mode::ReplicatedJob {
        completions,
        parallelism,
    })
}

fn active(world: &World, id: ServiceId) -> usize {
    world.state.replicas_of(id).filter(|one| one.is_active()).count()
}

fn report(world: &mut World, replica: ReplicaId, phase: Phase) {
    let before = world.state.replica(replica).expect("it exists").observed.clone();
    let observed = Observed {
        phase,
        sequence: before.sequence + 1,
        at: world.now,
        ..before
    };
    world.write(vec![Op::Observe { replica, observed }]);
}

#[test]
fn a_job_completes_with_no_more_than_its_parallelism_at_a_time() {
    let (mut world, _) = World::with_nodes(2);
    let id = world.apply_spec("import", job(7, 2));
    for _ in 0..80 {
        world.rounds(1);
        assert!(active(&world, id) <= 2);
    }
    let progress = converged(&world.state, id);
    assert!(progress.done && progress.ready == 7, "{progress:?}");
    assert_eq!(
        world.state.replicas_of(id).count(),
        7,
        "what is completed is not run again"
    );
}

#[test]
fn what_failed_for_good_is_not_replaced() {
    let (mut world, _) = World::with_nodes(1);
    let id = world.apply_spec("import", job(2, 1));
    world.control_until_quiet();
    let first = world.state.replicas_of(id).next().expect("one is made").id;
    report(&mut world, first, Phase::Failed);
    world.rounds(30);
    let progress = converged(&world.state, id);
    assert!(
        progress.failed && !progress.done && progress.ready == 1,
        "{progress:?} {:#?}",
        world.describe()
    );
    assert_eq!(world.state.replicas_of(id).count(), 2);
}

#[test]
fn what_a_node_took_down_with_it_is_run_again() {
    let (mut world, _) = World::with_nodes(2);
    let id = world.apply_spec("import", job(1, 1));
    world.control_until_quiet();
    let node = world
        .state
        .replicas_of(id)
        .next()
        .and_then(|one| one.node)
        .expect("it is placed");
    world.edit_node(node, |node| node.status = NodeStatus::Down);
    world.rounds(10);
    assert!(converged(&world.state, id).done, "{:#?}", world.describe());
}

#[test]
fn a_completed_job_survives_the_removal_of_its_node() {
    let (mut world, _) = World::with_nodes(2);
    let id = world.apply_spec("import", job(1, 1));
    world.rounds(10);
    let node = world
        .state
        .replicas_of(id)
        .next()
        .and_then(|one| one.node)
        .expect("it was placed");
    world.remove_node(node);
    world.rounds(10);
    assert!(converged(&world.state, id).done);
    assert_eq!(world.state.replicas_of(id).count(), 1);
}

#[test]
fn a_new_revision_runs_the_job_again() {
    let (mut world, _) = World::with_nodes(2);
    let id = world.apply_spec("import", job(2, 0));
    world.rounds(10);
    world.apply_spec("import", job(2, 0));
    assert!(!converged(&world.state, id).done);
    world.rounds(10);
    assert!(converged(&world.state, id).done);
    let again = world
        .state
        .replicas_of(id)
        .filter(|one| one.revision == 2 && one.observed.phase == Phase::Completed);
    assert_eq!(again.count(), 2);
}

#[test]
fn a_global_job_runs_once_on_every_node() {
    let (mut world, _) = World::with_nodes(3);
    let id = world.apply_spec("clean", plain(Mode::GlobalJob));
    world.rounds(15);
    let progress = converged(&world.state, id);
    assert!(progress.done && progress.ready == 3, "{progress:?}");
    assert_eq!(world.state.replicas_of(id).count(), 3);
}

#[test]
fn a_drained_node_gives_its_work_away_only_once_it_has_ended_there() {
    let (mut world, _) = World::with_nodes(2);
    let id = world.apply_spec("import", job(1, 1));
    world.control_until_quiet();
    let first = world.state.replicas_of(id).next().expect("one is made").clone();
    report(&mut world, first.id, Phase::Running);
    let node = first.node.expect("it is placed");
    world.edit_node(node, |node| {
        node.availability = gantry_model::object::Availability::Drain
    });
    world.control_until_quiet();
    assert_eq!(
        world.state.replicas_of(id).count(),
        1,
        "never twice at a time: {:#?}",
        world.describe()
    );
    report(&mut world, first.id, Phase::Stopped);
    world.control_until_quiet();
    assert_eq!(active(&world, id), 1);
    world.rounds(10);
    assert!(converged(&world.state, id).done);
}
