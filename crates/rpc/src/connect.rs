//! Outgoing connections: one lazy channel per member, made again whenever it breaks.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_model::object::Role;
use gantry_model::{Class, NodeId, Problem, ServerId};
use gantry_pki::{SERVER_NAME, member_name};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::limits::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES,
};
use crate::{Credentials, tls};

/// Channels kept; past it all are dropped and made again as needed. Far above the members of one cluster.
const CACHED_MAX: usize = 8192;

/// Whom a connection must reach: the certificate at the other end has to say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Remote {
    /// Any server of the cluster.
    AnyServer,
    /// That server.
    Server(ServerId),
    /// That node's agent.
    Agent(NodeId),
}

impl Remote {
    /// The name that the other end's certificate must have.
    #[must_use]
    pub fn certificate_name(&self) -> String {
        match self {
            Self::AnyServer => SERVER_NAME.to_string(),
            Self::Server(id) => member_name(Role::Server, &id.to_string()),
            Self::Agent(id) => member_name(Role::Agent, &id.to_string()),
        }
    }

    /// For messages: `server 10.0.0.1:7600`.
    #[must_use]
    pub fn object(&self, address: &str) -> String {
        match self {
            Self::AnyServer | Self::Server(_) => format!("server {address}"),
            Self::Agent(_) => format!("agent {address}"),
        }
    }
}

/// A connection that did not come about; nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// The network or the other machine refused, or the name does not resolve.
    #[error("{address}: {}", words(source))]
    Network {
        /// Where to.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{address}: no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout {
        /// Where to.
        address: String,
    },
    /// Something answers, but it is not the expected member of this cluster.
    #[error("{address}: {}", tls_words(source, expected))]
    Tls {
        /// Where to.
        address: String,
        /// The name it should have had.
        expected: String,
        /// Why.
        source: io::Error,
    },
}

impl ConnectFailure {
    /// What to tell a person who asked `whom`.
    #[must_use]
    pub fn to_problem(&self, whom: &str) -> Problem {
        match self {
            Self::Network { source, .. } => Problem::new(Class::Unavailable, whom, words(source))
                .remedy("check the address, that gantry runs there, and that no firewall is in between"),
            Self::Timeout { .. } => {
                let reason = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
                Problem::new(Class::Unavailable, whom, reason)
                    .remedy("check the address, and that no firewall drops the packets")
            }
            Self::Tls { source, expected, .. } => Problem::new(Class::Unavailable, whom, tls_words(source, expected))
                .remedy(
                    "check that the address is a server of this cluster and that the clocks of both machines are right",
                ),
        }
    }

    /// Whether the other end showed a certificate of another authority than the expected one.
    pub(crate) fn is_of_another_cluster(&self) -> bool {
        match self {
            Self::Tls { source, .. } => matches!(
                tls_error(source),
                Some(rustls::Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature
                ))
            ),
            Self::Network { .. } | Self::Timeout { .. } => false,
        }
    }
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_string(),
        io::ErrorKind::ConnectionReset => "connection reset".to_string(),
        io::ErrorKind::HostUnreachable => "no route to host".to_string(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_string(),
        _ => {
            let text = error.to_string();
            let plain = text.split(" (os error").next().unwrap_or_default();
            plain.to_string()
        }
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn tls_words(error: &io::Error, expected: &str) -> String {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            "its certificate is not of the expected cluster".to_string()
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => format!("it is another member than expected ({expected})"),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "its certificate has expired".to_string(),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => "its certificate is not valid yet".to_string(),
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS".to_string(),
        Some(other) => format!("TLS handshake failed: {other}"),
        None => format!("TLS handshake failed: {}", words(error)),
    }
}

/// Channels to members, shared by everything in this process. Making one needs a tokio runtime around it.
#[derive(Clone)]
pub struct Channels {
    credentials: Credentials,
    cached: Arc<Mutex<HashMap<(String, Remote), Channel>>>,
}

impl Channels {
    /// Channels that show the credentials in use at the time of each connection.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            cached: Arc::default(),
        }
    }

    /// The channel to a member at `host:port`; it connects when first used, and again after each break.
    #[must_use]
    pub fn channel(&self, address: &str, remote: Remote) -> Channel {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.len() >= CACHED_MAX {
            cached.clear();
        }
        let make = || {
            let credentials = self.credentials.clone();
            lazy(address, &remote.certificate_name(), move || credentials.client_config())
        };
        cached.entry((address.to_string(), remote)).or_insert_with(make).clone()
    }

    /// Drops the channels to an address that is not used any more.
    pub fn forget(&self, address: &str) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.retain(|(known, _), _| known != address);
    }

    /// Connects once and hangs up: whether the member is there now.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn probe(&self, address: &str, remote: Remote) -> Result<(), ConnectFailure> {
        open(address, &remote.certificate_name(), self.credentials.client_config())
            .await
            .map(|_| ())
    }
}

/// A channel without a certificate of one's own, to a server whose authority is pinned.
pub(crate) fn pinned(address: &str, authority: gantry_pki::AuthorityDigest) -> Result<Channel, rustls::Error> {
    let config = Arc::new(tls::pinned_config(authority)?);
    Ok(lazy(address, SERVER_NAME, move || config.clone()))
}

fn lazy<F>(address: &str, name: &str, config: F) -> Channel
where
    F: Fn() -> Arc<ClientConfig> + Send + Sync + 'static,
{
    let target = Arc::new((address.to_string(), name.to_string()));
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let (target, config) = (target.clone(), config());
        async move { open(&target.0, &target.1, config).await.map(TokioIo::new) }
    });
    // The connector knows where to go; the address here only becomes the `:authority` of requests.
    Endpoint::from_static("http://gantry")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_with_connector_lazy(connector)
}

async fn open(address: &str, name: &str, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, ConnectFailure> {
    let network = |source| ConnectFailure::Network {
        address: address.to_string(),
        source,
    };
    let tls = |source| ConnectFailure::Tls {
        address: address.to_string(),
        expected: name.to_string(),
        source,
    };
    let server_name = ServerName::try_from(name.to_string()).map_err(|error| tls(io::Error::other(error)))?;
    let stream = within(CONNECT_TIMEOUT, address, TcpStream::connect(address))
        .await?
        .map_err(network)?;
    stream.set_nodelay(true).map_err(network)?;
    let handshake = TlsConnector::from(config).connect(server_name, stream);
    within(CONNECT_TIMEOUT, address, handshake).await?.map_err(tls)
}

async fn within<F: Future>(limit: Duration, address: &str, future: F) -> Result<F::Output, ConnectFailure> {
    tokio::time::timeout(limit, future)
        .await
        .map_err(|_| ConnectFailure::Timeout {
            address: address.to_string(),
        })
}
