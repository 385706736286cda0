//! What holds for any cluster and any batch. `PROPTEST_CASES` sets how many are tried.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::object::{Availability, Node, NodeStatus};
use gantry_model::spec::{
    Affinity, ConstraintKey, ConstraintOp, Mode, Neighbour, NeighbourRule, Preference, ServiceSpec, Strategy,
};
use gantry_model::{ByteSize, MilliCpu, NodeId};
use gantry_scheduler::{Decision, Fleet, Request};
use proptest::prelude::{Just, ProptestConfig, TestCaseError, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as _;

use crate::support::{NOW, fleet_for, host_port, labelled, name, request, spec};

fn any_node(number: u64) -> impl proptest::strategy::Strategy<Value = Node> {
    let size = (0u64..5, 0u64..5, 0u8..8, prop_oneof![Just("a"), Just("b")], 28u8..=30);
    size.prop_map(move |(cores, quarters, mood, zone, prefix)| {
        let mut node = labelled(number, "zone", zone);
        node.labels.insert("rack".to_string(), (cores % 2).to_string());
        node.facts.cpu = MilliCpu::cores(cores);
        node.facts.memory = ByteSize::mib(quarters * 256);
        node.subnet = gantry_model::net::Ipv4Net::new(node.subnet.base(), prefix);
        match mood {
            0 => node.status = NodeStatus::Down,
            1 => node.availability = Availability::Drain,
            2 => node.availability = Availability::Pause,
            _ => {}
        }
        node
    })
}

fn any_spec() -> impl proptest::strategy::Strategy<Value = ServiceSpec> {
    let size = (0u64..3, 0u64..3, 0u32..3, 0u8..4, 0u16..4);
    let plain = size.prop_map(|(halves, sizes, most, zone, port)| {
        let mut spec = spec();
        spec.resources.cpu_reservation = MilliCpu(halves * 500);
        spec.resources.memory_reservation = ByteSize::mib(sizes * 128);
        spec.placement.max_replicas_per_node = most;
        let zone = ["node.labels.zone==a", "node.labels.zone!=a"].get(zone as usize);
        spec.placement
            .constraints
            .extend(zone.map(|text| text.parse().expect("a valid constraint")));
        spec.ports.extend((port > 1).then(|| host_port(8000 + port)));
        spec
    });
    let rules = (
        0u8..6,
        1u32..3,
        -2i32..3,
        0u8..8,
        proptest::option::of(prop_oneof![Just(Strategy::Spread), Just(Strategy::Binpack)]),
        0u32..30,
    );
    (plain, rules).prop_map(
        |(mut spec, (spread, max_skew, weight, neighbour, strategy, replicas))| {
            let key = |text: &str| text.parse::<ConstraintKey>().expect("a valid attribute");
            let zone = key("node.labels.zone");
            spec.mode = Mode::Replicated { replicas };
            spec.placement.strategy = strategy;
            spec.placement.preferences = match spread {
                0 => vec![Preference::Spread(zone)],
                1 => vec![Preference::Even { by: zone, max_skew }],
                2 => vec![
                    Preference::Spread(zone),
                    Preference::Even {
                        by: key("node.labels.rack"),
                        max_skew,
                    },
                ],
                3 => vec![
                    Preference::Even { by: zone, max_skew },
                    Preference::Spread(key("node.hostname")),
                ],
                _ => Vec::new(),
            };
            if weight != 0 {
                spec.placement.affinities.push(Affinity {
                    constraint: "node.labels.zone==b".parse().expect("a valid constraint"),
                    weight,
                });
            }
            let rule = [
                NeighbourRule::With,
                NeighbourRule::Apart,
                NeighbourRule::Weight(10),
                NeighbourRule::Weight(-10),
            ]
            .get(neighbour as usize);
            spec.placement.neighbours.extend(rule.map(|rule| Neighbour {
                service: name("s1"),
                within: (weight > 0).then(|| key("node.labels.zone")),
                rule: *rule,
            }));
            spec
        },
    )
}

fn any_batch() -> impl proptest::strategy::Strategy<Value = (Vec<Node>, Vec<Request>)> {
    let nodes = (any_node(1), any_node(2), any_node(3), any_node(4)).prop_map(|(a, b, c, d)| vec![a, b, c, d]);
    let specs = proptest::collection::vec((any_spec(), 1u64..6), 1..4);
    (nodes, specs).prop_map(|(nodes, specs)| {
        let mut requests = Vec::new();
        for (service, (spec, count)) in specs.iter().enumerate() {
            let service = service as u64 + 1;
            requests.extend((0..*count).map(|index| {
                let mut one = request(service * 10 + index, service, spec);
                one.service_name = name(&format!("s{service}"));
                one
            }));
        }
        (nodes, requests)
    })
}

fn shuffled(requests: &[Request], seed: u64) -> Vec<Request> {
    let mut keyed: Vec<(u64, Request)> = requests
        .iter()
        .map(|one| ((one.replica.0 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15), one.clone()))
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, one)| one).collect()
}

fn by_replica(decisions: Vec<Decision>) -> BTreeMap<u64, Decision> {
    decisions.into_iter().map(|one| (one.replica.0, one)).collect()
}

/// What each node was given.
#[derive(Default)]
struct Given {
    cpu: u64,
    memory: u64,
    ports: BTreeSet<Option<u16>>,
    addresses: BTreeSet<std::net::Ipv4Addr>,
    of_service: BTreeMap<u64, u32>,
}

fn check_given(nodes: &[Node], requests: &[Request], decisions: &[Decision]) -> Result<(), TestCaseError> {
    let mut given: BTreeMap<NodeId, Given> = BTreeMap::new();
    for (request, decision) in requests.iter().zip(decisions) {
        prop_assert_eq!(request.replica, decision.replica);
        let Ok(placed) = &decision.result else { continue };
        let node = nodes
            .iter()
            .find(|node| node.id == placed.node)
            .expect("a node of the fleet");
        let on = given.entry(node.id).or_default();
        on.cpu += request.spec.resources.cpu_reservation.0;
        on.memory += request.spec.resources.memory_reservation.0;
        *on.of_service.entry(request.service.0).or_default() += 1;
        for port in &request.spec.ports {
            prop_assert!(on.ports.insert(port.published), "a port is given twice");
        }
        prop_assert!(on.addresses.insert(placed.address), "an address is given twice");
        prop_assert!(node.takes_replicas() && node.subnet.contains(placed.address));
        for constraint in &request.spec.placement.constraints {
            prop_assert_eq!(node.labels["zone"] == "a", constraint.op == ConstraintOp::Equal);
        }
        let most = request.spec.placement.max_replicas_per_node;
        prop_assert!(most == 0 || on.of_service[&request.service.0] <= most);
        prop_assert!(
            on.cpu <= node.facts.cpu.0 && on.memory <= node.facts.memory.0,
            "more than there is"
        );
    }
    Ok(())
}

/// No two replicas are near each other of which one service wants to be apart from the other.
fn check_company(nodes: &[Node], requests: &[Request], decisions: &[Decision]) -> Result<(), TestCaseError> {
    let placed = || {
        let both = requests.iter().zip(decisions);
        both.filter_map(|(request, decision)| Some((request, decision.result.as_ref().ok()?.node)))
    };
    let zone = |id: NodeId| nodes.iter().find(|node| node.id == id).map(|node| &node.labels["zone"]);
    for (one, here) in placed() {
        let rules = one.spec.placement.neighbours.iter();
        for rule in rules.filter(|rule| rule.rule == NeighbourRule::Apart) {
            for (_, there) in placed().filter(|(two, _)| two.service_name == rule.service && two.replica != one.replica)
            {
                let near = here == there || (rule.within.is_some() && zone(here) == zone(there));
                prop_assert!(!near, "{} is too near to {}", one.service_name, rule.service);
            }
        }
    }
    Ok(())
}

/// Eighteen thousand cases, a hundred thousand in all with those about displacement, unless `PROPTEST_CASES` says otherwise.
fn config() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(18_000),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_node_is_given_more_than_it_has((nodes, requests) in any_batch()) {
        let decisions = fleet_for(&nodes, &requests).place(&requests, NOW);
        check_given(&nodes, &requests, &decisions)?;
        check_company(&nodes, &requests, &decisions)?;
    }

    #[test]
    fn the_order_of_a_batch_does_not_matter((nodes, requests) in any_batch(), seed: u64) {
        let straight = by_replica(fleet_for(&nodes, &requests).place(&requests, NOW));
        let mixed = by_replica(fleet_for(&nodes, &requests).place(&shuffled(&requests, seed), NOW));
        prop_assert_eq!(straight, mixed);
    }

    #[test]
    fn what_the_queue_finds_is_what_a_look_at_all_nodes_finds((nodes, requests) in any_batch()) {
        let mut quick = fleet_for(&nodes, &requests);
        let mut slow = fleet_for(&nodes, &requests);
        prop_assert_eq!(quick.place(&requests, NOW), slow.place_by_scan(&requests, NOW));
        prop_assert!(quick == slow);
    }

    #[test]
    fn a_batch_in_two_parts_sees_its_first_part((nodes, requests) in any_batch(), at in 0usize..18) {
        let mut ordered = requests.clone();
        ordered.sort_by_key(|one| (one.service, one.replica));
        let mut fleet = fleet_for(&nodes, &requests);
        let (first, second) = ordered.split_at(at.min(ordered.len()));
        let mut decisions = fleet.place(first, NOW);
        decisions.extend(fleet.place(second, NOW));
        check_given(&nodes, &ordered, &decisions)?;
    }

    #[test]
    fn undoing_restores_the_fleet_and_refusals_name_every_node((nodes, requests) in any_batch()) {
        let mut fleet = fleet_for(&nodes, &requests);
        let before: Fleet = fleet.clone();
        let decisions = fleet.place(&requests, NOW);
        for decision in &decisions {
            if let Err(why) = &decision.result {
                let named: usize = why.refusals.iter().map(|refusal| refusal.count as usize).sum();
                prop_assert_eq!(named, nodes.len());
            }
        }
        fleet.undo(&decisions);
        prop_assert!(fleet == before);
    }
}
