//! What a server is started with.

use std::net::SocketAddr;
use std::path::PathBuf;

use gantry_model::object::ClusterConfig;

/// Port of a server when none is given.
pub const SERVER_PORT: u16 = 7600;

/// Settings of one server process.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Its folder: identity, log, snapshots.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where others reach it, `host:port`.
    pub advertise: String,
    /// Further names and addresses by which registry clients reach it; its certificate is valid for them too.
    pub names: Vec<String>,
    /// How to join a cluster, needed only the first time.
    pub join: Option<JoinConfig>,
}

impl ServerConfig {
    /// Every name and address that its certificate is to be valid for, besides those within the cluster.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts = vec![host_of(&self.advertise)];
        hosts.extend(self.names.iter().map(|name| name.to_ascii_lowercase()));
        // What no certificate may have, such as the name of a machine with an underscore, is left out.
        hosts.retain(|host| gantry_pki::is_host_name(host));
        hosts.sort();
        hosts.dedup();
        hosts
    }
}

/// `10.0.0.1` of `10.0.0.1:7600`, `::1` of `[::1]:7600`.
pub(crate) fn host_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.to_ascii_lowercase()
}

/// How to join.
#[derive(Debug, Clone)]
pub struct JoinConfig {
    /// Servers to ask, `host:port`.
    pub servers: Vec<String>,
    /// A token for the role.
    pub token: String,
}

/// Settings of a new cluster.
#[derive(Debug, Clone)]
pub struct InitConfig {
    /// Folder of its first server; must not hold a server yet.
    pub data_dir: PathBuf,
    /// Where others will reach its first server.
    pub advertise: String,
    /// Name for people.
    pub name: String,
    /// Address pools, heartbeat, lease, lifetime of certificates.
    pub config: ClusterConfig,
}
