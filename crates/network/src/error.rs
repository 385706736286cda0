//! What can go wrong between a plan and the kernel.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use gantry_model::net::Ipv4Net;

/// A failed act on the node's network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No netlink socket.
    #[error("opening a netlink socket")]
    Socket {
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a change or question about links, addresses or routes.
    #[error("{act}")]
    Netlink {
        /// What was tried.
        act: String,
        /// Why.
        source: rtnetlink::Error,
    },
    /// A file of the kernel or of the run folder.
    #[error("{act} {path}", path = path.display())]
    File {
        /// What was tried.
        act: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A network namespace.
    #[error("{act} the network namespace {path}", path = path.display())]
    Namespace {
        /// What was tried.
        act: &'static str,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program that the data path needs.
    #[error("running {program}: install it, or add its folder to PATH")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A program ran too long.
    #[error("{program} did not finish in time")]
    ProgramTimeout {
        /// Its name.
        program: &'static str,
    },
    /// The packet rules were refused.
    #[error("loading packet rules into table {table}: {message}")]
    Rules {
        /// The table.
        table: String,
        /// What nft said.
        message: String,
    },
    /// Tracked connections could not be read or deleted.
    #[error("clearing tracked connections of removed endpoints")]
    Conntrack {
        /// Why.
        source: io::Error,
    },
    /// A link that should exist is missing.
    #[error("link {name} does not exist: apply a plan first")]
    LinkMissing {
        /// Its name.
        name: String,
    },
    /// No plan has been applied yet.
    #[error("no plan has been applied: the replica's gateway is unknown")]
    NotApplied,
    /// The configured pool of containers run by hand is somebody else's.
    #[error(
        "the pool {pool} for containers run by hand overlaps {route}, which this node has a route to: configure another"
    )]
    PoolTaken {
        /// The pool.
        pool: Ipv4Net,
        /// What it overlaps.
        route: Ipv4Net,
    },
    /// Every default pool overlaps a route.
    #[error("every default pool for containers run by hand overlaps a route of this node: configure one")]
    NoPool,
    /// All addresses are in use.
    #[error("no address of the pool {pool} is free: remove containers, or configure a larger pool")]
    AddressesUsedUp {
        /// The pool.
        pool: Ipv4Net,
    },
    /// A name that the kernel would not take for a link or table.
    #[error("'{name}' cannot name a {what}: use 1 to {length_max} of a-z, 0-9, '_' and '-', starting with a letter")]
    Name {
        /// The name.
        name: String,
        /// What it was to name.
        what: &'static str,
        /// Longest allowed.
        length_max: usize,
    },
    /// The name server's socket.
    #[error("listening for DNS on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Names a netlink act when it fails.
pub(crate) trait Act<T> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T, NetworkError>;
}

impl<T> Act<T> for Result<T, rtnetlink::Error> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T, NetworkError> {
        self.map_err(|source| NetworkError::Netlink { act: act(), source })
    }
}

/// The error number behind a netlink error, positive.
pub(crate) fn errno(error: &rtnetlink::Error) -> Option<nix::errno::Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(nix::errno::Errno::from_raw(message.raw_code().abs())),
        _ => None,
    }
}
