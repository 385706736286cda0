//! Ports that a service publishes.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// First port given to a published port without a number, as in Swarm.
pub const PORT_AUTO_MIN: u16 = 30_000;
/// Last port given to a published port without a number, as in Swarm.
pub const PORT_AUTO_MAX: u16 = 32_767;

/// One published port; a range in the manifest becomes one of these per port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortSpec {
    /// The port inside the container.
    pub target: u16,
    /// The port on the nodes; one of the automatic range when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<u16>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Every node, or only where a replica runs.
    pub mode: PortMode,
    /// Only on this address of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// How a port is published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortMode {
    /// On every node, balanced over all ready replicas.
    #[default]
    Ingress,
    /// On the node of the replica, straight to it.
    Host,
}

impl fmt::Display for PortSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.published {
            Some(published) => write!(formatter, "{published}->{}/{}", self.target, self.protocol),
            None => write!(formatter, "auto->{}/{}", self.target, self.protocol),
        }
    }
}
