//! Questions about what would happen.

use gantry_model::object::Slot;
use gantry_model::phase::Phase;
use gantry_model::{ByteSize, MilliCpu, NodeId};
use gantry_scheduler::Fleet;
use gantry_state::{Object, State};

use crate::support::{NOW, node, put, replica, request, revision, service, spec, write};

fn state(running: &[(u64, u64, u64)]) -> State {
    let mut state = State::default();
    let mut objects: Vec<Object> = (1..=3).map(|number| Object::Node(node(number))).collect();
    for (id, (at, number, milli)) in (1..).zip(running) {
        let mut wants = spec();
        wants.resources.cpu_reservation = MilliCpu(*milli);
        objects.push(service(*number, &format!("s{number}"), &wants));
        objects.push(revision(*number, 1, &wants));
        objects.push(Object::Replica(replica(id, *number, &node(*at), Phase::Running)));
    }
    write(&mut state, objects.into_iter().map(put).collect());
    state
}

#[test]
fn room_is_counted_until_nothing_fits() {
    let state = state(&[(1, 10, 3000)]);
    let fleet = Fleet::from_state(&state);
    let mut wants = spec();
    wants.resources.cpu_reservation = MilliCpu(1500);
    wants.resources.memory_reservation = ByteSize::mib(64);
    let like = request(900, 900, &wants);
    let found = fleet.room_for(&like, 100, NOW);
    assert_eq!(found.more, 4, "two on each of the free nodes");
    let why = found.limit.expect("not one more");
    assert!(why.summary.contains("3 nodes lack cpu (closest: "), "{why}");
    let found = fleet.room_for(&like, 3, NOW);
    assert_eq!((found.more, found.limit), (3, None), "no more was asked for");
    assert!(fleet == Fleet::from_state(&state), "nothing has changed");
}

#[test]
fn what_goes_with_a_node_goes_elsewhere_if_there_is_room() {
    let mut state = state(&[(1, 10, 1000), (1, 11, 2000), (2, 12, 3000), (3, 13, 3000)]);
    let fleet = Fleet::from_state(&state);
    let losses = fleet.without(&state, &[NodeId(1)], NOW);
    let counts: Vec<_> = losses
        .iter()
        .map(|one| (one.service.0, one.moved, one.stranded))
        .collect();
    assert_eq!(counts, [(10, 1, 0), (11, 0, 1)]);
    let why = losses[1].why.as_ref().expect("it says why");
    assert!(why.summary.contains("2 nodes lack cpu"), "{why}");
    assert!(fleet == Fleet::from_state(&state), "nothing has changed");

    let everywhere = fleet.without(&state, &[NodeId(1), NodeId(2), NodeId(3)], NOW);
    assert!(everywhere.iter().all(|one| one.moved == 0 && one.stranded == 1));
    let mut per_node = replica(99, 10, &node(1), Phase::Running);
    per_node.slot = Slot::Node(NodeId(1));
    write(&mut state, vec![put(Object::Replica(per_node))]);
    let losses = Fleet::from_state(&state).without(&state, &[NodeId(1)], NOW);
    assert_eq!(losses.len(), 2, "what runs once per node is not missed");
}
