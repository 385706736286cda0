//! One item of a node's set, computed from the state; and which items a change may affect.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use gantry_model::assignment::{Endpoint, Item, ItemKey, NodeItem, PeerItem, ReplicaItem, ServiceItem};
use gantry_model::object::{Node, NodeStatus, Replica, Service};
use gantry_model::spec::{PortMode, ServiceSpec};
use gantry_model::{NodeId, ReplicaId, ServiceId};
use gantry_state::{Change, Key, Object, State};

/// The item that `node` should have under `key`, or none when it should have none.
#[must_use]
pub fn item(state: &State, node: NodeId, key: &ItemKey) -> Option<Item> {
    match key {
        ItemKey::Node => node_item(state, node).map(Item::Node),
        ItemKey::Replica(id) => replica_item(state, node, *id).map(Item::Replica),
        ItemKey::Service(id) => service_item(state, node, *id).map(Item::Service),
        ItemKey::Peer(id) if *id != node => state.node(*id).and_then(peer_item).map(Item::Peer),
        ItemKey::Peer(_) => None,
        ItemKey::Data(id) => {
            let used = replicas_on(state, node).any(|replica| {
                spec_of(state, replica).is_some_and(|spec| {
                    let container = &spec.container;
                    container
                        .configs
                        .iter()
                        .chain(&container.secrets)
                        .any(|mount| mount.id == Some(*id))
                })
            });
            used.then(|| state.data(*id).cloned()).flatten().map(Item::Data)
        }
    }
}

/// All keys that `node` should have something under.
#[must_use]
pub fn all_keys(state: &State, node: NodeId) -> BTreeSet<ItemKey> {
    let mut keys = BTreeSet::from([ItemKey::Node]);
    keys.extend(
        state
            .nodes()
            .filter(|other| other.id != node)
            .map(|other| ItemKey::Peer(other.id)),
    );
    keys.extend(state.services().map(|service| ItemKey::Service(service.id)));
    for replica in replicas_on(state, node) {
        keys.insert(ItemKey::Replica(replica.id));
        keys.extend(data_keys(state, replica));
    }
    keys
}

/// The keys whose items `change` may alter for `node`.
#[must_use]
pub fn affected(state: &State, node: NodeId, change: &Change) -> BTreeSet<ItemKey> {
    let mut keys = BTreeSet::new();
    for object in [&change.before, &change.after].into_iter().flatten() {
        match object.as_ref() {
            Object::Cluster(_) => {
                keys.insert(ItemKey::Node);
            }
            Object::Node(changed) if changed.id == node => {
                keys.insert(ItemKey::Node);
                keys.extend(state.replicas_on(node).map(|replica| ItemKey::Service(replica.service)));
            }
            Object::Node(changed) => {
                keys.insert(ItemKey::Peer(changed.id));
                if changes_status(change) {
                    keys.extend(
                        state
                            .replicas_on(changed.id)
                            .map(|replica| ItemKey::Service(replica.service)),
                    );
                }
            }
            Object::Service(service) => {
                keys.insert(ItemKey::Service(service.id));
            }
            Object::Replica(replica) => affected_by_replica(state, node, replica, &mut keys),
            Object::Data(data) => {
                keys.insert(ItemKey::Data(data.id));
            }
            Object::Revision(_) | Object::Image(_) | Object::Tag(_) | Object::Token(_) | Object::Registry(_) => {}
        }
    }
    if let Key::Replica(_) = change.key
        && !changes_set(change)
    {
        return BTreeSet::new();
    }
    keys
}

fn changes_status(change: &Change) -> bool {
    let status = |object: &Option<std::sync::Arc<Object>>| match object.as_deref() {
        Some(Object::Node(node)) => Some(node.status),
        _ => None,
    };
    status(&change.before) != status(&change.after)
}

/// Whether a replica's change can matter to any agent: reports alone mostly do not.
fn changes_set(change: &Change) -> bool {
    let replica = |object: &Option<std::sync::Arc<Object>>| match object.as_deref() {
        Some(Object::Replica(replica)) => Some((
            replica.node,
            replica.desired,
            replica.is_endpoint(),
            replica.observed.phase.is_terminal(),
        )),
        _ => None,
    };
    replica(&change.before) != replica(&change.after)
}

fn affected_by_replica(state: &State, node: NodeId, replica: &Replica, keys: &mut BTreeSet<ItemKey>) {
    keys.insert(ItemKey::Service(replica.service));
    if replica.node != Some(node) {
        return;
    }
    keys.insert(ItemKey::Replica(replica.id));
    keys.extend(data_keys(state, replica));
    // A first or last replica on a network decides whether the node needs the services of that network.
    keys.extend(state.services().map(|service| ItemKey::Service(service.id)));
}

fn data_keys(state: &State, replica: &Replica) -> Vec<ItemKey> {
    let Some(spec) = spec_of(state, replica) else {
        return Vec::new();
    };
    let mounts = spec.container.configs.iter().chain(&spec.container.secrets);
    mounts.filter_map(|mount| mount.id.map(ItemKey::Data)).collect()
}

fn spec_of<'a>(state: &'a State, replica: &Replica) -> Option<&'a ServiceSpec> {
    state
        .revision_of(replica.service, replica.revision)
        .map(|revision| revision.spec.as_ref())
}

/// The replicas that the node has to know: all of its records, since one that ended still has files and logs there.
fn replicas_on(state: &State, node: NodeId) -> impl Iterator<Item = &Replica> {
    state.replicas_on(node)
}

fn node_item(state: &State, id: NodeId) -> Option<NodeItem> {
    let (node, cluster) = (state.node(id)?, state.cluster()?);
    Some(NodeItem {
        id,
        name: node.name.clone(),
        subnet: node.subnet,
        replica_pool: cluster.config.replica_pool,
        service_pool: cluster.config.service_pool,
        labels: node.labels.clone(),
    })
}

fn replica_item(state: &State, node: NodeId, id: ReplicaId) -> Option<ReplicaItem> {
    let replica = state.replica(id).filter(|replica| replica.node == Some(node))?;
    let revision = state.revision_of(replica.service, replica.revision)?;
    Some(ReplicaItem {
        id,
        service: replica.service,
        namespace: replica.namespace.clone(),
        service_name: replica.service_name.clone(),
        slot: replica.slot,
        revision: replica.revision,
        address: replica.address?,
        desired: replica.desired,
        spec: revision.spec.clone(),
    })
}

fn service_item(state: &State, node: NodeId, id: ServiceId) -> Option<ServiceItem> {
    let service = state.service(id)?;
    if !is_routed_from(state, node, service) {
        return None;
    }
    let mut endpoints: Vec<Endpoint> = state
        .replicas_of(id)
        .filter_map(|replica| endpoint(state, replica))
        .collect();
    endpoints.sort();
    Some(ServiceItem {
        id,
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        endpoint_mode: service.spec.endpoint_mode,
        networks: service.networks.clone(),
        ports: service.ports.clone(),
        endpoints,
    })
}

/// Whether the node can get traffic for the service: it publishes a port, or shares a network with a replica of the node.
fn is_routed_from(state: &State, node: NodeId, service: &Service) -> bool {
    if service.ports.iter().any(|port| port.mode == PortMode::Ingress) {
        return true;
    }
    replicas_on(state, node)
        .filter(|replica| !replica.observed.phase.is_terminal())
        .any(|replica| {
            state.service(replica.service).is_some_and(|own| {
                own.networks
                    .keys()
                    .any(|network| service.networks.contains_key(network))
            })
        })
}

/// A ready replica on a node that is there: a node without a lease gets no traffic.
fn endpoint(state: &State, replica: &Replica) -> Option<Endpoint> {
    let node = state.node(replica.node?)?;
    if !replica.is_endpoint() || node.status != NodeStatus::Ready {
        return None;
    }
    Some(Endpoint {
        replica: replica.id,
        node: node.id,
        address: replica.address?,
        slot: replica.slot,
    })
}

fn peer_item(node: &Node) -> Option<PeerItem> {
    let address: SocketAddr = node.address.parse().ok()?;
    Some(PeerItem {
        id: node.id,
        name: node.name.clone(),
        subnet: node.subnet,
        address: address.ip(),
        port: address.port(),
    })
}
