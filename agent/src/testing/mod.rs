//! For tests: model objects, a machine that only pretends, a server that only speaks the protocol.

pub(crate) mod machine;
pub(crate) mod server;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_model::assignment::{NodeItem, ReplicaItem};
use gantry_model::net::Ipv4Net;
use gantry_model::object::Slot;
use gantry_model::phase::Desired;
use gantry_model::spec::{ContainerSpec, Mode, NetworkAttachment, ServiceSpec};
use gantry_model::{NodeId, ReplicaId, ServiceId};

pub(crate) fn node() -> NodeItem {
    let net = |base: [u8; 4], prefix| Ipv4Net::new(Ipv4Addr::from(base), prefix);
    NodeItem {
        id: NodeId(1),
        name: "alpha".into(),
        subnet: net([10, 128, 0, 0], 24),
        replica_pool: net([10, 128, 0, 0], 10),
        service_pool: net([10, 96, 0, 0], 12),
        labels: BTreeMap::new(),
    }
}

pub(crate) fn spec() -> ServiceSpec {
    ServiceSpec {
        mode: Mode::Replicated { replicas: 1 },
        container: ContainerSpec {
            image: "web:v1".into(),
            ..ContainerSpec::default()
        },
        resources: Default::default(),
        placement: Default::default(),
        restart: Default::default(),
        update: Default::default(),
        rollback: Default::default(),
        endpoint_mode: Default::default(),
        ports: Vec::new(),
        expose: Vec::new(),
        networks: BTreeMap::from([("default".parse().expect("a name"), NetworkAttachment::default())]),
        depends_on: BTreeMap::new(),
        labels: BTreeMap::new(),
        restart_generation: 0,
        ..ServiceSpec::default()
    }
}

/// The replica `web.N` with id N.
pub(crate) fn replica(slot: u32) -> ReplicaItem {
    ReplicaItem {
        id: ReplicaId(u64::from(slot)),
        service: ServiceId(1),
        namespace: "shop".parse().expect("a name"),
        service_name: "web".parse().expect("a name"),
        slot: Slot::Index(slot),
        revision: 1,
        address: Ipv4Addr::new(10, 128, 0, u8::try_from(slot + 1).expect("small")),
        desired: Desired::Run,
        spec: Arc::new(spec()),
    }
}

/// How long a test waits for what must happen.
pub(crate) const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

/// Waits until the condition holds; it is asked again every few milliseconds.
pub(crate) async fn until(what: &str, condition: impl FnMut() -> bool) {
    assert!(until_or_timeout(condition).await, "never happened: {what}");
}

/// The same; returns whether it happened in time.
pub(crate) async fn until_or_timeout(mut condition: impl FnMut() -> bool) -> bool {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.is_ok()
}
