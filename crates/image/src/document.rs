//! The JSON documents of images: descriptors, manifests and indexes, of OCI and of Docker's schema 2.
//!
//! **Invariant:** a manifest's bytes are never rewritten, since its digest is the image's identity.

use gantry_model::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{ImageError, Result};
use crate::limits::{DOCUMENT_BYTES_MAX, IMAGE_LAYERS_MAX};

/// Media type of an OCI manifest.
pub(crate) const MANIFEST_OCI: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI index.
pub(crate) const INDEX_OCI: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI configuration.
pub(crate) const CONFIG_OCI: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of a manifest of Docker's schema 2.
pub(crate) const MANIFEST_DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of a configuration of Docker's schema 2.
pub(crate) const CONFIG_DOCKER: &str = "application/vnd.docker.container.image.v1+json";
/// Media type of an index of Docker's schema 2.
pub(crate) const INDEX_DOCKER: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Names content: its digest, its size and its kind (OCI image specification, "Descriptors").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its content.
    pub digest: Digest,
    /// Its bytes. Absent only for a manifest that nobody has described yet; such content is bounded by
    /// [`crate::limits::DOCUMENT_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What the content runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What an artifact is (OCI image specification 1.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free text about it.
    #[serde(
        default,
        skip_serializing_if = "serde_json::Map::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub annotations: serde_json::Map<String, serde_json::Value>,
}

impl Descriptor {
    /// Of content with a known size.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size: Some(size),
            platform: None,
            artifact_type: None,
            annotations: serde_json::Map::new(),
        }
    }

    /// Of a manifest known by its digest alone, where a transfer between nodes begins.
    #[must_use]
    pub fn of_manifest(digest: Digest) -> Self {
        Self {
            size: None,
            ..Self::new(MANIFEST_OCI, digest, 0)
        }
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).and_then(serde_json::Value::as_str)
    }

    fn is_index(&self) -> bool {
        self.media_type == INDEX_OCI || self.media_type == INDEX_DOCKER
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<serde_json::Map<String, serde_json::Value>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// Processor, as Go names it.
    #[serde(default)]
    pub architecture: String,
    /// Variant of the processor, such as `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// This machine's.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self {
            os: "linux".to_string(),
            architecture: architecture().to_string(),
            variant: None,
        }
    }

    /// Reads `linux/arm/v7`, `linux/amd64`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(str::to_string);
        Self {
            os: parts.next().unwrap_or_default(),
            architecture: parts.next().unwrap_or_default(),
            variant: parts.next(),
        }
    }

    /// Whether content for `self` runs where `wanted` does; a wanted variant must be the same, none takes any.
    #[must_use]
    pub fn suits(&self, wanted: &Self) -> bool {
        let same_variant = match (&wanted.variant, &self.variant) {
            (Some(wanted), Some(variant)) => wanted == variant,
            // The first variant of 64-bit ARM, which many leave out.
            (Some(wanted), None) => wanted == "v8",
            (None, _) => true,
        };
        self.os == wanted.os && self.architecture == wanted.architecture && same_variant
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(formatter, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// An image of one platform.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    pub(crate) config: Descriptor,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Descriptor>,
    #[serde(
        default,
        skip_serializing_if = "serde_json::Map::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub(crate) annotations: serde_json::Map<String, serde_json::Value>,
}

/// An image of several platforms, or the top of an OCI layout.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Descriptor>,
    #[serde(
        default,
        skip_serializing_if = "serde_json::Map::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub(crate) annotations: serde_json::Map<String, serde_json::Value>,
}

/// A document that a descriptor of an index may lead to.
pub(crate) enum Document {
    Manifest(Box<Manifest>),
    Index(Box<Index>),
}

impl Manifest {
    /// Makes one of a configuration and its layers.
    pub(crate) fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: MANIFEST_OCI.to_string(),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: serde_json::Map::new(),
        }
    }

    pub(crate) fn parse(digest: Digest, bytes: &[u8]) -> Result<Self> {
        match Document::parse(digest, bytes)? {
            Document::Manifest(manifest) => Ok(*manifest),
            Document::Index(_) => Err(invalid(
                format!("manifest {digest}"),
                "an index of several platforms where the manifest of one was expected",
            )),
        }
    }

    /// The configuration and the layers.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    fn check(&self, document: &str) -> Result<()> {
        if self.schema_version != 2 {
            return Err(invalid(
                document,
                format!("schema version {}, only 2 is supported", self.schema_version),
            ));
        }
        if self.layers.len() > IMAGE_LAYERS_MAX {
            return Err(ImageError::TooLarge {
                what: document.to_string(),
                limit: IMAGE_LAYERS_MAX as u64,
                unit: "layers",
            });
        }
        if let Some(blob) = self.blobs().find(|blob| blob.size.is_none()) {
            return Err(invalid(
                document,
                format!("the descriptor of {} has no size", blob.digest),
            ));
        }
        if self.config.size > Some(DOCUMENT_BYTES_MAX) {
            return Err(ImageError::TooLarge {
                what: format!("configuration {}", self.config.digest),
                limit: DOCUMENT_BYTES_MAX,
                unit: "bytes",
            });
        }
        Ok(())
    }

    /// What it holds, in OCI's words: its own, or the type of its configuration.
    pub(crate) fn artifact_type(&self) -> &str {
        self.artifact_type.as_deref().unwrap_or(&self.config.media_type)
    }

    /// Fails unless containers can be made of it.
    pub(crate) fn require_image(&self, digest: Digest) -> Result<()> {
        let wrong = |reason: String| Err(invalid(format!("manifest {digest}"), reason));
        if !matches!(self.config.media_type.as_str(), CONFIG_OCI | CONFIG_DOCKER | "") {
            let kind = self.artifact_type();
            return wrong(format!("this is an artifact ({kind}), no container image"));
        }
        for layer in &self.layers {
            let kind = &layer.media_type;
            if kind.contains("nondistributable") || kind.contains("foreign") {
                return wrong(format!(
                    "layer {} may not be distributed by registries ({kind}); such layers are not supported",
                    layer.digest
                ));
            }
            if !kind.contains("tar") && !kind.is_empty() {
                return wrong(format!(
                    "layer {} is no file system ({kind}), so this is no container image",
                    layer.digest
                ));
            }
        }
        Ok(())
    }
}

impl Document {
    /// Tells manifest and index by what they hold: the media type within is optional in OCI's.
    pub(crate) fn parse(digest: Digest, bytes: &[u8]) -> Result<Self> {
        let document = format!("manifest {digest}");
        let value: serde_json::Value = json(&document, bytes)?;
        if value.get("manifests").is_some() {
            let index: Index = json(&document, bytes)?;
            return Ok(Self::Index(Box::new(index)));
        }
        if value.get("fsLayers").is_some() {
            return Err(invalid(
                document,
                "Docker's schema 1, which was withdrawn; push the image again with any Docker since 1.10",
            ));
        }
        let manifest: Manifest = json(&document, bytes)?;
        manifest.check(&document)?;
        Ok(Self::Manifest(Box::new(manifest)))
    }
}

impl Index {
    /// Makes one of these entries.
    pub(crate) fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: INDEX_OCI.to_string(),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: serde_json::Map::new(),
        }
    }

    /// The entries that may be this machine's image, the best one first. Attestations and other platforms are left out, unless
    /// there is nothing else to choose from.
    pub(crate) fn candidates(&self) -> Vec<&Descriptor> {
        let fits = |descriptor: &&Descriptor| match &descriptor.platform {
            Some(platform) => platform.os == "linux" && platform.architecture == architecture(),
            None => true,
        };
        let mut candidates: Vec<_> = self.manifests.iter().filter(fits).collect();
        candidates.sort_by_key(|descriptor| {
            (
                descriptor.platform.is_none(),
                descriptor.is_index(),
                variant_rank(descriptor),
            )
        });
        candidates
    }
}

impl Index {
    /// What it lists, this machine's first.
    pub(crate) fn preferred_order(&self) -> Vec<Digest> {
        let best = self.candidates().into_iter().map(|descriptor| descriptor.digest);
        let all = self.manifests.iter().map(|descriptor| descriptor.digest);
        let mut order = Vec::with_capacity(self.manifests.len());
        for digest in best.chain(all) {
            if !order.contains(&digest) {
                order.push(digest);
            }
        }
        order
    }
}

/// Newer variants of 32-bit ARM first; a variant nobody knows last.
fn variant_rank(descriptor: &Descriptor) -> u8 {
    let variant = descriptor
        .platform
        .as_ref()
        .and_then(|platform| platform.variant.as_deref());
    match variant {
        Some("v8" | "v1") | None => 0,
        Some("v7") => 1,
        Some("v6") => 2,
        Some("v5") => 3,
        Some(_) => 4,
    }
}

/// This machine's processor as images name it (Go's `GOARCH`).
#[must_use]
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "loongarch64" => "loong64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    }
}

/// Reads a JSON document whose errors name it.
pub(crate) fn json<T: serde::de::DeserializeOwned>(document: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| invalid(document, error.to_string()))
}

/// Writes a document of ours.
pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("documents have string keys and no failing serializer")
}

pub(crate) fn invalid(document: impl Into<String>, reason: impl Into<String>) -> ImageError {
    ImageError::Document {
        document: document.into(),
        reason: reason.into(),
    }
}
