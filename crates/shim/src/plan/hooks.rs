//! Programs that run at certain moments of a container's life, as the OCI runtime specification has them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// All moments, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HooksPlan {
    /// On the node, when namespaces and mounts are made, before the root is entered (deprecated by the specification).
    pub prestart: Vec<HookPlan>,
    /// On the node, right after `prestart`.
    pub create_runtime: Vec<HookPlan>,
    /// In the container's namespaces, before the root is entered; the program is looked up on the node.
    pub create_container: Vec<HookPlan>,
    /// In the container, with what its process may do, right before that is executed.
    pub start_container: Vec<HookPlan>,
    /// On the node, after the process was executed. A failure is only logged.
    pub poststart: Vec<HookPlan>,
    /// On the node, after the container is gone. Run by whoever deletes it, see [`super::Task::Hooks`].
    pub poststop: Vec<HookPlan>,
    /// The bundle that hooks are told of; that of the plan when absent.
    pub bundle: Option<PathBuf>,
    /// Annotations that hooks are told of.
    pub annotations: BTreeMap<String, String>,
}

impl HooksPlan {
    /// Whether anything runs on the node before the root is entered.
    pub(crate) fn has_runtime_hooks(&self) -> bool {
        !self.prestart.is_empty() || !self.create_runtime.is_empty()
    }
}

/// One program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookPlan {
    /// Absolute path.
    pub path: PathBuf,
    /// Its arguments, the name that it sees first; the path when empty.
    pub args: Vec<String>,
    /// Its variables as `NAME=value`.
    pub env: Vec<String>,
    /// Seconds after which it is killed and has failed.
    pub timeout_s: Option<u32>,
}

/// The state of a container as hooks and `state` see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState {
    /// Version of the specification.
    pub oci_version: String,
    /// The container's name.
    pub id: String,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: String,
    /// Its first process, as seen where the hook runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<i32>,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub annotations: BTreeMap<String, String>,
}
