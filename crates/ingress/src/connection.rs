//! A client's connection: TLS where it is spoken, the HTTP that the client speaks, its end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use gantry_model::spec::HostPattern;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::body::ServerBody;
use crate::headers::Origin;
use crate::peek::Peeked;
use crate::request;
use crate::worker::{Slot, Worker};

/// HTTP/2 flow control windows of a stream and of a connection.
const WINDOWS_BYTES: (u32, u32) = (256 << 10, 1 << 20);

/// Runs futures on this thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local;

impl<F: Future + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// What requests share that come by one connection.
pub(crate) struct Client {
    pub(crate) origin: Origin,
    /// Whose certificate the client was shown; none without TLS.
    pub(crate) certificate: Option<HostPattern>,
    pub(crate) slot: Slot,
}

/// Serves a client until it or the worker ends the connection.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, slot: Slot, is_https: bool) {
    if let Err(error) = greet(worker, stream, slot, is_https).await {
        tracing::debug!(%error, "a client of the ingress did not get to a request");
    }
}

async fn greet(worker: Rc<Worker>, stream: TcpStream, slot: Slot, is_https: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let common = Arc::clone(&worker.common);
    let origin = Origin::new(slot.client, is_https, &common.trusted);
    if !is_https {
        let (stream, is_http2) = tokio::time::timeout(common.limits.head_timeout, Peeked::read(stream)).await??;
        let client = Client {
            origin,
            certificate: None,
            slot,
        };
        talk(worker, stream, client, is_http2).await;
        return Ok(());
    }
    let acceptor = TlsAcceptor::from(Arc::clone(&common.tls));
    let stream = tokio::time::timeout(common.limits.head_timeout, acceptor.accept(stream)).await??;
    let (_, session) = stream.get_ref();
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let name = session.server_name().unwrap_or_default().to_ascii_lowercase();
    let client = Client {
        origin,
        certificate: common.certificates.0.load().pattern(&name),
        slot,
    };
    talk(worker, stream, client, is_http2).await;
    Ok(())
}

async fn talk<T>(worker: Rc<Worker>, stream: T, client: Client, is_http2: bool)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(stream);
    let client = Rc::new(client);
    let closing = worker.closing.clone();
    let limits = worker.common.limits.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, client) = (Rc::clone(&worker), Rc::clone(&client));
        async move { Ok::<Response<ServerBody>, Infallible>(request::answer(worker, client, request).await) }
    });
    let ended = if is_http2 {
        let connection = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(WINDOWS_BYTES.0)
            .initial_connection_window_size(WINDOWS_BYTES.1)
            .keep_alive_interval(limits.head_timeout)
            .keep_alive_timeout(limits.head_timeout)
            .serve_connection(stream, service);
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_headers(limits.headers)
            .max_buf_size(limits.head_bytes)
            .serve_connection(stream, service)
            .with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection ended");
    }
}
