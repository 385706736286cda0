//! Which images the cluster has, and where.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, NodeId, Timestamp};

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
