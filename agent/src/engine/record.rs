//! A container on disk, in `containers/ID/record.json`: enough for the next agent to go on with it.

use std::net::{IpAddr, Ipv4Addr};

use gantry_model::container::{Container, RunSpec};
use gantry_model::spec::PortSpec;
use gantry_model::{ReplicaId, Timestamp};
use serde::{Deserialize, Serialize};

use super::life::{Life, Policy};
use crate::disk::ImageFacts;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its id.
    pub(crate) id: ReplicaId,
    /// Its name on the node.
    pub(crate) name: String,
    /// What was asked for, its image pinned.
    pub(crate) spec: RunSpec,
    /// Manifest digest of its image.
    pub(crate) image_digest: String,
    /// What of its image is needed while it runs.
    pub(crate) image: ImageFacts,
    /// The command it runs.
    pub(crate) command: Vec<String>,
    /// When it was made.
    pub(crate) created_at: Timestamp,
    /// Its address, while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<Ipv4Addr>,
    /// Published ports while it runs, all numbered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<PortSpec>,
    /// How it is.
    pub(crate) life: Life,
}

impl Record {
    /// As people see it.
    pub(crate) fn to_container(&self, node: &str) -> Container {
        Container {
            id: self.id,
            name: self.name.clone(),
            node: node.to_string(),
            spec: self.spec.clone(),
            image_digest: self.image_digest.clone(),
            command: self.command.clone(),
            created_at: self.created_at,
            address: self.address.map(IpAddr::V4),
            ports: self.ports.clone(),
            state: self.life.state.clone(),
        }
    }

    /// Whether it is started again.
    pub(crate) fn policy(&self) -> Policy<'_> {
        Policy {
            restart: &self.spec.restart,
            unless_stopped: self.spec.unless_stopped,
        }
    }

    /// For messages: `container web`.
    pub(crate) fn object(&self) -> String {
        format!("container {}", self.name)
    }
}
