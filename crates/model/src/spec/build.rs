//! How an image is built from a Dockerfile: what `gantry build` and Compose's `build` ask for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Ulimit;
use crate::ByteSize;

/// What to build. Paths are those of the person's machine; the builder only ever sees content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSpec {
    /// Folder (or URL) that `COPY` and `ADD` take from.
    pub context: String,
    /// Path of the Dockerfile, relative to the context; `Dockerfile` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<String>,
    /// Its text, instead of a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile_inline: Option<String>,
    /// Stage to build; the last one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Values for `ARG`; `None` takes the value of the person's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, Option<String>>,
    /// Labels of the image.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Names for the result, besides the service's `image`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Platforms such as `linux/amd64`; the node's own when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    /// Network of `RUN`: `default`, `host` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Base images are looked up anew.
    #[serde(default)]
    pub pull: bool,
    /// Nothing is taken from the cache.
    #[serde(default)]
    pub no_cache: bool,
    /// Images or folders whose cache may be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache_from: Vec<String>,
    /// Where the cache is written to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache_to: Vec<String>,
    /// Further contexts by name: a folder, `docker-image://REFERENCE`, or `service:NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub additional_contexts: BTreeMap<String, String>,
    /// Secrets that `RUN --mount=type=secret` may ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<BuildSecret>,
    /// SSH agents or keys that `RUN --mount=type=ssh` may ask for: `default` or `ID=PATH`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<String>,
    /// Lines for `/etc/hosts` during `RUN`: name and address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<(String, String)>,
    /// Size of `/dev/shm` during `RUN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<ByteSize>,
    /// Resource limits during `RUN`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// `RUN --security=insecure` is allowed.
    #[serde(default)]
    pub privileged: bool,
}

/// A secret of a build, by where the person's machine has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSecret {
    /// What `RUN --mount=type=secret,id=` says.
    pub id: String,
    /// File that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Variable that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
}
