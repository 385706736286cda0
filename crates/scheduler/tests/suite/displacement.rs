//! Who gives way to what matters more.

use std::collections::BTreeMap;

use gantry_model::object::Node;
use gantry_model::phase::{Desired, Phase};
use gantry_model::spec::{Amount, Mode, ServiceSpec};
use gantry_model::{ByteSize, MilliCpu, NodeId, ReplicaId};
use gantry_scheduler::{Displacement, Fleet, Request};
use gantry_state::{Object, Op, State};
use proptest::prelude::{Just, ProptestConfig, prop_assert, prop_oneof, proptest};
use proptest::strategy::Strategy;

use crate::support::{NOW, node, put, replica, request, revision, service, spec, write};

fn sized(milli: u64, priority: i32) -> ServiceSpec {
    let mut spec = spec();
    spec.mode = Mode::Replicated { replicas: 4 };
    spec.resources.cpu_reservation = MilliCpu(milli);
    spec.resources.memory_reservation = ByteSize::mib(64);
    spec.placement.priority = priority;
    spec
}

/// A cluster with replicas that serve: node, service and spec of each.
fn cluster(nodes: &[Node], running: &[(u64, u64, ServiceSpec)]) -> State {
    let mut state = State::default();
    let mut objects: Vec<Object> = nodes.iter().cloned().map(Object::Node).collect();
    let specs: BTreeMap<u64, &ServiceSpec> = running.iter().map(|(_, number, spec)| (*number, spec)).collect();
    for (number, spec) in specs {
        objects.push(service(number, &format!("s{number}"), spec));
        objects.push(revision(number, 1, spec));
    }
    for (id, (at, number, _)) in (1..).zip(running) {
        let mut one = replica(id, *number, &node(*at), Phase::Running);
        one.observed.ready = true;
        objects.push(Object::Replica(one));
    }
    write(&mut state, objects.into_iter().map(put).collect());
    state
}

fn displace(state: &State, wants: &ServiceSpec) -> Option<Displacement> {
    let mut fleet = Fleet::from_state(state);
    let one = request(900, 900, wants);
    let refused = fleet.place(std::slice::from_ref(&one), NOW)[0].result.is_err();
    assert!(refused, "there is room");
    fleet.displace(state, &one, NOW)
}

fn victims(displacement: Option<Displacement>) -> Vec<u64> {
    displacement.map_or_else(Vec::new, |one| one.victims.iter().map(|id| id.0).collect())
}

#[test]
fn the_fewest_of_the_lowest_priority_give_way() {
    let state = cluster(
        &[node(1), node(2)],
        &[
            (1, 10, sized(2000, 5)),
            (1, 11, sized(2000, 1)),
            (2, 12, sized(1000, 0)),
            (2, 12, sized(1000, 0)),
            (2, 13, sized(2000, 5)),
        ],
    );
    assert_eq!(
        victims(displace(&state, &sized(1000, 10))),
        [3],
        "one of priority 0 is enough"
    );
    assert_eq!(
        victims(displace(&state, &sized(2000, 10))),
        [3, 4],
        "two of 0 before one of 1"
    );
    assert_eq!(victims(displace(&state, &sized(3000, 10))).len(), 2);
    assert_eq!(victims(displace(&state, &sized(1000, 0))), [], "equals do not give way");
}

#[test]
fn nobody_gives_way_while_enough_is_leaving_anyway() {
    let mut state = cluster(&[node(1)], &[(1, 10, sized(2000, 0)), (1, 11, sized(2000, 0))]);
    let leaves = Op::Desire {
        replica: ReplicaId(1),
        desired: Desired::Drain,
        reason: String::new(),
    };
    write(&mut state, vec![leaves]);
    assert_eq!(displace(&state, &sized(1000, 10)), None);
    assert_eq!(
        victims(displace(&state, &sized(3000, 10))),
        [2],
        "that alone is not enough"
    );
}

#[test]
fn who_was_displaced_displaces_nobody() {
    let state = cluster(&[node(1)], &[(1, 10, sized(4000, 0))]);
    let wants = sized(1000, 10);
    let mut one = request(900, 900, &wants);
    one.may_displace = false;
    assert_eq!(Fleet::from_state(&state).displace(&state, &one, NOW), None);
}

#[test]
fn a_disruption_budget_is_kept() {
    let budgeted = |budget| {
        let mut spec = sized(1000, 0);
        spec.placement.max_unavailable = Some(budget);
        let running: Vec<_> = (0..4).map(|_| (1, 10, spec.clone())).collect();
        cluster(&[node(1)], &running)
    };
    assert_eq!(
        victims(displace(&budgeted(Amount::Count(2)), &sized(2000, 10))).len(),
        2
    );
    assert_eq!(displace(&budgeted(Amount::Count(1)), &sized(2000, 10)), None);
    assert_eq!(displace(&budgeted(Amount::Percent(25)), &sized(2000, 10)), None);
    assert_eq!(
        victims(displace(&budgeted(Amount::Percent(25)), &sized(1000, 10))).len(),
        1
    );
}

#[test]
fn two_that_are_refused_do_not_count_on_the_same_room() {
    let state = cluster(&[node(1)], &[(1, 10, sized(2000, 0)), (1, 11, sized(2000, 0))]);
    let mut fleet = Fleet::from_state(&state);
    let first = fleet
        .displace(&state, &request(900, 900, &sized(1000, 10)), NOW)
        .expect("one gives way");
    assert_eq!(first.ops(&state).len(), 1);
    assert!(
        first.reason.starts_with("displaced by shop/web (priority 10)"),
        "{}",
        first.reason
    );
    let larger = fleet.displace(&state, &request(901, 901, &sized(4000, 10)), NOW);
    assert_eq!(victims(larger).len(), 1, "the other one goes for the larger");
}

fn any_running() -> impl Strategy<Value = Vec<(u64, u64, ServiceSpec)>> {
    let one = (1u64..4, 1u64..6, prop_oneof![Just(500u64), Just(1000), Just(2000)]);
    proptest::collection::vec(one, 0..10).prop_map(|all| {
        let mut free: BTreeMap<u64, u64> = (1..4).map(|number| (number, 4000)).collect();
        let mut running = Vec::new();
        for (at, number, _) in all {
            // Size, priority and budget follow from the service, since they are part of its spec.
            let mut spec = sized([500, 1000, 2000][(number % 3) as usize], number as i32 - 3);
            spec.placement.max_unavailable = (number == 1).then_some(Amount::Count(1));
            spec.mode = Mode::Replicated { replicas: 1 };
            let room = free.get_mut(&at).expect("a node");
            if *room >= spec.resources.cpu_reservation.0 {
                *room -= spec.resources.cpu_reservation.0;
                running.push((at, number, spec));
            }
        }
        running
    })
}

fn wanted_request(milli: u64, priority: i32) -> Request {
    request(900, 900, &sized(milli, priority))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_gives_way_makes_room_and_matters_less(running in any_running(), milli in 500u64..4000, priority in -3i32..4) {
        let state = cluster(&[node(1), node(2), node(3)], &running);
        let mut fleet = Fleet::from_state(&state);
        let one = wanted_request(milli, priority);
        let placed = fleet.clone().place(std::slice::from_ref(&one), NOW)[0].result.is_ok();
        let found = if placed { None } else { fleet.displace(&state, &one, NOW) };
        let Some(found) = found else { return Ok(()) };
        prop_assert!(!found.victims.is_empty());
        let mut after = state.clone();
        for victim in &found.victims {
            let held = after.replica(*victim).expect("it runs").clone();
            prop_assert!(held.node == Some(found.node));
            let (_, _, spec) = &running[victim.0 as usize - 1];
            prop_assert!(spec.placement.priority < priority);
            write(&mut after, vec![Op::Delete(gantry_state::Key::Replica(*victim))]);
        }
        let decision = &Fleet::from_state(&after).place(std::slice::from_ref(&one), NOW)[0];
        prop_assert!(decision.result.is_ok(), "there is room then");
        // Without any one of them there is not, on that node.
        for spared in &found.victims {
            let mut less = state.clone();
            for victim in found.victims.iter().filter(|victim| *victim != spared) {
                write(&mut less, vec![Op::Delete(gantry_state::Key::Replica(*victim))]);
            }
            let mut there = one.clone();
            there.node = Some(found.node);
            prop_assert!(Fleet::from_state(&less).place(&[there], NOW)[0].result.is_err(), "one too many");
        }
        let _: NodeId = found.node;
    }
}
