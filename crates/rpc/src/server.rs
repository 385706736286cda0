//! The listening side: accepts, authenticates, serves, and closes connections in time.
//!
//! Members and the command line speak HTTP/2; clients of the image registry may speak HTTP/1.1. Both get the same routes, the
//! same [`Caller`] and the same end.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use gantry_env::{Env, System};
use gantry_pki::Peer;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tower::ServiceExt;

use crate::limits::{
    CLOSING_GRACE, CONNECTION_AGE_MAX, CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX,
    HEADER_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, REPLACED_GRACE, SHUTDOWN_GRACE, STREAM_WINDOW_BYTES,
    STREAMS_MAX,
};
use crate::tls::ALPN_HTTP2;
use crate::{Caller, Credentials};

/// Pause after a failed accept: it fails for want of file descriptors, which others have to give back first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Shared {
    credentials: Credentials,
    router: axum::Router,
    /// No new calls; those that run may finish.
    shutdown: CancellationToken,
    /// Over, whatever still runs.
    cut: CancellationToken,
}

/// Serves the routes to everybody who connects, until shutdown; then lets calls finish for a few seconds.
///
/// Each request carries a [`Caller`] in its extensions. Streams that never end by themselves should end at shutdown on their
/// own: they are cut otherwise.
pub async fn serve(listener: TcpListener, credentials: Credentials, routes: Routes, shutdown: CancellationToken) {
    let shared = Shared {
        credentials,
        router: routes.prepare().into_axum_router(),
        shutdown,
        cut: CancellationToken::new(),
    };
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let connections = TaskTracker::new();
    while let Some((stream, remote, permit)) = next(&listener, &handshakes, &shared.shutdown).await {
        let shared = shared.clone();
        connections.spawn(async move {
            let cut = shared.cut.clone();
            cut.run_until_cancelled(connection(stream, remote, permit, shared))
                .await;
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(SHUTDOWN_GRACE, connections.wait()).await.is_err() {
        tracing::debug!(connections = connections.len(), "cutting connections");
        shared.cut.cancel();
        connections.wait().await;
    }
}

async fn next(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let accepted = async {
        let permit = handshakes
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => return (stream, remote, permit),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accepted).await
}

async fn connection(stream: TcpStream, remote: SocketAddr, permit: OwnedSemaphorePermit, shared: Shared) {
    // Subscribed before the handshake takes the credentials, so that no replacement falls in between.
    let mut replacements = shared.credentials.replacements();
    let Some(stream) = handshake(stream, remote, &shared.credentials).await else {
        return;
    };
    drop(permit);
    let Some(caller) = caller(&stream, remote) else {
        return;
    };
    let age_max = age_max(&caller);
    let retired = async {
        tokio::select! {
            () = shared.shutdown.cancelled() => "shutdown",
            () = tokio::time::sleep(age_max) => "age",
            Ok(()) = replacements.changed() => {
                tokio::time::sleep(REPLACED_GRACE).await;
                "replaced credentials"
            }
        }
    };
    serve_connection(stream, caller, shared.router.clone(), retired).await;
}

async fn handshake(stream: TcpStream, remote: SocketAddr, credentials: &Credentials) -> Option<TlsStream<TcpStream>> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%remote, %error, "connection lost before its handshake");
        return None;
    }
    let accept = TlsAcceptor::from(credentials.server_config()).accept(stream);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, accept).await {
        Ok(Ok(stream)) => Some(stream),
        // A port check or load balancer probe connects and hangs up.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            tracing::debug!(%remote, "connection closed before its handshake");
            None
        }
        Ok(Err(error)) => {
            tracing::warn!(%remote, %error, "handshake refused");
            None
        }
        Err(_) => {
            tracing::warn!(%remote, "handshake timed out");
            None
        }
    }
}

/// A certificate that the authority signed but that names nobody is not let in at all: it cannot be ours.
fn caller(stream: &TlsStream<TcpStream>, remote: SocketAddr) -> Option<Caller> {
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = match certificate.map(|certificate| Peer::from_der(certificate)).transpose() {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!(%remote, %error, "connection refused");
            return None;
        }
    };
    Some(Caller { peer, remote })
}

/// No connection outlives its certificate.
fn age_max(caller: &Caller) -> Duration {
    let valid_for = caller
        .peer
        .as_ref()
        .map(|peer| peer.not_after.since(System.now()).to_std());
    valid_for.map_or(CONNECTION_AGE_MAX, |valid_for| valid_for.min(CONNECTION_AGE_MAX))
}

async fn serve_connection(
    stream: TlsStream<TcpStream>,
    caller: Caller,
    router: axum::Router,
    retired: impl Future<Output = &'static str>,
) {
    let remote = caller.remote;
    let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        router.clone().oneshot(request)
    });
    let stream = TokioIo::new(stream);
    if speaks_http2 {
        let connection = pin!(builder().serve_connection(stream, service));
        until_retired(remote, connection, http2::Connection::graceful_shutdown, retired).await;
    } else {
        let connection = pin!(builder_http1().serve_connection(stream, service));
        until_retired(remote, connection, http1::Connection::graceful_shutdown, retired).await;
    }
}

/// Serves a connection to its end, which is asked for in time when it is retired, and made when it is not.
async fn until_retired<C: Future<Output = hyper::Result<()>>>(
    remote: SocketAddr,
    mut connection: Pin<&mut C>,
    ask_to_end: impl FnOnce(Pin<&mut C>),
    retired: impl Future<Output = &'static str>,
) {
    let reason = tokio::select! {
        outcome = connection.as_mut() => return log_end(remote, outcome),
        reason = retired => reason,
    };
    tracing::debug!(%remote, reason, "closing connection");
    ask_to_end(connection.as_mut());
    match tokio::time::timeout(CLOSING_GRACE, connection).await {
        Ok(outcome) => log_end(remote, outcome),
        Err(_) => tracing::debug!(%remote, reason, "connection cut"),
    }
}

/// A client that says nothing for a while, between two requests or within the head of one, is not waited for.
fn builder_http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder
}

fn log_end(remote: SocketAddr, outcome: hyper::Result<()>) {
    if let Err(error) = outcome {
        tracing::debug!(%remote, %error, "connection ended");
    }
}
