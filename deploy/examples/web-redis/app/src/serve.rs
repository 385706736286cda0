//! The server: `/` counts a visit, `/healthz` tells whether Redis answers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::drain::{ACCEPT_FOR, Drain, FINISH_FOR, LINGER_FOR, Stage};
use crate::redis::Redis;

/// Connections that the kernel queues while the program is busy; Linux' own default limit.
const BACKLOG: u32 = 4096;
/// The counter's key.
const KEY: &str = "hits";

/// How to serve.
#[derive(clap::Args)]
pub struct Options {
    /// Address to listen on
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Host of the Redis server
    #[arg(long, env = "REDIS_HOST", default_value = "redis")]
    redis_host: String,
    /// What to call this version
    #[arg(long, env = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    as_version: String,
    /// What to call this replica; the host name when absent
    #[arg(long, env = "REPLICA")]
    replica: Option<String>,
    /// What to call the node it runs on
    #[arg(long, env = "NODE", default_value = "")]
    node: String,
}

struct Page {
    redis: Redis,
    drain: Drain,
    version: String,
    replica: String,
    node: String,
}

/// One visit, a line of JSON.
#[derive(Serialize)]
struct Visit<'a> {
    version: &'a str,
    replica: &'a str,
    node: &'a str,
    hits: i64,
}

/// Serves until SIGTERM or SIGINT, then until nobody waits for an answer.
pub async fn run(options: Options) -> Result<(), String> {
    let listener = listen(options.listen).map_err(|error| format!("listen on {}: {error}", options.listen))?;
    let replica = match options.replica.filter(|replica| !replica.is_empty()) {
        Some(replica) => replica,
        None => host_name(),
    };
    let drain = Drain::new();
    let page = Rc::new(Page {
        redis: Redis::new(options.redis_host),
        drain: drain.clone(),
        version: options.as_version,
        replica,
        node: options.node,
    });
    eprintln!(
        "web-redis {} ({}) listens on {}",
        page.version, page.replica, options.listen
    );
    let local = LocalSet::new();
    local.run_until(serve_and_drain(listener, page, drain)).await
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_string()
}

async fn serve_and_drain(listener: TcpListener, page: Rc<Page>, drain: Drain) -> Result<(), String> {
    tokio::select! {
        () = accept(&listener, &page) => {}
        outcome = told_to_stop() => outcome?,
    }
    eprintln!("web-redis: draining");
    drain.enter(Stage::Draining);
    tokio::select! {
        () = accept(&listener, &page) => {}
        () = sleep(ACCEPT_FOR) => {}
    }
    accept_queued(&listener, &page).await;
    drop(listener);
    // Running into these deadlines is no failure: what is idle is closed next, and the last requests have had their time.
    let _ = timeout(LINGER_FOR, drain.all_closed()).await;
    drain.enter(Stage::Closing);
    match timeout(FINISH_FOR, drain.all_closed()).await {
        Ok(()) => Ok(()),
        Err(_) => Err("requests still ran when the time to finish was over".to_string()),
    }
}

async fn told_to_stop() -> Result<(), String> {
    let handler = |kind| signal(kind).map_err(|error| format!("handle signals: {error}"));
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn accept(listener: &TcpListener, page: &Rc<Page>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => spawn(stream, page),
            Err(error) => {
                // Out of file descriptors, or the client went away: the next one may fare better.
                eprintln!("web-redis: accept: {error}");
                sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
}

/// Takes the connections that the kernel has completed already; closing the socket would reset them.
async fn accept_queued(listener: &TcpListener, page: &Rc<Page>) {
    while let Ok(Ok((stream, _))) = timeout(std::time::Duration::ZERO, listener.accept()).await {
        spawn(stream, page);
    }
}

fn spawn(stream: TcpStream, page: &Rc<Page>) {
    let page = Rc::clone(page);
    tokio::task::spawn_local(async move {
        let _connected = page.drain.connected();
        // Without it small answers wait for the client's delayed acknowledgement; failing to set it only costs time.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| answer(&page, request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let outcome = tokio::select! {
            outcome = connection.as_mut() => outcome,
            () = page.drain.closing() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        // A client that goes away is its own business.
        drop(outcome);
    });
}

async fn answer(page: &Page, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/") => visit(page).await,
        (&Method::GET | &Method::HEAD, "/healthz") => health(page).await,
        (_, "/" | "/healthz") => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_string()),
        _ => (StatusCode::NOT_FOUND, "no such page\n".to_string()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let is_page = status == StatusCode::OK && request.uri().path() == "/";
    let kind = if is_page { "application/json" } else { "text/plain" };
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if page.drain.stage() >= Stage::Draining {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn visit(page: &Page) -> (StatusCode, String) {
    match page.redis.increment(KEY).await {
        Ok(hits) => {
            let visit = Visit {
                version: &page.version,
                replica: &page.replica,
                node: &page.node,
                hits,
            };
            let mut line = serde_json::to_string(&visit).expect("a visit has nothing that JSON lacks");
            line.push('\n');
            (StatusCode::OK, line)
        }
        Err(error) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("cannot count this visit: {error}\n"),
        ),
    }
}

async fn health(page: &Page) -> (StatusCode, String) {
    match page.redis.ping().await {
        Ok(()) => (StatusCode::OK, "ok\n".to_string()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("redis: {error}\n")),
    }
}
