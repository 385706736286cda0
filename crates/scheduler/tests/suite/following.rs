//! The fleet keeps step with the state.

use gantry_model::phase::{Desired, Observed, Phase};
use gantry_model::{NodeId, ReplicaId};
use gantry_scheduler::Fleet;
use gantry_state::{Key, Object, Op, State};

use crate::support::{NOW, host_port, node, put, replica, request, revision, spec, write};

#[test]
fn following_changes_gives_what_a_fresh_view_gives() {
    let mut state = State::default();
    let mut fleet = Fleet::default();
    let mut wants = spec();
    wants.resources.cpu_reservation = gantry_model::MilliCpu(500);
    wants.ports.push(host_port(8080));
    let ended = Observed {
        phase: Phase::Failed,
        sequence: 1,
        at: NOW,
        ..Observed::default()
    };
    let steps: Vec<Vec<Op>> = vec![
        vec![put(Object::Node(node(1))), put(Object::Node(node(2)))],
        vec![put(Object::Replica(replica(1, 9, &node(1), Phase::Assigned)))],
        vec![put(revision(9, 1, &wants))],
        vec![put(Object::Replica(replica(2, 9, &node(2), Phase::Running)))],
        vec![Op::Desire {
            replica: ReplicaId(1),
            desired: Desired::Drain,
            reason: String::new(),
        }],
        vec![Op::Observe {
            replica: ReplicaId(1),
            observed: ended,
        }],
        vec![Op::Delete(Key::Node(NodeId(2)))],
        vec![Op::Delete(Key::Replica(ReplicaId(2)))],
        vec![Op::Delete(Key::Replica(ReplicaId(1)))],
        vec![put(Object::Node(node(2)))],
    ];
    for (number, ops) in steps.into_iter().enumerate() {
        for change in write(&mut state, ops) {
            fleet.apply(&change);
        }
        assert!(fleet == Fleet::from_state(&state), "after step {number}");
    }
}

#[test]
fn a_decision_that_is_not_committed_leaves_no_trace() {
    let mut state = State::default();
    write(&mut state, vec![put(Object::Node(node(1)))]);
    let mut fleet = Fleet::from_state(&state);
    let decisions = fleet.place(&[request(1, 9, &spec()), request(2, 9, &spec())], NOW);
    assert!(fleet != Fleet::from_state(&state));
    fleet.undo(&decisions);
    assert!(fleet == Fleet::from_state(&state));
}

#[test]
fn an_address_is_used_again_only_when_no_other_is_left() {
    let mut small = node(1);
    small.subnet = "10.128.0.0/29".parse().expect("a valid network");
    let mut state = State::default();
    let mut ended = replica(50, 9, &small, Phase::Stopped);
    ended.address = small.subnet.address(4);
    let ops = vec![
        put(Object::Node(small)),
        put(revision(9, 1, &spec())),
        put(Object::Replica(ended)),
    ];
    write(&mut state, ops);
    let requests: Vec<_> = (1..=6).map(|id| request(id, 9, &spec())).collect();
    let decisions = Fleet::from_state(&state).place(&requests, NOW);
    let last = |index: usize| {
        decisions[index]
            .result
            .as_ref()
            .ok()
            .map(|placed| placed.address.octets()[3])
    };
    let mut fresh: Vec<_> = (0..4).map(last).collect();
    fresh.sort_unstable();
    assert_eq!(fresh, [Some(2), Some(3), Some(5), Some(6)]);
    assert_eq!(last(4), Some(4), "its former owner has ended");
    assert_eq!(last(5), None);
}
