//! Rollouts in stages, rollouts that do not get on, rollouts that a person pauses.

use gantry_model::object::{Rollout, RolloutState};
use gantry_model::phase::Phase;
use gantry_model::spec::{CanaryStep, FailureAction, RolloutStrategy, UpdateConfig, UpdateOrder};
use gantry_model::{DurationMs, ServiceId};
use gantry_reconcile::converged;

use crate::world::World;
use crate::world::people::replicated;

fn quick() -> UpdateConfig {
    UpdateConfig {
        parallelism: 0,
        monitor: DurationMs::ZERO,
        ..UpdateConfig::default()
    }
}

/// A service of `count` replicas that serve, with an update under way.
fn updating(count: u32, update: UpdateConfig) -> (World, ServiceId) {
    let (mut world, _) = World::with_nodes(3);
    let mut spec = replicated(count);
    spec.update = update;
    spec.rollback = quick();
    let id = world.apply_spec("web", spec.clone());
    world.rounds(6);
    assert!(converged(&world.state, id).done);
    spec.restart_generation += 1;
    world.apply_spec("web", spec);
    (world, id)
}

fn new_endpoints(world: &World, id: ServiceId) -> usize {
    world.endpoints(id).iter().filter(|one| one.revision == 2).count()
}

fn steer(world: &mut World, id: ServiceId, edit: impl FnOnce(&mut Rollout)) {
    world.edit_service(id, |service| edit(service.rollout.as_mut().expect("it has a rollout")));
}

fn promote(world: &mut World, id: ServiceId) {
    steer(world, id, |rollout| {
        rollout.stage += 1;
        rollout.stage_reached_at = None;
    });
}

fn canary(steps: &[(u32, Option<u64>)]) -> UpdateConfig {
    let step = |(percent, hold): &(u32, Option<u64>)| CanaryStep {
        percent: *percent,
        hold: hold.map(DurationMs::secs),
    };
    UpdateConfig {
        strategy: RolloutStrategy::Canary {
            steps: steps.iter().map(step).collect(),
        },
        ..quick()
    }
}

#[test]
fn a_canary_waits_at_each_step_until_it_is_promoted() {
    let (mut world, id) = updating(5, canary(&[(20, None), (50, None)]));
    for (share, message) in [(1, "20 % of the replicas"), (3, "50 % of the replicas")] {
        world.rounds(60);
        assert_eq!(new_endpoints(&world, id), share, "{:#?}", world.describe());
        let progress = converged(&world.state, id);
        assert!(progress.done && progress.message.contains(message), "{progress:?}");
        assert!(world.plan(id).is_empty(), "it rests until a person decides");
        promote(&mut world, id);
    }
    world.rounds(30);
    assert_eq!(new_endpoints(&world, id), 5);
    assert_eq!(world.rollout(id).state, RolloutState::Completed);
}

#[test]
fn a_canary_step_with_a_time_goes_on_by_itself_after_it() {
    let (mut world, id) = updating(4, canary(&[(25, Some(60))]));
    world.rounds(30);
    assert_eq!(new_endpoints(&world, id), 1);
    let reached = world.rollout(id).stage_reached_at.expect("the stage is reached");
    assert_eq!(world.plan(id).wake_at, Some(reached.after(DurationMs::secs(60))));
    world.fail_over();
    world.rounds(70);
    assert_eq!(new_endpoints(&world, id), 4);
    assert_eq!(world.rollout(id).state, RolloutState::Completed);
}

#[test]
fn a_canary_that_fails_long_after_its_start_is_rolled_back() {
    let update = UpdateConfig {
        failure_action: FailureAction::Rollback,
        ..canary(&[(20, None)])
    };
    let (mut world, id) = updating(5, update);
    world.rounds(120);
    assert_eq!(new_endpoints(&world, id), 1);
    world.broken.insert((id, 2));
    world.rounds(60);
    assert_eq!(world.endpoints(id).len(), 5, "{:#?}", world.describe());
    assert!(world.endpoints(id).iter().all(|one| one.revision == 1));
    assert!(converged(&world.state, id).failed);
}

fn blue_green(hold: Option<u64>) -> UpdateConfig {
    UpdateConfig {
        strategy: RolloutStrategy::BlueGreen {
            hold: hold.map(DurationMs::secs),
        },
        ..quick()
    }
}

#[test]
fn green_gets_no_traffic_before_all_of_it_is_ready_and_promoted() {
    let (mut world, id) = updating(4, blue_green(None));
    world.rounds(60);
    let old = |world: &World| world.endpoints(id).iter().filter(|one| one.revision == 1).count();
    assert_eq!(
        (old(&world), new_endpoints(&world, id)),
        (4, 0),
        "{:#?}",
        world.describe()
    );
    let ready = world.state.replicas_of(id).filter(|one| one.held && one.is_ready());
    assert_eq!(ready.count(), 4);
    assert!(converged(&world.state, id).message.contains("without traffic"));
    promote(&mut world, id);
    world.control(id);
    assert_eq!(
        (old(&world), new_endpoints(&world, id)),
        (4, 4),
        "all of it at once, before the old ones go"
    );
    world.rounds(30);
    assert_eq!((old(&world), new_endpoints(&world, id)), (0, 4));
    assert_eq!(world.rollout(id).state, RolloutState::Completed);
}

#[test]
fn green_that_fails_never_had_traffic_and_leaves_blue_as_it_was() {
    let update = UpdateConfig {
        failure_action: FailureAction::Rollback,
        ..blue_green(Some(30))
    };
    let (mut world, id) = updating(3, update);
    let blue: Vec<_> = world.endpoints(id).iter().map(|one| one.id).collect();
    world.broken.insert((id, 2));
    for _ in 0..80 {
        world.rounds(1);
        assert_eq!(new_endpoints(&world, id), 0);
        assert_eq!(world.endpoints(id).len(), 3, "{:#?}", world.describe());
    }
    let left: Vec<_> = world.endpoints(id).iter().map(|one| one.id).collect();
    assert_eq!(left, blue);
    let holding = world.state.replicas_of(id).filter(|one| one.holds_resources()).count();
    assert_eq!(holding, 3, "{:#?}", world.describe());
}

#[test]
fn green_that_is_superseded_makes_room_for_the_next() {
    let (mut world, id) = updating(3, blue_green(None));
    world.rounds(20);
    let mut spec = (*world.state.service(id).expect("it exists").spec).clone();
    spec.restart_generation += 1;
    spec.update = quick();
    world.apply_spec("web", spec);
    world.rounds(30);
    assert!(world.endpoints(id).iter().all(|one| one.revision == 3));
    assert_eq!(world.endpoints(id).len(), 3, "{:#?}", world.describe());
    let holding = world.state.replicas_of(id).filter(|one| one.holds_resources()).count();
    assert_eq!(holding, 3, "{:#?}", world.describe());
}

fn slow(action: FailureAction, order: UpdateOrder) -> UpdateConfig {
    UpdateConfig {
        parallelism: 1,
        failure_action: action,
        order,
        progress_deadline: DurationMs::secs(40),
        ..quick()
    }
}

/// Nothing more is heard of new replicas: they stay in preparation.
fn rounds_without_progress(world: &mut World, id: ServiceId, count: usize) {
    for _ in 0..count {
        world.control_until_quiet();
        let replicas: Vec<_> = world.state.replicas_of(id).cloned().collect();
        for one in replicas {
            if one.revision == 1
                || one.desired != gantry_model::phase::Desired::Run
                || one.observed.phase < Phase::Preparing
            {
                world.agent_step(one.id);
            }
        }
        world.acknowledge_all();
        world.advance(DurationMs::secs(1));
    }
}

#[test]
fn a_rollout_that_does_not_get_on_ends_after_its_deadline() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let (mut world, id) = updating(3, slow(FailureAction::Pause, order));
        rounds_without_progress(&mut world, id, 30);
        assert_eq!(world.rollout(id).state, RolloutState::Running);
        world.fail_over();
        rounds_without_progress(&mut world, id, 30);
        let rollout = world.rollout(id);
        assert_eq!(rollout.state, RolloutState::Paused, "{order:?} {:#?}", world.describe());
        assert!(
            rollout.message.contains("1 of 3 replicas failed"),
            "{}",
            rollout.message
        );
        assert!(world.plan(id).wake_at.is_none());
    }
}

#[test]
fn a_rollout_that_does_not_get_on_rolls_back_where_it_may() {
    let (mut world, id) = updating(3, slow(FailureAction::Rollback, UpdateOrder::StopFirst));
    rounds_without_progress(&mut world, id, 60);
    world.rounds(20);
    assert_eq!(world.endpoints(id).len(), 3, "{:#?}", world.describe());
    assert!(world.endpoints(id).iter().all(|one| one.revision == 1));
}

#[test]
fn a_rollout_that_is_to_continue_ends_with_what_never_started() {
    let (mut world, id) = updating(3, slow(FailureAction::Continue, UpdateOrder::StartFirst));
    rounds_without_progress(&mut world, id, 300);
    let rollout = world.rollout(id);
    assert_eq!(
        (rollout.state, rollout.failed.len()),
        (RolloutState::Completed, 3),
        "{:#?}",
        world.describe()
    );
}

#[test]
fn a_paused_rollout_rests_and_a_resumed_one_goes_on() {
    let update = UpdateConfig {
        parallelism: 1,
        ..quick()
    };
    let (mut world, id) = updating(4, update);
    world.rounds(8);
    let before = new_endpoints(&world, id);
    assert!((1..4).contains(&before), "{before}");
    steer(&mut world, id, |rollout| rollout.state = RolloutState::Paused);
    world.rounds(60);
    assert!(new_endpoints(&world, id) <= before + 1);
    assert_eq!(world.endpoints(id).len(), 4);
    let now = world.now;
    steer(&mut world, id, |rollout| {
        rollout.state = RolloutState::Running;
        rollout.resumed_at = Some(now);
    });
    world.rounds(60);
    assert_eq!(new_endpoints(&world, id), 4);
    assert_eq!(world.rollout(id).state, RolloutState::Completed);
}

#[test]
fn a_rollout_that_failed_goes_on_when_a_person_lets_the_failures_pass() {
    let update = UpdateConfig {
        parallelism: 1,
        ..quick()
    };
    let (mut world, id) = updating(3, update);
    world.broken.insert((id, 2));
    world.rounds(30);
    assert_eq!(world.rollout(id).state, RolloutState::Paused);
    world.broken.clear();
    let now = world.now;
    steer(&mut world, id, |rollout| {
        rollout.state = RolloutState::Running;
        rollout.resumed_at = Some(now);
        rollout.forgiven = rollout.failed.len() as u32;
    });
    world.rounds(60);
    assert_eq!(
        world.rollout(id).state,
        RolloutState::Completed,
        "{:#?}",
        world.describe()
    );
    assert_eq!(
        new_endpoints(&world, id),
        2,
        "what failed for good stays as it is: {:#?}",
        world.describe()
    );
}

#[test]
fn a_batch_may_be_a_share_of_the_replicas() {
    let update = UpdateConfig {
        batch_percent: Some(50),
        delay: DurationMs::secs(300),
        ..quick()
    };
    let (mut world, id) = updating(6, update);
    world.rounds(30);
    assert_eq!(new_endpoints(&world, id), 3);
}
