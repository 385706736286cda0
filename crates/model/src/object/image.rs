//! Which images the cluster has, and where.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Digest, NodeId, Timestamp};

/// What a manifest stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestKind {
    /// Containers can be made of it.
    #[default]
    Image,
    /// It lists others, one for each platform.
    Index,
    /// Anything else that registries store.
    Artifact,
}

/// Content that a manifest needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: ByteSize,
}

/// What a manifest says, as far as a registry has to know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ManifestFacts {
    /// Its media type; empty where the node that has it did not say.
    pub media_type: String,
    /// Its own bytes.
    pub size: ByteSize,
    /// What it stands for.
    pub kind: ManifestKind,
    /// Its configuration and layers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<BlobRef>,
    /// What an index lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Digest>,
    /// The manifest that it says something about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// What an artifact is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free text about it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An image by content; which nodes hold it is what their agents report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Digest of its manifest, `sha256:…`.
    pub digest: String,
    /// Digest of its configuration, what Docker calls the image id.
    pub config_digest: String,
    /// Sum of its layers as stored.
    pub size: ByteSize,
    /// `linux/amd64`.
    pub platform: String,
    /// When it was made, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Nodes that hold all of it.
    #[serde(default)]
    pub nodes: BTreeSet<NodeId>,
    /// Those of them that keep it for the cluster, whether they need it themselves or not.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keepers: BTreeSet<NodeId>,
    /// Since when it is being removed: no copy is made any more, and whoever still holds it is to drop it. The mark goes with the
    /// record, or when the image comes anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Timestamp>,
    /// What its manifest says.
    #[serde(default)]
    pub manifest: ManifestFacts,
}

/// What a reference such as `docker.io/library/nginx:1.27` means in this cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    /// The normalised reference.
    pub reference: String,
    /// The manifest digest it points at.
    pub digest: String,
    /// When it was pointed there.
    pub updated_at: Timestamp,
}

/// An image as the store of one node has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalImage {
    /// Digest of its manifest, `sha256:…`.
    pub digest: String,
    /// Digest of its configuration, what Docker calls the image id.
    pub config_digest: String,
    /// Normalised references that mean it; none for one that only its digest names.
    #[serde(default)]
    pub references: Vec<String>,
    /// `linux/amd64`.
    pub platform: String,
    /// Sum of its layers as stored.
    pub size: ByteSize,
    /// When it was made, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Containers and replicas of the node that were made from it.
    #[serde(default)]
    pub users: u32,
}
