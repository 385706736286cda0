//! Rollouts: bounds, order, delay, monitor, and what failures lead to.

use gantry_model::object::{Rollout, RolloutKind, RolloutState};
use gantry_model::phase::{Desired, Phase};
use gantry_model::spec::{FailureAction, Mode, UpdateConfig, UpdateOrder};
use gantry_model::{DurationMs, ServiceId, Timestamp};
use gantry_reconcile::converged;

use crate::world::World;
use crate::world::people::{plain, replicated};

fn quick() -> UpdateConfig {
    UpdateConfig {
        monitor: DurationMs::ZERO,
        ..UpdateConfig::default()
    }
}

fn updated(world: &mut World, count: u32, update: UpdateConfig) -> ServiceId {
    let mut spec = replicated(count);
    spec.update = update.clone();
    spec.rollback = quick();
    let id = world.apply_spec("web", spec.clone());
    world.rounds(6);
    assert!(converged(&world.state, id).done);
    spec.restart_generation += 1;
    world.apply_spec("web", spec)
}

/// With healthy agents, whatever the settings: never too few that serve, never too many that run.
#[test]
fn a_rollout_keeps_its_bounds() {
    for seed in 0..400 {
        let mut world = World::new(seed);
        for name in ["alpha", "beta", "gamma"] {
            world.join(name, &Default::default());
        }
        let count = 1 + world.dice.below(7) as u32;
        let parallelism = world.dice.below(4) as u32;
        let start_first = world.dice.one_in(2);
        let update = UpdateConfig {
            parallelism,
            delay: DurationMs(world.dice.below(3) * 1500),
            order: if start_first {
                UpdateOrder::StartFirst
            } else {
                UpdateOrder::StopFirst
            },
            ..quick()
        };
        let id = updated(&mut world, count, update);
        let batch = if parallelism == 0 {
            count
        } else {
            parallelism.min(count)
        };
        let (least, most) = if start_first {
            (count, count + batch)
        } else {
            (count - batch, count)
        };
        for _ in 0..2_000 {
            random_turn(&mut world, id);
            let serving = world.endpoints(id).len() as u32;
            let running = world.state.replicas_of(id).filter(|one| one.holds_resources()).count() as u32;
            let context = || {
                format!(
                    "seed {seed}: {count} by {batch}, start first {start_first} {:#?}",
                    world.describe()
                )
            };
            assert!(serving >= least, "{serving} serve of at least {least}, {}", context());
            assert!(running <= most, "{running} run of at most {most}, {}", context());
            if converged(&world.state, id).done {
                break;
            }
        }
        assert!(converged(&world.state, id).done, "seed {seed}: {:#?}", world.describe());
    }
}

/// As when another server leads, whose clock is behind: what was made for the rollout is told from what was there by more than
/// the time of day.
#[test]
fn a_clock_that_is_set_back_does_not_hurry_a_rollout() {
    let (mut world, _) = World::with_nodes(3);
    let id = updated(&mut world, 4, quick());
    world.now = Timestamp(world.now.0 - 600_000);
    for _ in 0..60 {
        world.control_until_quiet();
        let serving = world.endpoints(id).len();
        assert!(serving >= 3, "{serving} serve of at least 3 {:#?}", world.describe());
        world.rounds(1);
    }
    let progress = converged(&world.state, id);
    assert!(progress.done && progress.updated == 4, "{:#?}", world.describe());
}

fn random_turn(world: &mut World, id: ServiceId) {
    match world.dice.below(6) {
        0 => world.agents_step(),
        1 => world.acknowledge_all(),
        2 => {
            let by = world.dice.below(2_000);
            world.advance(DurationMs(by));
        }
        3 => world.fail_over(),
        _ => {
            world.control(id);
        }
    }
}

#[test]
fn slots_are_replaced_in_order_with_a_delay_between_batches() {
    let (mut world, _) = World::with_nodes(3);
    let update = UpdateConfig {
        parallelism: 2,
        delay: DurationMs::secs(30),
        ..quick()
    };
    let id = updated(&mut world, 5, update);
    let new_slots = |world: &World| -> Vec<String> {
        let new = world.endpoints(id).into_iter().filter(|one| one.revision == 2);
        let mut slots: Vec<String> = new.map(|one| one.slot.to_string()).collect();
        slots.sort();
        slots
    };
    world.rounds(15);
    assert_eq!(new_slots(&world), ["1", "2"]);
    let plan = world.plan(id);
    let done = world.rollout(id).batch_done_at.expect("the first batch is done");
    assert_eq!(plan.wake_at, Some(done.after(DurationMs::secs(30))));
    world.rounds(35);
    assert_eq!(new_slots(&world), ["1", "2", "3", "4"]);
    world.rounds(45);
    assert_eq!(new_slots(&world), ["1", "2", "3", "4", "5"]);
}

#[test]
fn a_rollout_is_complete_only_after_the_monitor_time_of_its_last_batch() {
    let (mut world, _) = World::with_nodes(2);
    let update = UpdateConfig {
        parallelism: 0,
        monitor: DurationMs::secs(60),
        ..UpdateConfig::default()
    };
    let id = updated(&mut world, 2, update);
    world.rounds(20);
    assert_eq!(world.endpoints(id).iter().filter(|one| one.revision == 2).count(), 2);
    assert_eq!(world.rollout(id).state, RolloutState::Running);
    assert!(!converged(&world.state, id).done);
    world.rounds(60);
    assert_eq!(world.rollout(id).state, RolloutState::Completed);
    assert!(converged(&world.state, id).done);
}

#[test]
fn a_rollout_of_no_replicas_is_complete_at_once() {
    let (mut world, _) = World::with_nodes(1);
    let id = updated(&mut world, 0, UpdateConfig::default());
    world.control_until_quiet();
    assert_eq!(world.rollout(id).state, RolloutState::Completed);
}

fn broken_update(action: FailureAction, order: UpdateOrder, permille: u32) -> (World, ServiceId) {
    let (mut world, _) = World::with_nodes(3);
    let update = UpdateConfig {
        failure_action: action,
        max_failure_permille: permille,
        order,
        ..UpdateConfig::default()
    };
    let id = updated(&mut world, 4, update);
    world.broken.insert((id, 2));
    (world, id)
}

#[test]
fn a_failed_rollout_pauses_and_the_rest_keeps_serving() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let (mut world, id) = broken_update(FailureAction::Pause, order, 0);
        world.rounds(60);
        let rollout = world.rollout(id);
        assert_eq!(rollout.state, RolloutState::Paused, "{:#?}", world.describe());
        assert_eq!(rollout.failed.len(), 1);
        assert!(
            rollout.message.contains("1 of 4 replicas failed"),
            "{}",
            rollout.message
        );
        let serving = world.endpoints(id);
        assert_eq!(
            serving.len(),
            if order == UpdateOrder::StartFirst { 4 } else { 3 },
            "{:#?}",
            world.describe()
        );
        assert!(serving.iter().all(|one| one.revision == 1));
        assert!(converged(&world.state, id).failed);
    }
}

#[test]
fn a_failed_rollout_rolls_back_to_where_it_came_from() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let (mut world, id) = broken_update(FailureAction::Rollback, order, 0);
        world.scale(id, 5);
        world.rounds(120);
        let rollout = world.rollout(id);
        assert_eq!(
            (rollout.kind, rollout.state),
            (RolloutKind::Rollback, RolloutState::Completed),
            "{:#?}",
            world.describe()
        );
        let service = world.state.service(id).expect("the service exists");
        assert_eq!(service.revision, 1);
        assert_eq!(
            service.spec.mode,
            Mode::Replicated { replicas: 5 },
            "the scale is not part of a revision"
        );
        assert_eq!(world.endpoints(id).len(), 5);
        let progress = converged(&world.state, id);
        assert!(
            progress.failed && progress.message.contains("rolling back"),
            "{progress:?}"
        );
    }
}

#[test]
fn a_failing_rollback_pauses() {
    let (mut world, id) = broken_update(FailureAction::Rollback, UpdateOrder::StopFirst, 0);
    world.edit_service(id, |service| {
        let mut spec = (*service.spec).clone();
        spec.rollback.failure_action = FailureAction::Rollback;
        service.spec = spec.into();
    });
    world.rounds(3);
    world.broken.insert((id, 1));
    world.rounds(60);
    let rollout = world.rollout(id);
    assert_eq!(
        (rollout.kind, rollout.state),
        (RolloutKind::Rollback, RolloutState::Paused),
        "{:#?}",
        world.describe()
    );
}

#[test]
fn a_rollout_that_may_continue_replaces_every_slot() {
    let (mut world, id) = broken_update(FailureAction::Continue, UpdateOrder::StopFirst, 0);
    world.rounds(200);
    let rollout = world.rollout(id);
    assert_eq!(rollout.state, RolloutState::Completed, "{:#?}", world.describe());
    assert!(rollout.failed.len() >= 4);
    assert!(converged(&world.state, id).failed || !converged(&world.state, id).done);
}

#[test]
fn failures_up_to_the_allowed_share_are_tolerated() {
    let (mut world, id) = broken_update(FailureAction::Pause, UpdateOrder::StopFirst, 250);
    while world.rollout(id).failed.is_empty() {
        world.rounds(1);
    }
    world.broken.clear();
    assert_eq!(world.rollout(id).state, RolloutState::Running, "1 of 4 may fail");
    world.rounds(200);
    assert_eq!(
        world.rollout(id).state,
        RolloutState::Completed,
        "{:#?}",
        world.describe()
    );
}

#[test]
fn a_replica_that_fails_after_the_monitor_time_does_not_count() {
    let (mut world, _) = World::with_nodes(3);
    let update = UpdateConfig {
        delay: DurationMs::secs(100),
        ..UpdateConfig::default()
    };
    let id = updated(&mut world, 2, update);
    world.rounds(30);
    let first = world
        .endpoints(id)
        .into_iter()
        .find(|one| one.revision == 2)
        .expect("the first batch serves")
        .id;
    let mut observed = world.state.replica(first).expect("it exists").observed.clone();
    (observed.phase, observed.ready, observed.at) = (Phase::Failed, false, world.now);
    observed.sequence += 1;
    world.write(vec![gantry_state::Op::Observe {
        replica: first,
        observed,
    }]);
    world.rounds(5);
    assert_eq!(world.rollout(id).failed, []);
    assert_eq!(world.rollout(id).state, RolloutState::Running);
}

#[test]
fn a_newer_revision_takes_over_from_an_unfinished_rollout() {
    let (mut world, id) = broken_update(FailureAction::Pause, UpdateOrder::StopFirst, 0);
    world.rounds(10);
    let spec = (*world.state.service(id).expect("it exists").spec).clone();
    world.apply_spec("web", spec);
    world.rounds(150);
    assert_eq!(world.rollout(id).state, RolloutState::Completed);
    assert!(world.endpoints(id).iter().all(|one| one.revision == 3) && world.endpoints(id).len() == 4);
}

#[test]
fn a_replica_lost_in_a_paused_rollout_comes_back_with_the_revision_it_had() {
    let (mut world, id) = broken_update(FailureAction::Pause, UpdateOrder::StopFirst, 0);
    world.rounds(60);
    let node = world.endpoints(id)[0].node.expect("it is placed");
    world.edit_node(node, |node| node.status = gantry_model::object::NodeStatus::Down);
    world.rounds(10);
    let live = world
        .endpoints(id)
        .into_iter()
        .filter(|one| one.desired == Desired::Run && one.node != Some(node));
    assert_eq!(
        live.filter(|one| one.revision == 1).count(),
        3,
        "{:#?}",
        world.describe()
    );
}

#[test]
fn a_global_service_is_rolled_out_node_by_node() {
    let (mut world, nodes) = World::with_nodes(3);
    let mut spec = plain(Mode::Global);
    spec.update = quick();
    let id = world.apply_spec("web", spec.clone());
    world.rounds(6);
    world.edit_node(nodes[0], |node| node.status = gantry_model::object::NodeStatus::Down);
    spec.restart_generation += 1;
    world.apply_spec("web", spec);
    for _ in 0..60 {
        world.rounds(1);
        let others = world.endpoints(id).into_iter().filter(|one| one.node != Some(nodes[0]));
        assert!(others.count() >= 1);
    }
    assert_eq!(world.rollout(id).state, RolloutState::Completed);
    world.edit_node(nodes[0], |node| node.status = gantry_model::object::NodeStatus::Ready);
    world.rounds(30);
    assert!(
        world.endpoints(id).iter().all(|one| one.revision == 2),
        "the node that was away is brought up to date"
    );
    assert_eq!(world.endpoints(id).len(), 3);
}

#[test]
fn a_first_rollout_that_fails_pauses_since_there_is_nothing_to_go_back_to() {
    let (mut world, _) = World::with_nodes(2);
    let mut spec = replicated(3);
    spec.update.failure_action = FailureAction::Rollback;
    let id = world.apply_spec("web", spec);
    world.broken.insert((id, 1));
    let now = world.now;
    world.edit_service(id, |service| {
        service.rollout = Some(Rollout::new(0, 1, RolloutKind::Update, now));
    });
    world.control_until_quiet();
    assert_eq!(
        world.state.replicas_of(id).count(),
        3,
        "a first rollout starts all at once"
    );
    world.rounds(20);
    assert_eq!(world.rollout(id).state, RolloutState::Paused);
    assert!(converged(&world.state, id).failed);
}
