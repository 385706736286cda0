//! How a service is reached by HTTP from outside: which requests are its own, and how they are passed on.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{ByteSize, DataId, DurationMs, Name};

/// Longest wait for an answer to begin when a rule says nothing: nginx' `proxy_read_timeout`.
pub const INGRESS_TIMEOUT: DurationMs = DurationMs::secs(60);
/// How often a request is sent again, to another replica, when a rule says nothing.
pub const INGRESS_RETRIES: u32 = 2;
/// Most that a rule may ask for.
pub const INGRESS_RETRIES_MAX: u32 = 10;
/// Longest host name (RFC 1035, 2.3.4).
pub const HOST_LENGTH_MAX: usize = 253;

/// One rule: requests for this host and path go to the replicas of the service that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressRule {
    /// For which hosts.
    pub host: HostPattern,
    /// For which paths.
    pub path: PathPattern,
    /// The port inside the container; none only with a redirect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What replicas speak there.
    #[serde(default, skip_serializing_if = "UpstreamProtocol::is_default")]
    pub protocol: UpstreamProtocol,
    /// Also by HTTPS, with this certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<IngressTls>,
    /// Name of the cookie by which a client comes back to the same replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<String>,
    /// Longest wait for an answer to begin.
    #[serde(default = "timeout_default")]
    pub timeout: DurationMs,
    /// How often a request is sent again when that cannot have an effect twice.
    #[serde(default = "retries_default")]
    pub retries: u32,
    /// Requests are not served but sent elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<IngressRedirect>,
    /// Largest body of a request; unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_max: Option<ByteSize>,
}

const fn timeout_default() -> DurationMs {
    INGRESS_TIMEOUT
}

const fn retries_default() -> u32 {
    INGRESS_RETRIES
}

impl IngressRule {
    /// A rule with the defaults.
    #[must_use]
    pub const fn new(host: HostPattern, path: PathPattern, port: Option<u16>) -> Self {
        Self {
            host,
            path,
            port,
            protocol: UpstreamProtocol::Http,
            tls: None,
            sticky: None,
            timeout: INGRESS_TIMEOUT,
            retries: INGRESS_RETRIES,
            redirect: None,
            body_max: None,
        }
    }

    /// The secrets that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        let tls = self.tls.iter();
        tls.flat_map(|tls| std::iter::once(&tls.secret).chain(&tls.key))
    }

    /// The same, to be filled in.
    pub fn secrets_mut(&mut self) -> impl Iterator<Item = &mut SecretRef> {
        let tls = self.tls.iter_mut();
        tls.flat_map(|tls| std::iter::once(&mut tls.secret).chain(&mut tls.key))
    }
}

impl fmt::Display for IngressRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.host, self.path)
    }
}

/// What replicas speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1
    #[default]
    Http,
    /// HTTP/2 without TLS from the first byte, as gRPC needs it.
    H2c,
}

impl UpstreamProtocol {
    /// Whether it is HTTP/1.1.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::Http
    }
}

/// Where certificate and key come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressTls {
    /// Certificate chain in PEM, with the key unless that has a secret of its own.
    pub secret: SecretRef,
    /// The key in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<SecretRef>,
}

/// A secret of the application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRef {
    /// Key in the application's `secrets`.
    pub source: Name,
    /// The version of its content, filled in by the control plane at `apply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<DataId>,
}

/// Where requests are sent instead, with 308 (RFC 9110, 15.4.9), which keeps method and body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IngressRedirect {
    /// To the same address by HTTPS; what came by HTTPS is served.
    Https,
    /// To this origin, `https://www.example.com`, with path and query kept.
    To(String),
}

/// A text that is not a pattern of hosts or paths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a {what}: {hint}")]
pub struct PatternError {
    text: String,
    what: &'static str,
    hint: &'static str,
}

/// Which hosts: `shop.example.com`, `*.example.com` for one label before it, `*` for all. Lower case, without a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Exactly this one.
    Exact(String),
    /// One label and this.
    Below(String),
    /// All.
    Any,
}

impl HostPattern {
    /// Whether a host, in lower case and without a port, is meant.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(own) => own == host,
            Self::Below(parent) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
            Self::Any => true,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => formatter.write_str(host),
            Self::Below(parent) => write!(formatter, "*.{parent}"),
            Self::Any => formatter.write_str("*"),
        }
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let lower = text.to_ascii_lowercase();
        if lower == "*" {
            return Ok(Self::Any);
        }
        let (host, is_below) = match lower.strip_prefix("*.") {
            Some(parent) => (parent, true),
            None => (lower.as_str(), false),
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let label = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(allowed);
        if host.len() > HOST_LENGTH_MAX || !host.split('.').all(label) {
            return Err(PatternError {
                text: text.to_string(),
                what: "host",
                hint: "write a name such as shop.example.com, *.example.com for one label below, or * for all",
            });
        }
        let host = host.to_string();
        Ok(if is_below { Self::Below(host) } else { Self::Exact(host) })
    }
}

/// Which paths: `/api` and everything below it, or with `=/api` that one alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathPattern {
    /// The path and what is below it, by whole segments; without a slash at the end, so that all is the empty text.
    Prefix(String),
    /// This path alone.
    Exact(String),
}

impl PathPattern {
    /// All paths.
    #[must_use]
    pub const fn all() -> Self {
        Self::Prefix(String::new())
    }

    /// Whether a path, without query, is meant.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(own) => own == path,
            Self::Prefix(own) => path
                .strip_prefix(own.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(path) if path.is_empty() => formatter.write_str("/"),
            Self::Prefix(path) => formatter.write_str(path),
            Self::Exact(path) => write!(formatter, "={path}"),
        }
    }
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (path, is_exact) = match text.strip_prefix('=') {
            Some(path) => (path, true),
            None => (text, false),
        };
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
        let climbs = path.split('/').any(|segment| segment == "." || segment == "..");
        if !path.starts_with('/') || !path.bytes().all(plain) || climbs {
            return Err(PatternError {
                text: text.to_string(),
                what: "path",
                hint: "write /api for it and all below, or =/api for it alone",
            });
        }
        let path = if is_exact { path } else { path.trim_end_matches('/') };
        let path = path.to_string();
        Ok(if is_exact {
            Self::Exact(path)
        } else {
            Self::Prefix(path)
        })
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(D::Error::custom)
            }
        }
    };
}

as_text!(HostPattern);
as_text!(PathPattern);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_whole_labels() {
        for (pattern, host, matches) in [
            ("shop.example.com", "shop.example.com", true),
            ("Shop.Example.com", "shop.example.com", true),
            ("shop.example.com", "a.shop.example.com", false),
            ("*.example.com", "shop.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", ".example.com", false),
            ("*", "anything", true),
        ] {
            let pattern: HostPattern = pattern.parse().expect("a host");
            assert_eq!(pattern.matches(host), matches, "{pattern} {host}");
            assert_eq!(pattern.to_string().parse(), Ok(pattern));
        }
        for text in ["", "*.", "a..b", "a b", "a:80", "*.*", "http://a"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn paths_match_whole_segments() {
        for (pattern, path, matches) in [
            ("/", "/", true),
            ("/", "/api", true),
            ("/api", "/api", true),
            ("/api/", "/api/v1", true),
            ("/api", "/apis", false),
            ("=/api", "/api", true),
            ("=/api", "/api/", false),
            ("=/", "/", true),
        ] {
            let pattern: PathPattern = pattern.parse().expect("a path");
            assert_eq!(pattern.matches(path), matches, "{pattern} {path}");
            assert_eq!(pattern.to_string().parse(), Ok(pattern));
        }
        for text in ["", "api", "/a?b", "/a/../b", "= /a", "/a b"] {
            assert!(text.parse::<PathPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_round_trips() {
        let mut rule = IngressRule::new(HostPattern::Any, PathPattern::all(), Some(80));
        rule.redirect = Some(IngressRedirect::To("https://a".into()));
        let text = serde_json::to_string(&rule).expect("a rule is data");
        assert_eq!(serde_json::from_str::<IngressRule>(&text).ok(), Some(rule), "{text}");
    }
}
