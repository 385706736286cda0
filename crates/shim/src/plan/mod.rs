//! The launch plan: everything the shim does, decided beforehand by `gantry-runtime` or by the front of the OCI runtime
//! specification. Both map onto it, so there is one implementation of every step.
//!
//! It travels as JSON on an anonymous file and is never stored whole: it holds the content of secrets.

mod filesystem;
mod hooks;
mod namespaces;
mod process;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use filesystem::{
    AttributePlan, DeviceKindPlan, DevicePlan, FilePlan, IdmapPlan, MountPlan, MountSource, PropagationPlan, RootPlan,
    RootSource, SharingPlan,
};
pub use hooks::{HookPlan, HookState, HooksPlan};
pub use namespaces::{IdRange, IdRanges, NamespacePlan, NamespacesPlan, TimeOffset, UserNamespacePlan};
pub use process::{CapabilitySets, IoPriorityPlan, ProcessPlan, SchedulerPlan, SeccompPlan, UserPlan};

/// What a shim is started for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// A container.
    Launch(Box<LaunchPlan>),
    /// A further process in a container that has no shim.
    Exec(Box<UnattendedExecPlan>),
    /// Programs on the node, one after the other, with the container's state on their standard input.
    Hooks {
        /// The programs.
        hooks: Vec<HookPlan>,
        /// What they are told.
        state: HookState,
        /// The first that fails ends the task; otherwise failures are ignored, as after start and end.
        must_succeed: bool,
    },
}

/// How to start one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// Name for messages and hooks.
    pub id: String,
    /// Folder of the container: sockets and records go here.
    pub bundle: PathBuf,
    /// The shim stays beside the container; without, the container's process is left to whoever reaps its launcher's orphans,
    /// as callers of an OCI runtime expect.
    pub attendance: Option<AttendancePlan>,
    /// The container is set up and then waits for [`crate::wire::Request::Start`], or for a connection to
    /// [`crate::START_SOCKET_FILE`] when unattended, before it executes its program.
    pub hold: bool,
    /// The root file system.
    pub root: RootPlan,
    /// What it has of its own and what it shares.
    pub namespaces: NamespacesPlan,
    /// Host name inside; none leaves it as it is.
    pub hostname: Option<String>,
    /// NIS domain name inside; none leaves it as it is.
    pub domain_name: Option<String>,
    /// In the order they are made; a later one may lie inside an earlier one.
    pub mounts: Vec<MountPlan>,
    /// Files written into the root after the mounts, such as secrets onto their tmpfs.
    pub files: Vec<FilePlan>,
    /// Device nodes.
    pub devices: Vec<DevicePlan>,
    /// `/dev` gets the links that programs expect (`/dev/fd`, `/dev/stdin`, `/dev/ptmx`…); not when it is the node's own.
    pub device_links: bool,
    /// Paths hidden from the container; those that do not exist are skipped.
    pub masked_paths: Vec<PathBuf>,
    /// Paths made read-only; those that do not exist are skipped.
    pub read_only_paths: Vec<PathBuf>,
    /// Kernel parameters, by name with dots.
    pub sysctls: BTreeMap<String, String>,
    /// Control groups.
    pub cgroup: CgroupPlan,
    /// The first process.
    pub process: ProcessPlan,
    /// Runs a first process of ours that reaps and forwards signals, the user's as its child.
    pub init: bool,
    /// Programs to run at certain moments.
    pub hooks: HooksPlan,
}

/// What a shim does that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttendancePlan {
    /// Files the shim itself writes `0` to, unless it is cloned into the group of version 2.
    pub shim_procs: Vec<PathBuf>,
    /// Where the output goes.
    pub log: LogPlan,
}

/// Control groups, made before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// Files the container's first process writes `0` to, unless it is cloned into the group of version 2.
    pub procs: Vec<PathBuf>,
    /// In which folder an exec's processes are gathered in a group of their own.
    pub gathering_folder: PathBuf,
    /// File of lines `key number` that counts kills for lack of memory.
    pub oom_file: PathBuf,
    /// The key in that file.
    pub oom_key: String,
}

/// A further process in a container that has no shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnattendedExecPlan {
    /// The container's first process.
    pub container_pid: i32,
    /// Files the process writes `0` to, unless it is cloned into the group of version 2.
    pub procs: Vec<PathBuf>,
    /// The process.
    pub process: ProcessPlan,
}

/// Where output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlan {
    /// The file; rotated ones get `.1`, `.2`… appended.
    pub path: PathBuf,
    /// A file that would get longer is rotated.
    pub size_max: u64,
    /// How many files are kept, the current one included; at least 1.
    pub files_max: u32,
}
