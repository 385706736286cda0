//! What is mounted into a container besides its image.

use serde::{Deserialize, Serialize};

use crate::{ByteSize, DataId, Name};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container.
    pub target: String,
    /// No writes through this mount.
    #[serde(default)]
    pub read_only: bool,
    /// Where it comes from.
    #[serde(flatten)]
    pub kind: MountKind,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MountKind {
    /// A path of the node.
    Bind {
        /// Absolute path on the node.
        source: String,
        /// The folder is made when it is missing (Compose's short form); otherwise a missing one is an error, as in Swarm.
        create_host_path: bool,
        /// How mounts made later on either side are seen on the other.
        propagation: Propagation,
    },
    /// A named volume of the application, or an anonymous one that goes with the replica.
    Volume {
        /// Key in the application's `volumes`; none is anonymous.
        name: Option<Name>,
        /// The volume's name on the node, filled in when the application is resolved (`namespace_name`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node_name: Option<String>,
        /// A new volume is not filled with what the image has at the target.
        #[serde(default)]
        no_copy: bool,
        /// A folder inside the volume to mount instead of its root.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subpath: Option<String>,
    },
    /// Memory.
    Tmpfs {
        /// Largest size; half of the machine's memory when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<ByteSize>,
        /// Mode bits of its root; 0o1777 when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
    },
}

/// Mount propagation (`mount_namespaces(7)`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// Neither side sees the other's later mounts; Docker's default, recursive.
    #[default]
    Rprivate,
    /// As `Rprivate`, for the mount itself only.
    Private,
    /// Both sides see them, recursive.
    Rshared,
    /// Both sides see them.
    Shared,
    /// The container sees the node's, recursive.
    Rslave,
    /// The container sees the node's.
    Slave,
}

/// A config or secret placed into a container as a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataMount {
    /// Key in the application's `configs` or `secrets`.
    pub source: Name,
    /// The version of its content, filled in by the control plane at `apply`: new content is a new revision of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<DataId>,
    /// Absolute path inside the container.
    pub target: String,
    /// Owner, a number.
    pub uid: u32,
    /// Group, a number.
    pub gid: u32,
    /// Mode bits; 0o444 by default.
    pub mode: u32,
}
