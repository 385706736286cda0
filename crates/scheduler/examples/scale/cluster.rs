//! A cluster to place on, and requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::net::Ipv4Net;
use gantry_model::object::{Availability, Node, NodeFacts, NodeStatus, Slot};
use gantry_model::spec::{
    ContainerSpec, EndpointMode, Mode, Placement, Resources, RestartPolicy, ServiceSpec, UpdateConfig,
};
use gantry_model::{ByteSize, MilliCpu, Name, NodeId, ReplicaId, ServiceId, Timestamp};
use gantry_scheduler::{Fleet, Request};
use gantry_state::{Object, Op, State, Transaction};

use crate::mixes;

/// A sequence that follows from a seed: SplitMix64 (Steele, Lea, Flood 2014).
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// One of several, by weight.
    pub fn pick<T: Copy>(&mut self, from: &[(u64, T)]) -> T {
        let total: u64 = from.iter().map(|(weight, _)| weight).sum();
        let mut at = self.next() % total;
        for (weight, value) in from {
            if at < *weight {
                return *value;
            }
            at -= weight;
        }
        unreachable!("the weights sum up to the total")
    }
}

/// Nodes of mixed sizes in three zones of ten racks.
pub fn fleet(count: u64, dice: &mut Dice) -> Fleet {
    let nodes: Vec<Node> = (0..count)
        .map(|number| {
            let (cores, gib) = dice.pick(mixes::GOOGLE_MACHINES);
            let mut node = node(number + 1, MilliCpu::cores(cores), ByteSize::mib(gib << 10));
            let label = |key: &str, value: String| (key.to_string(), value);
            node.labels.extend([
                label("zone", format!("z{}", number % 3)),
                label("rack", format!("r{}", number % 30 / 3)),
                label("disk", dice.pick(&[(7, "ssd"), (3, "hdd")]).to_string()),
            ]);
            node
        })
        .collect();
    fleet_of(nodes)
}

pub fn fleet_of(nodes: Vec<Node>) -> Fleet {
    let mut state = State::default();
    let ops = nodes.into_iter().map(|node| Op::Put(Box::new(Object::Node(node))));
    state.apply(1, 1, &Transaction::new(Timestamp(0), ops.collect()));
    Fleet::from_state(&state)
}

pub fn node(number: u64, cpu: MilliCpu, memory: ByteSize) -> Node {
    let pool: Ipv4Net = "10.0.0.0/8".parse().expect("a valid network");
    Node {
        id: NodeId(number),
        name: format!("n{number}"),
        address: "192.0.2.1:7420".to_string(),
        subnet: pool.subnet(22, number).expect("fewer than 16,384 nodes"),
        labels: BTreeMap::new(),
        availability: Availability::Active,
        status: NodeStatus::Ready,
        status_since: Timestamp(0),
        facts: NodeFacts {
            os: "linux".to_string(),
            arch: "amd64".to_string(),
            cpu,
            memory,
            ..NodeFacts::default()
        },
        joined_at: Timestamp(0),
    }
}

pub fn spec(replicas: u64, cpu: u64, mib: u64) -> ServiceSpec {
    ServiceSpec {
        mode: Mode::Replicated {
            replicas: replicas as u32,
        },
        container: ContainerSpec::default(),
        resources: Resources {
            cpu_reservation: MilliCpu(cpu),
            memory_reservation: ByteSize::mib(mib),
            ..Resources::default()
        },
        placement: Placement::default(),
        restart: RestartPolicy::default(),
        update: UpdateConfig::default(),
        rollback: UpdateConfig::default(),
        endpoint_mode: EndpointMode::Vip,
        ports: Vec::new(),
        expose: Vec::new(),
        networks: BTreeMap::new(),
        depends_on: BTreeMap::new(),
        labels: BTreeMap::new(),
        restart_generation: 0,
        ..ServiceSpec::default()
    }
}

pub fn requests(service: u64, spec: &Arc<ServiceSpec>, count: u64) -> Vec<Request> {
    (0..count)
        .map(|index| Request {
            slot: Slot::Index(index as u32 + 1),
            ..request(service, (service + 1) << 24 | index, spec)
        })
        .collect()
}

pub fn request(service: u64, replica: u64, spec: &Arc<ServiceSpec>) -> Request {
    Request {
        replica: ReplicaId(replica.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        service: ServiceId(service + 1),
        namespace: Name::new("bench").expect("a valid name"),
        service_name: Name::new(format!("s{service}")).expect("a valid name"),
        slot: Slot::Index(1),
        revision: 1,
        spec: spec.clone(),
        node: None,
        avoid: Vec::new(),
        volumes_on: Vec::new(),
        may_displace: true,
    }
}
