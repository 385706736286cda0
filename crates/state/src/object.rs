//! Any stored object, and its key.

use std::fmt;

use gantry_model::object::{
    ClusterRecord, DataRecord, ImageRecord, Node, Replica, RevisionRecord, Service, TagRecord, TokenRecord,
};
use gantry_model::{DataId, NodeId, ReplicaId, ServiceId, TokenId};
use serde::{Deserialize, Serialize};

/// One object of any table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// The cluster's one record.
    Cluster(ClusterRecord),
    /// A node.
    Node(Node),
    /// A service.
    Service(Service),
    /// A revision of a service.
    Revision(RevisionRecord),
    /// A replica.
    Replica(Replica),
    /// A config or secret.
    Data(DataRecord),
    /// An image.
    Image(ImageRecord),
    /// A tag.
    Tag(TagRecord),
    /// A join token.
    Token(TokenRecord),
}

/// Names one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    /// The cluster's one record.
    Cluster,
    /// A node.
    Node(NodeId),
    /// A service.
    Service(ServiceId),
    /// A revision of a service, by number.
    Revision(ServiceId, u32),
    /// A replica.
    Replica(ReplicaId),
    /// A config or secret.
    Data(DataId),
    /// An image, by manifest digest.
    Image(String),
    /// A tag, by normalised reference.
    Tag(String),
    /// A join token.
    Token(TokenId),
}

/// The tables, for watchers that want some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The cluster's one record.
    Cluster,
    /// Nodes.
    Node,
    /// Services.
    Service,
    /// Revisions.
    Revision,
    /// Replicas.
    Replica,
    /// Configs and secrets.
    Data,
    /// Images.
    Image,
    /// Tags.
    Tag,
    /// Join tokens.
    Token,
}

impl Object {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Cluster(_) => Key::Cluster,
            Self::Node(node) => Key::Node(node.id),
            Self::Service(service) => Key::Service(service.id),
            Self::Revision(revision) => Key::Revision(revision.service, revision.number),
            Self::Replica(replica) => Key::Replica(replica.id),
            Self::Data(data) => Key::Data(data.id),
            Self::Image(image) => Key::Image(image.digest.clone()),
            Self::Tag(tag) => Key::Tag(tag.reference.clone()),
            Self::Token(token) => Key::Token(token.id),
        }
    }
}

impl Key {
    /// The table it belongs to.
    #[must_use]
    pub const fn table(&self) -> Table {
        match self {
            Self::Cluster => Table::Cluster,
            Self::Node(_) => Table::Node,
            Self::Service(_) => Table::Service,
            Self::Revision(..) => Table::Revision,
            Self::Replica(_) => Table::Replica,
            Self::Data(_) => Table::Data,
            Self::Image(_) => Table::Image,
            Self::Tag(_) => Table::Tag,
            Self::Token(_) => Table::Token,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => formatter.write_str("cluster"),
            Self::Node(id) => write!(formatter, "node {id}"),
            Self::Service(id) => write!(formatter, "service {id}"),
            Self::Revision(id, number) => write!(formatter, "revision {number} of service {id}"),
            Self::Replica(id) => write!(formatter, "replica {id}"),
            Self::Data(id) => write!(formatter, "config or secret {id}"),
            Self::Image(digest) => write!(formatter, "image {digest}"),
            Self::Tag(reference) => write!(formatter, "tag {reference}"),
            Self::Token(id) => write!(formatter, "token {id}"),
        }
    }
}
