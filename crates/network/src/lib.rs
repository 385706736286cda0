//! The service network of a node, applied to its kernel: links, routes, packet rules, replica namespaces, and the name server.
//!
//! [`NodeDatapath`] makes the kernel hold a [`Plan`](gantry_netplan::Plan) and gives each replica a network namespace;
//! [`DnsServer`] answers its names. [`LocalNetwork`] does the same for containers run by hand, which have a pool of their own.
//!
//! **Invariant:** what is applied outlives the agent; a new agent takes over without a packet lost.
//! **Invariant:** packet rules change in one transaction, and where a packet under way could meet both sides of one, either side
//! leads it to an endpoint: no new connection ever meets half of an update.
//! **Invariant:** everything made here can be told from what others made (names of links and table, route protocol, folder), and
//! [`NodeDatapath::teardown`] removes all of it.
//! Deliberately not here: deciding anything about the rules or names (`gantry-netplan`).

mod conntrack;
mod datapath;
mod dns;
mod endpoint;
mod error;
mod firewall;
mod flows;
mod links;
mod local;
mod namespace;
mod nft;
mod node;
mod routes;
mod sockets;
mod sysctl;
mod watch;

pub use datapath::{Config, NodeDatapath, Report};
pub use dns::{DnsServer, Upstreams};
pub use error::NetworkError;
pub use local::{LocalAttachment, LocalConfig, LocalNetwork, LocalPort};
pub use sockets::Connections;
pub use watch::Disturbance;
