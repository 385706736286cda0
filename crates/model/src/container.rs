//! Containers that a person runs by hand on one node, outside any service.
//!
//! They share their id type with replicas: to the node's runtime, a container run by hand is a replica of no service.

use serde::{Deserialize, Serialize};

use crate::phase::Health;
use crate::spec::{ContainerSpec, PortSpec, Resources, RestartPolicy};
use crate::{ReplicaId, Timestamp};

/// What `gantry run` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Its name on the node; made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it runs.
    pub container: ContainerSpec,
    /// What it may use.
    #[serde(default)]
    pub resources: Resources,
    /// What happens when it ends by itself; never started again by default, as in Docker.
    pub restart: RestartPolicy,
    /// It is not started again after an explicit stop and a restart of the agent (`unless-stopped`).
    #[serde(default)]
    pub unless_stopped: bool,
    /// Where its network is.
    #[serde(default)]
    pub network: NetworkMode,
    /// Ports of the node that lead to it.
    #[serde(default)]
    pub ports: Vec<PortSpec>,
    /// Every port that the image exposes is published on a free one.
    #[serde(default)]
    pub publish_all: bool,
    /// It is removed, with its anonymous volumes, when it ends.
    #[serde(default)]
    pub auto_remove: bool,
    /// When its image is pulled.
    #[serde(default)]
    pub pull: PullPolicy,
    /// Platform of its image; the node's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

/// Where the network of a container is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The node's own network of containers run by hand: outbound by masquerade, inbound by published ports.
    #[default]
    Bridge,
    /// The node's.
    Host,
    /// Loopback only.
    None,
    /// That of another container of the node, by id or name.
    Container(String),
    /// A network of the cluster, by name.
    Named(String),
}

/// When an image is pulled (Compose's `pull_policy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// When it is not in the cluster.
    #[default]
    Missing,
    /// Every time.
    Always,
    /// Never.
    Never,
    /// Never: it is built.
    Build,
}

/// A container run by hand, as `gantry inspect` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its id.
    pub id: ReplicaId,
    /// Its name on the node.
    pub name: String,
    /// Name of the node.
    pub node: String,
    /// What was asked for.
    pub spec: RunSpec,
    /// Manifest digest of its image.
    pub image_digest: String,
    /// The command it runs, image defaults included.
    pub command: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its address, while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<std::net::IpAddr>,
    /// Published ports, all numbered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortSpec>,
    /// How it is.
    pub state: ContainerState,
}

/// How a container is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// In one word.
    pub status: ContainerStatus,
    /// Process id on the node, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When it last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// How it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The kernel killed a process of it for lack of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// Why it could not be started.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Result of the health checks.
    #[serde(default)]
    pub health: Health,
    /// How often it was started again by its policy.
    #[serde(default)]
    pub restarts: u32,
}

/// How a container is, in one word; Docker's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerStatus {
    /// Made, never started.
    #[default]
    Created,
    /// It runs.
    Running,
    /// It is frozen.
    Paused,
    /// It ended and waits to be started again.
    Restarting,
    /// It ended.
    Exited,
    /// It is being removed.
    Removing,
}

impl ContainerStatus {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
        }
    }
}

/// What a container uses at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStats {
    /// Container or replica id.
    pub id: String,
    /// Name.
    pub name: String,
    /// When, in milliseconds since the epoch.
    pub at: Timestamp,
    /// Processor time in microseconds since it started.
    pub cpu_usage_us: u64,
    /// Microseconds it was held back by its limit.
    pub cpu_throttled_us: u64,
    /// Processors it may use at once, in thousandths.
    pub cpu_limit_milli: u64,
    /// Bytes of memory without caches that can be dropped, as `docker stats` counts.
    pub memory_usage: u64,
    /// Most bytes it may use; the node's memory without a limit.
    pub memory_limit: u64,
    /// Bytes received.
    pub network_rx: u64,
    /// Bytes sent.
    pub network_tx: u64,
    /// Bytes read from disks.
    pub block_read: u64,
    /// Bytes written to disks.
    pub block_write: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// One line of `gantry diff`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileChange {
    /// Absolute path inside.
    pub path: String,
    /// What became of it.
    pub kind: FileChangeKind,
}

/// What became of a path of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileChangeKind {
    /// Changed, `C`.
    Changed,
    /// Added, `A`.
    Added,
    /// Deleted, `D`.
    Deleted,
}
