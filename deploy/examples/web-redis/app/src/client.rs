//! A client for one address: what the health check and the load generator need of HTTP.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What to check.
#[derive(clap::Args)]
pub struct HealthOptions {
    /// What to ask
    #[arg(long, default_value = "http://127.0.0.1:8080/healthz")]
    url: Uri,
    /// Seconds to wait for the answer
    #[arg(long, default_value_t = 3)]
    timeout: u64,
}

/// Asks once; an error is the reason why it is not well.
pub async fn check_health(options: &HealthOptions) -> Result<(), String> {
    let target = Target::new(&options.url)?;
    let ask = async { target.connect().await?.get(true).await };
    let answer = timeout(Duration::from_secs(options.timeout), ask).await;
    let (status, body) = answer.map_err(|_| format!("{} did not answer in {} s", options.url, options.timeout))??;
    if status == StatusCode::OK {
        return Ok(());
    }
    Err(format!(
        "{} answered {status}: {}",
        options.url,
        String::from_utf8_lossy(&body).trim()
    ))
}

/// Where requests go.
#[derive(Debug, Clone)]
pub struct Target {
    host: String,
    port: u16,
    uri: Uri,
}

/// A connection that may carry a request.
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    target: Target,
}

impl Target {
    /// Takes `http://host[:port][/path]`.
    pub fn new(uri: &Uri) -> Result<Self, String> {
        let host = uri.host().filter(|_| uri.scheme_str() == Some("http"));
        let host = host.ok_or_else(|| format!("'{uri}' is no address: write http://host:port/path"))?;
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_string(),
            port: uri.port_u16().unwrap_or(80),
            uri: uri.clone(),
        })
    }

    /// Opens a connection.
    pub async fn connect(&self) -> Result<Connection, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|error| format!("connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| format!("connect: {error}"))?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| format!("connect: {error}"))?;
        // Ends with the connection; what goes wrong on it shows in the request.
        tokio::spawn(connection);
        Ok(Connection {
            sender,
            target: self.clone(),
        })
    }
}

impl Connection {
    /// Whether another request may be sent; false once the server asked to close.
    pub async fn is_usable(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends one request and reads the whole answer.
    pub async fn get(&mut self, close: bool) -> Result<(StatusCode, Bytes), String> {
        let path = self.target.uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = self.target.uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::get(path).header(HOST, authority);
        if close {
            request = request.header(CONNECTION, "close");
        }
        let request = request
            .body(Empty::new())
            .map_err(|error| format!("request: {error}"))?;
        let answer = self
            .sender
            .send_request(request)
            .await
            .map_err(|error| cause("request", &error))?;
        let status = answer.status();
        let body = answer
            .into_body()
            .collect()
            .await
            .map_err(|error| cause("answer", &error))?;
        Ok((status, body.to_bytes()))
    }
}

/// The innermost reason: hyper's outer ones say only that something failed.
fn cause(act: &str, error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{act}: {error}: {source}"),
        None => format!("{act}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_http_addresses_are_taken() {
        let target = |text: &str| Target::new(&text.parse().expect("an address of some kind"));
        let whole = target("http://[::1]:81/x?y").expect("a whole address");
        assert_eq!((whole.host.as_str(), whole.port), ("::1", 81));
        assert_eq!(target("http://web").ok().map(|target| target.port), Some(80));
        for text in ["https://web/", "/x", "web:80"] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
