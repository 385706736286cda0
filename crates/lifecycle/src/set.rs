//! The node's set of assignments: complete, then chained increments.
//!
//! **Invariant:** an increment is taken in only when it applies to exactly the set that is held; otherwise nothing changes and a
//! complete set has to be asked for. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use gantry_model::assignment::{Item, ItemKey, NodeItem, ReplicaItem, ServiceItem};
use gantry_model::object::DataRecord;
use gantry_model::{DataId, NodeId, ReplicaId, ServiceId};

/// What the leader sent last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AssignmentSet {
    /// The set's number within the session; 0 is none of this session.
    number: u64,
    items: BTreeMap<ItemKey, Item>,
}

/// An assignments message, decoded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// 0 for a complete set.
    pub applies_to: u64,
    /// The set's number afterwards.
    pub results_in: u64,
    /// New and changed items.
    pub put: Vec<Item>,
    /// Items that are gone.
    pub remove: Vec<ItemKey>,
}

/// What an update changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// It was a complete set: what it does not name is not wanted.
    pub complete: bool,
    /// Replicas that are new or changed; after a complete set all of them: what is held may be of a former agent, which did not
    /// come to act on it.
    pub replicas_put: Vec<ReplicaId>,
    /// Replicas that are no longer in the set.
    pub replicas_gone: Vec<ReplicaId>,
}

/// An increment does not chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an increment applies to set {applies_to}, but set {held} is held")]
pub struct Unchained {
    /// What it applies to.
    pub applies_to: u64,
    /// What is held.
    pub held: u64,
}

impl AssignmentSet {
    /// A set from items that were saved; it belongs to no session.
    #[must_use]
    pub fn saved(items: Vec<Item>) -> Self {
        Self {
            number: 0,
            items: items.into_iter().map(|item| (item.key(), item)).collect(),
        }
    }

    /// Its number within the session.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// A new session begins: only a complete set can follow.
    pub fn begin_session(&mut self) {
        self.number = 0;
    }

    /// Takes in an update.
    ///
    /// # Errors
    /// When an increment does not apply to the set that is held; nothing has changed then.
    pub fn apply(&mut self, update: Update) -> Result<Delta, Unchained> {
        let complete = update.applies_to == 0;
        if !complete && update.applies_to != self.number {
            return Err(Unchained {
                applies_to: update.applies_to,
                held: self.number,
            });
        }
        let mut delta = Delta {
            complete,
            ..Delta::default()
        };
        let before = if complete {
            std::mem::take(&mut self.items)
        } else {
            BTreeMap::new()
        };
        for item in update.put {
            let key = item.key();
            let known = if complete {
                before.get(&key)
            } else {
                self.items.get(&key)
            };
            if let ItemKey::Replica(id) = key
                && (complete || known != Some(&item))
            {
                delta.replicas_put.push(id);
            }
            self.items.insert(key, item);
        }
        let gone = update.remove.into_iter().filter(|key| self.items.remove(key).is_some());
        let gone: Vec<_> = gone.chain(before.into_keys()).collect();
        let gone = gone.into_iter().filter(|key| !self.items.contains_key(key));
        delta.replicas_gone = gone.filter_map(replica_of).collect();
        self.number = update.results_in;
        Ok(delta)
    }

    /// All items.
    pub fn items(&self) -> impl Iterator<Item = &Item> + Clone {
        self.items.values()
    }

    /// What the cluster decided about the node; none before the first complete set.
    #[must_use]
    pub fn node(&self) -> Option<&NodeItem> {
        match self.items.get(&ItemKey::Node) {
            Some(Item::Node(node)) => Some(node),
            Some(_) | None => None,
        }
    }

    /// A replica.
    #[must_use]
    pub fn replica(&self, id: ReplicaId) -> Option<&ReplicaItem> {
        match self.items.get(&ItemKey::Replica(id)) {
            Some(Item::Replica(replica)) => Some(replica),
            Some(_) | None => None,
        }
    }

    /// Configs and secrets.
    #[must_use]
    pub fn data(&self) -> BTreeMap<DataId, DataRecord> {
        let data = self.items.values().filter_map(|item| match item {
            Item::Data(record) => Some((record.id, record.clone())),
            Item::Node(_) | Item::Replica(_) | Item::Service(_) | Item::Peer(_) => None,
        });
        data.collect()
    }

    /// Services that this node can route to.
    #[must_use]
    pub fn services(&self) -> BTreeMap<ServiceId, ServiceItem> {
        let services = self.items.values().filter_map(|item| match item {
            Item::Service(service) => Some((service.id, service.clone())),
            Item::Node(_) | Item::Replica(_) | Item::Peer(_) | Item::Data(_) => None,
        });
        services.collect()
    }

    /// Other nodes by the address of their agent.
    #[must_use]
    pub fn peers(&self) -> BTreeMap<SocketAddr, NodeId> {
        let peers = self.items.values().filter_map(|item| match item {
            Item::Peer(peer) => Some((SocketAddr::new(peer.address, peer.port), peer.id)),
            Item::Node(_) | Item::Replica(_) | Item::Service(_) | Item::Data(_) => None,
        });
        peers.collect()
    }
}

fn replica_of(key: ItemKey) -> Option<ReplicaId> {
    match key {
        ItemKey::Replica(id) => Some(id),
        ItemKey::Node | ItemKey::Service(_) | ItemKey::Peer(_) | ItemKey::Data(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::Timestamp;
    use gantry_model::net::Ipv4Net;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn data(id: u64, version: u32) -> Item {
        Item::Data(DataRecord {
            id: DataId(id),
            kind: gantry_model::spec::DataKind::Config,
            namespace: "shop".parse().expect("a name"),
            name: "conf".parse().expect("a name"),
            version,
            content: Default::default(),
            labels: BTreeMap::new(),
            created_at: Timestamp(1),
        })
    }

    fn node() -> Item {
        let net = |base: [u8; 4], prefix| Ipv4Net::new(Ipv4Addr::from(base), prefix);
        Item::Node(NodeItem {
            id: NodeId(1),
            name: "alpha".into(),
            subnet: net([10, 128, 0, 0], 24),
            replica_pool: net([10, 128, 0, 0], 10),
            service_pool: net([10, 96, 0, 0], 12),
            labels: BTreeMap::new(),
        })
    }

    fn complete(results_in: u64, put: Vec<Item>) -> Update {
        Update {
            results_in,
            put,
            ..Update::default()
        }
    }

    #[test]
    fn an_increment_that_does_not_chain_changes_nothing() {
        let mut set = AssignmentSet::default();
        set.apply(complete(5, vec![node(), data(1, 1)])).expect("complete");
        let before = set.clone();
        for applies_to in [4, 6] {
            let update = Update {
                applies_to,
                results_in: 7,
                put: vec![data(1, 2)],
                remove: vec![ItemKey::Node],
            };
            assert_eq!(set.apply(update), Err(Unchained { applies_to, held: 5 }));
            assert_eq!(set, before);
        }
    }

    #[test]
    fn after_a_new_session_only_a_complete_set_is_taken() {
        let mut set = AssignmentSet::default();
        set.apply(complete(5, vec![node()])).expect("complete");
        set.begin_session();
        let increment = Update {
            applies_to: 5,
            results_in: 6,
            ..Update::default()
        };
        assert!(set.apply(increment).is_err());
        assert!(set.node().is_some(), "what is held stays until a complete set comes");
        set.apply(complete(1, vec![data(2, 1)])).expect("complete");
        assert!(set.node().is_none());
    }

    #[test]
    fn a_complete_set_names_all_its_replicas_whether_or_not_they_are_held() {
        let replica = Item::Replica(ReplicaItem {
            id: ReplicaId(7),
            service: ServiceId(1),
            namespace: "shop".parse().expect("a name"),
            service_name: "web".parse().expect("a name"),
            slot: gantry_model::object::Slot::Index(1),
            revision: 1,
            address: Ipv4Addr::new(10, 128, 0, 2),
            desired: gantry_model::phase::Desired::Run,
            spec: serde_json::from_str::<std::sync::Arc<_>>(
                r#"{"mode":{"replicated":{"replicas":1}},"container":{"image":"app"}}"#,
            )
            .expect("a spec"),
        });
        // A former agent saved the set and ended before it had saved anything of the replica.
        let mut set = AssignmentSet::saved(vec![replica.clone()]);
        set.begin_session();
        let delta = set.apply(complete(1, vec![replica.clone()])).expect("complete");
        assert_eq!(delta.replicas_put, [ReplicaId(7)]);
        let again = Update {
            applies_to: 1,
            results_in: 2,
            put: vec![replica],
            ..Update::default()
        };
        assert!(set.apply(again).expect("it chains").replicas_put.is_empty());
    }

    proptest! {
        #[test]
        fn increments_lead_to_the_same_set_as_a_complete_one(
            steps in proptest::collection::vec((0u64..6, proptest::option::of(1u32..4)), 0..40),
        ) {
            let mut chained = AssignmentSet::default();
            chained.apply(complete(1, vec![node()])).expect("complete");
            let mut wanted = BTreeMap::from([(ItemKey::Node, node())]);
            for (number, (id, version)) in (1u64..).zip(steps) {
                let mut update = Update { applies_to: number, results_in: number + 1, ..Update::default() };
                match version {
                    Some(version) => {
                        wanted.insert(ItemKey::Data(DataId(id)), data(id, version));
                        update.put.push(data(id, version));
                    }
                    None => {
                        wanted.remove(&ItemKey::Data(DataId(id)));
                        update.remove.push(ItemKey::Data(DataId(id)));
                    }
                }
                chained.apply(update).expect("it chains");
            }
            let mut whole = AssignmentSet::default();
            whole.apply(complete(chained.number(), wanted.into_values().collect())).expect("complete");
            prop_assert_eq!(chained, whole);
        }
    }
}
