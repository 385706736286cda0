//! This process's identity, replaceable while connections are open.

use std::sync::Arc;

use arc_swap::ArcSwap;
use gantry_pki::{Identity, PkiError};
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::tls;

/// An identity that cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A PEM block is damaged.
    #[error(transparent)]
    Identity(#[from] PkiError),
    /// The key does not fit the certificate, or is of a kind that TLS does not know.
    #[error("cannot use the certificate of {identity} for TLS: {source}")]
    Tls {
        /// Whose it is.
        identity: String,
        /// Why.
        source: rustls::Error,
    },
    /// The authority's certificate is not one.
    #[error("cannot trust the authority: {0}")]
    Authority(String),
}

impl From<CredentialsError> for gantry_model::Problem {
    fn from(error: CredentialsError) -> Self {
        gantry_model::Problem::new(gantry_model::Class::Internal, "identity", error.to_string())
    }
}

/// The identity in use, shared by everything that listens or connects. Clones share: a replacement reaches all of them.
#[derive(Clone)]
pub struct Credentials {
    inner: Arc<Inner>,
}

struct Inner {
    active: ArcSwap<Active>,
    replacements: watch::Sender<u64>,
}

struct Active {
    identity: Arc<Identity>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Credentials({:?})", self.identity())
    }
}

impl Active {
    fn new(identity: Identity) -> Result<Self, CredentialsError> {
        Ok(Self {
            server: Arc::new(tls::server_config(&identity)?),
            client: Arc::new(tls::client_config(&identity)?),
            identity: Arc::new(identity),
        })
    }
}

impl Credentials {
    /// Uses the identity for connections in both directions.
    ///
    /// # Errors
    /// When key, certificate and authority do not make up a usable identity.
    pub fn new(identity: Identity) -> Result<Self, CredentialsError> {
        Ok(Self {
            inner: Arc::new(Inner {
                active: ArcSwap::from_pointee(Active::new(identity)?),
                replacements: watch::Sender::new(0),
            }),
        })
    }

    /// Uses another identity for all connections from now on; older ones are closed a minute later.
    ///
    /// # Errors
    /// As [`Credentials::new`]; the identity in use stays then.
    pub fn replace(&self, identity: Identity) -> Result<(), CredentialsError> {
        self.inner.active.store(Arc::new(Active::new(identity)?));
        self.inner.replacements.send_modify(|count| *count += 1);
        Ok(())
    }

    /// The identity in use.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        self.inner.active.load().identity.clone()
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        self.inner.active.load().server.clone()
    }

    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        self.inner.active.load().client.clone()
    }

    /// Counts the replacements.
    pub(crate) fn replacements(&self) -> watch::Receiver<u64> {
        self.inner.replacements.subscribe()
    }
}
