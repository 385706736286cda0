//! Drains: nobody is stopped before traffic has gone elsewhere.

use gantry_model::DurationMs;
use gantry_model::object::{Availability, NodeStatus};
use gantry_model::phase::Desired;
use gantry_model::spec::{PortMode, PortSpec, Protocol};

use gantry_reconcile::converged;
use gantry_state::Op;

use crate::world::World;
use crate::world::people::replicated;

#[test]
fn a_single_replica_moves_off_a_drained_node_without_a_gap() {
    let (mut world, _) = World::with_nodes(2);
    let id = world.apply_spec("web", replicated(1));
    world.rounds(6);
    let node = world.endpoints(id)[0].node.expect("it is placed");
    world.edit_node(node, |node| node.availability = Availability::Drain);
    for _ in 0..15 {
        world.rounds(1);
        assert!(!world.endpoints(id).is_empty(), "{:#?}", world.describe());
    }
    assert_eq!(world.endpoints(id).len(), 1);
    assert_ne!(world.endpoints(id)[0].node, Some(node));
    assert!(world.state.replicas_on(node).all(|one| !one.holds_resources()));
}

#[test]
fn a_drained_node_keeps_what_fits_nowhere_else() {
    let (mut world, nodes) = World::with_nodes(1);
    let id = world.apply_spec("web", replicated(1));
    world.rounds(6);
    world.edit_node(nodes[0], |node| node.availability = Availability::Drain);
    world.rounds(20);
    assert_eq!(world.endpoints(id).len(), 1);
    let waiting = world
        .state
        .replicas_of(id)
        .find(|one| one.node.is_none())
        .expect("a successor waits");
    let why = waiting.explanation.as_ref().expect("it says why");
    assert!(why.summary.contains("1 node is drained"), "{why}");
}

#[test]
fn a_replica_whose_port_is_in_the_way_leaves_first() {
    let (mut world, nodes) = World::with_nodes(2);
    let mut spec = replicated(2);
    spec.ports.push(PortSpec {
        target: 80,
        published: Some(8080),
        protocol: Protocol::Tcp,
        mode: PortMode::Host,
        host_ip: None,
        name: None,
    });
    spec.update.order = gantry_model::spec::UpdateOrder::StartFirst;
    let id = world.apply_spec("web", spec.clone());
    world.rounds(6);
    assert_eq!(world.endpoints(id).len(), nodes.len());
    spec.restart_generation += 1;
    world.apply_spec("web", spec);
    world.rounds(60);
    assert!(
        world.endpoints(id).iter().all(|one| one.revision == 2),
        "{:#?}",
        world.describe()
    );
    assert_eq!(world.endpoints(id).len(), 2);
}

#[test]
fn scaling_in_drains_the_highest_slots_and_waits_for_acknowledgements() {
    let (mut world, _) = World::with_nodes(2);
    let id = world.apply_spec("web", replicated(4));
    world.rounds(6);
    world.scale(id, 2);
    world.control_until_quiet();
    let draining: Vec<_> = world
        .state
        .replicas_of(id)
        .filter(|one| one.desired == Desired::Drain)
        .collect();
    let slots: Vec<String> = draining.iter().map(|one| one.slot.to_string()).collect();
    assert_eq!(slots, ["3", "4"]);
    world.advance(DurationMs::secs(3600));
    world.control_until_quiet();
    assert_eq!(
        world
            .state
            .replicas_of(id)
            .filter(|one| one.desired == Desired::Drain)
            .count(),
        2,
        "no acknowledgement, no stop"
    );
    world.acknowledge_all();
    world.control_until_quiet();
    assert_eq!(
        world
            .state
            .replicas_of(id)
            .filter(|one| one.desired == Desired::Remove)
            .count(),
        2
    );
    world.rounds(4);
    assert_eq!(world.state.replicas_of(id).count(), 2);
}

#[test]
fn what_ran_on_a_node_that_is_down_is_replaced_in_its_slot_and_ended_on_its_return() {
    let (mut world, _) = World::with_nodes(2);
    let id = world.apply_spec("web", replicated(2));
    world.rounds(6);
    let lost = world.endpoints(id)[0].clone();
    let node = lost.node.expect("it is placed");
    world.edit_node(node, |node| node.status = NodeStatus::Down);
    world.rounds(6);
    let old = world.state.replica(lost.id).expect("its record stays");
    assert_eq!(old.desired, Desired::Stop);
    assert!(old.desired_reason.contains("is down"), "{}", old.desired_reason);
    let live = world.endpoints(id);
    assert!(live.len() == 2 && live.iter().any(|one| one.slot == lost.slot && one.id != lost.id));
    world.edit_node(node, |node| node.status = NodeStatus::Ready);
    world.rounds(3);
    assert!(
        world
            .state
            .replica(lost.id)
            .expect("its record stays")
            .observed
            .phase
            .is_terminal()
    );
    assert_eq!(world.endpoints(id).len(), 2);
}

#[test]
fn a_label_that_no_longer_matches_moves_the_replica() {
    let (mut world, nodes) = World::with_nodes(2);
    for node in &nodes {
        world.edit_node(*node, |node| {
            node.labels = [("disk".to_string(), "ssd".to_string())].into()
        });
    }
    let mut spec = replicated(1);
    spec.placement
        .constraints
        .push("node.labels.disk==SSD".parse().expect("a valid constraint"));
    let id = world.apply_spec("db", spec);
    world.rounds(6);
    let node = world.endpoints(id)[0].node.expect("it is placed");
    world.edit_node(node, |node| node.labels.clear());
    world.rounds(10);
    let now = world.endpoints(id);
    assert!(now.len() == 1 && now[0].node != Some(node), "{:#?}", world.describe());
}

#[test]
fn a_cut_that_leaves_no_other_node_restarts_nothing() {
    let (mut world, nodes) = World::with_nodes(3);
    let mut pinned = replicated(1);
    pinned
        .placement
        .constraints
        .push("node.hostname==alpha".parse().expect("a valid constraint"));
    let db = world.apply_spec("db", pinned);
    let web = world.apply_spec("web", replicated(3));
    world.rounds(6);
    let serving = |world: &World| -> Vec<_> {
        let of = |id| world.endpoints(id).into_iter().map(|one| one.id).collect::<Vec<_>>();
        [of(db), of(web)].concat()
    };
    let before = serving(&world);
    world.edit_node(nodes[0], |node| node.status = NodeStatus::Down);
    let only_db = converged(&world.state, db);
    assert!(!only_db.done, "out of reach is not ready: {only_db:?}");
    world.control(db);
    world.control_until_quiet();
    world.edit_node(nodes[0], |node| node.status = NodeStatus::Ready);
    world.rounds(6);
    assert_eq!(serving(&world)[0], before[0], "{:#?}", world.describe());

    let before = serving(&world);
    for node in &nodes {
        world.edit_node(*node, |node| node.status = NodeStatus::Down);
    }
    world.rounds(30);
    for node in &nodes {
        world.edit_node(*node, |node| node.status = NodeStatus::Ready);
    }
    world.rounds(6);
    assert_eq!(serving(&world), before, "{:#?}", world.describe());
}

#[test]
fn a_draining_replica_that_is_briefly_not_ready_waits_for_acknowledgements_all_the_same() {
    let (mut world, _) = World::with_nodes(2);
    let id = world.apply_spec("web", replicated(2));
    world.rounds(6);
    world.scale(id, 1);
    world.control_until_quiet();
    let draining = |world: &World| {
        let found = world.state.replicas_of(id).find(|one| one.desired == Desired::Drain);
        found.cloned()
    };
    let leaver = draining(&world).expect("one drains");
    let mut observed = leaver.observed.clone();
    observed.sequence += 1;
    observed.ready = false;
    world.write(vec![Op::Observe {
        replica: leaver.id,
        observed,
    }]);
    world.control_until_quiet();
    assert_eq!(
        draining(&world).map(|one| one.id),
        Some(leaver.id),
        "{:#?}",
        world.describe()
    );
    let node = leaver.node.expect("it is placed");
    world.edit_node(node, |node| node.status = NodeStatus::Down);
    world.control_until_quiet();
    assert_eq!(
        draining(&world).map(|one| one.id),
        Some(leaver.id),
        "its node may come back"
    );
    world.acknowledge_all();
    world.control_until_quiet();
    assert_eq!(draining(&world), None);
}
