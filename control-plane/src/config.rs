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
    /// How to join a cluster, needed only the first time.
    pub join: Option<JoinConfig>,
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
