//! Slots in order, and slots that are never filled twice.

use gantry_model::object::{Availability, NodeStatus, Slot};
use gantry_model::phase::Phase;
use gantry_model::spec::{ServiceSpec, StartOrder, Stateful, UpdateConfig};
use gantry_model::{DurationMs, ServiceId};
use gantry_reconcile::converged;

use crate::world::World;
use crate::world::people::replicated;

fn stateful(replicas: u32, start: StartOrder, exclusive: bool) -> ServiceSpec {
    let mut spec = replicated(replicas);
    spec.stateful = Some(Stateful { start, exclusive });
    spec.update.monitor = DurationMs::ZERO;
    spec
}

fn filled(world: &World, id: ServiceId) -> Vec<Slot> {
    let mut slots: Vec<Slot> = world
        .state
        .replicas_of(id)
        .filter(|one| one.is_active() || one.holds_resources())
        .map(|one| one.slot)
        .collect();
    slots.sort();
    slots.dedup();
    slots
}

fn up_to(count: u32) -> Vec<Slot> {
    (1..=count).map(Slot::Index).collect()
}

#[test]
fn ordered_slots_start_one_after_the_other() {
    let (mut world, _) = World::with_nodes(3);
    let id = world.apply_spec("db", stateful(3, StartOrder::Ordered, false));
    for _ in 0..40 {
        world.rounds(1);
        let slots = filled(&world, id);
        let serving = world.endpoints(id).len() as u32;
        assert!(
            slots == up_to(serving) || slots == up_to(serving + 1),
            "{slots:?}, {serving} serve"
        );
    }
    assert_eq!(world.endpoints(id).len(), 3);
    assert!(converged(&world.state, id).done);
}

#[test]
fn parallel_slots_start_at_once() {
    let (mut world, _) = World::with_nodes(3);
    let id = world.apply_spec("db", stateful(3, StartOrder::Parallel, false));
    world.control(id);
    world.control_until_quiet();
    assert_eq!(filled(&world, id), up_to(3));
}

#[test]
fn ordered_slots_are_dismissed_from_the_highest_down_one_at_a_time() {
    let (mut world, _) = World::with_nodes(3);
    let id = world.apply_spec("db", stateful(4, StartOrder::Ordered, false));
    world.rounds(40);
    world.scale(id, 1);
    for _ in 0..40 {
        world.control_until_quiet();
        let told = world
            .state
            .replicas_of(id)
            .filter(|one| one.holds_resources() && !one.is_active());
        assert!(told.count() <= 1, "{:#?}", world.describe());
        let slots = filled(&world, id);
        assert_eq!(slots, up_to(slots.len() as u32));
        world.rounds(1);
    }
    assert_eq!(filled(&world, id), up_to(1));
}

#[test]
fn ordered_slots_are_rolled_out_from_the_highest_down() {
    let (mut world, _) = World::with_nodes(3);
    let mut spec = stateful(3, StartOrder::Ordered, false);
    spec.update = UpdateConfig {
        monitor: DurationMs::ZERO,
        delay: DurationMs::secs(100),
        ..UpdateConfig::default()
    };
    let id = world.apply_spec("db", spec.clone());
    world.rounds(30);
    spec.restart_generation += 1;
    world.apply_spec("db", spec);
    world.rounds(20);
    let new: Vec<Slot> = world
        .endpoints(id)
        .iter()
        .filter(|one| one.revision == 2)
        .map(|one| one.slot)
        .collect();
    assert_eq!(new, [Slot::Index(3)]);
    assert_eq!(world.endpoints(id).len(), 3);
}

#[test]
fn a_slot_that_was_filled_does_not_wait_for_lower_ones() {
    let (mut world, nodes) = World::with_nodes(3);
    let id = world.apply_spec("db", stateful(3, StartOrder::Ordered, false));
    world.rounds(30);
    let on = |world: &World, index| {
        let slot = |one: &&gantry_model::object::Replica| one.slot == Slot::Index(index) && one.is_active();
        world.state.replicas_of(id).find(slot).and_then(|one| one.node)
    };
    let (first, last) = (on(&world, 1), on(&world, 3));
    for node in nodes.into_iter().filter(|node| [first, last].contains(&Some(*node))) {
        world.edit_node(node, |node| node.status = NodeStatus::Down);
    }
    world.control_until_quiet();
    assert!(on(&world, 3) != last, "{:#?}", world.describe());
}

fn occupying(world: &World, id: ServiceId) -> usize {
    world.state.replicas_of(id).filter(|one| one.holds_resources()).count()
}

#[test]
fn an_exclusive_replica_out_of_reach_is_not_replaced_until_its_node_is_removed() {
    let (mut world, _) = World::with_nodes(3);
    let id = world.apply_spec("db", stateful(1, StartOrder::Parallel, true));
    world.rounds(10);
    let node = world.endpoints(id)[0].node.expect("it is placed");
    world.edit_node(node, |node| node.status = NodeStatus::Down);
    for _ in 0..20 {
        world.rounds(1);
        assert_eq!(world.state.replicas_of(id).count(), 1, "{:#?}", world.describe());
    }
    world.edit_node(node, |node| node.status = NodeStatus::Ready);
    world.rounds(5);
    assert_eq!(world.endpoints(id).len(), 1, "it goes on where it was");
    world.edit_node(node, |node| node.status = NodeStatus::Down);
    world.rounds(2);
    world.remove_node(node);
    world.rounds(10);
    assert_eq!(world.endpoints(id).len(), 1);
    assert_ne!(world.endpoints(id)[0].node, Some(node));
}

/// Whatever happens to nodes and specs, a slot never has two replicas that may run.
#[test]
fn an_exclusive_slot_never_has_two_replicas_that_may_run() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        for name in ["alpha", "beta", "gamma"] {
            world.join(name, &Default::default());
        }
        let mut spec = stateful(2, StartOrder::Parallel, true);
        let id = world.apply_spec("db", spec.clone());
        for _ in 0..150 {
            let nodes = world.node_ids();
            let node = world.dice.pick(&nodes).expect("there are nodes");
            match world.dice.below(9) {
                0 => {
                    let status = [NodeStatus::Down, NodeStatus::Ready][world.dice.below(2) as usize];
                    world.edit_node(node, |node| node.status = status);
                }
                1 => {
                    let choices = [Availability::Active, Availability::Drain];
                    let availability = choices[world.dice.below(2) as usize];
                    world.edit_node(node, |node| node.availability = availability);
                }
                2 if world.dice.one_in(4) => {
                    spec.restart_generation += 1;
                    world.apply_spec("db", spec.clone());
                }
                3 => world.acknowledge_all(),
                4 => world.fail_over(),
                5 => world.advance(DurationMs::secs(3)),
                6 => {
                    world.control(id);
                }
                _ => world.agents_step(),
            }
            for slot in up_to(2) {
                let running = world
                    .state
                    .replicas_of(id)
                    .filter(|one| one.slot == slot && one.holds_resources());
                assert!(running.count() <= 1, "seed {seed} {:#?}", world.describe());
            }
            assert!(occupying(&world, id) <= 2);
        }
        let all_ended = |world: &World| {
            world
                .state
                .replicas_of(id)
                .all(|one| one.observed.phase != Phase::Running)
        };
        for node in world.node_ids() {
            world.edit_node(node, |node| {
                node.status = NodeStatus::Ready;
                node.availability = Availability::Active;
            });
        }
        world.rounds(80);
        assert!(
            !all_ended(&world) && converged(&world.state, id).done,
            "seed {seed} {:#?}",
            world.describe()
        );
    }
}
