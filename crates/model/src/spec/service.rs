//! A workload: how many replicas of which container, where, and how they are reached.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Autoscale, ContainerSpec, CronSpec, IngressRule, JobSpec, Placement, PolicyRule, PortMode, PortSpec, RestartPolicy,
    Stateful, UpdateConfig,
};
use crate::{ByteSize, MilliCpu, Name};

/// What the user asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Replicated, global or a job.
    pub mode: Mode,
    /// What each replica runs.
    pub container: ContainerSpec,
    /// What each replica reserves and may use.
    #[serde(default)]
    pub resources: Resources,
    /// Where replicas may and should run.
    #[serde(default)]
    pub placement: Placement,
    /// What happens when a container ends by itself.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How a new revision is rolled out.
    #[serde(default)]
    pub update: UpdateConfig,
    /// How a rollback is rolled out.
    #[serde(default)]
    pub rollback: UpdateConfig,
    /// How the service's name resolves.
    #[serde(default)]
    pub endpoint_mode: EndpointMode,
    /// Published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortSpec>,
    /// Ports open to other services, for information.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<String>,
    /// Networks it is attached to, by key in the application's `networks`. Empty only with `network_mode: none`.
    #[serde(default)]
    pub networks: BTreeMap<Name, NetworkAttachment>,
    /// Who may open connections to it; whoever shares a network when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Vec<PolicyRule>>,
    /// Services that must have come so far before a replica of this one starts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub depends_on: BTreeMap<Name, Dependency>,
    /// Labels of the service (Compose's `deploy.labels`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Raised by `gantry service restart`: a new value is a new revision with the same content.
    #[serde(default)]
    pub restart_generation: u64,
    /// Limits of a job.
    #[serde(default, skip_serializing_if = "JobSpec::is_default")]
    pub job: JobSpec,
    /// The job is run by the clock, each run as a job of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<CronSpec>,
    /// The cluster decides how many replicas there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<Autoscale>,
    /// Its replicas are not interchangeable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateful: Option<Stateful>,
    /// Requests that every node's HTTP ingress passes on to its replicas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<IngressRule>,
}

impl ServiceSpec {
    /// Whether going from `self` to `other` needs new replicas: what a replica is made from differs.
    ///
    /// Counts, rollout settings, labels of the service, dependencies, placement rules and published ports of the mesh take
    /// effect around running replicas.
    #[must_use]
    pub fn replaces_replicas(&self, other: &Self) -> bool {
        let host_ports = |spec: &Self| -> Vec<PortSpec> {
            spec.ports
                .iter()
                .filter(|port| port.mode == PortMode::Host)
                .cloned()
                .collect()
        };
        let attached = |spec: &Self| -> Vec<String> {
            spec.networks
                .values()
                .map(|attachment| attachment.network.clone())
                .collect()
        };
        self.container != other.container
            || self.resources != other.resources
            || self.restart != other.restart
            || self.restart_generation != other.restart_generation
            || std::mem::discriminant(&self.mode) != std::mem::discriminant(&other.mode)
            || attached(self) != attached(other)
            || host_ports(self) != host_ports(other)
    }
}

/// How many replicas, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// So many replicas.
    Replicated {
        /// Wanted count.
        replicas: u32,
    },
    /// One replica on every eligible node.
    Global,
    /// Runs to completion so many times.
    ReplicatedJob {
        /// Completions wanted.
        completions: u32,
        /// At most so many at a time.
        parallelism: u32,
    },
    /// Runs to completion once on every eligible node.
    GlobalJob,
}

impl Default for Mode {
    /// One replica.
    fn default() -> Self {
        Self::Replicated { replicas: 1 }
    }
}

impl Mode {
    /// Whether replicas are meant to end by themselves.
    #[must_use]
    pub const fn is_job(self) -> bool {
        matches!(self, Self::ReplicatedJob { .. } | Self::GlobalJob)
    }
}

/// Reservations filter nodes, limits are enforced by cgroups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Most processor time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<MilliCpu>,
    /// Most memory; past it the kernel kills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<ByteSize>,
    /// Most processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<u32>,
    /// Processor time set aside on the node.
    #[serde(default)]
    pub cpu_reservation: MilliCpu,
    /// Memory set aside on the node.
    #[serde(default)]
    pub memory_reservation: ByteSize,
    /// Things a node says it has, set aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generic_reservations: Vec<GenericResource>,
    /// Weight of its processor time when processors are short; 1024 when absent, 2 to 262,144 (`docker run --cpu-shares`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// Processors it may run on, `0-3,7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use, `0,1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset_mems: Option<String>,
    /// Period in microseconds over which `cpu_limit` is counted; 100,000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_period_us: Option<u64>,
    /// Microseconds of real-time scheduling per `cpu_rt_period_us` (cgroup v1 only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_rt_runtime_us: Option<i64>,
    /// Period in microseconds of real-time scheduling (cgroup v1 only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_rt_period_us: Option<u64>,
    /// Memory and swap together, as in Docker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_swap_limit: Option<SwapLimit>,
    /// 0 to 100: how readily its memory is swapped out (cgroup v1 only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_swappiness: Option<u8>,
    /// It waits instead of being killed when its memory is used up (cgroup v1 only).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_kill_disable: bool,
    /// Disk input and output.
    #[serde(default, skip_serializing_if = "BlockIo::is_default")]
    pub block_io: BlockIo,
    /// Huge pages by size, such as `2MB`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hugetlb_limits: BTreeMap<String, ByteSize>,
}

/// Most memory and swap together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapLimit {
    /// So much memory and swap together, not below the memory limit.
    Total(ByteSize),
    /// As much swap as the node has.
    Unlimited,
}

/// Disk input and output (Compose's `blkio_config`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockIo {
    /// 10 to 1000: weight among all groups of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Weight for one device, by its path on the node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub device_weight: BTreeMap<String, u16>,
    /// Most bytes read per second, by device.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub device_read_bps: BTreeMap<String, u64>,
    /// Most bytes written per second, by device.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub device_write_bps: BTreeMap<String, u64>,
    /// Most reads per second, by device.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub device_read_iops: BTreeMap<String, u64>,
    /// Most writes per second, by device.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub device_write_iops: BTreeMap<String, u64>,
}

impl BlockIo {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The smallest memory limit in bytes: 6 MiB, as Docker Engine enforces (`daemon/daemon_unix.go`, linuxMinMemory).
pub const MEMORY_LIMIT_MIN: ByteSize = ByteSize::mib(6);

/// An amount of something that an agent's configuration says its node has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GenericResource {
    /// What, such as `gpu`.
    pub kind: String,
    /// How many.
    pub value: u64,
}

/// How a service's name resolves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointMode {
    /// To one virtual address, balanced in the kernel.
    #[default]
    Vip,
    /// To the addresses of all ready replicas, in turn.
    Dnsrr,
}

/// How a service is attached to a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAttachment {
    /// Further names of the service on that network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The network's name in the cluster, filled in when the application is resolved: `namespace_key`, or its shared name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// No way from it to the outside; so for all who share the network when one of them says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
    /// Who may open connections over it; when several who share the network say so, what one of them allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Vec<PolicyRule>>,
}

impl NetworkAttachment {
    /// The network's name in the cluster, for a service of `namespace` that calls it `key`.
    #[must_use]
    pub fn name_in(&self, namespace: &Name, key: &Name) -> String {
        if self.network.is_empty() {
            format!("{namespace}_{key}")
        } else {
            self.network.clone()
        }
    }
}

/// What must be true of another service of the application first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// How far it must have come.
    pub condition: DependencyCondition,
    /// A replica is restarted when the other service is updated.
    #[serde(default)]
    pub restart: bool,
    /// When false, the other service may be missing or failed.
    pub required: bool,
}

/// Compose's conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DependencyCondition {
    /// At least one replica is running.
    #[serde(rename = "service_started")]
    Started,
    /// At least one replica is healthy.
    #[serde(rename = "service_healthy")]
    Healthy,
    /// Its replicas ended with exit status 0.
    #[serde(rename = "service_completed_successfully")]
    CompletedSuccessfully,
}
