//! What must hold after every write, whatever happens to the cluster.

use std::collections::BTreeMap;

use gantry_model::object::{Node, NodeStatus, Replica};
use gantry_model::phase::Desired;
use gantry_model::spec::PortMode;
use gantry_model::{ByteSize, MilliCpu};
use gantry_reconcile::{Acks, ServicePlan};
use gantry_scheduler::Fleet;
use gantry_state::Op;

use super::World;

/// The state as it is.
pub fn check(world: &World) {
    let violations = world.state.violations();
    assert!(violations.is_empty(), "{violations:?}\n{:#?}", world.describe());
    assert!(
        world.fleet == Fleet::from_state(&world.state),
        "the fleet lost track of the state"
    );
    for node in world.state.nodes() {
        let holding: Vec<&Replica> = world
            .state
            .replicas_on(node.id)
            .filter(|one| one.holds_resources())
            .collect();
        check_capacity(world, node, &holding);
        check_ports(world, &holding);
        check_addresses(node, &holding);
    }
    check_slots(world);
}

fn check_capacity(world: &World, node: &Node, holding: &[&Replica]) {
    let spec = |one: &Replica| {
        world
            .state
            .revision_of(one.service, one.revision)
            .expect("its revision is kept")
            .spec
            .clone()
    };
    let cpu: u64 = holding.iter().map(|one| spec(one).resources.cpu_reservation.0).sum();
    let memory: u64 = holding.iter().map(|one| spec(one).resources.memory_reservation.0).sum();
    assert!(
        MilliCpu(cpu) <= node.facts.cpu,
        "{} gives {cpu} of {:?}",
        node.name,
        node.facts.cpu
    );
    assert!(ByteSize(memory) <= node.facts.memory, "{} gives {memory}", node.name);
}

fn check_ports(world: &World, holding: &[&Replica]) {
    let mut taken = BTreeMap::new();
    for one in holding {
        let spec = &world
            .state
            .revision_of(one.service, one.revision)
            .expect("its revision is kept")
            .spec;
        for port in spec.ports.iter().filter(|port| port.mode == PortMode::Host) {
            let other = taken.insert((port.protocol, port.published), one.id);
            assert_eq!(other, None, "port {port} is taken twice: {:#?}", world.describe());
        }
    }
}

fn check_addresses(node: &Node, holding: &[&Replica]) {
    for one in holding {
        let address = one.address.expect("a placed replica has an address");
        let edges = [
            node.subnet.address(0),
            node.subnet.address(1),
            node.subnet.address(node.subnet.size() - 1),
        ];
        assert!(
            node.subnet.contains(address) && !edges.contains(&Some(address)),
            "{address} in {}",
            node.subnet
        );
    }
}

/// Two replicas of a slot are wanted only while one takes over from the other.
fn check_slots(world: &World) {
    let mut active = BTreeMap::new();
    for one in world.state.replicas().filter(|one| one.is_active()) {
        *active.entry((one.service, one.slot)).or_insert(0) += 1;
    }
    let crowded: Vec<_> = active.into_iter().filter(|(_, count)| *count > 2).collect();
    assert!(crowded.is_empty(), "{crowded:?}: {:#?}", world.describe());
}

/// A plan before it is written: nothing that serves is stopped before it is drained and acknowledged.
pub fn check_plan(world: &World, plan: &ServicePlan) {
    for op in &plan.ops {
        let Op::Desire { replica, desired, .. } = op else {
            continue;
        };
        let replica = world.state.replica(*replica).expect("plans name replicas that exist");
        let service = world
            .state
            .service(replica.service)
            .expect("plans are made for services that exist");
        let node = replica.node.and_then(|node| world.state.node(node));
        let live = node.is_some_and(|node| node.status == NodeStatus::Ready);
        let serves = replica.observed.ready && !replica.held && live && !service.deleting;
        let abrupt =
            *desired > Desired::Drain && replica.desired <= Desired::Drain && serves && !world.acks.drained(replica);
        assert!(
            !abrupt,
            "{} is stopped while it serves: {:#?}",
            replica.object(),
            world.describe()
        );
    }
    for request in &plan.place {
        let dying = plan
            .ops
            .iter()
            .any(|op| matches!(op, Op::Desire { replica, .. } if *replica == request.replica));
        assert!(!dying, "a replica is placed and ended in one plan");
    }
}
