//! What a container finds in its root.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::IdRanges;

/// The root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPlan {
    /// What it is made of.
    pub source: RootSource,
    /// Where it is mounted in the container's mount namespace before it becomes `/`.
    pub mount_point: PathBuf,
    /// No writes to the root.
    pub read_only: bool,
    /// How the root and what is mounted below share later mounts; none leaves them receiving the node's unmounts only.
    pub propagation: Option<PropagationPlan>,
    /// Files on disk have the ids inside, whatever range the container's user namespace has; otherwise those of the node.
    pub idmap: bool,
}

/// What a root is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootSource {
    /// Read-only layers below a writable one.
    Layers {
        /// Folders of the image's layers, topmost first.
        lower: Vec<PathBuf>,
        /// The folder that holds the writable layer, `upper`, and the scratch folder of overlayfs, `work`.
        writable: PathBuf,
    },
    /// A plain folder.
    Folder(PathBuf),
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Absolute path inside the container; made when missing.
    pub target: PathBuf,
    /// What is mounted.
    pub source: MountSource,
    /// Changes of `MOUNT_ATTR_*` bits of the mount itself.
    pub attributes: AttributePlan,
    /// Changes of the mount and of those below it (`rro` and the like).
    pub recursive_attributes: AttributePlan,
    /// How later mounts are shared; none leaves it as the kernel does.
    pub propagation: Option<PropagationPlan>,
    /// Which ids its files seem to have.
    pub idmap: Option<IdmapPlan>,
}

/// `MOUNT_ATTR_*` bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributePlan {
    /// To be set.
    pub set: u64,
    /// To be cleared, before.
    pub clear: u64,
}

impl AttributePlan {
    /// Sets bits, clears none.
    #[must_use]
    pub const fn setting(set: u64) -> Self {
        Self { set, clear: 0 }
    }
}

/// Ids of a mount's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdmapPlan {
    /// The mapping: inside is what the file system has, outside what is seen by the node; none is that of the container's user
    /// namespace, and no mapping at all when it has none of its own.
    pub ranges: Option<IdRanges>,
    /// Also the mounts below.
    pub recursive: bool,
}

impl IdmapPlan {
    /// Files on disk have the ids inside.
    pub const CONTAINER: Self = Self {
        ranges: None,
        recursive: true,
    };
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A folder or file of the node.
    Bind {
        /// Absolute path.
        path: PathBuf,
        /// File of the mount namespace in which the path is looked up, when that is not the node's: another container's.
        namespace: Option<PathBuf>,
        /// Also what is mounted below it.
        recursive: bool,
        /// An empty folder is first filled with what the image has at the target.
        copy_up: bool,
    },
    /// A new file system.
    FileSystem {
        /// Its type, such as `tmpfs`.
        kind: String,
        /// What is mounted, as the mount table shows it; the type when empty.
        source: String,
        /// Its options; those without a value are flags.
        options: Vec<(String, Option<String>)>,
        /// It is first filled with what the image has at the target.
        copy_up: bool,
    },
}

/// How a mount shares later mounts, and whether that goes for the mounts below as well.
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
    /// With nobody, and it cannot be bound elsewhere.
    Unbindable,
}

/// One file with its content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePlan {
    /// Absolute path inside the container.
    pub target: PathBuf,
    /// Owner, as inside.
    pub uid: u32,
    /// Group, as inside.
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
    /// What kind of node.
    pub kind: DeviceKindPlan,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Mode bits.
    pub mode: u32,
    /// Owner, as inside.
    pub uid: u32,
    /// Group, as inside.
    pub gid: u32,
}

/// What kind of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKindPlan {
    /// A block device.
    Block,
    /// A character device.
    Character,
    /// A named pipe; its numbers mean nothing.
    Fifo,
}
