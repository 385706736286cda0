//! Downloads of `ADD`, into the contents of the builder: HTTP/1.1, with TLS, redirects and deadlines.
//!
//! What a server marked with an `ETag` or a time is asked for again under that condition, and not sent again unless it changed
//! (RFC 9110, 13).

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
use serde::{Deserialize, Serialize};
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

/// What a server said about a file that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_modified: Option<String>,
    digest: Digest,
    size: u64,
}

impl Known {
    fn of(response: &Response<Incoming>, digest: Digest, size: u64) -> Self {
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_string());
        Self {
            etag: header("etag"),
            last_modified: header("last-modified"),
            digest,
            size,
        }
    }

    const fn is_conditional(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }

    fn download(&self, contents: &Arc<Contents>) -> Download {
        let modified = self.last_modified.as_deref();
        let modified = modified.and_then(|text| httpdate::parse_http_date(text).ok());
        let modified = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        Download {
            digest: self.digest,
            size: self.size,
            modified: modified.map_or(0, |time| i64::try_from(time.as_secs()).unwrap_or(0)),
            contents: Arc::clone(contents),
        }
    }
}

/// Downloads a file; `fresh` takes nothing for known.
pub(crate) fn fetch(url: &str, fresh: bool, builder: &Builder, cancel: &Cancel) -> Result<Download> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(BuildError::io("start", "the download"))?;
    let known = builder.cache.download(url).filter(|known| {
        // Opening marks it as used, so that it stays.
        !fresh && builder.contents.has(known.digest, known.size) && builder.contents.open_content(known.digest).is_ok()
    });
    runtime.block_on(async {
        let mut response = follow(url, known.as_ref(), cancel).await?;
        if let Some(known) = known.filter(|_| response.status() == StatusCode::NOT_MODIFIED) {
            return Ok(known.download(&builder.contents));
        }
        let (digest, size) = receive(url, &mut response, builder, cancel).await?;
        let known = Known::of(&response, digest, size);
        if known.is_conditional() {
            builder.cache.insert_download(url, &known)?;
        }
        Ok(known.download(&builder.contents))
    })
}

/// Downloads into memory, for contexts that are an address; not more than `most` bytes.
///
/// # Errors
/// When the server cannot be reached, refuses, or sends more.
pub fn download(url: &str, most: u64) -> Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(BuildError::io("start", "the download"))?;
    let cancel = Cancel::new()?;
    runtime.block_on(async {
        let mut response = follow(url, None, &cancel).await?;
        let mut bytes = Vec::new();
        while let Some(data) = next(url, &mut response).await? {
            if (bytes.len() + data.len()) as u64 > most {
                return Err(failed(url, format!("it is larger than {most} bytes")));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    })
}

fn failed(url: &str, reason: impl std::fmt::Display) -> BuildError {
    BuildError::Tool {
        tool: "download",
        what: url.to_string(),
        reason: reason.to_string(),
    }
}

async fn follow(url: &str, known: Option<&Known>, cancel: &Cancel) -> Result<Response<Incoming>> {
    let mut here = Url::parse(url).map_err(|error| failed(url, error))?;
    for _ in 0..=REDIRECTS_MAX {
        cancel.check()?;
        let asked = tokio::time::timeout(SILENCE, ask(&here, known)).await;
        let response = asked
            .map_err(|_| failed(url, "the server does not answer"))?
            .map_err(|error| failed(url, error))?;
        let is_unchanged = known.is_some() && response.status() == StatusCode::NOT_MODIFIED;
        if response.status() == StatusCode::OK || is_unchanged {
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

async fn ask(url: &Url, known: Option<&Known>) -> io::Result<Response<Incoming>> {
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
            request(url, host, known, tls).await
        }
        "http" => request(url, host, known, tcp).await,
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
    known: Option<&Known>,
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
    let mut request = Request::get(path)
        .header("host", host)
        .header("user-agent", "gantry")
        .header("accept", "*/*");
    if let Some(etag) = known.and_then(|known| known.etag.as_ref()) {
        request = request.header("if-none-match", etag);
    }
    if let Some(time) = known.and_then(|known| known.last_modified.as_ref()) {
        request = request.header("if-modified-since", time);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    sender.send_request(request).await.map_err(io::Error::other)
}

/// The next bytes; none at the end.
async fn next(url: &str, response: &mut Response<Incoming>) -> Result<Option<Bytes>> {
    loop {
        let frame = tokio::time::timeout(SILENCE, response.body_mut().frame()).await;
        let frame = frame.map_err(|_| failed(url, "the server stopped sending"))?;
        let Some(frame) = frame else { return Ok(None) };
        // What is no data are trailers, which say nothing here.
        if let Ok(data) = frame.map_err(|error| failed(url, error))?.into_data() {
            return Ok(Some(data));
        }
    }
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
        let Some(data) = next(url, response).await? else { break };
        hasher.update(&data);
        size += data.len() as u64;
        arriving.write(&data)?;
    }
    let digest = Digest::from_bytes(hasher.finalize().into());
    arriving.finish_as(digest)?;
    Ok((digest, size))
}
