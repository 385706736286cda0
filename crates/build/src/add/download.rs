//! Downloads of `ADD`, into the contents of the builder: HTTP/1.1, with TLS, redirects and deadlines.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use gantry_model::Digest;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::builder::Builder;
use crate::cancel::Cancel;
use crate::contents::Contents;
use crate::error::{BuildError, Result};
use crate::tree::{Node, NodeKind};

/// As in browsers.
const REDIRECTS_MAX: usize = 10;
/// A server that says nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// Mode of a download, as in Docker.
const MODE: u32 = 0o600;

/// A file that was downloaded.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) digest: Digest,
    size: u64,
    /// Seconds since the epoch; 0 when the server does not say.
    modified: i64,
    contents: Arc<Contents>,
}

impl Download {
    pub(crate) fn open(&self) -> Result<File> {
        self.contents.open_content(self.digest)
    }

    pub(crate) fn node(&self) -> Node {
        Node {
            kind: NodeKind::File {
                size: self.size,
                digest: Some(self.digest),
            },
            mode: MODE,
            uid: 0,
            gid: 0,
            mtime: (self.modified, 0),
            link: None,
        }
    }
}

/// Downloads a file.
pub(crate) fn fetch(url: &str, builder: &Builder, cancel: &Cancel) -> Result<Download> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(BuildError::io("start", "the download"))?;
    runtime.block_on(async {
        let mut response = follow(url, cancel).await?;
        let modified = response
            .headers()
            .get("last-modified")
            .and_then(|value| value.to_str().ok());
        let modified = modified.and_then(|text| httpdate::parse_http_date(text).ok());
        let modified = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let (digest, size) = receive(url, &mut response, builder, cancel).await?;
        Ok(Download {
            digest,
            size,
            modified: modified.map_or(0, |time| i64::try_from(time.as_secs()).unwrap_or(0)),
            contents: Arc::clone(&builder.contents),
        })
    })
}

fn failed(url: &str, reason: impl std::fmt::Display) -> BuildError {
    BuildError::Tool {
        tool: "download",
        what: url.to_string(),
        reason: reason.to_string(),
    }
}

async fn follow(url: &str, cancel: &Cancel) -> Result<Response<Incoming>> {
    let mut here = Url::parse(url).map_err(|error| failed(url, error))?;
    for _ in 0..=REDIRECTS_MAX {
        cancel.check()?;
        let asked = tokio::time::timeout(SILENCE, ask(&here)).await;
        let response = asked
            .map_err(|_| failed(url, "the server does not answer"))?
            .map_err(|error| failed(url, error))?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let location = response.headers().get("location").and_then(|value| value.to_str().ok());
        match location {
            Some(location) if response.status().is_redirection() => {
                here = here.join(location).map_err(|error| failed(url, error))?;
            }
            _ => return Err(failed(url, format!("the server answers {}", response.status()))),
        }
    }
    Err(failed(url, "the server redirects without end"))
}

async fn ask(url: &Url) -> io::Result<Response<Incoming>> {
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidInput, reason.to_string());
    let host = url.host_str().ok_or_else(|| invalid("the address has no host"))?;
    let port = url
        .port_or_known_default()
        .ok_or_else(|| invalid("the address has no known scheme"))?;
    let tcp = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    match url.scheme() {
        "https" => {
            let name = ServerName::try_from(host.to_string()).map_err(|error| invalid(&error.to_string()))?;
            let tls = TlsConnector::from(Arc::new(tls()?)).connect(name, tcp).await?;
            request(url, host, tls).await
        }
        "http" => request(url, host, tcp).await,
        other => Err(invalid(&format!("{other} is no scheme for downloads"))),
    }
}

fn tls() -> io::Result<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

async fn request(
    url: &Url,
    host: &str,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> io::Result<Response<Incoming>> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    tokio::spawn(async move {
        // What breaks shows at the response.
        let _ = connection.await;
    });
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_string(),
    };
    let host = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_string(),
    };
    let request = Request::get(path)
        .header("host", host)
        .header("user-agent", "gantry")
        .header("accept", "*/*");
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    sender.send_request(request).await.map_err(io::Error::other)
}

/// The digest is only known at the end, so the file gets its name then.
async fn receive(
    url: &str,
    response: &mut Response<Incoming>,
    builder: &Builder,
    cancel: &Cancel,
) -> Result<(Digest, u64)> {
    let mut arriving = builder.contents.receive_unknown(&*builder.config.env)?;
    let (mut hasher, mut size) = (Sha256::new(), 0);
    loop {
        cancel.check()?;
        let frame = tokio::time::timeout(SILENCE, response.body_mut().frame()).await;
        let frame = frame.map_err(|_| failed(url, "the server stopped sending"))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| failed(url, error))?;
        if let Some(data) = frame.data_ref() {
            hasher.update(data);
            size += data.len() as u64;
            arriving.write(data)?;
        }
    }
    let digest = Digest::from_bytes(hasher.finalize().into());
    arriving.finish_as(digest)?;
    Ok((digest, size))
}
