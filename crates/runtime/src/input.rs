//! What the agent says about a container to launch: its spec, its image, and everything already resolved on the node.

use std::net::IpAddr;
use std::path::PathBuf;

use gantry_model::ByteSize;
use gantry_model::spec::{ContainerSpec, DeviceSpec, HealthCheck, Propagation, Resources};
use gantry_shim::plan::{HooksPlan, MountPlan};

/// One container to launch.
#[derive(Debug, Clone)]
pub struct LaunchInput<'a> {
    /// Names its control group and shows up in messages; unique per agent, such as the replica's id.
    pub id: String,
    /// Folder of its own on the node: writable layer, socket, records. Kept over restarts in place.
    pub bundle: PathBuf,
    /// Folders of the image's layers, topmost first.
    pub layers: Vec<PathBuf>,
    /// What the user asked for.
    pub container: &'a ContainerSpec,
    /// What the image says.
    pub image: &'a ImageDefaults,
    /// Limits.
    pub resources: &'a Resources,
    /// Host name inside, templates expanded.
    pub hostname: String,
    /// The network namespace.
    pub network: Network,
    /// Mounts with their sources on this node, instead of those in `container`.
    pub mounts: Vec<ResolvedMount>,
    /// Files that the node provides, writable and on disk: `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`.
    pub host_files: Vec<HostFile>,
    /// Configs and secrets: read-only and in memory only.
    pub data_files: Vec<DataFile>,
    /// Parent of its control group in every hierarchy, such as `gantry`.
    pub cgroup_parent: String,
    /// Where its output goes.
    pub log: LogSettings,
    /// What only some containers need.
    pub options: LaunchOptions,
}

/// What only some containers need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaunchOptions {
    /// It is set up, and waits for [`crate::Handle::start`] before it executes its program.
    pub hold: bool,
    /// Its own range of the node's user and group ids, when the spec asks for one; the caller gives no two containers the same.
    pub user_ids: Option<UserIds>,
    /// The containers whose namespaces it shares.
    pub peers: Peers,
    /// Programs that devices bring along.
    pub hooks: HooksPlan,
    /// Further device nodes, with their rules: those of CDI.
    pub devices: Vec<DeviceSpec>,
    /// Lines and characters per line of its terminal at the start.
    pub console_size: Option<(u16, u16)>,
}

/// A range of ids of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserIds {
    /// The first, which is root inside.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// First processes of the containers that a spec's `container:` modes name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peers {
    /// For `pid`.
    pub pid: Option<u32>,
    /// For `ipc`.
    pub ipc: Option<u32>,
    /// For `uts`.
    pub uts: Option<u32>,
    /// For `cgroup`.
    pub cgroup: Option<u32>,
}

/// The defaults that an image brings along.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// First part of the command.
    pub entrypoint: Vec<String>,
    /// Second part of the command.
    pub cmd: Vec<String>,
    /// Variables as `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]`, empty for root.
    pub user: String,
    /// Folder to start in, empty for `/`.
    pub working_dir: String,
    /// Signal to stop it with.
    pub stop_signal: Option<String>,
    /// Its health check.
    pub healthcheck: Option<HealthCheck>,
    /// Targets of anonymous volumes.
    pub volumes: Vec<String>,
}

/// The network namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// The one behind this file.
    Path(PathBuf),
    /// A new one with loopback only.
    Empty,
    /// That of the node.
    Host,
}

/// A mount whose source is known on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedMount {
    /// Absolute path inside.
    pub target: PathBuf,
    /// No writes through it.
    pub read_only: bool,
    /// What is mounted.
    pub kind: ResolvedMountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolvedMountKind {
    /// A path of the node.
    Bind {
        /// Absolute path.
        source: PathBuf,
        /// Made as a folder when missing.
        create_host_path: bool,
        /// How later mounts are shared.
        propagation: Propagation,
    },
    /// A volume's folder on the node.
    Volume {
        /// Absolute path; must exist.
        source: PathBuf,
        /// Filled with what the image has at the target when it is empty.
        copy_up: bool,
    },
    /// Memory.
    Tmpfs {
        /// Largest size; half of the machine's memory when absent.
        size: Option<ByteSize>,
        /// Mode of its root; 0o1777 when absent.
        mode: Option<u32>,
    },
    /// Memory with options as `docker run --tmpfs` takes them, such as `rw`, `exec`, `size=64m`, `mode=700`, `uid=33`.
    TmpfsWith {
        /// The options.
        options: Vec<String>,
    },
    /// Exactly this step of the plan; its target is that of the mount.
    Plan(Box<MountPlan>),
}

/// A file of the node's, bound writable over the image's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFile {
    /// Absolute path inside.
    pub target: PathBuf,
    /// Its content at the start.
    pub content: Vec<u8>,
}

impl HostFile {
    /// `/etc/hosts` with the usual loopback lines, the container's own addresses, and extra hosts.
    #[must_use]
    pub fn hosts(hostname: &str, addresses: &[IpAddr], extra: &[(String, IpAddr)]) -> Self {
        let mut text = String::from(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
             ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
        );
        for (name, address) in extra {
            text.push_str(&format!("{address}\t{name}\n"));
        }
        for address in addresses {
            text.push_str(&format!("{address}\t{hostname}\n"));
        }
        Self {
            target: PathBuf::from("/etc/hosts"),
            content: text.into_bytes(),
        }
    }
}

/// A config or secret as a file.
#[derive(Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Absolute path inside.
    pub target: PathBuf,
    /// Its content.
    pub content: Vec<u8>,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Mode bits.
    pub mode: u32,
}

impl std::fmt::Debug for DataFile {
    /// Without the content: it may be a secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "DataFile({}, {} bytes)",
            self.target.display(),
            self.content.len()
        )
    }
}

/// Where output goes, and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// The file; rotated ones get `.1`, `.2`… appended.
    pub path: PathBuf,
    /// A file that would get longer is rotated.
    pub size_max: ByteSize,
    /// How many files are kept, the current one included.
    pub files_max: u32,
}

impl LogSettings {
    /// Three files of 10 MiB: Docker's own default keeps everything until the disk is full.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            size_max: ByteSize::mib(10),
            files_max: 3,
        }
    }
}
