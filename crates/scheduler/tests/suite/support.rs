//! Small clusters for the tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::net::Ipv4Net;
use gantry_model::object::{Availability, Node, NodeFacts, NodeStatus, Replica, RevisionRecord, Service, Slot};
use gantry_model::phase::{Desired, Observed, Phase};
use gantry_model::spec::{
    ContainerSpec, EndpointMode, Mode, Placement, PortMode, PortSpec, Protocol, Resources, RestartPolicy, ServiceSpec,
    UpdateConfig,
};
use gantry_model::{ByteSize, MilliCpu, Name, NodeId, ReplicaId, ServiceId, Timestamp};
use gantry_scheduler::{Decision, Fleet, Request};
use gantry_state::{Change, Object, Op, State, Transaction};

pub const NOW: Timestamp = Timestamp(10_000_000);

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

pub fn spec() -> ServiceSpec {
    ServiceSpec {
        mode: Mode::Replicated { replicas: 1 },
        container: ContainerSpec::default(),
        resources: Resources::default(),
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

pub fn host_port(port: u16) -> PortSpec {
    PortSpec {
        target: 80,
        published: Some(port),
        protocol: Protocol::Tcp,
        mode: PortMode::Host,
        host_ip: None,
        name: None,
    }
}

/// Four cores and 4 GiB, named after its number.
pub fn node(number: u64) -> Node {
    let pool: Ipv4Net = "10.128.0.0/10".parse().expect("a valid network");
    Node {
        id: NodeId(number),
        name: format!("n{number}"),
        address: format!("192.0.2.{number}:7420"),
        subnet: pool.subnet(24, number).expect("few nodes"),
        labels: BTreeMap::new(),
        availability: Availability::Active,
        status: NodeStatus::Ready,
        status_since: Timestamp(0),
        facts: NodeFacts {
            os: "linux".to_string(),
            arch: "amd64".to_string(),
            cpu: MilliCpu::cores(4),
            memory: ByteSize::mib(4096),
            ..NodeFacts::default()
        },
        joined_at: Timestamp(0),
    }
}

pub fn labelled(number: u64, key: &str, value: &str) -> Node {
    let mut node = node(number);
    node.labels.insert(key.to_string(), value.to_string());
    node
}

pub fn request(replica: u64, service: u64, spec: &ServiceSpec) -> Request {
    Request {
        replica: ReplicaId(replica),
        service: ServiceId(service),
        namespace: name("shop"),
        service_name: name("web"),
        slot: Slot::Index(replica as u32),
        revision: 1,
        spec: Arc::new(spec.clone()),
        node: None,
        avoid: Vec::new(),
        volumes_on: Vec::new(),
        may_displace: true,
    }
}

pub fn replica(id: u64, service: u64, node: &Node, phase: Phase) -> Replica {
    Replica {
        id: ReplicaId(id),
        service: ServiceId(service),
        namespace: name("shop"),
        service_name: name("web"),
        slot: Slot::Index(id as u32),
        revision: 1,
        node: Some(node.id),
        address: node.subnet.address(2 + id % 250),
        desired: Desired::Run,
        desired_reason: String::new(),
        observed: Observed {
            phase,
            at: NOW,
            ..Observed::default()
        },
        explanation: None,
        created_at: Timestamp(id),
        assigned_at: None,
        desired_since: None,
        held: false,
    }
}

pub fn revision(service: u64, number: u32, spec: &ServiceSpec) -> Object {
    Object::Revision(RevisionRecord {
        service: ServiceId(service),
        number,
        spec: Arc::new(spec.clone()),
        created_at: Timestamp(0),
        cause: "apply".to_string(),
    })
}

pub fn service(id: u64, title: &str, spec: &ServiceSpec) -> Object {
    Object::Service(Service {
        id: ServiceId(id),
        namespace: name("shop"),
        name: name(title),
        spec: Arc::new(spec.clone()),
        revision: 1,
        networks: BTreeMap::new(),
        ports: Vec::new(),
        rollout: None,
        deleting: false,
        owner: None,
        job: Default::default(),
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
    })
}

/// Nodes, and the services that the requests are of.
pub fn fleet_for(nodes: &[Node], requests: &[Request]) -> Fleet {
    let mut objects: Vec<Object> = nodes.iter().cloned().map(Object::Node).collect();
    let services: BTreeMap<u64, &Request> = requests.iter().map(|one| (one.service.0, one)).collect();
    objects.extend(
        services
            .iter()
            .map(|(id, one)| service(*id, one.service_name.as_str(), &one.spec)),
    );
    fleet(objects)
}

pub fn put(object: Object) -> Op {
    Op::Put(Box::new(object))
}

pub fn write(state: &mut State, ops: Vec<Op>) -> Vec<Change> {
    let transaction = Transaction::new(NOW, ops);
    state.apply(state.revision() + 1, 1, &transaction).1
}

pub fn fleet(objects: Vec<Object>) -> Fleet {
    let mut state = State::default();
    write(&mut state, objects.into_iter().map(put).collect());
    Fleet::from_state(&state)
}

pub fn fleet_of(nodes: Vec<Node>) -> Fleet {
    fleet(nodes.into_iter().map(Object::Node).collect())
}

/// Numbers of the nodes chosen; 0 for none.
pub fn chosen(decisions: &[Decision]) -> Vec<u64> {
    decisions
        .iter()
        .map(|one| one.result.as_ref().map_or(0, |placed| placed.node.0))
        .collect()
}
