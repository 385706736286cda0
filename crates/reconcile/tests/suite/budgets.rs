//! Disruption budgets: what may be away at a time, whoever asks for it.

use gantry_model::object::{Availability, NodeStatus, RolloutState};
use gantry_model::phase::{Observed, Phase};
use gantry_model::spec::{Amount, FailureAction, PortMode, PortSpec, Protocol, StartOrder, Stateful, UpdateConfig};
use gantry_model::{DurationMs, NodeId, ServiceId};
use gantry_reconcile::{Target, explain, remaining};
use gantry_state::Op;

use crate::world::World;
use crate::world::people::replicated;

/// A service of `count` replicas that serve, of which `allowed` may be away; an update replaces all at once, old ones first.
fn with_budget(nodes: usize, count: u32, allowed: Amount) -> (World, Vec<NodeId>, ServiceId) {
    let (mut world, nodes) = World::with_nodes(nodes);
    let mut spec = replicated(count);
    spec.placement.max_unavailable = Some(allowed);
    spec.update = UpdateConfig {
        parallelism: 0,
        monitor: DurationMs::ZERO,
        failure_action: FailureAction::Pause,
        progress_deadline: DurationMs::secs(120),
        ..UpdateConfig::default()
    };
    let id = world.apply_spec("web", spec);
    world.rounds(6);
    assert_eq!(world.endpoints(id).len(), count as usize);
    (world, nodes, id)
}

fn update(world: &mut World, id: ServiceId) {
    let mut spec = (*world.state.service(id).expect("the service").spec).clone();
    spec.restart_generation += 1;
    world.apply_spec("web", spec);
}

/// Goes on for so many rounds; the fewest that served meanwhile.
fn fewest(world: &mut World, id: ServiceId, rounds: usize) -> usize {
    let mut fewest = usize::MAX;
    for _ in 0..rounds {
        world.rounds(1);
        fewest = fewest.min(world.endpoints(id).len());
    }
    fewest
}

#[test]
fn a_rollout_takes_no_more_at_a_time_than_the_budget_lets_go() {
    for (allowed, least) in [
        (Amount::Count(1), 4),
        (Amount::Count(2), 3),
        (Amount::Percent(40), 3),
        (Amount::Count(9), 0),
        // Nothing may be away: the new ones start first, whatever the order says.
        (Amount::Count(0), 5),
        (Amount::Percent(10), 5),
    ] {
        let (mut world, _, id) = with_budget(3, 5, allowed);
        update(&mut world, id);
        assert_eq!(fewest(&mut world, id, 60), least, "{allowed:?}");
        assert_eq!(world.rollout(id).state, RolloutState::Completed, "{allowed:?}");
        assert!(world.endpoints(id).iter().all(|one| one.revision == 2), "{allowed:?}");
    }
}

#[test]
fn a_rollout_waits_while_others_are_away_and_pauses_at_its_deadline() {
    let (mut world, nodes, id) = with_budget(3, 3, Amount::Count(1));
    let mut spec = (*world.state.service(id).expect("the service").spec).clone();
    spec.placement.max_replicas_per_node = 1;
    spec.restart_generation += 1;
    // One replica is away and finds no other node.
    world.edit_node(nodes[0], |node| node.status = NodeStatus::Down);
    world.apply_spec("web", spec);
    world.rounds(20);
    let served = world
        .endpoints(id)
        .iter()
        .filter(|one| one.node != Some(nodes[0]))
        .count();
    assert_eq!(served, 2, "{:#?}", world.describe());
    assert_eq!(world.rollout(id).state, RolloutState::Running);
    let answer = explain(&world.state, Target::Service(id)).expect("an answer");
    let why = "its disruption budget lets 1 of 3 replicas be away, and 2 serve";
    assert!(answer.reasons.iter().any(|reason| reason == why), "{answer:?}");
    world.rounds(150);
    assert_eq!(world.rollout(id).state, RolloutState::Paused, "a rollout ends");
    assert!(world.plan(id).ops.is_empty(), "it waits for a person");
}

#[test]
fn a_drain_of_what_cannot_have_a_successor_beside_it_goes_by_the_budget() {
    let (mut world, nodes) = World::with_nodes(3);
    let mut spec = replicated(3);
    spec.placement.max_unavailable = Some(Amount::Count(1));
    spec.stateful = Some(Stateful {
        start: StartOrder::Parallel,
        exclusive: true,
    });
    let id = world.apply_spec("web", spec);
    world.rounds(8);
    assert_eq!(world.endpoints(id).len(), 3);
    for node in &nodes[..2] {
        world.edit_node(*node, |node| node.availability = Availability::Drain);
    }
    assert_eq!(fewest(&mut world, id, 60), 2, "one at a time");
    assert_eq!(world.endpoints(id).len(), 3);
    assert!(world.endpoints(id).iter().all(|one| one.node == Some(nodes[2])));
}

#[test]
fn a_port_in_the_way_is_given_up_only_within_the_budget() {
    for (allowed, moves) in [(0, false), (1, true)] {
        let (mut world, nodes) = World::with_nodes(2);
        let mut spec = replicated(2);
        spec.placement.max_unavailable = Some(Amount::Count(allowed));
        spec.ports.push(PortSpec {
            target: 80,
            published: Some(8080),
            protocol: Protocol::Tcp,
            mode: PortMode::Host,
            host_ip: None,
            name: None,
        });
        let id = world.apply_spec("web", spec);
        world.rounds(8);
        update(&mut world, id);
        assert_eq!(
            fewest(&mut world, id, 60),
            2 - usize::from(moves),
            "{allowed} of {nodes:?}"
        );
        let new = world.endpoints(id).iter().filter(|one| one.revision == 2).count();
        assert_eq!(new, if moves { 2 } else { 0 }, "{:#?}", world.describe());
    }
}

#[test]
fn what_remains_on_a_drained_node_says_what_it_waits_for() {
    let (mut world, nodes, _) = with_budget(1, 1, Amount::Count(1));
    let beta = world.join("beta", &crate::world::agents::Shape::default());
    world.edit_node(nodes[0], |node| node.availability = Availability::Drain);
    world.edit_node(beta, |node| node.availability = Availability::Pause);
    world.rounds(5);
    let left = remaining(&world.state, nodes[0]);
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(
        left[0]
            .reason
            .starts_with("shop/web.1: its successor has no node: no suitable node"),
        "{left:?}"
    );
    assert!(!left[0].remedy.is_empty());

    // Its successor finds a node, and does not get on there.
    world.edit_node(beta, |node| node.availability = Availability::Active);
    world.control_until_quiet();
    let left = remaining(&world.state, nodes[0]);
    assert_eq!(left[0].reason, "shop/web.1: its successor on node beta is assigned");
    let successor = world.state.replicas_on(beta).next().expect("it is placed").clone();
    let observed = Observed {
        phase: Phase::Running,
        sequence: 1,
        restarts: 3,
        message: "exit status 1".to_string(),
        ..successor.observed
    };
    world.write(vec![Op::Observe {
        replica: successor.id,
        observed,
    }]);
    let left = remaining(&world.state, nodes[0]);
    assert_eq!(
        left[0].reason,
        "shop/web.1: its successor on node beta is running, not ready, restarted 3 time(s): exit status 1"
    );
}
