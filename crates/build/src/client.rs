//! What a build needs from whoever asked for it, and from the node it runs on. Calls block; they come from several threads.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;

use gantry_dockerfile::Platform;
use gantry_model::build::{BuildEvent, ContextEntry, RegistryAuth};
use gantry_model::{Digest, ImageReference, Problem};

/// The person's side of a build.
pub trait Client: Send + Sync {
    /// Something happened.
    fn event(&self, event: BuildEvent);

    /// The entries of a context; waits until they have come.
    ///
    /// # Errors
    /// When the person has gone, or has no such context.
    fn entries(&self, context: &str) -> Result<Vec<ContextEntry>, Problem>;

    /// Asks for contents and returns when all of them are in [`crate::Contents`].
    ///
    /// # Errors
    /// When the person has gone, or a file cannot be read or has changed meanwhile.
    fn fetch(&self, digests: &[Digest]) -> Result<(), Problem>;

    /// A secret; none when the person has none of this id.
    ///
    /// # Errors
    /// When the person has gone.
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, Problem>;

    /// Whether the person forwards an SSH agent of this id.
    fn has_ssh(&self, id: &str) -> bool;

    /// Connects one connection of the container with the person's SSH agent; returns at once.
    fn ssh(&self, id: &str, connection: UnixStream);

    /// The next bytes of an output that is sent back.
    ///
    /// # Errors
    /// When the person has gone.
    fn output(&self, bytes: Vec<u8>) -> Result<(), Problem>;
}

/// Where base images come from: this node, other nodes, registries.
pub trait BaseImages: Send + Sync {
    /// Gets the image into the store, with all its layers, and says which it is. `progress` hears of what, how far, and of how
    /// much.
    ///
    /// # Errors
    /// When there is no such image, or none for the platform.
    fn ensure(&self, wanted: &WantedImage<'_>, progress: &dyn Fn(&str, u64, u64)) -> Result<Digest, Problem>;

    /// Gets an image or index that holds the cache of other machines from its registry, looked up anew, and says which images
    /// it is made of.
    ///
    /// # Errors
    /// When there is none, or its registry cannot be asked.
    fn cache(&self, wanted: &WantedCache<'_>) -> Result<Vec<Digest>, Problem>;
}

/// A cache that a build may use.
#[derive(Debug, Clone, Copy)]
pub struct WantedCache<'a> {
    /// What it is called.
    pub reference: &'a ImageReference,
    /// The person's credentials by registry host.
    pub auth: &'a BTreeMap<String, RegistryAuth>,
}

/// An image that a build needs.
#[derive(Debug, Clone, Copy)]
pub struct WantedImage<'a> {
    /// What it is called.
    pub reference: &'a ImageReference,
    /// What it must be for.
    pub platform: &'a Platform,
    /// It is looked up anew where it comes from, also when one of this name is here.
    pub fresh: bool,
    /// The person's credentials by registry host.
    pub auth: &'a BTreeMap<String, RegistryAuth>,
}

/// The network of `RUN`.
pub trait Networks: Send + Sync {
    /// Makes a network namespace that reaches what the node reaches. It goes when what is returned is dropped.
    ///
    /// # Errors
    /// When the node cannot make one.
    fn attach(&self, id: &str) -> Result<Box<dyn Attached>, Problem>;

    /// What `/etc/resolv.conf` says on the node, for `network=host`.
    fn resolv_conf(&self) -> Vec<u8> {
        // A node without the file has no name servers either.
        std::fs::read("/etc/resolv.conf").unwrap_or_default()
    }
}

/// A network namespace for one `RUN`.
pub trait Attached: Send + Debug {
    /// The namespace.
    fn network(&self) -> gantry_runtime::Network;

    /// Its addresses.
    fn addresses(&self) -> Vec<IpAddr>;

    /// What `/etc/resolv.conf` says in it.
    fn resolv_conf(&self) -> Vec<u8>;
}

/// `RUN` shares the node's network: for nodes that have no other.
#[derive(Debug, Clone, Copy)]
pub struct HostNetwork;

impl Networks for HostNetwork {
    fn attach(&self, _id: &str) -> Result<Box<dyn Attached>, Problem> {
        Ok(Box::new(Self))
    }
}

impl Attached for HostNetwork {
    fn network(&self) -> gantry_runtime::Network {
        gantry_runtime::Network::Host
    }

    fn addresses(&self) -> Vec<IpAddr> {
        Vec::new()
    }

    fn resolv_conf(&self) -> Vec<u8> {
        Networks::resolv_conf(self)
    }
}
