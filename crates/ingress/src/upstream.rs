//! One replica at a port as one worker sees it: its idle connections, what is under way, whether it may get more.
//!
//! **Invariant:** a retired upstream gets nothing: a connection that was being made when it was retired is closed unused.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use gantry_model::ReplicaId;
use gantry_model::spec::UpstreamProtocol;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::body::ClientBody;
use crate::connection::Local;
use crate::table::Backend;

/// Sends requests by HTTP/1.1, one at a time.
pub(crate) type Http1 = http1::SendRequest<ClientBody>;
/// Sends requests by HTTP/2, many at a time.
pub(crate) type Http2 = http2::SendRequest<ClientBody>;

/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 256 * 1024;
/// HTTP/2 flow control window of a stream.
const WINDOW_BYTES: u32 = 1 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("it does not answer")]
    Late,
    #[error("cannot connect")]
    Refused(#[source] std::io::Error),
    #[error("cannot speak HTTP with it")]
    Handshake(#[source] hyper::Error),
}

/// See the module.
pub(crate) struct Upstream {
    pub(crate) backend: Backend,
    pub(crate) protocol: UpstreamProtocol,
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Option<Http2>>,
    in_flight: Cell<u32>,
    is_retired: Cell<bool>,
    rests_until_us: Cell<u64>,
}

struct Idle {
    sender: Http1,
    since_us: u64,
}

impl Upstream {
    pub(crate) fn new(backend: Backend, protocol: UpstreamProtocol) -> Self {
        Self {
            backend,
            protocol,
            idle: RefCell::default(),
            shared: RefCell::default(),
            in_flight: Cell::new(0),
            is_retired: Cell::new(false),
            rests_until_us: Cell::new(0),
        }
    }

    pub(crate) const fn replica(&self) -> ReplicaId {
        self.backend.replica
    }

    pub(crate) const fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    pub(crate) const fn is_retired(&self) -> bool {
        self.is_retired.get()
    }

    /// It is in no table any more: nothing new goes there, and connections that wait for work are closed.
    pub(crate) fn retire(&self) {
        self.is_retired.set(true);
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().take();
    }

    pub(crate) const fn rests(&self, now_us: u64) -> bool {
        self.rests_until_us.get() > now_us
    }

    pub(crate) fn rest_until(&self, us: u64) {
        self.rests_until_us.set(us);
    }

    /// An idle connection, the one used last, that has been idle no longer than that.
    pub(crate) fn take_idle(&self, now_us: u64, age_max: Duration) -> Option<Http1> {
        let mut idle = self.idle.borrow_mut();
        let oldest = now_us.saturating_sub(micros(age_max));
        while let Some(one) = idle.last() {
            if one.since_us < oldest {
                return None;
            }
            let sender = idle.pop().map(|one| one.sender);
            if let Some(sender) = sender.filter(|sender| !sender.is_closed()) {
                return Some(sender);
            }
        }
        None
    }

    /// Closes what has been idle for longer.
    pub(crate) fn sweep(&self, now_us: u64, age_max: Duration) {
        let oldest = now_us.saturating_sub(micros(age_max));
        self.idle
            .borrow_mut()
            .retain(|one| one.since_us >= oldest && !one.sender.is_closed());
    }

    fn give_back(&self, sender: Http1, now_us: u64, most: usize) {
        let mut idle = self.idle.borrow_mut();
        if !self.is_retired() && !sender.is_closed() && idle.len() < most {
            idle.push(Idle {
                sender,
                since_us: now_us,
            });
        }
    }

    /// A new connection.
    pub(crate) async fn connect(&self, within: Duration) -> Result<Http1, ConnectError> {
        let stream = self.open(within).await?;
        let mut builder = http1::Builder::new();
        let made = builder
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = made.map_err(ConnectError::Handshake)?;
        tokio::task::spawn_local(async move {
            // How it ended is told to the request that was on it.
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    /// The connection that all requests share, made when there is none.
    pub(crate) async fn connect_shared(&self, within: Duration) -> Result<Http2, ConnectError> {
        if let Some(sender) = self.shared.borrow().as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = self.open(within).await?;
        let made = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(4 * WINDOW_BYTES)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = made.map_err(ConnectError::Handshake)?;
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        if !self.is_retired() {
            *self.shared.borrow_mut() = Some(sender.clone());
        }
        Ok(sender)
    }

    async fn open(&self, within: Duration) -> Result<TcpStream, ConnectError> {
        let connecting = TcpStream::connect(self.backend.address);
        let stream = match tokio::time::timeout(within, connecting).await {
            Err(_) => return Err(ConnectError::Late),
            Ok(connected) => connected.map_err(ConnectError::Refused)?,
        };
        stream.set_nodelay(true).map_err(ConnectError::Refused)?;
        Ok(stream)
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A request under way on an upstream; with HTTP/1.1 it holds the connection, and gives it back when the answer is complete.
pub(crate) struct Lease {
    upstream: Rc<Upstream>,
    sender: Option<Http1>,
    clock: Rc<dyn Fn() -> u64>,
    idle_max: usize,
}

impl Lease {
    pub(crate) fn new(upstream: Rc<Upstream>, clock: Rc<dyn Fn() -> u64>, idle_max: usize) -> Self {
        upstream.in_flight.set(upstream.in_flight.get() + 1);
        Self {
            upstream,
            sender: None,
            clock,
            idle_max,
        }
    }

    pub(crate) fn hold(&mut self, sender: Http1) {
        self.sender = Some(sender);
    }

    pub(crate) fn replica(&self) -> ReplicaId {
        self.upstream.replica()
    }

    /// The answer is complete: the connection can take the next request.
    pub(crate) fn done(&mut self) {
        if let Some(sender) = self.sender.take() {
            self.upstream.give_back(sender, (self.clock)(), self.idle_max);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream
            .in_flight
            .set(self.upstream.in_flight.get().saturating_sub(1));
    }
}
