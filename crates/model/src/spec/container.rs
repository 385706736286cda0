//! One container: what to run, as whom, with what around it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DataMount, HealthCheck, Mount};
use crate::{ByteSize, DurationMs};

/// The default grace between the stop signal and SIGKILL, as in Docker and Swarm.
pub const STOP_GRACE_DEFAULT: DurationMs = DurationMs::secs(10);

/// The container of a replica. What is absent falls back to the image's own configuration, as in Docker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The image as the user wrote it, such as `nginx:1.27`.
    pub image: String,
    /// The manifest digest (`sha256:…`) the reference meant when it was applied; pinned by the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Replaces the image's entrypoint; an empty list removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command; also ignored from the image when `entrypoint` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Added to the image's environment. `None` removes a variable of the image.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, Option<String>>,
    /// Runs as this user instead of the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// Supplementary groups, names or numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group_add: Vec<String>,
    /// Absolute folder to start in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Host name inside; a template such as `{{.Service.Name}}-{{.Task.Slot}}` is expanded per replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// A process 1 of ours that reaps zombies and forwards signals.
    #[serde(default)]
    pub init: bool,
    /// The root is mounted read-only.
    #[serde(default)]
    pub read_only: bool,
    /// A terminal is allocated.
    #[serde(default)]
    pub tty: bool,
    /// Standard input stays open.
    #[serde(default)]
    pub stdin_open: bool,
    /// All capabilities and devices, nothing masked.
    #[serde(default)]
    pub privileged: bool,
    /// `no_new_privs` is set.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// No system call filter (`security_opt: seccomp:unconfined`).
    #[serde(default)]
    pub seccomp_unconfined: bool,
    /// Capabilities on top of the default set, without `CAP_`; `ALL` is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Capabilities taken from the default set; `ALL` is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    /// Labels of the container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Bind mounts, volumes and tmpfs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Configs placed into the root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configs: Vec<DataMount>,
    /// Secrets placed on a tmpfs under `/run/secrets`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<DataMount>,
    /// Overrides the image's health check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthCheck>,
    /// A name (`SIGTERM`) or number; the image's, or SIGTERM, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Time between the stop signal and SIGKILL; 10 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace_period: Option<DurationMs>,
    /// Resource limits of the process, by name without `RLIMIT_` in lower case (`nofile`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Kernel parameters of the container's own namespaces.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Lines for `/etc/hosts`: name and address (`host-gateway` is the node).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<(String, String)>,
    /// Name servers instead of the node's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// Search domains of the resolver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_search: Vec<String>,
    /// Resolver options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_opt: Vec<String>,
    /// Size of `/dev/shm`; 64 MiB when absent, as in Docker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<ByteSize>,
    /// Added to the kernel's choice of victims, −1000 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// NIS domain name inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    /// Devices of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceSpec>,
    /// Devices by their CDI name (`vendor.com/class=name`), as `--gpus` and `devices` give them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cdi_devices: Vec<String>,
    /// Rules on top of those of `devices`, as the kernel writes them: `c 42:* rmw`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_cgroup_rules: Vec<String>,
    /// Which processes it sees.
    #[serde(default, skip_serializing_if = "NamespaceMode::is_private")]
    pub pid: NamespaceMode,
    /// With whom it shares System V and POSIX memory.
    #[serde(default, skip_serializing_if = "NamespaceMode::is_private")]
    pub ipc: NamespaceMode,
    /// Whose host name it has.
    #[serde(default, skip_serializing_if = "NamespaceMode::is_private")]
    pub uts: NamespaceMode,
    /// Which control groups it sees.
    #[serde(default, skip_serializing_if = "NamespaceMode::is_private")]
    pub cgroup: NamespaceMode,
    /// Whose user ids it has.
    #[serde(default, skip_serializing_if = "UserNamespace::is_node")]
    pub userns: UserNamespace,
    /// A seccomp profile in Docker's JSON, instead of the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp_profile: Option<String>,
    /// Name of an AppArmor profile of the node; `unconfined` for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apparmor_profile: Option<String>,
    /// Nothing of `/proc` and `/sys` is masked or read-only (`security_opt: systempaths=unconfined`).
    #[serde(default)]
    pub system_paths_unconfined: bool,
}

/// A device of the node inside a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Absolute path on the node; a folder stands for all devices below it.
    pub source: String,
    /// Absolute path inside.
    pub target: String,
    /// Of `r` (read), `w` (write) and `m` (make nodes); `rwm` by default.
    pub permissions: String,
}

/// Which namespace of a kind a container lives in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    /// One of its own.
    #[default]
    Private,
    /// One of its own that others may join (`ipc: shareable`).
    Shareable,
    /// The node's.
    Host,
    /// That of another container of the node, by id or name.
    Container(String),
    /// One of its own without what it is for (`ipc: none`: no `/dev/shm`).
    None,
}

impl NamespaceMode {
    /// Whether it is the default.
    #[must_use]
    pub fn is_private(&self) -> bool {
        *self == Self::Private
    }
}

/// Whose user ids a container has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserNamespace {
    /// The node's: root inside is root outside, with fewer capabilities. Docker's default.
    #[default]
    Node,
    /// A range of its own, that no other container of the node has.
    Auto {
        /// Ids of the range; 65,536 when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u32>,
    },
}

impl UserNamespace {
    /// Whether it is the default.
    #[must_use]
    pub fn is_node(&self) -> bool {
        *self == Self::Node
    }
}

impl ContainerSpec {
    /// The grace between the stop signal and SIGKILL.
    #[must_use]
    pub fn stop_grace(&self) -> DurationMs {
        self.stop_grace_period.unwrap_or(STOP_GRACE_DEFAULT)
    }
}

/// A user and optionally a group, each a name of the image's `/etc/passwd` or a number, as in `user: "1000:www"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Name or number.
    pub user: String,
    /// Name or number; the user's own group when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// A soft and a hard limit; −1 is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// What the process starts with.
    pub soft: i64,
    /// How far it may raise it.
    pub hard: i64,
}
