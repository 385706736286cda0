//! How registries are reached: mirrors, authorities, exceptions from TLS, credentials, and how patient we are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use gantry_model::build::RegistryAuth;

use crate::limits;

/// Docker's name for its registry in `config.json`.
const DOCKER_INDEX: &str = "https://index.docker.io/v1/";
/// The registry of references that name none.
const DOCKER_REGISTRY: &str = "docker.io";

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct Options {
    /// Base addresses (`https://mirror.example:5000`, or a host alone) that are asked before a registry, in order, by the
    /// registry's name as references have it. For pulls only; the registry itself comes last.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries (`host` or `host:port`) that may show any certificate, or speak plain HTTP: Docker's
    /// `insecure-registries`. 127.0.0.0/8, ::1 and localhost belong to them, as with Docker, unless an authority is given for
    /// them.
    pub insecure: BTreeSet<String>,
    /// Registries that are asked over plain HTTP only.
    pub plain_http: BTreeSet<String>,
    /// Files with authorities (PEM) that are accepted beside the system's.
    pub ca_files: Vec<PathBuf>,
    /// Folders with a folder per registry that holds `ca.crt` (any `*.crt`), `client.cert` and `client.key`.
    pub certs_dirs: Vec<PathBuf>,
    /// Downloads at once from one registry.
    pub downloads_max: usize,
    /// Uploads at once to one registry.
    pub uploads_max: usize,
    /// Bytes of one request of a resumable upload.
    pub chunk_bytes: u64,
    /// Sent as `User-Agent`.
    pub user_agent: String,
    /// How patient.
    pub timing: Timing,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            insecure: BTreeSet::new(),
            plain_http: BTreeSet::new(),
            ca_files: Vec::new(),
            certs_dirs: vec!["/etc/docker/certs.d".into(), "/etc/gantry/certs.d".into()],
            downloads_max: limits::DOWNLOADS_MAX,
            uploads_max: limits::UPLOADS_MAX,
            chunk_bytes: limits::CHUNK_BYTES,
            user_agent: concat!("gantry/", env!("CARGO_PKG_VERSION")).to_string(),
            timing: Timing::default(),
        }
    }
}

/// Deadlines and retries; see [`limits`] for where the defaults come from.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Name resolution, TCP and TLS.
    pub connect: Duration,
    /// No byte for this long is a stall.
    pub stall: Duration,
    /// For the answer to the end of an upload.
    pub commit: Duration,
    /// Wait before the second attempt.
    pub backoff_min: Duration,
    /// Longest wait between attempts.
    pub backoff_max: Duration,
    /// Longest `Retry-After` that is waited for.
    pub retry_after_max: Duration,
    /// Attempts without progress.
    pub attempts_max: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: limits::CONNECT_TIMEOUT,
            stall: limits::STALL_TIMEOUT,
            commit: limits::COMMIT_TIMEOUT,
            backoff_min: limits::BACKOFF_MIN,
            backoff_max: limits::BACKOFF_MAX,
            retry_after_max: limits::RETRY_AFTER_MAX,
            attempts_max: limits::ATTEMPTS_MAX,
        }
    }
}

/// Credentials by registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keychain(BTreeMap<String, RegistryAuth>);

impl Keychain {
    /// Credentials by host, as a client sends them along.
    #[must_use]
    pub fn new(by_host: BTreeMap<String, RegistryAuth>) -> Self {
        let normal = by_host.into_iter().map(|(host, auth)| (registry_key(&host), auth));
        Self(normal.collect())
    }

    /// One registry's.
    #[must_use]
    pub fn of(registry: &str, auth: RegistryAuth) -> Self {
        Self::new(BTreeMap::from([(registry.to_string(), auth)]))
    }

    /// What to show to this host.
    #[must_use]
    pub fn get(&self, host: &str) -> Option<&RegistryAuth> {
        self.0.get(&registry_key(host))
    }
}

/// The one name for a registry among those that `config.json` files have: `docker.io` for all of Docker Hub's, else `host[:port]`
/// without scheme and path.
#[must_use]
pub(crate) fn registry_key(name: &str) -> String {
    let bare = name.split_once("://").map_or(name, |(_, rest)| rest);
    let host = bare.split('/').next().unwrap_or(bare);
    match host {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => DOCKER_REGISTRY.to_string(),
        host => host.to_string(),
    }
}

/// The name under which `config.json` and credential helpers keep a registry.
#[must_use]
pub(crate) fn config_key(registry: &str) -> String {
    match registry_key(registry) {
        host if host == DOCKER_REGISTRY => DOCKER_INDEX.to_string(),
        host => host,
    }
}
