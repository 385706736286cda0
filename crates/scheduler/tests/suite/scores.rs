//! Which of several nodes is chosen.

use gantry_model::phase::Phase;
use gantry_model::spec::{Affinity, Mode, Preference, ServiceSpec, Strategy};
use gantry_model::{ByteSize, MilliCpu, NodeId, Timestamp};
use gantry_scheduler::{FAILURE_WINDOW, FAILURES_MAX, Request};
use gantry_state::Object;

use crate::support::{NOW, chosen, fleet, fleet_of, labelled, node, replica, request, revision, spec};

fn several(count: u64, service: u64, spec: &ServiceSpec) -> Vec<Request> {
    (0..count)
        .map(|index| request(service * 100 + index, service, spec))
        .collect()
}

fn count(nodes: &[u64], node: u64) -> usize {
    nodes.iter().filter(|one| **one == node).count()
}

fn reserving(milli: u64, mib: u64) -> ServiceSpec {
    let mut spec = spec();
    spec.resources.cpu_reservation = MilliCpu(milli);
    spec.resources.memory_reservation = ByteSize::mib(mib);
    spec
}

#[test]
fn replicas_of_a_service_go_to_different_nodes() {
    for spec in [spec(), reserving(100, 64)] {
        let mut fleet = fleet_of(vec![node(1), node(2), node(3)]);
        let nodes = chosen(&fleet.place(&several(6, 5, &spec), NOW));
        assert_eq!([1, 2, 3].map(|node| count(&nodes, node)), [2, 2, 2], "{nodes:?}");
    }
}

#[test]
fn services_that_reserve_are_packed_so_that_large_ones_still_fit() {
    let mut fleet = fleet_of(vec![node(1), node(2), node(3)]);
    let small: Vec<Request> = (1..=6)
        .map(|service| request(service, service, &reserving(500, 512)))
        .collect();
    let nodes = chosen(&fleet.place(&small, NOW));
    assert_eq!(nodes, [1; 6], "one replica each of six services fills one node first");
    let large = chosen(&fleet.place(&several(2, 9, &reserving(4000, 4096)), NOW));
    assert_eq!(large, [2, 3]);
}

#[test]
fn services_that_reserve_nothing_go_where_the_fewest_replicas_are() {
    let mut fleet = fleet_of(vec![node(1), node(2), node(3)]);
    let requests: Vec<Request> = (1..=6).map(|service| request(service, service, &spec())).collect();
    let nodes = chosen(&fleet.place(&requests, NOW));
    assert_eq!([1, 2, 3].map(|node| count(&nodes, node)), [2, 2, 2], "{nodes:?}");
}

#[test]
fn packing_prefers_the_node_where_processor_and_memory_stay_in_balance() {
    let mut fleet = fleet_of(vec![node(1), node(2)]);
    let mut heavy = [
        request(1, 1, &reserving(3000, 256)),
        request(2, 2, &reserving(256, 3000)),
    ];
    heavy[0].node = Some(NodeId(1));
    heavy[1].node = Some(NodeId(2));
    fleet.place(&heavy, NOW);
    assert_eq!(chosen(&fleet.place(&[request(3, 3, &reserving(100, 1000))], NOW)), [1]);
    assert_eq!(chosen(&fleet.place(&[request(4, 4, &reserving(1000, 50))], NOW)), [2]);
}

#[test]
fn preferences_spread_over_groups_before_nodes() {
    let mut spec = spec();
    let spread = |key: &str| Preference::Spread(key.parse().expect("a valid attribute"));
    spec.placement.preferences = vec![spread("node.labels.zone")];
    let nodes = vec![
        labelled(1, "zone", "a"),
        labelled(2, "zone", "a"),
        labelled(3, "zone", "a"),
        labelled(4, "zone", "b"),
        node(5),
    ];
    let chosen = chosen(&fleet_of(nodes).place(&several(9, 1, &spec), NOW));
    assert_eq!([1, 2, 3].map(|node| count(&chosen, node)), [1, 1, 1], "{chosen:?}");
    assert_eq!(
        [4, 5].map(|node| count(&chosen, node)),
        [3, 3],
        "a missing label is a group of its own: {chosen:?}"
    );
}

#[test]
fn a_second_preference_spreads_within_the_groups_of_the_first() {
    let mut spec = spec();
    let spread = |key: &str| Preference::Spread(key.parse().expect("a valid attribute"));
    spec.placement.preferences = vec![spread("node.labels.zone"), spread("node.labels.rack")];
    let at = |number, zone: &str, rack: &str| {
        let mut node = labelled(number, "zone", zone);
        node.labels.insert("rack".to_string(), rack.to_string());
        node
    };
    let nodes = vec![at(1, "a", "1"), at(2, "a", "1"), at(3, "a", "2"), at(4, "b", "1")];
    let chosen = chosen(&fleet_of(nodes).place(&several(8, 1, &spec), NOW));
    assert_eq!(
        [1, 2, 3, 4].map(|node| count(&chosen, node)),
        [1, 1, 2, 4],
        "{chosen:?}"
    );
}

#[test]
fn a_node_where_the_service_keeps_failing_comes_last() {
    let failures = |count: u32, at: Timestamp| {
        let mut objects = vec![Object::Node(node(1)), Object::Node(node(2)), revision(9, 1, &spec())];
        for id in 0..u64::from(count) {
            let mut failed = replica(id + 1, 9, &node(1), Phase::Failed);
            failed.observed.at = at;
            objects.push(Object::Replica(failed));
        }
        chosen(&fleet(objects).place(&several(1, 9, &spec()), NOW))
    };
    assert_eq!(failures(FAILURES_MAX - 1, NOW), [1]);
    assert_eq!(failures(FAILURES_MAX, NOW), [2]);
    let long_ago = Timestamp(NOW.0 - FAILURE_WINDOW.0 - 1);
    assert_eq!(failures(FAILURES_MAX, long_ago), [1]);
}

#[test]
fn a_node_that_rejected_the_slot_is_taken_only_when_there_is_no_other() {
    let mut again = request(1, 9, &spec());
    again.avoid = vec![NodeId(1)];
    assert_eq!(
        chosen(&fleet_of(vec![node(1), node(2)]).place(std::slice::from_ref(&again), NOW)),
        [2]
    );
    assert_eq!(chosen(&fleet_of(vec![node(1)]).place(&[again], NOW)), [1]);
}

#[test]
fn a_new_revision_is_spread_for_itself() {
    let mut objects = vec![revision(9, 1, &spec())];
    for number in 1..=3 {
        objects.push(Object::Node(node(number)));
        objects.push(Object::Replica(replica(number, 9, &node(number), Phase::Running)));
    }
    let mut requests = several(3, 9, &spec());
    requests.iter_mut().for_each(|request| request.revision = 2);
    let mut nodes = chosen(&fleet(objects).place(&requests, NOW));
    nodes.sort_unstable();
    assert_eq!(nodes, [1, 2, 3], "the old ones are about to leave");
}

#[test]
fn wishes_are_weighed_against_each_other() {
    let mut wants = reserving(100, 64);
    for (text, weight) in [
        ("node.labels.disk==ssd", 50),
        ("node.labels.zone==a", -80),
        ("node.hostname==n3", 20),
    ] {
        let constraint = text.parse().expect("a valid constraint");
        wants.placement.affinities.push(Affinity { constraint, weight });
    }
    let mut avoided = labelled(1, "disk", "ssd");
    avoided.labels.insert("zone".to_string(), "a".to_string());
    let mut fleet = fleet_of(vec![avoided, node(2), node(3), labelled(4, "disk", "ssd")]);
    let one_by_one: Vec<u64> = (1..=4)
        .map(|id| {
            let mut one = request(id, 9, &wants);
            one.avoid = Vec::new();
            let chosen = chosen(&fleet.place(&[one], NOW))[0];
            // Full from now on.
            let mut rest = request(100 + id, 50, &reserving(3900, 64));
            rest.node = Some(NodeId(chosen));
            fleet.place(&[rest], NOW);
            chosen
        })
        .collect();
    assert_eq!(one_by_one, [4, 3, 2, 1]);
}

#[test]
fn groups_stay_within_their_bounds_even_if_that_leaves_some_pending() {
    let mut wants = reserving(2000, 64);
    wants.placement.preferences = vec![Preference::Even {
        by: "node.labels.zone".parse().expect("a valid attribute"),
        max_skew: 1,
    }];
    // Zone b has room for one, zone a for six.
    let mut small = labelled(4, "zone", "b");
    small.facts.cpu = MilliCpu(2500);
    let nodes = vec![
        labelled(1, "zone", "a"),
        labelled(2, "zone", "a"),
        labelled(3, "zone", "a"),
        small,
    ];
    let decisions = fleet_of(nodes).place(&several(5, 1, &wants), NOW);
    let chosen = chosen(&decisions);
    assert_eq!([count(&chosen, 4), count(&chosen, 0)], [1, 2], "{chosen:?}");
    let why = decisions
        .iter()
        .find_map(|one| one.result.as_ref().err())
        .expect("two are left");
    let expected = "would be more than 1 ahead of other values of node.labels.zone";
    assert!(
        why.refusals
            .iter()
            .any(|one| one.filter == "spread" && one.reason == expected),
        "{why:?}"
    );
}

#[test]
fn the_strategy_spread_takes_the_emptiest_node() {
    let mut wants = reserving(500, 256);
    wants.placement.strategy = Some(Strategy::Spread);
    let requests: Vec<Request> = (1..=6).map(|service| request(service, service, &wants)).collect();
    let nodes = chosen(&fleet_of(vec![node(1), node(2), node(3)]).place(&requests, NOW));
    assert_eq!([1, 2, 3].map(|node| count(&nodes, node)), [2, 2, 2], "{nodes:?}");
}

#[test]
fn losing_a_node_costs_a_packed_service_at_most_a_tenth() {
    let mut wants = reserving(100, 64);
    wants.mode = Mode::Replicated { replicas: 20 };
    let nodes: Vec<_> = (1..=15).map(node).collect();
    let chosen = chosen(&fleet_of(nodes).place(&several(20, 1, &wants), NOW));
    let most = (1..=15).map(|node| count(&chosen, node)).max();
    assert_eq!(most, Some(2), "{chosen:?}");
}

#[test]
fn a_batch_mixes_what_goes_well_together() {
    let large = |id: u64, milli, mib| request(id, id, &reserving(milli, mib));
    let mut requests: Vec<Request> = (1..=4).map(|id| large(id, 3000, 1024)).collect();
    requests.extend((5..=8).map(|id| large(id, 1000, 3072)));
    let nodes = chosen(&fleet_of((1..=8).map(node).collect()).place(&requests, NOW));
    let mut used = nodes.clone();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), 4, "one of each per node: {nodes:?}");
}
