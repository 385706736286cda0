//! One replica on every eligible node.

use gantry_model::MilliCpu;
use gantry_model::object::{Availability, NodeStatus};
use gantry_model::spec::{Mode, UpdateOrder};
use gantry_reconcile::converged;

use crate::world::World;
use crate::world::people::plain;

#[test]
fn every_node_gets_one_and_new_nodes_too() {
    let (mut world, _) = World::with_nodes(3);
    let id = world.apply_spec("agent", plain(Mode::Global));
    world.rounds(6);
    assert_eq!(world.endpoints(id).len(), 3);
    world.join("delta", &Default::default());
    world.rounds(6);
    assert_eq!(world.endpoints(id).len(), 4);
}

#[test]
fn paused_nodes_keep_theirs_drained_ones_lose_it_and_get_it_back() {
    let (mut world, nodes) = World::with_nodes(3);
    let id = world.apply_spec("agent", plain(Mode::Global));
    world.rounds(6);
    let before = world
        .endpoints(id)
        .iter()
        .find(|one| one.node == Some(nodes[0]))
        .map(|one| one.id);
    world.edit_node(nodes[0], |node| node.availability = Availability::Pause);
    world.edit_node(nodes[1], |node| node.availability = Availability::Drain);
    world.rounds(6);
    assert_eq!(world.endpoints(id).len(), 2);
    assert_eq!(world.state.replicas_on(nodes[1]).count(), 0);
    assert_eq!(
        world
            .endpoints(id)
            .iter()
            .find(|one| one.node == Some(nodes[0]))
            .map(|one| one.id),
        before
    );
    for node in &nodes {
        world.edit_node(*node, |node| node.availability = Availability::Active);
    }
    world.rounds(6);
    assert_eq!(world.endpoints(id).len(), 3);
}

#[test]
fn a_node_that_was_only_out_of_reach_keeps_its_replica() {
    let (mut world, nodes) = World::with_nodes(2);
    let id = world.apply_spec("agent", plain(Mode::Global));
    world.rounds(6);
    let before: Vec<_> = world.endpoints(id).iter().map(|one| one.id).collect();
    world.edit_node(nodes[0], |node| node.status = NodeStatus::Down);
    world.rounds(6);
    world.edit_node(nodes[0], |node| node.status = NodeStatus::Ready);
    world.rounds(6);
    let after: Vec<_> = world.endpoints(id).iter().map(|one| one.id).collect();
    assert_eq!(before, after);
}

#[test]
fn only_nodes_that_satisfy_the_constraints_get_one() {
    let (mut world, nodes) = World::with_nodes(3);
    let mut spec = plain(Mode::Global);
    spec.placement
        .constraints
        .push("node.hostname!=beta".parse().expect("a valid constraint"));
    let id = world.apply_spec("agent", spec);
    world.rounds(6);
    let mut on: Vec<_> = world.endpoints(id).iter().filter_map(|one| one.node).collect();
    on.sort();
    assert_eq!(on, [nodes[0], nodes[2]]);
}

/// Elsewhere than on its node it cannot start, and on its node there is no room for two.
#[test]
fn a_successor_that_finds_no_room_on_its_node_lets_the_old_one_go_first() {
    let (mut world, _) = World::with_nodes(3);
    let mut spec = plain(Mode::Global);
    spec.resources.cpu_reservation = MilliCpu(2_500);
    spec.update.order = UpdateOrder::StartFirst;
    let id = world.apply_spec("agent", spec.clone());
    world.rounds(6);
    spec.restart_generation += 1;
    world.apply_spec("agent", spec);
    for _ in 0..40 {
        world.rounds(1);
        let serving = world.endpoints(id).len();
        assert!(serving >= 2, "one at a time {:#?}", world.describe());
    }
    let progress = converged(&world.state, id);
    assert!(progress.done && progress.updated == 3, "{:#?}", world.describe());
}
