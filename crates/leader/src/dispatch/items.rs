//! One item of a node's set, computed from the state; and which items a change may affect.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use gantry_model::assignment::{Endpoint, Item, ItemKey, NodeItem, PeerItem, ReplicaItem, ServiceItem};
use gantry_model::object::{Node, NodeStatus, Replica, Service};
use gantry_model::spec::{PortMode, ServiceSpec};
use gantry_model::{NodeId, ReplicaId, ServiceId};
use gantry_state::{Change, Key, Object, State};

use super::ingress;
use super::shared::Shared;

/// The item that `node`, which takes part in `networks`, should have under `key`, or none when it should have none.
pub fn item(
    state: &State,
    shared: &mut Shared,
    node: NodeId,
    networks: &BTreeSet<String>,
    key: &ItemKey,
) -> Option<Arc<Item>> {
    match key {
        ItemKey::Node => node_item(state, node).map(|item| Arc::new(Item::Node(item))),
        ItemKey::Replica(id) => replica_item(state, node, *id).map(|item| Arc::new(Item::Replica(item))),
        ItemKey::Service(id) => {
            let service = state.service(*id)?;
            is_routed_from(networks, service).then(|| shared.item(state, key))?
        }
        ItemKey::Peer(id) => (*id != node).then(|| shared.item(state, key))?,
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
            (used || ingress::uses(state, *id)).then(|| shared.item(state, key))?
        }
    }
}

/// An item that is the same for all nodes that have it.
pub fn common_item(state: &State, key: &ItemKey) -> Option<Item> {
    match key {
        ItemKey::Service(id) => state
            .service(*id)
            .map(|service| Item::Service(service_item(state, service))),
        ItemKey::Peer(id) => state.node(*id).and_then(peer_item).map(Item::Peer),
        ItemKey::Data(id) => state.data(*id).cloned().map(Item::Data),
        ItemKey::Node | ItemKey::Replica(_) => None,
    }
}

/// All keys that `node` should have something under.
pub fn all_keys(state: &State, shared: &Shared, node: NodeId, networks: &BTreeSet<String>) -> BTreeSet<ItemKey> {
    let mut keys = BTreeSet::from([ItemKey::Node]);
    keys.extend(
        state
            .nodes()
            .filter(|other| other.id != node)
            .map(|other| ItemKey::Peer(other.id)),
    );
    keys.extend(shared.everywhere().map(ItemKey::Service));
    keys.extend(
        shared
            .everywhere()
            .filter_map(|id| state.service(id))
            .flat_map(ingress::secrets)
            .map(ItemKey::Data),
    );
    keys.extend(
        networks
            .iter()
            .flat_map(|network| shared.on(network))
            .map(ItemKey::Service),
    );
    for replica in replicas_on(state, node) {
        keys.insert(ItemKey::Replica(replica.id));
        keys.extend(data_keys(state, replica));
    }
    keys
}

/// The networks that the node takes part in: those of its replicas that have not ended.
pub fn networks_of(state: &State, node: NodeId) -> BTreeSet<String> {
    let services: BTreeSet<ServiceId> = replicas_on(state, node)
        .filter(|replica| !replica.observed.phase.is_terminal())
        .map(|replica| replica.service)
        .collect();
    services
        .into_iter()
        .filter_map(|id| state.service(id))
        .flat_map(|service| service.networks.keys().cloned())
        .collect()
}

/// Whether `change` may alter the networks that the node takes part in.
pub fn may_alter_networks(node: NodeId, change: &Change) -> bool {
    let objects = [&change.before, &change.after];
    objects.into_iter().flatten().any(|object| match object.as_ref() {
        Object::Service(_) => true,
        Object::Replica(replica) => replica.node == Some(node),
        Object::Cluster(_)
        | Object::Node(_)
        | Object::Revision(_)
        | Object::Data(_)
        | Object::Image(_)
        | Object::Tag(_)
        | Object::Token(_)
        | Object::Registry(_) => false,
    })
}

/// Adds the keys whose items `change` may alter for `node`, as long as it takes part in the same networks.
pub fn affected(state: &State, node: NodeId, change: &Change, keys: &mut BTreeSet<ItemKey>) {
    if matches!(change.key, Key::Replica(_)) && !changes_set(change) {
        return;
    }
    for object in [&change.before, &change.after].into_iter().flatten() {
        match object.as_ref() {
            Object::Cluster(_) => {
                keys.insert(ItemKey::Node);
            }
            Object::Node(changed) => {
                if changed.id == node {
                    keys.insert(ItemKey::Node);
                } else if changes_peer(change) {
                    keys.insert(ItemKey::Peer(changed.id));
                }
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
                keys.extend(ingress::secrets(service).map(ItemKey::Data));
            }
            Object::Replica(replica) => {
                keys.insert(ItemKey::Service(replica.service));
                if replica.node == Some(node) {
                    keys.insert(ItemKey::Replica(replica.id));
                    keys.extend(data_keys(state, replica));
                }
            }
            Object::Data(data) => {
                keys.insert(ItemKey::Data(data.id));
            }
            Object::Revision(_) | Object::Image(_) | Object::Tag(_) | Object::Token(_) | Object::Registry(_) => {}
        }
    }
}

/// Whether a node that is there, or not, is news.
pub fn changes_status(change: &Change) -> bool {
    let status = |object: &Option<Arc<Object>>| match object.as_deref() {
        Some(Object::Node(node)) => Some(node.status),
        _ => None,
    };
    status(&change.before) != status(&change.after)
}

/// Whether other nodes see anything of the change of a node.
pub fn changes_peer(change: &Change) -> bool {
    let peer = |object: &Option<Arc<Object>>| match object.as_deref() {
        Some(Object::Node(node)) => peer_item(node),
        _ => None,
    };
    peer(&change.before) != peer(&change.after)
}

/// Whether a replica's change can matter to any agent: reports alone mostly do not.
pub fn changes_set(change: &Change) -> bool {
    let replica = |object: &Option<Arc<Object>>| match object.as_deref() {
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

/// The configs and secrets that a replica uses.
pub fn data_keys(state: &State, replica: &Replica) -> Vec<ItemKey> {
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

fn service_item(state: &State, service: &Service) -> ServiceItem {
    let mut endpoints: Vec<Endpoint> = state
        .replicas_of(service.id)
        .filter_map(|replica| endpoint(state, replica))
        .collect();
    endpoints.sort();
    ServiceItem {
        id: service.id,
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        endpoint_mode: service.spec.endpoint_mode,
        networks: service.networks.clone(),
        ports: service.ports.clone(),
        endpoints,
        members: members(state, service),
        policy: service.spec.policy.clone(),
        ingress: ingress::of(state, service),
    }
}

/// Addresses of the service's replicas that may be alive, by network of their own revision.
fn members(state: &State, service: &Service) -> BTreeMap<String, Vec<Ipv4Addr>> {
    let mut members: BTreeMap<String, Vec<Ipv4Addr>> = BTreeMap::new();
    let replicas = state.replicas_of(service.id);
    for replica in replicas.filter(|replica| !replica.observed.phase.is_terminal()) {
        let (Some(address), Some(spec)) = (replica.address, spec_of(state, replica)) else {
            continue;
        };
        for (key, attachment) in &spec.networks {
            let name = attachment.name_in(&service.namespace, key);
            members.entry(name).or_default().push(address);
        }
    }
    members.values_mut().for_each(|addresses| addresses.sort_unstable());
    members
}

/// Whether every node can get traffic for the service.
pub fn is_routed_everywhere(service: &Service) -> bool {
    service.ports.iter().any(|port| port.mode == PortMode::Ingress) || !service.spec.ingress.is_empty()
}

/// Whether a node that takes part in `networks` can get traffic for the service: it publishes a port, or shares one of them.
fn is_routed_from(networks: &BTreeSet<String>, service: &Service) -> bool {
    is_routed_everywhere(service) || service.networks.keys().any(|network| networks.contains(network))
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
