//! Policies: who may open connections to a service, or over a network.
//!
//! A policy is a list of rules; a connection is let through when one of them fits. Without a policy whoever shares a network may
//! connect; an empty policy lets nobody in. Answers are always let through.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Protocol;
use crate::net::Ipv4Net;
use crate::{Name, QualifiedName};

/// One rule of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Who is let in; anybody when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<PolicyPeer>,
    /// To which ports inside the container; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PolicyPorts>,
}

/// Who opens a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyPeer {
    /// Replicas of a service: `namespace/service`.
    Service(QualifiedName),
    /// Replicas of every service of a namespace: `namespace/*`.
    Namespace(Name),
    /// Addresses outside of the cluster, or inside: `192.0.2.0/24`, `192.0.2.7`.
    Net(Ipv4Net),
}

/// Ports of one protocol: `5432`, `8000-8010`, `53/udp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyPorts {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
    /// Their protocol.
    pub protocol: Protocol,
}

/// A text that is no part of a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Nobody is called so.
    #[error("'{text}' is nobody: write SERVICE, NAMESPACE/SERVICE, NAMESPACE/*, or a network such as 192.0.2.0/24")]
    Peer {
        /// The text.
        text: String,
    },
    /// No ports are written so.
    #[error("'{text}' is no port: write PORT, FIRST-LAST, and /udp behind it where it is not TCP")]
    Ports {
        /// The text.
        text: String,
    },
}

impl PolicyPeer {
    /// Reads a peer; a service without a namespace is one of `namespace`.
    ///
    /// # Errors
    /// When the text is neither a service, nor a namespace, nor an IPv4 network.
    pub fn parse(text: &str, namespace: &Name) -> Result<Self, PolicyError> {
        if let Ok(net) = text.parse() {
            return Ok(Self::Net(net));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Net(Ipv4Net::new(address, 32)));
        }
        let wrong = || PolicyError::Peer { text: text.to_string() };
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Name::new(namespace).map_err(|_| wrong())?, name),
            None => (namespace.clone(), text),
        };
        if name == "*" {
            return Ok(Self::Namespace(namespace));
        }
        let name = Name::new(name).map_err(|_| wrong())?;
        Ok(Self::Service(QualifiedName { namespace, name }))
    }
}

impl fmt::Display for PolicyPeer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(formatter, "{name}"),
            Self::Namespace(namespace) => write!(formatter, "{namespace}/*"),
            Self::Net(net) => write!(formatter, "{net}"),
        }
    }
}

impl fmt::Display for PolicyPorts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.first)?;
        if self.last != self.first {
            write!(formatter, "-{}", self.last)?;
        }
        write!(formatter, "/{}", self.protocol)
    }
}

impl FromStr for PolicyPorts {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let wrong = || PolicyError::Ports { text: text.to_string() };
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(wrong()),
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(wrong());
        }
        Ok(Self { first, last, protocol })
    }
}

impl Serialize for PolicyPeer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PolicyPeer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // What is written out names its namespace; a text that does not is no peer here.
        let namespace = text.split_once('/').map_or("", |(namespace, _)| namespace);
        let namespace = Name::new(namespace).map_err(D::Error::custom)?;
        Self::parse(&text, &namespace).map_err(D::Error::custom)
    }
}

impl Serialize for PolicyPorts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PolicyPorts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read_and_written() {
        let own = Name::new("shop").expect("a name");
        for (text, written) in [
            ("api", "shop/api"),
            ("bank/api", "bank/api"),
            ("bank/*", "bank/*"),
            ("*", "shop/*"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
        ] {
            let peer = PolicyPeer::parse(text, &own).expect(text);
            assert_eq!(peer.to_string(), written);
            let json = serde_json::to_string(&peer).expect("a peer is a text");
            assert_eq!(serde_json::from_str::<PolicyPeer>(&json).ok(), Some(peer), "{json}");
        }
        for text in ["", "a/b/c", "/api", "bank/", "a b"] {
            assert!(PolicyPeer::parse(text, &own).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_read_and_written() {
        for (text, written) in [
            ("80", "80/tcp"),
            ("53/udp", "53/udp"),
            ("8000-8010", "8000-8010/tcp"),
            ("1-65535/udp", "1-65535/udp"),
        ] {
            let ports: PolicyPorts = text.parse().expect(text);
            assert_eq!(ports.to_string(), written);
            assert_eq!(written.parse(), Ok(ports));
        }
        for text in ["", "0", "65536", "9-8", "80/sctp", "http"] {
            assert!(text.parse::<PolicyPorts>().is_err(), "{text}");
        }
    }
}
