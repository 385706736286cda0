//! A namespace's whole content, as one manifest declares it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{PolicyRule, ServiceSpec};
use crate::{Bytes64, Name};

/// One Compose project: everything in it belongs to its namespace; what the namespace holds beyond it is pruned by `apply`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    /// The project's name.
    pub namespace: Name,
    /// The workloads by name.
    #[serde(default)]
    pub services: BTreeMap<Name, ServiceSpec>,
    /// Networks by name; every application has `default` unless no service uses it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<Name, NetworkSpec>,
    /// Named volumes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<Name, VolumeSpec>,
    /// Configs with their content.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<Name, DataSpec>,
    /// Secrets with their content; never printed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<Name, DataSpec>,
}

/// A network of an application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// The name it has in the cluster when the manifest gives one (`name:`) or declares it external; it is then shared by
    /// every namespace that names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_name: Option<Name>,
    /// No route to the outside.
    #[serde(default)]
    pub internal: bool,
    /// Who may open connections over it; all who are on it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Vec<PolicyRule>>,
    /// Labels of the user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A named volume; its data lives on the node of the replica that uses it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// The name on the node, when it is not `namespace_name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_name: Option<Name>,
    /// Must exist already; it is never created and never removed.
    #[serde(default)]
    pub external: bool,
    /// Each slot of a service has one of its own, which successive replicas of the slot find again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub per_slot: bool,
    /// Labels of the user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Whether content is a config or a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataKind {
    /// Readable by anybody who may read the namespace.
    Config,
    /// Sent only to nodes that run a user of it, held there in memory, never printed.
    Secret,
}

impl DataKind {
    /// Largest content in bytes: 1000 KiB for a config, 500 KiB for a secret, as in Swarm.
    #[must_use]
    pub const fn size_max(self) -> usize {
        match self {
            Self::Config => 1000 * 1024,
            Self::Secret => 500 * 1024,
        }
    }
}

/// A config or secret of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSpec {
    /// The content, absent when `external`: then it must be in the cluster already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Bytes64>,
    /// The name it has in the cluster when it is not `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_name: Option<Name>,
    /// Labels of the user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}
