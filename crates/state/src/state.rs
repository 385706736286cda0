//! The tables, and how they are read.

use std::ops::RangeInclusive;
use std::sync::Arc;

use gantry_model::explain::Event;
use gantry_model::object::{
    ClusterRecord, DataRecord, ImageRecord, Node, Replica, RevisionRecord, Service, TagRecord, TokenRecord,
};
use gantry_model::spec::DataKind;
use gantry_model::{DataId, Digest, Name, NodeId, QualifiedName, ReplicaId, ServiceId, TokenId};
use imbl::{OrdMap, Vector};

use crate::index::Indexes;
use crate::{Key, Object, RegistryKey, Table};

/// Events kept; older ones are dropped. 10,000 of about 200 bytes are 2 MB, and days of history in a quiet cluster.
pub const EVENTS_KEPT: usize = 10_000;

/// An object with the revision that last changed it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The revision of its last change.
    pub modified: u64,
    /// The object.
    pub object: Arc<Object>,
}

/// Everything the cluster remembers. Clones are cheap and independent.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Index of the last entry applied.
    pub(crate) revision: u64,
    pub(crate) objects: OrdMap<Key, Stored>,
    pub(crate) events: Vector<Arc<Event>>,
    pub(crate) events_recorded: u64,
    pub(crate) indexes: Indexes,
}

macro_rules! getter {
    ($(#[$doc:meta])* $name:ident, $key:expr, $variant:ident, $type:ty, ($($argument:ident : $argument_type:ty),*)) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(&self, $($argument: $argument_type),*) -> Option<&$type> {
            match self.get(&$key)?.object.as_ref() {
                Object::$variant(object) => Some(object),
                _ => None,
            }
        }
    };
}

macro_rules! lister {
    ($(#[$doc:meta])* $name:ident, $variant:ident, $type:ty) => {
        $(#[$doc])*
        pub fn $name(&self) -> impl Iterator<Item = &$type> {
            self.table(Table::$variant).filter_map(|stored| match stored.object.as_ref() {
                Object::$variant(object) => Some(object),
                _ => None,
            })
        }
    };
}

impl State {
    /// Index of the last log entry applied.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Any object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Stored> {
        self.objects.get(key)
    }

    /// The revision of an object's last change, 0 when it does not exist.
    #[must_use]
    pub fn modified(&self, key: &Key) -> u64 {
        self.get(key).map_or(0, |stored| stored.modified)
    }

    getter! {
        /// The cluster's record; absent before initialisation.
        cluster, Key::Cluster, Cluster, ClusterRecord, ()
    }
    getter! {
        /// A node.
        node, Key::Node(id), Node, Node, (id: NodeId)
    }
    getter! {
        /// A service.
        service, Key::Service(id), Service, Service, (id: ServiceId)
    }
    getter! {
        /// A revision of a service.
        revision_of, Key::Revision(service, number), Revision, RevisionRecord, (service: ServiceId, number: u32)
    }
    getter! {
        /// A replica.
        replica, Key::Replica(id), Replica, Replica, (id: ReplicaId)
    }
    getter! {
        /// A config or secret.
        data, Key::Data(id), Data, DataRecord, (id: DataId)
    }
    getter! {
        /// An image by manifest digest.
        image, Key::Image(digest.to_string()), Image, ImageRecord, (digest: &str)
    }
    getter! {
        /// A tag by normalised reference.
        tag, Key::Tag(reference.to_string()), Tag, TagRecord, (reference: &str)
    }
    getter! {
        /// A join token.
        token, Key::Token(id), Token, TokenRecord, (id: TokenId)
    }

    lister! {
        /// All nodes in order of id.
        nodes, Node, Node
    }
    lister! {
        /// All services in order of id.
        services, Service, Service
    }
    lister! {
        /// All revisions in order of service and number.
        revisions, Revision, RevisionRecord
    }
    lister! {
        /// All replicas in order of id.
        replicas, Replica, Replica
    }
    lister! {
        /// All configs and secrets in order of id.
        all_data, Data, DataRecord
    }
    lister! {
        /// All images in order of digest.
        images, Image, ImageRecord
    }
    lister! {
        /// All tags in order of reference.
        tags, Tag, TagRecord
    }
    lister! {
        /// All join tokens in order of id.
        tokens, Token, TokenRecord
    }

    /// The objects of one table in order of key.
    pub fn table(&self, table: Table) -> impl Iterator<Item = &Stored> {
        self.objects.range(key_range(table)).map(|(_, stored)| stored)
    }

    /// A service by name.
    #[must_use]
    pub fn service_named(&self, namespace: &Name, name: &Name) -> Option<&Service> {
        let key = QualifiedName {
            namespace: namespace.clone(),
            name: name.clone(),
        };
        self.service(self.indexes.service_named(&key)?)
    }

    /// The services of a namespace in order of name.
    pub fn services_in<'a>(&'a self, namespace: &'a Name) -> impl Iterator<Item = &'a Service> {
        self.indexes.services_in(namespace).filter_map(|id| self.service(id))
    }

    /// The replicas of a service in order of id, ended ones included.
    pub fn replicas_of(&self, service: ServiceId) -> impl Iterator<Item = &Replica> {
        self.indexes.replicas_of(service).filter_map(|id| self.replica(id))
    }

    /// The replicas placed on a node in order of id, ended ones included.
    pub fn replicas_on(&self, node: NodeId) -> impl Iterator<Item = &Replica> {
        self.indexes.replicas_on(node).filter_map(|id| self.replica(id))
    }

    /// The revisions of a service in order of number.
    pub fn revisions_of(&self, service: ServiceId) -> impl Iterator<Item = &RevisionRecord> {
        let range = Key::Revision(service, 0)..=Key::Revision(service, u32::MAX);
        self.objects
            .range(range)
            .filter_map(|(_, stored)| match stored.object.as_ref() {
                Object::Revision(revision) => Some(revision),
                _ => None,
            })
    }

    /// The newest version of a config or secret.
    #[must_use]
    pub fn data_named(&self, kind: DataKind, namespace: &Name, name: &Name) -> Option<&DataRecord> {
        self.data(self.indexes.newest_data(kind, namespace, name)?)
    }

    /// A node by name.
    #[must_use]
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.node(self.indexes.node_named(name)?)
    }

    /// The events kept, oldest first.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.events.iter()
    }
}

/// The keys of one table: from its least to its greatest.
fn key_range(table: Table) -> RangeInclusive<Key> {
    const ID_MAX: u64 = u64::MAX;
    // Digests and references are ASCII, so this one character sorts after all of them.
    let text_max = || '\u{10FFFF}'.to_string();
    match table {
        Table::Cluster => Key::Cluster..=Key::Cluster,
        Table::Node => Key::Node(NodeId(0))..=Key::Node(NodeId(ID_MAX)),
        Table::Service => Key::Service(ServiceId(0))..=Key::Service(ServiceId(ID_MAX)),
        Table::Revision => Key::Revision(ServiceId(0), 0)..=Key::Revision(ServiceId(ID_MAX), u32::MAX),
        Table::Replica => Key::Replica(ReplicaId(0))..=Key::Replica(ReplicaId(ID_MAX)),
        Table::Data => Key::Data(DataId(0))..=Key::Data(DataId(ID_MAX)),
        Table::Image => Key::Image(String::new())..=Key::Image(text_max()),
        Table::Tag => Key::Tag(String::new())..=Key::Tag(text_max()),
        Table::Token => Key::Token(TokenId(0))..=Key::Token(TokenId(ID_MAX)),
        Table::Registry => {
            let first = RegistryKey::Manifest(String::new(), Digest::from_bytes([0; 32]));
            Key::Registry(first)..=Key::Registry(RegistryKey::Token(TokenId(ID_MAX)))
        }
    }
}
