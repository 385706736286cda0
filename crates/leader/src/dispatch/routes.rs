//! Whom a change concerns: the nodes that have something to be told, and under which keys of their sets.
//!
//! Each session asks for what is pending for its node when it has time, so that what changes meanwhile comes together, and a
//! session that nothing concerns does nothing at all.
//!
//! **Invariant:** a node of which nothing is pending has been told all that concerns it up to [`Routes::state`].

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::assignment::ItemKey;
use gantry_model::object::{Replica, Service};
use gantry_model::{NodeId, ServiceId};
use gantry_state::{Change, Object, State};

use super::ingress;
use super::items::{changes_peer, changes_set, changes_status, data_keys, is_routed_everywhere};
use super::shared::Shared;

/// What changes since the last increment may have altered for one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pending {
    /// Items to look at.
    pub keys: BTreeSet<ItemKey>,
    /// The networks that the node takes part in may be others.
    pub networks: bool,
    /// Anything may have changed: only a complete set says it.
    pub everything: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.networks && !self.everything
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Routes {
    state: State,
    /// Items that many nodes have alike.
    shared: Shared,
    /// The networks of each service.
    networks: BTreeMap<ServiceId, Vec<String>>,
    /// How many replicas that have not ended each node has on a network.
    members: BTreeMap<String, BTreeMap<NodeId, u32>>,
    /// Of every node that has a session.
    pending: BTreeMap<NodeId, Pending>,
}

impl Routes {
    /// From a state, without sessions.
    #[must_use]
    pub fn of(state: State) -> Self {
        let mut routes = Self::default();
        routes.start_over(state);
        routes
    }

    /// The state that the next increments are made from.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// What increments are made from.
    pub(crate) const fn parts(&mut self) -> (&State, &mut Shared) {
        (&self.state, &mut self.shared)
    }

    /// A session of the node begins with a complete set.
    pub fn open(&mut self, node: NodeId) {
        self.pending.insert(node, Pending::default());
    }

    /// The node has no session any more.
    pub fn close(&mut self, node: NodeId) {
        self.pending.remove(&node);
    }

    /// What is pending for a node, which is going to be told of it.
    pub fn take(&mut self, node: NodeId) -> Pending {
        self.pending.get_mut(&node).map(std::mem::take).unwrap_or_default()
    }

    /// The state is another, and what changed is not known: all sessions need complete sets.
    pub fn start_over(&mut self, state: State) {
        self.shared = Shared::of(&state);
        self.networks = state
            .services()
            .map(|service| (service.id, networks(service)))
            .collect();
        self.state = state;
        self.count_members();
        for pending in self.pending.values_mut() {
            pending.everything = true;
        }
    }

    /// The state went on. Returns the nodes with a session that have something to be told.
    pub fn changed(&mut self, state: State, changes: &[Change]) -> BTreeSet<NodeId> {
        let mut news = News::default();
        for change in changes {
            self.shared.changed(&state, change);
            self.note(&state, change, &mut news);
        }
        self.state = state;
        if news.recount {
            // Those that were on its networks before, and those that are now.
            let services: Vec<ServiceId> = news.services.iter().copied().collect();
            services
                .iter()
                .for_each(|service| self.tell_routers(*service, &mut news));
            for node in self.nodes_with_any(&services) {
                news.of(node).networks = true;
            }
            self.networks = self
                .state
                .services()
                .map(|service| (service.id, networks(service)))
                .collect();
            self.count_members();
        }
        for service in std::mem::take(&mut news.services) {
            self.tell_routers(service, &mut news);
        }
        for id in &news.gone {
            self.networks.remove(id);
        }
        self.deliver(news)
    }

    fn note(&mut self, state: &State, change: &Change, news: &mut News) {
        let objects = (change.before.as_deref(), change.after.as_deref());
        match objects {
            (Some(Object::Replica(_)), _) | (_, Some(Object::Replica(_))) => self.note_replica(state, change, news),
            (Some(Object::Service(_)), _) | (_, Some(Object::Service(_))) => self.note_service(state, change, news),
            (Some(Object::Node(node)), _) | (_, Some(Object::Node(node))) => {
                news.of(node.id).keys.insert(ItemKey::Node);
                if changes_peer(change) {
                    news.everyone.insert(ItemKey::Peer(node.id));
                }
                if changes_status(change) {
                    news.services
                        .extend(state.replicas_on(node.id).map(|replica| replica.service));
                }
            }
            (Some(Object::Cluster(before)), Some(Object::Cluster(after))) if before.config == after.config => {}
            (Some(Object::Cluster(_)), _) | (_, Some(Object::Cluster(_))) => {
                news.everyone.insert(ItemKey::Node);
            }
            // Nobody uses a config or secret before it is there.
            (None, Some(Object::Data(_))) => {}
            (Some(Object::Data(data)), _) => {
                news.everyone.insert(ItemKey::Data(data.id));
            }
            _ => {}
        }
    }

    fn note_replica(&mut self, state: &State, change: &Change, news: &mut News) {
        if !changes_set(change) {
            return;
        }
        for (object, counts) in [(&change.before, -1), (&change.after, 1)] {
            let Some(Object::Replica(replica)) = object.as_deref() else {
                continue;
            };
            news.services.insert(replica.service);
            let Some(node) = replica.node else { continue };
            let pending = news.of(node);
            pending.keys.insert(ItemKey::Replica(replica.id));
            pending.keys.extend(data_keys(state, replica));
            pending.networks = true;
            if replica.holds_resources() {
                self.count(replica, node, counts);
            }
        }
    }

    fn note_service(&mut self, state: &State, change: &Change, news: &mut News) {
        for object in [&change.before, &change.after].into_iter().flatten() {
            if let Object::Service(service) = object.as_ref() {
                news.everyone.extend(ingress::secrets(service).map(ItemKey::Data));
            }
        }
        let of = |object: &Option<std::sync::Arc<Object>>| match object.as_deref() {
            Some(Object::Service(service)) => Some((service.id, networks(service), is_routed_everywhere(service))),
            _ => None,
        };
        let (before, after) = (of(&change.before), of(&change.after));
        for (id, names, everywhere) in [&before, &after].into_iter().flatten() {
            news.services.insert(*id);
            if *everywhere {
                news.everyone.insert(ItemKey::Service(*id));
            }
            self.networks.entry(*id).or_insert_with(|| names.clone());
        }
        let names = |side: &Option<(ServiceId, Vec<String>, bool)>| side.as_ref().map(|(_, names, _)| names.clone());
        let id = before.as_ref().or(after.as_ref()).map(|(id, ..)| *id);
        // Replicas were counted by the networks that it had.
        let counted = |id| {
            self.state.replicas_of(id).next().is_some() || before.is_some() && state.replicas_of(id).next().is_some()
        };
        if names(&before) != names(&after) && id.is_some_and(counted) {
            news.recount = true;
        } else if after.is_none() {
            news.gone.extend(id);
        } else if let (Some(id), Some(names)) = (id, names(&after)) {
            self.networks.insert(id, names);
        }
    }

    /// All nodes that route to the service look at it.
    fn tell_routers(&self, service: ServiceId, news: &mut News) {
        if self.state.service(service).is_some_and(is_routed_everywhere) {
            news.everyone.insert(ItemKey::Service(service));
            return;
        }
        let names = self.networks.get(&service).into_iter().flatten();
        for node in names.filter_map(|name| self.members.get(name)).flat_map(BTreeMap::keys) {
            news.of(*node).keys.insert(ItemKey::Service(service));
        }
    }

    fn nodes_with_any(&self, services: &[ServiceId]) -> BTreeSet<NodeId> {
        let replicas = services.iter().flat_map(|service| self.state.replicas_of(*service));
        replicas.filter_map(|replica| replica.node).collect()
    }

    fn count_members(&mut self) {
        self.members.clear();
        let state = self.state.clone();
        for replica in state.replicas().filter(|replica| replica.holds_resources()) {
            if let Some(node) = replica.node {
                self.count(replica, node, 1);
            }
        }
    }

    fn count(&mut self, replica: &Replica, node: NodeId, by: i32) {
        for name in self.networks.get(&replica.service).into_iter().flatten() {
            if !self.members.contains_key(name) {
                self.members.insert(name.clone(), BTreeMap::new());
            }
            let Some(nodes) = self.members.get_mut(name) else {
                continue;
            };
            let count = nodes.entry(node).or_default();
            *count = count.saturating_add_signed(by);
            if *count == 0 {
                nodes.remove(&node);
                if nodes.is_empty() {
                    self.members.remove(name);
                }
            }
        }
    }

    /// Puts the news where the sessions take it from.
    fn deliver(&mut self, news: News) -> BTreeSet<NodeId> {
        let mut concerned = BTreeSet::new();
        if !news.everyone.is_empty() {
            for (node, pending) in &mut self.pending {
                pending.keys.extend(&news.everyone);
                concerned.insert(*node);
            }
        }
        for (node, mut one) in news.nodes {
            if let Some(pending) = self.pending.get_mut(&node)
                && !one.is_empty()
            {
                pending.keys.append(&mut one.keys);
                pending.networks |= one.networks;
                concerned.insert(node);
            }
        }
        concerned
    }
}

/// What a batch of changes means for whom.
#[derive(Debug, Default)]
struct News {
    nodes: BTreeMap<NodeId, Pending>,
    everyone: BTreeSet<ItemKey>,
    /// For all nodes that route to them.
    services: BTreeSet<ServiceId>,
    /// Services that are gone.
    gone: BTreeSet<ServiceId>,
    /// A service with replicas is on other networks now.
    recount: bool,
}

impl News {
    fn of(&mut self, node: NodeId) -> &mut Pending {
        self.nodes.entry(node).or_default()
    }
}

fn networks(service: &Service) -> Vec<String> {
    service.networks.keys().cloned().collect()
}
