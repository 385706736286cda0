//! Connections: TCP, through a proxy where the environment names one, and TLS on it where the address says https.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::Cause;
use crate::proxy::{Proxies, Proxy, tunnel_opened};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{0}")]
    Tcp(io::Error),
    #[error("no connection within {0} s")]
    Timeout(u64),
    #[error("{0}")]
    Tls(String),
    #[error("plain HTTP")]
    PlainHttp,
    #[error("no host in the address")]
    NoHost,
    #[error("through the proxy {proxy}: {reason}")]
    Proxy { proxy: String, reason: String },
}

impl ConnectError {
    pub(crate) fn cause(&self, host: &str) -> Cause {
        let host = host.to_string();
        match self {
            Self::Tcp(_) | Self::Timeout(_) | Self::NoHost | Self::Proxy { .. } => Cause::Connect {
                host,
                reason: self.to_string(),
            },
            Self::Tls(reason) => Cause::Tls {
                host,
                reason: reason.clone(),
            },
            Self::PlainHttp => Cause::PlainHttp { host },
        }
    }
}

/// Makes connections to one host.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    tls: Arc<ClientConfig>,
    proxies: Proxies,
    timeout: Duration,
}

impl Connector {
    pub(crate) const fn new(tls: Arc<ClientConfig>, proxies: Proxies, timeout: Duration) -> Self {
        Self { tls, proxies, timeout }
    }

    async fn connect(self, uri: Uri) -> Result<TokioIo<Stream>, ConnectError> {
        let connected = tokio::time::timeout(self.timeout, self.dial(&uri)).await;
        connected.unwrap_or(Err(ConnectError::Timeout(self.timeout.as_secs())))
    }

    async fn dial(&self, uri: &Uri) -> Result<TokioIo<Stream>, ConnectError> {
        let is_tls = uri.scheme_str() == Some("https");
        // An IPv6 address is in brackets in an address, and nowhere else.
        let host = uri.host().ok_or(ConnectError::NoHost)?.trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let proxy = self.proxies.before(is_tls, host);
        let mut tcp = match proxy {
            None => TcpStream::connect((host, port)).await,
            Some(proxy) => TcpStream::connect((proxy.host.as_str(), proxy.port)).await,
        }
        .map_err(ConnectError::Tcp)?;
        // Requests are written whole; waiting for more only adds latency.
        tcp.set_nodelay(true).map_err(ConnectError::Tcp)?;
        if !is_tls {
            return Ok(TokioIo::new(match proxy {
                None => Stream::Plain(tcp),
                Some(_) => Stream::Proxied(tcp),
            }));
        }
        if let Some(proxy) = proxy {
            open_tunnel(&mut tcp, proxy, host, port).await?;
        }
        let name = ServerName::try_from(host.to_string()).map_err(|error| ConnectError::Tls(error.to_string()))?;
        let tls = TlsConnector::from(self.tls.clone()).connect(name, tcp).await;
        Ok(TokioIo::new(Stream::Tls(Box::new(tls.map_err(handshake_error)?))))
    }
}

/// Has a proxy connect on to a host.
async fn open_tunnel(tcp: &mut TcpStream, proxy: &Proxy, host: &str, port: u16) -> Result<(), ConnectError> {
    let failed = |reason: String| ConnectError::Proxy {
        proxy: proxy.host.clone(),
        reason,
    };
    let request = proxy.connect_request(host, port);
    tcp.write_all(request.as_bytes()).await.map_err(ConnectError::Tcp)?;
    let mut answer = Vec::new();
    loop {
        // Byte by byte: what follows the answer is no longer the proxy's.
        let byte = tcp.read_u8().await.map_err(|error| failed(error.to_string()))?;
        answer.push(byte);
        if let Some(outcome) = tunnel_opened(&answer) {
            return outcome.map_err(failed);
        }
    }
}

fn handshake_error(error: io::Error) -> ConnectError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        // What a server of plain HTTP says to a TLS greeting is no TLS record.
        Some(rustls::Error::InvalidMessage(_)) => ConnectError::PlainHttp,
        Some(tls) => ConnectError::Tls(tls.to_string()),
        None => ConnectError::Tls(format!("the handshake was cut off: {error}")),
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// A connection to a registry.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    /// Plain, to a proxy that is told the whole address.
    Proxied(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(matches!(self, Self::Proxied(_)))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Proxied(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Proxied(stream) => Pin::new(stream).poll_write(context, data),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Proxied(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) | Self::Proxied(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Proxied(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Proxied(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
