//! What a client and a builder say to each other about a build: the request, what happens, and the result.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spec::BuildSpec;
use crate::{Bytes64, Timestamp};

/// The name of the context that `COPY` takes from when it names none.
pub const MAIN_CONTEXT: &str = "";

/// A build as the builder gets it: everything of the person's machine is content by now, or asked for when needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRequest {
    /// What to build; its paths mean nothing here, `args` all have values.
    pub spec: BuildSpec,
    /// The Dockerfile.
    pub dockerfile: String,
    /// What to call the Dockerfile in messages.
    pub dockerfile_name: String,
    /// Names for the result.
    pub tags: Vec<String>,
    /// Seconds since the epoch that all new files and the image carry; reproducible builds set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_date_epoch: Option<u64>,
    /// Further contexts whose entries follow, besides [`MAIN_CONTEXT`].
    #[serde(default)]
    pub contexts: Vec<String>,
    /// The result goes to its registry when it is built.
    #[serde(default)]
    pub push: bool,
    /// What becomes of the result.
    #[serde(default)]
    pub output: BuildOutputKind,
    /// Credentials by registry host, as base64 of `user:password`, or an identity token.
    #[serde(default)]
    pub registry_auth: BTreeMap<String, RegistryAuth>,
}

/// What becomes of the result of a build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildOutputKind {
    /// An image of the node, known to the cluster.
    #[default]
    Image,
    /// The files of the last stage, as a tar that is sent back.
    Tar,
    /// An OCI layout as a tar that is sent back.
    Oci,
    /// A docker-archive that is sent back.
    Docker,
    /// Nothing is kept but the cache.
    Discard,
}

/// How to log in to a registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistryAuth {
    /// Name and password.
    Basic {
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// A token of the registry's identity service.
    Identity(String),
    /// A bearer token as it is.
    Bearer(String),
}

impl std::fmt::Debug for RegistryAuth {
    /// Without what is secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Basic { .. } => "Basic(…)",
            Self::Identity(_) => "Identity(…)",
            Self::Bearer(_) => "Bearer(…)",
        })
    }
}

/// Something of a context. Paths are relative, with `/`, without `.` and `..`; parents come before what is in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextEntry {
    /// Where it is.
    pub path: String,
    /// Mode bits, without the kind.
    pub mode: u32,
    /// Owner; contexts are read as owned by root, as in Docker.
    #[serde(default)]
    pub uid: u32,
    /// Group.
    #[serde(default)]
    pub gid: u32,
    /// Last change in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// What it is.
    pub kind: ContextEntryKind,
}

/// What an entry of a context is. Sockets are left out; devices and pipes are refused by the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextEntryKind {
    /// A folder.
    Folder,
    /// A file with its content's digest (`sha256:…`).
    File {
        /// Its content's digest.
        digest: String,
        /// Bytes.
        size: u64,
    },
    /// A symbolic link.
    Link {
        /// Where it points.
        target: String,
    },
}

/// What happens during a build, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BuildEvent {
    /// A step there is; all are announced before the first starts, except those that only turn up on the way.
    Step {
        /// Counts from 0.
        id: u32,
        /// `[build 2/5] RUN make`, or `load build context`.
        title: String,
        /// Line of the Dockerfile, from 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        line: Option<u32>,
    },
    /// It has begun.
    Started {
        /// The step.
        id: u32,
        /// When.
        at: Timestamp,
    },
    /// How far it is: a layer that comes in, a layer that is packed.
    Progress {
        /// The step.
        id: u32,
        /// What, such as a layer's digest.
        what: String,
        /// So far.
        current: u64,
        /// Of so many; 0 when unknown.
        total: u64,
    },
    /// What the command wrote.
    Log {
        /// The step.
        id: u32,
        /// 1 standard output, 2 standard error.
        stream: u8,
        /// As it was written.
        data: Bytes64,
    },
    /// It is done.
    Done {
        /// The step.
        id: u32,
        /// When.
        at: Timestamp,
        /// Nothing had to be done.
        cached: bool,
    },
    /// It failed, and so does the build.
    Failed {
        /// The step.
        id: u32,
        /// When.
        at: Timestamp,
        /// Why.
        reason: String,
        /// Exit status of the command, where that is why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
    },
    /// Something that should be looked at.
    Warning {
        /// Name of the rule, such as `WorkdirRelativePath`.
        rule: String,
        /// What is wrong.
        message: String,
        /// Line of the Dockerfile, from 1; 0 for the whole.
        line: u32,
    },
}

/// What a build made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildResult {
    /// Manifest digest.
    pub digest: String,
    /// Digest of the configuration, what Docker calls the image id.
    pub config_digest: String,
    /// What it is called now, normalised.
    pub references: Vec<String>,
    /// Sum of its layers as stored.
    pub size_bytes: u64,
    /// Names of images that hold the cache, to be sent to their registries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<String>,
}
