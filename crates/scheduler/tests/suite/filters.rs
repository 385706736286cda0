//! What keeps a replica from a node, and how it is said.

use gantry_model::object::{Availability, ImageRecord, Node, NodeStatus};
use gantry_model::phase::Phase;
use gantry_model::spec::{GenericResource, ServiceSpec, Toleration, VolumeRule};
use gantry_model::{ByteSize, MilliCpu, NodeId};
use gantry_scheduler::Fleet;
use gantry_state::Object;

use crate::support::{NOW, chosen, fleet, fleet_of, host_port, labelled, node, replica, request, revision, spec};

/// A refusal of the one node there is: filter and reason.
fn refusal(mut fleet: Fleet, spec: &ServiceSpec) -> Option<(String, String)> {
    let decisions = fleet.place(&[request(100, 9, spec)], NOW);
    let explanation = decisions[0].result.as_ref().err()?;
    let first = explanation.refusals.first().expect("a refused node has a reason");
    assert!(
        explanation.summary.starts_with("no suitable node: 1 node"),
        "{explanation}"
    );
    assert!(!explanation.remedy.is_empty());
    Some((first.filter.clone(), first.reason.clone()))
}

fn with_node(edit: impl FnOnce(&mut Node)) -> Fleet {
    let mut one = node(1);
    edit(&mut one);
    fleet_of(vec![one])
}

fn wish(edit: impl FnOnce(&mut ServiceSpec)) -> ServiceSpec {
    let mut spec = spec();
    edit(&mut spec);
    spec
}

fn constraint(text: &str) -> ServiceSpec {
    wish(|spec| {
        spec.placement
            .constraints
            .push(text.parse().expect("a valid constraint"))
    })
}

#[test]
fn each_filter_refuses_with_its_reason() {
    let gpus = |value| {
        let kind = "gpu".to_string();
        GenericResource { kind, value }
    };
    let busy = |spec: &ServiceSpec| {
        let objects = vec![
            Object::Node(node(1)),
            revision(9, 1, spec),
            Object::Replica(replica(1, 9, &node(1), Phase::Running)),
        ];
        fleet(objects)
    };
    let port = wish(|spec| spec.ports.push(host_port(8080)));
    let one_each = wish(|spec| spec.placement.max_replicas_per_node = 1);
    let cases = [
        (
            with_node(|one| one.status = NodeStatus::Down),
            spec(),
            "ready",
            "is down",
        ),
        (
            with_node(|one| one.availability = Availability::Drain),
            spec(),
            "availability",
            "is drained",
        ),
        (
            with_node(|one| one.availability = Availability::Pause),
            spec(),
            "availability",
            "is paused",
        ),
        (
            with_node(|_| ()),
            constraint("node.hostname==other"),
            "constraint",
            "does not satisfy node.hostname==other",
        ),
        (
            with_node(|_| ()),
            wish(|spec| spec.resources.cpu_reservation = MilliCpu(4500)),
            "cpu",
            "needs 4.5 cores, 4 free",
        ),
        (
            with_node(|_| ()),
            wish(|spec| spec.resources.memory_reservation = ByteSize::mib(5120)),
            "memory",
            "needs 5 GiB, 4 GiB free",
        ),
        (
            with_node(|one| one.facts.generic = vec![gpus(1)]),
            wish(|spec| spec.resources.generic_reservations = vec![gpus(2)]),
            "generic_resource",
            "needs 2 gpu, 1 free",
        ),
        (busy(&port), port.clone(), "host_port", "port 8080/tcp is taken"),
        (
            busy(&one_each),
            one_each.clone(),
            "max_replicas_per_node",
            "runs 1 of this service, 1 allowed per node",
        ),
        (
            with_node(|one| one.subnet = "10.0.0.0/31".parse().expect("a valid network")),
            spec(),
            "address",
            "all 0 addresses of its subnet are in use",
        ),
    ];
    for (fleet, spec, filter, reason) in cases {
        let expected = Some((filter.to_string(), reason.to_string()));
        assert_eq!(refusal(fleet, &spec), expected);
    }
}

#[test]
fn constraints_look_at_every_attribute() {
    let machine = || {
        with_node(|one| {
            one.labels.insert("disk".to_string(), "SSD".to_string());
            one.facts.labels.insert("rack".to_string(), "r1".to_string());
            one.labels.insert("cores".to_string(), "16".to_string());
            one.facts.kernel = "6.1.0-32-amd64".to_string();
            one.facts.runs_server = true;
        })
    };
    let id = NodeId(1).to_string();
    for (text, holds) in [
        (format!("node.id=={id}"), true),
        ("node.hostname==N1".to_string(), true),
        ("node.hostname!=n1".to_string(), false),
        ("node.ip==192.0.2.0/24".to_string(), true),
        ("node.ip!=192.0.2.1".to_string(), false),
        ("node.role==manager".to_string(), true),
        ("node.role==worker".to_string(), false),
        ("node.platform.os==Linux".to_string(), true),
        ("node.platform.arch==arm64".to_string(), false),
        ("node.labels.disk==ssd".to_string(), true),
        ("node.labels.missing==x".to_string(), false),
        ("node.labels.missing!=x".to_string(), true),
        ("engine.labels.rack==r1".to_string(), true),
        ("node.labels.disk in (hdd, ssd)".to_string(), true),
        ("node.labels.disk not in (hdd, ssd)".to_string(), false),
        ("node.ip in (10.0.0.0/8, 192.0.2.0/24)".to_string(), true),
        ("node.labels.disk exists".to_string(), true),
        ("node.labels.missing exists".to_string(), false),
        ("node.labels.missing missing".to_string(), true),
        ("node.labels.cores >= 16".to_string(), true),
        ("node.labels.cores > 16".to_string(), false),
        ("node.labels.cores < 100".to_string(), true),
        ("node.labels.disk > 1".to_string(), false),
        ("node.kernel version >= 6.1".to_string(), true),
        ("node.kernel version < 6".to_string(), false),
    ] {
        assert_eq!(refusal(machine(), &constraint(&text)).is_none(), holds, "{text}");
    }
}

#[test]
fn the_platform_of_a_known_image_has_to_match() {
    let image = |platform: &str| {
        Object::Image(ImageRecord {
            digest: "sha256:a".to_string(),
            config_digest: "sha256:b".to_string(),
            size: ByteSize(1),
            platform: platform.to_string(),
            created_at: None,
            nodes: std::collections::BTreeSet::new(),
            keepers: std::collections::BTreeSet::new(),
            leaving: None,
            manifest: gantry_model::object::ManifestFacts::default(),
        })
    };
    let wants = wish(|spec| spec.container.image_digest = Some("sha256:a".to_string()));
    assert_eq!(
        refusal(fleet(vec![Object::Node(node(1)), image("linux/amd64")]), &wants),
        None
    );
    assert_eq!(
        refusal(fleet_of(vec![node(1)]), &wants),
        None,
        "an unknown image may be for any platform"
    );
    let foreign = refusal(fleet(vec![Object::Node(node(1)), image("linux/arm64")]), &wants);
    let reason = "image is for linux/arm64, node is linux/amd64".to_string();
    assert_eq!(foreign, Some(("platform".to_string(), reason)));
}

#[test]
fn refusals_are_counted_together_and_the_closest_speaks_for_all() {
    let mut small = node(1);
    small.facts.memory = ByteSize::mib(64);
    let mut medium = node(2);
    medium.facts.memory = ByteSize::mib(120);
    let mut drained = node(3);
    drained.availability = Availability::Drain;
    let wants = wish(|spec| spec.resources.memory_reservation = ByteSize::mib(512));
    let decisions = fleet_of(vec![small, medium, drained]).place(&[request(1, 9, &wants)], NOW);
    let why = decisions[0].result.as_ref().expect_err("nothing fits");
    let expected = "no suitable node: 2 nodes lack memory (closest: n2 lacks 392 MiB of 512 MiB), 1 node is drained";
    assert_eq!(why.summary, expected);
    assert_eq!(
        why.remedy,
        "lower the reservation to 120 MiB, free 392 MiB on n2, or add a node"
    );
    assert_eq!(why.refusals[0].nodes, [NodeId(1), NodeId(2)]);
}

#[test]
fn a_cluster_without_nodes_says_so() {
    let decisions = Fleet::default().place(&[request(1, 9, &spec())], NOW);
    let why = decisions[0].result.as_ref().expect_err("there is no node");
    assert!(why.summary.contains("no node yet") && !why.remedy.is_empty(), "{why}");
}

#[test]
fn a_replica_of_a_global_service_goes_to_its_node_or_nowhere() {
    let mut fleet = fleet_of(vec![node(1), labelled(2, "a", "b")]);
    let mut fixed = request(1, 9, &spec());
    fixed.node = Some(NodeId(2));
    let mut lost = request(2, 9, &spec());
    lost.node = Some(NodeId(7));
    let decisions = fleet.place(&[fixed, lost], NOW);
    assert_eq!(chosen(&decisions), [2, 0]);
    let why = decisions[1].result.as_ref().expect_err("its node is gone");
    assert!(why.summary.contains("is removed"), "{why}");
}

#[test]
fn ports_on_different_addresses_do_not_clash() {
    let on = |address: Option<&str>| {
        wish(|spec| {
            let mut port = host_port(8080);
            port.host_ip = address.map(|text| text.parse().expect("a valid address"));
            spec.ports.push(port);
        })
    };
    for (first, second, fits) in [
        (Some("10.0.0.1"), Some("10.0.0.2"), true),
        (Some("10.0.0.1"), Some("10.0.0.1"), false),
        (Some("10.0.0.1"), None, false),
        (Some("0.0.0.0"), Some("10.0.0.2"), false),
    ] {
        let mut fleet = fleet_of(vec![node(1)]);
        let decisions = fleet.place(&[request(1, 8, &on(first)), request(2, 9, &on(second))], NOW);
        assert_eq!(
            decisions.iter().all(|one| one.result.is_ok()),
            fits,
            "{first:?} {second:?}"
        );
    }
}

#[test]
fn taints_keep_away_what_does_not_tolerate_them() {
    let tainted = |value: &str| {
        let value = value.to_string();
        with_node(move |one| {
            one.labels.insert("gantry.taint.dedicated".to_string(), value);
        })
    };
    let tolerant = |toleration: Toleration| wish(|spec| spec.placement.tolerations.push(toleration));
    let dedicated = Toleration {
        key: Some("dedicated".to_string()),
        value: None,
        effect: None,
    };
    let refused = Some(("taint".to_string(), "has the taint dedicated=gpu".to_string()));
    assert_eq!(refusal(tainted("gpu:no_schedule"), &spec()), refused);
    assert_eq!(refusal(tainted("gpu:no_execute"), &spec()), refused);
    assert_eq!(refusal(tainted("gpu:prefer_no_schedule"), &spec()), None);
    assert_eq!(refusal(tainted("gpu:no_schedule"), &tolerant(dedicated)), None);
}

#[test]
fn what_is_reserved_and_overcommitted_counts() {
    let labelled = |key: &str, value: &str| {
        let (key, value) = (key.to_string(), value.to_string());
        with_node(move |one| {
            one.labels.insert(key, value);
        })
    };
    let cores = |cores| wish(|spec| spec.resources.cpu_reservation = MilliCpu::cores(cores));
    assert_eq!(refusal(labelled("gantry.overcommit.cpu", "1.5"), &cores(6)), None);
    let refused = |reason: &str| Some(("cpu".to_string(), reason.to_string()));
    assert_eq!(
        refusal(labelled("gantry.overcommit.cpu", "1.5"), &cores(7)),
        refused("needs 7 cores, 6 free")
    );
    assert_eq!(
        refusal(labelled("gantry.reserved.cpu", "0.5"), &cores(4)),
        refused("needs 4 cores, 3.5 free")
    );
}

#[test]
fn a_slot_stays_with_its_volumes_when_it_has_to() {
    let stays = wish(|spec| spec.placement.volumes = VolumeRule::Stay);
    let mut again = request(1, 9, &stays);
    again.volumes_on = vec![NodeId(2)];
    let mut fleet = fleet_of(vec![node(1), node(2)]);
    assert_eq!(chosen(&fleet.place(std::slice::from_ref(&again), NOW)), [2]);
    again.spec = std::sync::Arc::new(spec());
    assert_eq!(
        chosen(&fleet_of(vec![node(1), node(2)]).place(std::slice::from_ref(&again), NOW)),
        [2]
    );
    let mut down = node(2);
    down.status = NodeStatus::Down;
    assert_eq!(
        chosen(&fleet_of(vec![node(1), down.clone()]).place(std::slice::from_ref(&again), NOW)),
        [1],
        "preferred only"
    );
    again.spec = std::sync::Arc::new(stays);
    let decisions = fleet_of(vec![node(1), down]).place(&[again], NOW);
    let why = decisions[0].result.as_ref().expect_err("its volumes are away");
    assert!(why.summary.contains("1 node does not have the slot's volumes"), "{why}");
}
