//! What is kept, and for how long.

use gantry_model::object::{HISTORY_REVISIONS, NodeStatus};
use gantry_model::phase::Phase;
use gantry_reconcile::HISTORY_PER_SLOT;

use crate::world::World;
use crate::world::people::replicated;

#[test]
fn a_slot_keeps_its_last_replicas_and_a_service_its_last_revisions() {
    let (mut world, _) = World::with_nodes(2);
    let mut spec = replicated(2);
    spec.update.monitor = gantry_model::DurationMs::ZERO;
    let id = world.apply_spec("web", spec.clone());
    for _ in 0..20 {
        spec.restart_generation += 1;
        world.apply_spec("web", spec.clone());
        world.rounds(20);
    }
    let ended = world
        .state
        .replicas_of(id)
        .filter(|one| one.observed.phase.is_terminal())
        .count();
    assert_eq!(ended, 2 * HISTORY_PER_SLOT, "{:#?}", world.describe());
    let revisions: Vec<u32> = world.state.revisions_of(id).map(|one| one.number).collect();
    assert_eq!(revisions.len(), HISTORY_REVISIONS);
    assert_eq!(revisions.last(), Some(&21));
}

#[test]
fn a_deleted_service_leaves_nothing_even_with_a_node_away() {
    let (mut world, nodes) = World::with_nodes(2);
    let id = world.apply_spec("web", replicated(4));
    world.rounds(6);
    world.edit_node(nodes[0], |node| node.status = NodeStatus::Down);
    world.delete_service(id);
    world.rounds(6);
    assert!(world.state.service(id).is_none(), "{:#?}", world.describe());
    assert_eq!(world.state.replicas_of(id).count(), 0);
    assert_eq!(world.state.revisions_of(id).count(), 0);
}

#[test]
fn what_was_on_a_removed_node_is_lost_and_replaced() {
    let (mut world, nodes) = World::with_nodes(2);
    let id = world.apply_spec("web", replicated(2));
    world.rounds(6);
    world.remove_node(nodes[0]);
    world.rounds(6);
    assert_eq!(world.endpoints(id).len(), 2);
    assert!(world.endpoints(id).iter().all(|one| one.node == Some(nodes[1])));
    assert_eq!(
        world
            .state
            .replicas_of(id)
            .filter(|one| one.observed.phase == Phase::Lost)
            .count(),
        1
    );
    world.scale(id, 0);
    world.rounds(6);
    assert_eq!(
        world.state.replicas_of(id).count(),
        0,
        "records of a node that is gone are forgotten"
    );
}
