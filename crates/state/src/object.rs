//! Any stored object, and its key.

use std::fmt;

use gantry_model::object::{
    ClusterRecord, DataRecord, ImageRecord, Node, RegistryToken, Replica, RepositoryManifest, RevisionRecord, Service,
    TagRecord, TokenRecord, UploadedBlob,
};
use gantry_model::{DataId, Digest, NodeId, ReplicaId, ServiceId, TokenId};
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
    /// Something that only the registry knows.
    Registry(RegistryObject),
}

/// One object of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegistryObject {
    /// A manifest without a tag.
    Manifest(RepositoryManifest),
    /// Content that no manifest may need yet.
    Blob(UploadedBlob),
    /// A token.
    Token(RegistryToken),
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
    /// Something that only the registry knows.
    Registry(RegistryKey),
}

/// Names one object of the registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RegistryKey {
    /// A manifest without a tag, by repository and digest.
    Manifest(String, Digest),
    /// Uploaded content.
    Blob(Digest),
    /// A token.
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
    /// What only the registry knows.
    Registry,
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
            Self::Registry(object) => Key::Registry(object.key()),
        }
    }
}

impl RegistryObject {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> RegistryKey {
        match self {
            Self::Manifest(manifest) => RegistryKey::Manifest(manifest.repository.clone(), manifest.digest),
            Self::Blob(blob) => RegistryKey::Blob(blob.digest),
            Self::Token(token) => RegistryKey::Token(token.id),
        }
    }
}

impl fmt::Display for RegistryKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(repository, digest) => write!(formatter, "manifest {repository}@{digest}"),
            Self::Blob(digest) => write!(formatter, "blob {digest}"),
            Self::Token(id) => write!(formatter, "registry token {id}"),
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
            Self::Registry(_) => Table::Registry,
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
            Self::Registry(key) => key.fmt(formatter),
        }
    }
}
