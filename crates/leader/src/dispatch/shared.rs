//! Items that many nodes have alike, made once, and which services there are on a network.
//!
//! **Invariant:** an item that is kept was made from the state that is asked with, or nothing has changed in it since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_model::ServiceId;
use gantry_model::assignment::{Item, ItemKey};
use gantry_model::object::Service;
use gantry_state::{Change, Object, State};

use super::items::{changes_peer, changes_set, changes_status, common_item, is_routed_everywhere};

/// See the module.
#[derive(Debug, Default)]
pub struct Shared {
    items: BTreeMap<ItemKey, Arc<Item>>,
    by_network: BTreeMap<String, BTreeSet<ServiceId>>,
    everywhere: BTreeSet<ServiceId>,
}

impl Shared {
    /// The services of a state.
    pub fn of(state: &State) -> Self {
        let mut shared = Self::default();
        state.services().for_each(|service| shared.insert(service));
        shared
    }

    /// The services on a network.
    pub fn on(&self, network: &str) -> impl Iterator<Item = ServiceId> + '_ {
        self.by_network.get(network).into_iter().flatten().copied()
    }

    /// The services that every node routes to.
    pub fn everywhere(&self) -> impl Iterator<Item = ServiceId> + '_ {
        self.everywhere.iter().copied()
    }

    /// An item that is the same for all nodes that have it, as the state has it.
    pub fn item(&mut self, state: &State, key: &ItemKey) -> Option<Arc<Item>> {
        if let Some(item) = self.items.get(key) {
            return Some(item.clone());
        }
        let item = Arc::new(common_item(state, key)?);
        self.items.insert(*key, item.clone());
        Some(item)
    }

    /// The state went on: `state` is that after the change, and maybe after further ones.
    pub fn changed(&mut self, state: &State, change: &Change) {
        if let Some(Object::Service(before)) = change.before.as_deref() {
            self.remove(before);
        }
        if let Some(Object::Service(after)) = change.after.as_deref() {
            self.insert(after);
        }
        for object in [&change.before, &change.after].into_iter().flatten() {
            match object.as_ref() {
                Object::Service(service) => self.forget(&ItemKey::Service(service.id)),
                Object::Replica(replica) if changes_set(change) => self.forget(&ItemKey::Service(replica.service)),
                Object::Node(node) => {
                    if changes_peer(change) {
                        self.forget(&ItemKey::Peer(node.id));
                    }
                    if changes_status(change) {
                        for replica in state.replicas_on(node.id) {
                            self.forget(&ItemKey::Service(replica.service));
                        }
                    }
                }
                Object::Data(data) => self.forget(&ItemKey::Data(data.id)),
                Object::Replica(_)
                | Object::Cluster(_)
                | Object::Revision(_)
                | Object::Image(_)
                | Object::Tag(_)
                | Object::Token(_)
                | Object::Registry(_) => {}
            }
        }
    }

    fn forget(&mut self, key: &ItemKey) {
        self.items.remove(key);
    }

    fn insert(&mut self, service: &Service) {
        for network in service.networks.keys() {
            self.by_network.entry(network.clone()).or_default().insert(service.id);
        }
        if is_routed_everywhere(service) {
            self.everywhere.insert(service.id);
        }
    }

    fn remove(&mut self, service: &Service) {
        for network in service.networks.keys() {
            if let Some(services) = self.by_network.get_mut(network) {
                services.remove(&service.id);
                if services.is_empty() {
                    self.by_network.remove(network);
                }
            }
        }
        self.everywhere.remove(&service.id);
    }
}
