//! What is true of the cluster as a whole.

use serde::{Deserialize, Serialize};

use crate::net::Ipv4Net;
use crate::spec::Strategy;
use crate::{DurationMs, Timestamp};

/// The one record of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Name for people, `gantry` by default.
    pub name: String,
    /// When it was initialised.
    pub created_at: Timestamp,
    /// The cluster's certificate authority.
    pub root: RootCertificate,
    /// Settings.
    pub config: ClusterConfig,
    /// Counts up with each subnet given to a node.
    #[serde(default)]
    pub subnets_given: u64,
}

/// The certificate authority; its key never leaves the servers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootCertificate {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The private key, PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for RootCertificate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("RootCertificate(..)")
    }
}

/// Settings of the cluster, given at `cluster init`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// Cut into one subnet per node; replicas get their addresses there.
    pub replica_pool: Ipv4Net,
    /// Prefix length of a node's subnet.
    pub node_prefix: u8,
    /// Virtual addresses of services.
    pub service_pool: Ipv4Net,
    /// How often an agent sends a heartbeat.
    pub heartbeat: DurationMs,
    /// A node without a heartbeat for this long is down; its replicas run elsewhere.
    pub lease: DurationMs,
    /// Lifetime of the certificates of servers and agents.
    pub certificate_lifetime: DurationMs,
    /// How nodes are filled where a service does not say.
    #[serde(default)]
    pub placement: Strategy,
    /// How many nodes keep each image that has a name; all of them where the cluster has fewer.
    #[serde(default = "image_copies_default")]
    pub image_copies: u32,
}

/// Two: the loss of any one node loses no image.
const fn image_copies_default() -> u32 {
    2
}

impl Default for ClusterConfig {
    /// 10.128.0.0/10 in /24 per node, virtual addresses in 10.96.0.0/12, heartbeat 1 s, lease 5 s, certificates 90 days (as
    /// in Swarm), two copies of each image.
    fn default() -> Self {
        use std::net::Ipv4Addr;
        Self {
            replica_pool: Ipv4Net::new(Ipv4Addr::new(10, 128, 0, 0), 10),
            node_prefix: 24,
            service_pool: Ipv4Net::new(Ipv4Addr::new(10, 96, 0, 0), 12),
            heartbeat: DurationMs::secs(1),
            lease: DurationMs::secs(5),
            certificate_lifetime: DurationMs::secs(90 * 24 * 3600),
            placement: Strategy::Binpack,
            image_copies: image_copies_default(),
        }
    }
}
