//! The configuration of an image as a document: all of it, as it is read, changed by a builder and written.
//!
//! **Invariant:** what is not known here is kept as it came. [`crate::ImageConfig`] is what containers are made from; this is
//! what images are made from.

use std::collections::BTreeMap;

use gantry_model::{Digest, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::config::rfc3339;
use crate::document::{architecture, json, to_json};
use crate::error::Result;

/// A configuration blob (OCI image specification, "Image Configuration", with Docker's additions).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDocument {
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Processor, as Go names it.
    #[serde(default)]
    pub architecture: String,
    /// Variant of the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// What its containers run, and how.
    #[serde(default, deserialize_with = "or_default")]
    pub config: RuntimeConfig,
    /// Its layers.
    #[serde(default, deserialize_with = "or_default")]
    pub rootfs: RootFs,
    /// How it was made, the first step first.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The layers of an image by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the decompressed layers, the lowest first.
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By what command.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub created_by: String,
    /// By whom.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub author: String,
    /// Anything.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub comment: String,
    /// It has no layer of its own.
    #[serde(default, skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

/// The `config` of a configuration: what `docker inspect` shows as `Config`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RuntimeConfig {
    /// `user[:group]`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `8080/tcp` to `{}`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Value>,
    /// `NAME=value`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What to run; absent is none, an empty one takes back that of the image below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Its arguments, or what to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// How to tell whether it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthcheckConfig>,
    /// The command came in shell form (Docker, for Windows).
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// Folder to `{}`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Value>,
    /// Absolute folder to start in.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Triggers for builds from this image.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Labels.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Name or number of the signal that ends it.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// The shell of shell-form commands.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Docker's form of a health check: times in nanoseconds, 0 for the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthcheckConfig {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", LINE]`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Nanoseconds between checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Nanoseconds a check may take.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Nanoseconds in which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Nanoseconds between checks meanwhile.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

impl Default for RootFs {
    fn default() -> Self {
        Self {
            kind: "layers".to_string(),
            diff_ids: Vec::new(),
        }
    }
}

impl Default for ConfigDocument {
    /// For this machine's processor, with nothing in it: what `FROM scratch` begins with.
    fn default() -> Self {
        Self {
            created: None,
            author: None,
            architecture: architecture().to_string(),
            variant: None,
            os: "linux".to_string(),
            config: RuntimeConfig::default(),
            rootfs: RootFs::default(),
            history: Vec::new(),
            extra: Map::new(),
        }
    }
}

impl ConfigDocument {
    /// Reads a configuration blob; `name` stands in messages.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        json(&format!("configuration {name}"), bytes)
    }

    /// As it is stored; the same document makes the same bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Sets `created`; times come in milliseconds.
    pub fn set_created(&mut self, at: Timestamp) {
        self.created = rfc3339(at);
    }
}

const fn is_false(value: &bool) -> bool {
    !*value
}

const fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// Builders write null for what is empty.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_kept() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":["A=1"],"Hostname":"x","Cmd":null,"Volumes":null},
            "rootfs":{"type":"layers","diff_ids":[]},"os.features":["f"],
            "history":[{"created_by":"RUN x # buildkit","comment":null},{"empty_layer":true}]}"#;
        let mut document = ConfigDocument::parse("x", text.as_bytes()).expect("valid");
        assert_eq!(
            (document.config.extra["Hostname"].as_str(), document.config.cmd.clone()),
            (Some("x"), None)
        );
        document.config.entrypoint = Some(vec!["/a".to_string()]);
        let again = ConfigDocument::parse("x", &document.to_bytes()).expect("valid");
        assert_eq!(again, document);
        assert_eq!(again.extra["os.features"][0], "f");
        assert!(again.history[1].empty_layer);
    }
}
