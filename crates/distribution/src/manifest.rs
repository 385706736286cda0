//! Manifests as registries give them: what they are, what they refer to, and which of an index suits a platform.

use bytes::Bytes;
use gantry_image::{Descriptor, Platform};
use gantry_model::Digest;
use serde::Deserialize;

use crate::error::Cause;

pub(crate) const MANIFEST_OCI: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX_OCI: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST_DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const INDEX_DOCKER: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's schema 1, asked for by nobody and told apart only to be refused by name.
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

/// What we take, the richest first.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// What a manifest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestKind {
    /// One image.
    Image,
    /// Several images, by platform.
    Index,
}

/// A manifest whose digest was checked.
#[derive(Debug, Clone)]
pub struct FetchedManifest {
    /// Of the bytes.
    pub digest: Digest,
    /// As the registry or the document says.
    pub media_type: String,
    /// One image or several.
    pub kind: ManifestKind,
    /// As they came.
    pub bytes: Bytes,
}

/// The parts of a manifest or index that decide where to go on.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Parts {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    pub(crate) config: Option<Entry>,
    #[serde(default)]
    pub(crate) layers: Option<Vec<Entry>>,
    #[serde(default)]
    pub(crate) manifests: Option<Vec<Entry>>,
}

/// A descriptor.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) artifact_type: Option<String>,
}

impl Entry {
    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest, self.size)
    }
}

impl Parts {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Cause> {
        let parts: Self =
            serde_json::from_slice(bytes).map_err(|error| Cause::malformed(format!("manifest: {error}")))?;
        if parts.schema_version == 1
            || parts
                .media_type
                .as_deref()
                .is_some_and(|kind| kind.starts_with(SCHEMA_1))
        {
            return Err(Cause::malformed(
                "Docker's schema 1, which was withdrawn; push the image again with any Docker since 1.10",
            ));
        }
        Ok(parts)
    }

    /// Told by what it holds; an OCI manifest need not name its own type.
    pub(crate) fn kind(&self) -> Result<ManifestKind, Cause> {
        match (&self.manifests, &self.layers, &self.config) {
            (Some(_), None, None) => Ok(ManifestKind::Index),
            (None, _, Some(_)) => Ok(ManifestKind::Image),
            _ => Err(Cause::malformed("neither an image manifest nor an index")),
        }
    }

    /// The type to send it back with.
    pub(crate) fn media_type(&self, said: &str) -> String {
        if let Some(own) = self.media_type.as_deref().filter(|own| !own.is_empty()) {
            return own.to_string();
        }
        match said {
            MANIFEST_OCI | INDEX_OCI | MANIFEST_DOCKER | INDEX_DOCKER => said.to_string(),
            _ if self.manifests.is_some() => INDEX_OCI.to_string(),
            _ => MANIFEST_OCI.to_string(),
        }
    }

    /// The configuration and the layers.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Entry> {
        self.config.iter().chain(self.layers.iter().flatten())
    }
}

/// The entry of an index that suits a platform best; attestations and artifacts are no images.
pub(crate) fn choose<'a>(wanted: &Platform, entries: &'a [Entry]) -> Result<&'a Entry, Cause> {
    let images = entries.iter().filter(|entry| entry.is_image());
    let mut fitting: Vec<_> = images.filter_map(|entry| Some((rank(wanted, entry)?, entry))).collect();
    fitting.sort_by_key(|(rank, _)| *rank);
    fitting
        .first()
        .map(|(_, entry)| *entry)
        .ok_or_else(|| Cause::NoPlatform {
            wanted: wanted.to_string(),
            available: available(entries),
        })
}

/// How well an entry fits, 0 best. A 32-bit ARM runs what its older variants run; an entry without a platform fits last.
fn rank(wanted: &Platform, entry: &Entry) -> Option<u8> {
    const LAST: u8 = 100;
    let Some(found) = &entry.platform else {
        return Some(LAST);
    };
    if found.os != wanted.os || found.architecture != wanted.architecture {
        return None;
    }
    match (wanted.variant.as_deref(), found.variant.as_deref()) {
        (wanted, found) if wanted == found => Some(0),
        // The only variant of 64-bit ARM in use, and the baseline of amd64.
        (None, Some("v8" | "v1")) | (Some("v8" | "v1"), None) => Some(1),
        (variant, found) if wanted.architecture == "arm" => {
            let (variant, found) = (arm_version(variant)?, arm_version(found)?);
            variant.checked_sub(found).map(|older| older + 2)
        }
        (None, None | Some(_)) => Some(LAST - 1),
        (Some(_), _) => None,
    }
}

/// Variant of 32-bit ARM; v7 where none is said, as containerd takes it.
fn arm_version(variant: Option<&str>) -> Option<u8> {
    variant.unwrap_or("v7").strip_prefix('v')?.parse().ok()
}

impl Entry {
    fn is_image(&self) -> bool {
        let unknown = |platform: &Platform| platform.os == "unknown" || platform.architecture == "unknown";
        self.artifact_type.is_none() && !self.platform.as_ref().is_some_and(unknown)
    }
}

fn available(entries: &[Entry]) -> String {
    let images = entries.iter().filter(|entry| entry.is_image());
    let mut shown: Vec<_> = images
        .filter_map(|entry| Some(entry.platform.as_ref()?.to_string()))
        .collect();
    shown.sort();
    shown.dedup();
    if shown.is_empty() {
        "none".to_string()
    } else {
        shown.join(", ")
    }
}

/// A text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no platform: write os/architecture[/variant], such as linux/arm64")]
pub struct PlatformError(String);

/// Reads `linux/arm64/v8`; the kernel's names (`x86_64`, `aarch64`) count as Docker's.
///
/// # Errors
/// When it is none.
pub fn parse_platform(text: &str) -> Result<Platform, PlatformError> {
    let parts: Vec<_> = text.split('/').collect();
    let (os, architecture, variant) = match parts.as_slice() {
        [os, architecture] => (*os, *architecture, None),
        [os, architecture, variant] => (*os, *architecture, Some(variant.to_string())),
        _ => return Err(PlatformError(text.to_string())),
    };
    if parts.iter().any(|part| part.is_empty()) {
        return Err(PlatformError(text.to_string()));
    }
    let architecture = match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armhf" => "arm",
        "i386" => "386",
        other => other,
    };
    Ok(Platform {
        os: os.to_ascii_lowercase(),
        architecture: architecture.to_string(),
        variant,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> Vec<Entry> {
        let entry = |(at, text): (usize, &&str)| Entry {
            media_type: MANIFEST_OCI.to_string(),
            digest: Digest::from_bytes([u8::try_from(at).expect("few"); 32]),
            size: 1,
            platform: parse_platform(text).ok(),
            artifact_type: None,
        };
        platforms.iter().enumerate().map(entry).collect()
    }

    fn chosen(wanted: &str, platforms: &[&str]) -> Option<String> {
        let entries = index(platforms);
        let wanted = parse_platform(wanted).expect(wanted);
        let found = choose(&wanted, &entries).ok()?.digest;
        let at = entries.iter().position(|entry| entry.digest == found)?;
        Some(platforms[at].to_string())
    }

    #[test]
    fn the_platform_that_suits_is_chosen() {
        for (wanted, platforms, expected) in [
            (
                "linux/amd64",
                vec!["unknown/unknown", "linux/arm64/v8", "linux/amd64"],
                Some("linux/amd64"),
            ),
            (
                "linux/arm64",
                vec!["linux/amd64", "linux/arm64/v8"],
                Some("linux/arm64/v8"),
            ),
            (
                "linux/aarch64/v8",
                vec!["linux/amd64", "linux/arm64"],
                Some("linux/arm64"),
            ),
            (
                "linux/arm/v7",
                vec!["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"],
                Some("linux/arm/v6"),
            ),
            ("linux/arm/v6", vec!["linux/arm/v7"], None),
            (
                "linux/amd64",
                vec!["linux/amd64/v3", "linux/amd64"],
                Some("linux/amd64"),
            ),
            ("linux/amd64", vec!["windows/amd64"], None),
            ("linux/amd64", vec!["", "windows/amd64"], Some("")),
            ("linux/s390x", vec!["unknown/unknown"], None),
        ] {
            assert_eq!(
                chosen(wanted, &platforms).as_deref(),
                expected,
                "{wanted} of {platforms:?}"
            );
        }
    }

    #[test]
    fn a_missing_platform_names_those_there_are() {
        let entries = index(&["linux/arm64/v8", "linux/amd64", "unknown/unknown"]);
        let wanted = parse_platform("linux/riscv64").expect("a platform");
        let error = choose(&wanted, &entries).expect_err("none fits").to_string();
        assert_eq!(
            error,
            "no image for linux/riscv64; there are: linux/amd64, linux/arm64/v8"
        );
    }

    #[test]
    fn documents_are_told_apart() {
        let digest = Digest::from_bytes([7; 32]);
        let descriptor = format!(r#"{{"mediaType":"x","digest":"{digest}","size":1}}"#);
        let kind = |text: String| Parts::parse(text.as_bytes()).and_then(|parts| parts.kind());
        let image = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[]}}"#);
        assert!(matches!(kind(image), Ok(ManifestKind::Image)));
        let several = format!(r#"{{"schemaVersion":2,"manifests":[{descriptor}]}}"#);
        assert!(matches!(kind(several), Ok(ManifestKind::Index)));
        let old = kind(r#"{"schemaVersion":1,"fsLayers":[]}"#.into())
            .expect_err("schema 1")
            .to_string();
        assert!(old.contains("schema 1"), "{old}");
        // CVE-2021-41190: one document that two readers understand differently.
        let both = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[],"manifests":[]}}"#);
        assert!(kind(both).is_err());
        assert!(kind("<html>".into()).is_err());
    }
}
