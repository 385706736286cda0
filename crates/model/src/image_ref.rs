//! Image references as people write them, and the content digests they lead to.
//!
//! **Invariant:** a parsed reference is complete: registry, repository, and a tag or a digest (or both), by the rules that
//! Docker users know (`nginx` is `docker.io/library/nginx:latest`). Its text form is the normalised one.
//! Deliberately not here: what a reference points at; that is the store's and the cluster's to say.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The registry of a reference that names none.
pub const REGISTRY_DEFAULT: &str = "docker.io";
/// The tag of a reference that names neither tag nor digest.
pub const TAG_DEFAULT: &str = "latest";
/// Longest tag (OCI distribution specification).
pub const TAG_LENGTH_MAX: usize = 128;
/// Longest registry and repository together; registries reject longer ones (OCI distribution specification).
pub const REPOSITORY_LENGTH_MAX: usize = 255;

/// Docker's old name for its registry.
const REGISTRY_LEGACY: &str = "index.docker.io";
/// Where Docker Hub keeps images without an owner.
const OFFICIAL_OWNER: &str = "library";
/// Hexadecimal digits of a SHA-256.
const SHA256_HEX_LENGTH: usize = 64;

/// A text that is not an image reference or digest: what is wrong, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid image {what}: {hint}")]
pub struct ImageRefError {
    text: String,
    what: &'static str,
    hint: &'static str,
}

/// A SHA-256 digest of content, shown as `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest with these 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 64 hexadecimal digits alone, as file names use them.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0
            .iter()
            .fold(String::with_capacity(SHA256_HEX_LENGTH), |mut text, byte| {
                // Writing into a String cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            })
    }

    /// The digest with these 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != SHA256_HEX_LENGTH {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&format!("sha256:{}", self.hex()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

impl FromStr for Digest {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        text.strip_prefix("sha256:")
            .and_then(Self::from_hex)
            .ok_or_else(|| ImageRefError {
                text: text.to_string(),
                what: "digest",
                hint: "write sha256: and 64 of 0-9 and a-f",
            })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A normalised image reference such as `docker.io/library/nginx:1.27`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageReference {
    /// The registry's host and optional port: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry: `library/nginx`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; absent only where there is a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that pins the content.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same reference pinned to `digest`; the tag stays.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// The same reference without a digest; the default tag where there was none.
    #[must_use]
    pub fn without_digest(mut self) -> Self {
        self.digest = None;
        self.tag.get_or_insert_with(|| TAG_DEFAULT.to_string());
        self
    }

    /// What a reference means that may name the cluster's own registry: `10.0.0.1:7600/web:v1` is `web:v1` where `10.0.0.1:7600`
    /// is one of its servers. Any other one is itself.
    #[must_use]
    pub fn of_cluster(self, is_server: impl FnOnce(&str) -> bool) -> Self {
        if !is_server(&self.registry) {
            return self;
        }
        let mut text = self.repository.clone();
        self.push_suffix(&mut text);
        text.parse().unwrap_or(self)
    }

    /// The repository, normalised: registry and path, without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The short form people type: `nginx:1.27`, `owner/app:v1`, `ghcr.io/owner/app:v1`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_repository();
        self.push_suffix(&mut text);
        text
    }

    /// The short form of the repository alone: `nginx`, `owner/app`, `ghcr.io/owner/app`.
    #[must_use]
    pub fn familiar_repository(&self) -> String {
        if self.registry != REGISTRY_DEFAULT {
            return format!("{}/{}", self.registry, self.repository);
        }
        let official = self.repository.strip_prefix("library/");
        official
            .filter(|name| !name.contains('/'))
            .unwrap_or(&self.repository)
            .to_string()
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}/{}", self.registry, self.repository);
        self.push_suffix(&mut text);
        formatter.pad(&text)
    }
}

impl FromStr for ImageReference {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        let error = |hint| ImageRefError {
            text: text.to_string(),
            what: "reference",
            hint,
        };
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
        };
        let (name, tag) = split_tag(rest);
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(error(if tag.is_empty() {
                "the tag after ':' is empty"
            } else {
                "a tag has 1 to 128 of a-z, A-Z, 0-9, '_', '.', '-' and starts with none of '.' and '-'"
            }));
        }
        if Digest::from_hex(name).is_some() {
            return Err(error(
                "64 hexadecimal digits are an image's digest; write sha256: before them",
            ));
        }
        let (registry, repository) = split_registry(name);
        if !is_registry(&registry) {
            return Err(error("the registry before the first '/' must be host or host:port"));
        }
        check_repository(&repository).map_err(error)?;
        if registry.len() + 1 + repository.len() > REPOSITORY_LENGTH_MAX {
            return Err(error("registry and repository together have more than 255 characters"));
        }
        let tag = match (tag, digest) {
            (None, None) => Some(TAG_DEFAULT.to_string()),
            (tag, _) => tag.map(str::to_string),
        };
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }
}

/// Splits `name:tag`; a colon before a slash belongs to a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

/// The registry (the default one where the first part does not look like a host) and the repository.
fn split_registry(name: &str) -> (String, String) {
    let is_host = |part: &str| {
        part.contains(['.', ':']) || part == "localhost" || part.bytes().any(|byte| byte.is_ascii_uppercase())
    };
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if is_host(first) => (first, rest),
        _ => (REGISTRY_DEFAULT, name),
    };
    if registry != REGISTRY_DEFAULT && registry != REGISTRY_LEGACY {
        return (registry.to_string(), path.to_string());
    }
    let path = if path.contains('/') || path.is_empty() {
        path.to_string()
    } else {
        format!("{OFFICIAL_OWNER}/{path}")
    };
    (REGISTRY_DEFAULT.to_string(), path)
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_LENGTH_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || b".-".contains(&byte))
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let port_is_well = port.is_none_or(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'));
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let host_is_well = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(label),
    };
    port_is_well && host_is_well
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the repository must be lower case");
    }
    if repository.split('/').all(is_repository_part) {
        Ok(())
    } else {
        Err("write [registry/]name[:tag], the name of a-z, 0-9 and between them '.', '_', '__', '-' or '/'")
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_repository_part(part: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let edge = |byte: Option<&u8>| byte.is_some_and(alphanumeric);
    let bytes = part.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .split(alphanumeric)
            .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|byte| *byte == b'-'))
}

impl Serialize for ImageReference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageReference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHA: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn parse(text: &str) -> ImageReference {
        text.parse().expect(text)
    }

    #[test]
    fn references_become_complete() {
        for (text, whole, familiar) in [
            ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
            ("owner/app", "docker.io/owner/app:latest", "owner/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("index.docker.io/a/b:c", "docker.io/a/b:c", "a/b:c"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            (
                "localhost:5000/app:v1",
                "localhost:5000/app:v1",
                "localhost:5000/app:v1",
            ),
            ("ghcr.io/o/a/b", "ghcr.io/o/a/b:latest", "ghcr.io/o/a/b:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            (
                "gantry/redis:debian",
                "docker.io/gantry/redis:debian",
                "gantry/redis:debian",
            ),
            ("a__b/c-d_e.f", "docker.io/a__b/c-d_e.f:latest", "a__b/c-d_e.f:latest"),
        ] {
            assert_eq!(parse(text).to_string(), whole, "{text}");
            assert_eq!(parse(text).familiar(), familiar, "{text}");
        }
    }

    #[test]
    fn a_digest_pins_and_needs_no_tag() {
        let pinned = parse(&format!("nginx@{SHA}"));
        assert_eq!(pinned.tag(), None);
        assert_eq!(pinned.to_string(), format!("docker.io/library/nginx@{SHA}"));
        assert_eq!(pinned.without_digest().to_string(), "docker.io/library/nginx:latest");
        let both = parse(&format!("nginx:1@{SHA}"));
        assert_eq!(
            (both.tag(), both.digest().map(|digest| digest.to_string())),
            (Some("1"), Some(SHA.into()))
        );
    }

    #[test]
    fn the_clusters_own_registry_is_no_part_of_a_name() {
        for (text, meaning) in [
            ("10.0.0.1:7600/web:v1", "docker.io/library/web:v1"),
            ("10.0.0.1:7600/ghcr.io/a/b", "ghcr.io/a/b:latest"),
            ("10.0.0.2:7600/web:v1", "10.0.0.2:7600/web:v1"),
            ("web", "docker.io/library/web:latest"),
        ] {
            let reference = parse(text).of_cluster(|registry| registry == "10.0.0.1:7600");
            assert_eq!(reference.to_string(), meaning, "{text}");
        }
        let pinned = parse(&format!("10.0.0.1:7600/web@{SHA}")).of_cluster(|_| true);
        assert_eq!(pinned.to_string(), format!("docker.io/library/web@{SHA}"));
        assert_eq!(pinned.name(), "docker.io/library/web");
    }

    #[test]
    fn wrong_references_say_what_is_wrong() {
        for (text, hint) in [
            ("", "write [registry/]name"),
            ("Nginx", "lower case"),
            ("nginx:", "tag after ':' is empty"),
            ("nginx:-a", "a tag has"),
            ("a//b", "write [registry/]name"),
            ("-a", "write [registry/]name"),
            ("a.-b/c:d/e", "must be host or host:port"),
            ("nginx@sha512:00", "64 of 0-9"),
            ("nginx@sha256:00", "64 of 0-9"),
            ("host:99999/x", "host or host:port"),
            (&SHA[7..], "sha256: before them"),
            (&format!("x/{}", "a".repeat(250)), "more than 255"),
        ] {
            let error = text.parse::<ImageReference>().expect_err(text).to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn the_text_forms_lead_back(text in "[a-z0-9._:/@A-Z-]{0,40}") {
            if let Ok(reference) = text.parse::<ImageReference>() {
                prop_assert_eq!(reference.to_string().parse::<ImageReference>(), Ok(reference.clone()));
                prop_assert_eq!(reference.familiar().parse::<ImageReference>(), Ok(reference));
            }
        }

        #[test]
        fn digests_round_trip(bytes: [u8; 32]) {
            let digest = Digest::from_bytes(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        }
    }
}
