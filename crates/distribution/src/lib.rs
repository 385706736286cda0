//! Pull from and push to registries: OCI distribution 1.1 and Docker's registry HTTP API v2.
//!
//! **Invariant:** every await has a deadline, every retry is bounded, and nothing a registry says is trusted but for its digest.
//! **Invariant:** credentials go to the host they belong to, and to the token service that this host names over a connection as
//! safe as its own; a redirect to another host takes none along.
//! **Invariant:** TLS is verified and plain HTTP refused, except where asked for ([`Options::insecure`], [`Options::plain_http`])
//! and on this machine's own loopback addresses, which Docker has always treated as insecure-allowed.
//! Deliberately not here: the store itself (`image`), and being a registry.

mod auth;
mod backoff;
mod blob;
mod challenge;
mod client;
mod connect;
mod docker_config;
mod endpoint;
mod error;
mod headers;
mod helper;
pub mod limits;
mod manifest;
mod options;
mod payload;
mod progress;
mod proxy;
mod pull;
mod push;
mod settings;
mod tls;
mod transport;
mod upload;
mod verify;

pub use blob::BlobReader;
pub use client::{Client, Referrer};
pub use docker_config::{ConfigError, DockerConfig};
pub use error::{Asked, Cause, DistributionError, Result};
pub use manifest::{FetchedManifest, ManifestKind, PlatformError, parse_platform};
pub use options::{Keychain, Options, Timing};
pub use progress::{Phase, Progress, Step};
pub use pull::{Platforms, PullRequest, Pulled};
pub use push::{PushRequest, Pushed};
