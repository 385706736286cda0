//! Random transactions over a small world.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_model::explain::Explanation;
use gantry_model::net::Ipv4Net;
use gantry_model::object::{
    Availability, BlobRef, DataRecord, ImageRecord, ManifestFacts, Node, NodeFacts, NodeStatus, RegistryAction,
    RegistryToken, Replica, RepositoryManifest, RepositoryPattern, RevisionRecord, Role, Service, Slot, TagRecord,
    TokenRecord, UploadedBlob,
};
use gantry_model::phase::{Desired, Observed, Phase};
use gantry_model::spec::{ContainerSpec, DataKind, Mode, Placement, RestartPolicy, ServiceSpec, UpdateConfig};
use gantry_model::{
    ByteSize, Bytes64, DataId, Digest, Name, NodeId, QualifiedName, ReplicaId, ServiceId, Timestamp, TokenId,
};
use gantry_state::{Key, NewEvent, Object, Op, Precondition, RegistryObject, Transaction};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Ids are below this.
pub const IDS: u64 = 4;

/// Upper and lower case, digits and a prefix of another: what an order of names could get wrong.
pub const NAMES: [&str; 5] = ["0", "a", "a-b", "ab", "Z"];

pub fn history() -> impl Strategy<Value = Vec<(u64, Transaction)>> {
    // Terms only rise.
    vec((prop_oneof![9 => Just(0u64), 1 => Just(1)], transaction()), 0..20).prop_map(|entries| {
        let mut term = 1;
        let mut rising = |(step, transaction)| {
            term += step;
            (term, transaction)
        };
        entries.into_iter().map(&mut rising).collect()
    })
}

pub fn transaction() -> impl Strategy<Value = Transaction> {
    let require = prop_oneof![4 => Just(vec![]), 1 => vec(precondition(), 1..3)];
    (0..1000u64, require, vec(ops(), 0..6)).prop_map(|(at, require, ops)| Transaction {
        at: Timestamp(at),
        require,
        ops: ops.into_iter().flatten().collect(),
    })
}

fn precondition() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        key().prop_map(Precondition::Absent),
        (key(), 0..20u64).prop_map(|(key, modified)| Precondition::Unchanged { key, modified }),
        (1..3u64).prop_map(Precondition::Term),
        (name(), name()).prop_map(|(namespace, name)| Precondition::ServiceNameFree(QualifiedName { namespace, name })),
    ]
}

pub fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        Just(Key::Cluster),
        id().prop_map(|id| Key::Node(NodeId(id))),
        id().prop_map(|id| Key::Service(ServiceId(id))),
        (id(), 1..4u32).prop_map(|(id, number)| Key::Revision(ServiceId(id), number)),
        id().prop_map(|id| Key::Replica(ReplicaId(id))),
        id().prop_map(|id| Key::Data(DataId(id))),
        id().prop_map(|id| Key::Image(digest(id))),
        id().prop_map(|id| Key::Tag(format!("image:{id}"))),
        id().prop_map(|id| Key::Token(TokenId(id))),
        (id(), 0..3u8).prop_map(|(id, which)| registry_object(id, which).key()),
    ]
}

/// Operations that belong together, such as a service and the record of its revision.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    let single = prop_oneof![
        2 => node().prop_map(put),
        4 => replica().prop_map(put),
        2 => data().prop_map(put),
        1 => tag().prop_map(put),
        1 => token().prop_map(put),
        1 => registry().prop_map(put),
        // Not of revisions: that is for who deletes their service.
        3 => key().prop_filter("a revision", |key| !matches!(key, Key::Revision(..))).prop_map(Op::Delete),
        4 => (id(), id()).prop_map(|(replica, node)| assign(replica, node)),
        3 => (id(), desired()).prop_map(|(id, desired)| desire(id, desired)),
        5 => (id(), observed()).prop_map(|(id, observed)| Op::Observe { replica: ReplicaId(id), observed }),
        1 => id().prop_map(|id| Op::Admit { replica: ReplicaId(id) }),
        1 => (id(), explanation()).prop_map(|(id, explanation)| Op::Explain { replica: ReplicaId(id), explanation }),
        2 => (image(), id()).prop_map(|(image, node)| Op::Hold { image: Box::new(image), node: NodeId(node) }),
        2 => (id(), id()).prop_map(|(image, node)| Op::Release { digest: digest(image), node: NodeId(node) }),
        1 => (id(), desired(), 0..100u64).prop_map(|(id, desired, since)| Op::GiveUp {
            replica: ReplicaId(id),
            desired,
            reason: "node down".to_string(),
            down_since: Timestamp(since),
        }),
        1 => (id(), 0..100u64).prop_map(|(id, since)| Op::TakeDown { node: NodeId(id), ready_since: Timestamp(since) }),
        1 => Just(Op::Record(NewEvent::new("world", "turned", "again"))),
    ];
    prop_oneof![20 => single.prop_map(|op| vec![op]), 3 => service()]
}

fn put(object: Object) -> Op {
    Op::Put(Box::new(object))
}

fn id() -> impl Strategy<Value = u64> {
    0..IDS
}

fn name() -> impl Strategy<Value = Name> {
    select(&NAMES[..]).prop_map(|text| Name::new(text).expect("it is a name"))
}

fn digest(id: u64) -> String {
    format!("sha256:{id:064x}")
}

/// The same, as a digest.
pub fn content(id: u64) -> Digest {
    digest(id).parse().expect("it is a digest")
}

fn node() -> impl Strategy<Value = Object> {
    let availability = select(vec![Availability::Active, Availability::Pause, Availability::Drain]);
    let status = select(vec![NodeStatus::Ready, NodeStatus::Down]);
    (id(), name(), availability, status, 0..100u64).prop_map(|(id, name, availability, status, since)| {
        Object::Node(Node {
            id: NodeId(id),
            name: name.to_string(),
            address: format!("192.0.2.{id}:7000"),
            subnet: Ipv4Net::new(Ipv4Addr::new(10, 0, id as u8, 0), 24),
            labels: BTreeMap::from([("zone".to_string(), id.to_string())]),
            availability,
            status,
            status_since: Timestamp(since),
            facts: NodeFacts::default(),
            joined_at: Timestamp(since),
        })
    })
}

fn replica() -> impl Strategy<Value = Object> {
    (id(), id(), name(), name(), 1..4u32).prop_map(|(id, service, namespace, service_name, revision)| {
        Object::Replica(Replica {
            id: ReplicaId(id),
            service: ServiceId(service),
            namespace,
            service_name,
            slot: if id % 2 == 0 {
                Slot::Index(revision)
            } else {
                Slot::Node(NodeId(service))
            },
            revision,
            node: None,
            address: None,
            desired: Desired::Run,
            desired_reason: String::new(),
            observed: Observed::default(),
            explanation: None,
            created_at: Timestamp(7),
            assigned_at: None,
            desired_since: None,
            held: false,
        })
    })
}

/// An address of its own for each replica, as the one leader gives them.
fn assign(replica: u64, node: u64) -> Op {
    Op::Assign {
        replica: ReplicaId(replica),
        node: NodeId(node),
        address: Ipv4Addr::new(10, 0, node as u8, replica as u8),
        explanation: Some(Explanation {
            summary: "it fits".to_string(),
            ..Explanation::default()
        }),
    }
}

fn desire(replica: u64, desired: Desired) -> Op {
    Op::Desire {
        replica: ReplicaId(replica),
        desired,
        reason: format!("{desired:?}"),
    }
}

fn desired() -> impl Strategy<Value = Desired> {
    select(vec![Desired::Run, Desired::Drain, Desired::Stop, Desired::Remove])
}

fn observed() -> impl Strategy<Value = Observed> {
    (select(Phase::ALL.to_vec()), 0..6u64, any::<bool>(), 0..3u32).prop_map(|(phase, sequence, ready, restarts)| {
        Observed {
            phase,
            sequence,
            ready,
            restarts,
            at: Timestamp(sequence),
            ..Observed::default()
        }
    })
}

fn explanation() -> impl Strategy<Value = Option<Explanation>> {
    let some = name().prop_map(|summary| {
        Some(Explanation {
            summary: summary.to_string(),
            ..Explanation::default()
        })
    });
    prop_oneof![Just(None), some]
}

fn data() -> impl Strategy<Value = Object> {
    let kind = select(vec![DataKind::Config, DataKind::Secret]);
    (id(), kind, name(), name(), 1..4u32, vec(any::<u8>(), 0..9)).prop_map(
        |(id, kind, namespace, name, version, content)| {
            Object::Data(DataRecord {
                id: DataId(id),
                kind,
                namespace,
                name,
                version,
                content: Bytes64(content),
                labels: BTreeMap::new(),
                created_at: Timestamp(1),
            })
        },
    )
}

fn image() -> impl Strategy<Value = ImageRecord> {
    (id(), id()).prop_map(|(id, ignored)| ImageRecord {
        digest: digest(id),
        config_digest: digest(id + 100),
        size: ByteSize(id),
        platform: "linux/amd64".to_string(),
        created_at: None,
        nodes: [NodeId(ignored)].into(),
        keepers: [NodeId(ignored)].into(),
        leaving: None,
        manifest: ManifestFacts {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_string(),
            blobs: vec![BlobRef {
                digest: content(id / 2),
                size: ByteSize(id),
            }],
            subject: (id % 3 == 0).then(|| content(id + 1)),
            manifests: vec![content(id + 2)],
            ..ManifestFacts::default()
        },
    })
}

fn tag() -> impl Strategy<Value = Object> {
    (id(), id()).prop_map(|(id, image)| {
        Object::Tag(TagRecord {
            reference: format!("image:{id}"),
            digest: digest(image),
            updated_at: Timestamp(image),
        })
    })
}

fn token() -> impl Strategy<Value = Object> {
    (id(), select(Role::ALL.to_vec())).prop_map(|(id, role)| {
        Object::Token(TokenRecord {
            id: TokenId(id),
            role,
            secret_sha256: digest(id),
            created_at: Timestamp(1),
            expires_at: Timestamp(2),
        })
    })
}

fn registry() -> impl Strategy<Value = Object> {
    (id(), 0..3u8).prop_map(|(id, which)| registry_object(id, which))
}

fn registry_object(id: u64, which: u8) -> Object {
    Object::Registry(match which {
        0 => RegistryObject::Manifest(RepositoryManifest {
            repository: format!("docker.io/library/r{}", id % 2),
            digest: content(id),
            pushed_at: Timestamp(id),
        }),
        1 => RegistryObject::Blob(UploadedBlob {
            digest: content(id),
            size: ByteSize(id),
            nodes: [NodeId(id)].into(),
            repositories: [("docker.io/library/r".to_string(), Timestamp(id))].into(),
        }),
        _ => RegistryObject::Token(RegistryToken {
            id: TokenId(id),
            name: String::new(),
            secret_sha256: digest(id),
            actions: [RegistryAction::Pull].into(),
            repositories: RepositoryPattern("*".to_string()),
            created_at: Timestamp(id),
            expires_at: None,
        }),
    })
}

/// A service always comes with the record of its revision.
fn service() -> impl Strategy<Value = Vec<Op>> {
    (id(), name(), name(), 1..4u32, 0..5u32).prop_map(|(id, namespace, name, number, replicas)| {
        let spec = Arc::new(ServiceSpec {
            mode: Mode::Replicated { replicas },
            container: ContainerSpec {
                image: format!("image:{id}"),
                environment: BTreeMap::from([("KEY".to_string(), None)]),
                ..ContainerSpec::default()
            },
            resources: Default::default(),
            placement: Placement::default(),
            restart: RestartPolicy::default(),
            update: UpdateConfig::default(),
            rollback: UpdateConfig::default(),
            endpoint_mode: Default::default(),
            ports: Vec::new(),
            expose: Vec::new(),
            networks: BTreeMap::new(),
            depends_on: BTreeMap::new(),
            labels: BTreeMap::new(),
            restart_generation: 0,
            ..ServiceSpec::default()
        });
        let revision = RevisionRecord {
            service: ServiceId(id),
            number,
            spec: spec.clone(),
            created_at: Timestamp(1),
            cause: "apply".to_string(),
        };
        let service = Service {
            id: ServiceId(id),
            namespace,
            name,
            spec,
            revision: number,
            networks: BTreeMap::new(),
            ports: Vec::new(),
            rollout: None,
            deleting: false,
            owner: None,
            job: Default::default(),
            created_at: Timestamp(1),
            updated_at: Timestamp(1),
        };
        vec![put(Object::Revision(revision)), put(Object::Service(service))]
    })
}
