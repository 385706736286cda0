//! The launch plan: everything the shim does, decided beforehand by `gantry-runtime`.
//!
//! It travels as JSON on an anonymous file and is never stored: it holds the content of secrets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How to start one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// Name for messages and the process title.
    pub id: String,
    /// Folder of the replica's container: socket and records go here.
    pub bundle: PathBuf,
    /// The root file system.
    pub root: RootPlan,
    /// The network namespace.
    pub network: NetworkPlan,
    /// Host name inside.
    pub hostname: String,
    /// Domain name inside, empty for none.
    pub domain_name: String,
    /// In the order they are made; a later one may lie inside an earlier one.
    pub mounts: Vec<MountPlan>,
    /// Files written into the root after the mounts, such as secrets onto their tmpfs.
    pub files: Vec<FilePlan>,
    /// Device nodes in `/dev`.
    pub devices: Vec<DevicePlan>,
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
    /// Where the output goes.
    pub log: LogPlan,
}

/// The root: read-only layers below a writable one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPlan {
    /// Folders of the image's layers, topmost first.
    pub lower: Vec<PathBuf>,
    /// The writable layer.
    pub upper: PathBuf,
    /// Scratch folder of overlayfs, on the same file system as `upper`.
    pub work: PathBuf,
    /// Where the root is mounted in the container's mount namespace before it becomes `/`.
    pub mount_point: PathBuf,
    /// No writes to the root.
    pub read_only: bool,
}

/// The network namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPlan {
    /// The one behind this file.
    Path(PathBuf),
    /// A new one, with nothing but a loopback that is down.
    Empty,
    /// That of the node.
    Host,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Absolute path inside the container; made when missing.
    pub target: PathBuf,
    /// What is mounted.
    pub source: MountSource,
    /// `MOUNT_ATTR_*` bits, for the mount and, with a bind, those below it.
    pub attributes: u64,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A folder or file of the node.
    Bind {
        /// Absolute path.
        path: PathBuf,
        /// Also what is mounted below it.
        recursive: bool,
        /// How later mounts are shared.
        propagation: PropagationPlan,
        /// An empty folder is first filled with what the image has at the target.
        copy_up: bool,
    },
    /// A new file system.
    FileSystem {
        /// Its type, such as `tmpfs`.
        kind: String,
        /// Its options; those without a value are flags.
        options: Vec<(String, Option<String>)>,
    },
}

/// How a bind shares later mounts, and whether that goes for the mounts below as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PropagationPlan {
    /// With whom.
    pub sharing: SharingPlan,
    /// Also the mounts below.
    pub recursive: bool,
}

/// See `mount_namespaces(7)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharingPlan {
    /// With nobody.
    Private,
    /// The node's are seen here.
    Slave,
    /// Both ways.
    Shared,
}

/// One file with its content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePlan {
    /// Absolute path inside the container.
    pub target: PathBuf,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Mode bits.
    pub mode: u32,
    /// The content, two hexadecimal digits per byte.
    pub content_hex: String,
}

impl std::fmt::Debug for FilePlan {
    /// Without the content: it may be a secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "FilePlan({}, {} bytes)",
            self.target.display(),
            self.content_hex.len() / 2
        )
    }
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePlan {
    /// Absolute path inside the container.
    pub path: PathBuf,
    /// A block device, not a character device.
    pub is_block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Mode bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Control groups, made by the agent before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// Files the container's first process writes `0` to.
    pub procs: Vec<PathBuf>,
    /// Files the shim itself writes `0` to.
    pub shim_procs: Vec<PathBuf>,
    /// In which folder an exec's processes are gathered in a group of their own.
    pub gathering_folder: PathBuf,
    /// File of lines `key number` that counts kills for lack of memory.
    pub oom_file: PathBuf,
    /// The key in that file.
    pub oom_key: String,
}

/// A process to run in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Variables as `NAME=value`; PATH, HOME, HOSTNAME and TERM are added when missing.
    pub env: Vec<String>,
    /// Folder to start in; made when missing.
    pub cwd: PathBuf,
    /// User: name or number, looked up in the container.
    pub user: String,
    /// Group: name or number; the user's own when absent.
    pub group: Option<String>,
    /// Supplementary groups: names or numbers.
    pub group_add: Vec<String>,
    /// Bounding, permitted and effective capabilities as bits.
    pub capabilities: u64,
    /// Nothing it executes gains privileges.
    pub no_new_privileges: bool,
    /// Packed instructions of the system call filter; empty for none.
    pub seccomp: Vec<u64>,
    /// Resource limits: number of the resource, soft, hard; `u64::MAX` is unlimited.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// −1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// A terminal is allocated.
    pub tty: bool,
    /// Standard input is a pipe that stays open, not `/dev/null`.
    pub stdin: bool,
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
