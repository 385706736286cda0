//! A workload and its revisions.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Rollout;
use crate::spec::{PolicyRule, PortSpec, ServiceSpec};
use crate::{Name, ServiceId, Timestamp};

/// How many revisions of a service are kept, as Kubernetes' Deployment does (`revisionHistoryLimit` 10).
pub const HISTORY_REVISIONS: usize = 10;

/// A service as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its id.
    pub id: ServiceId,
    /// The owner of its name.
    pub namespace: Name,
    /// Its name.
    pub name: Name,
    /// What is wanted now; the spec of `revision`.
    pub spec: Arc<ServiceSpec>,
    /// Counts the specs from 1. Scaling alone keeps the revision, since no replica has to be replaced.
    pub revision: u32,
    /// How it is reached, per network of the cluster.
    #[serde(default)]
    pub networks: BTreeMap<String, ServiceNetwork>,
    /// Its ports, with those published automatically filled in.
    #[serde(default)]
    pub ports: Vec<PortSpec>,
    /// The latest rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Being deleted: replicas are removed, then the record.
    #[serde(default)]
    pub deleting: bool,
    /// The cron job that it is a run of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<ServiceId>,
    /// What is known of a job beyond its replicas.
    #[serde(default, skip_serializing_if = "JobStatus::is_default")]
    pub job: JobStatus,
    /// When it was first applied.
    pub created_at: Timestamp,
    /// When its spec last changed.
    pub updated_at: Timestamp,
}

impl Service {
    /// The object part of a message: `service shop/web`.
    #[must_use]
    pub fn object(&self) -> String {
        format!("service {}/{}", self.namespace, self.name)
    }
}

/// How far a job or cron job is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// The revision that `started_at` and `ended` are about; another one starts the job anew.
    #[serde(default)]
    pub revision: u32,
    /// When its first replica was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// How and when it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<JobEnd>,
    /// Of a cron job: the time for which it last started or skipped a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_due: Option<Timestamp>,
    /// Of a cron job: when a run last succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Timestamp>,
}

impl JobStatus {
    /// Whether nothing is known yet.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEnd {
    /// When, by the leader's clock.
    pub at: Timestamp,
    /// Why it failed; none when all slots completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// How a service is reached on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceNetwork {
    /// The virtual address, absent with DNS round robin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<Ipv4Addr>,
    /// Names it answers to there: its own and its aliases.
    #[serde(default)]
    pub names: Vec<String>,
    /// The service says that no way leads from this network to the outside.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
    /// Who, says the service, may open connections over this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Vec<PolicyRule>>,
}

/// One revision of a service; kept while a replica runs it, and beyond that the newest [`HISTORY_REVISIONS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionRecord {
    /// The service.
    pub service: ServiceId,
    /// Its number.
    pub number: u32,
    /// The spec.
    pub spec: Arc<ServiceSpec>,
    /// When it was applied.
    pub created_at: Timestamp,
    /// What made it: `apply`, `update`, `rollback to 3`, `restart`.
    pub cause: String,
}
