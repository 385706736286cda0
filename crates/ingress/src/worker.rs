//! One thread of the ingress: its connections, its upstreams, and the commands it gets.
//!
//! **Invariant:** a table is acknowledged after the worker uses it; since nothing else runs on the thread meanwhile, no request
//! is then handed to an upstream that is not in it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use gantry_env::Env;
use gantry_model::net::Ipv4Net;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio_util::sync::CancellationToken;

use crate::access_log::AccessLog;
use crate::certificates::Current;
use crate::connection;
use crate::limits::{ACCEPT_PAUSE, Limits, SWEEP};
use crate::listener;
use crate::routing::{CountedTable, Routing, UpstreamKey};
use crate::upstream::Upstream;

/// What all workers share.
pub(crate) struct Common {
    pub(crate) env: Arc<dyn Env>,
    pub(crate) limits: Limits,
    pub(crate) trusted: Vec<Ipv4Net>,
    pub(crate) certificates: Arc<Current>,
    pub(crate) tls: Arc<ServerConfig>,
    pub(crate) log: Option<AccessLog>,
    pub(crate) connections: AtomicU64,
    pub(crate) turned_away: AtomicU64,
    pub(crate) unrouted: AtomicU64,
}

/// What a worker is told.
pub(crate) enum Command {
    /// Requests go by this table from now on.
    Table(CountedTable, oneshot::Sender<()>),
    /// Clients come by these sockets from now on.
    Listen {
        http: Option<Arc<StdListener>>,
        https: Option<Arc<StdListener>>,
    },
    /// No more clients; answers when those there are done.
    Drain(oneshot::Sender<()>),
}

/// See the module.
pub(crate) struct Worker {
    pub(crate) common: Arc<Common>,
    pub(crate) routing: RefCell<Rc<Routing>>,
    pub(crate) clock: Rc<dyn Fn() -> u64>,
    /// Connections finish what they do and end.
    pub(crate) closing: CancellationToken,
    upstreams: RefCell<HashMap<UpstreamKey, Rc<Upstream>>>,
    connections: Cell<usize>,
    upgraded: Cell<usize>,
    connections_max: usize,
    by_client: RefCell<HashMap<IpAddr, usize>>,
    freed: Notify,
}

/// Runs a worker on this thread until its commands end.
pub(crate) fn run(common: Arc<Common>, connections_max: usize, commands: mpsc::Receiver<Command>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker of the ingress cannot start"),
    };
    let env = Arc::clone(&common.env);
    let worker = Rc::new(Worker {
        common,
        routing: RefCell::default(),
        clock: Rc::new(move || env.monotonic_us()),
        closing: CancellationToken::new(),
        upstreams: RefCell::default(),
        connections: Cell::new(0),
        upgraded: Cell::new(0),
        connections_max,
        by_client: RefCell::default(),
        freed: Notify::new(),
    });
    LocalSet::new().block_on(&runtime, worker.serve(commands));
}

impl Worker {
    async fn serve(self: Rc<Self>, mut commands: mpsc::Receiver<Command>) {
        let mut listening = CancellationToken::new();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let command = tokio::select! {
                command = commands.recv() => command,
                _ = sweep.tick() => {
                    self.sweep();
                    continue;
                }
            };
            match command {
                None => return,
                Some(Command::Table(table, done)) => {
                    self.take(table);
                    // Whoever does not wait any more need not know.
                    let _ = done.send(());
                }
                Some(Command::Listen { http, https }) => {
                    listening.cancel();
                    listening = CancellationToken::new();
                    self.listen(http, false, &listening);
                    self.listen(https, true, &listening);
                }
                Some(Command::Drain(done)) => {
                    listening.cancel();
                    self.closing.cancel();
                    let worker = Rc::clone(&self);
                    spawn_local(async move {
                        worker.drained().await;
                        let _ = done.send(());
                    });
                }
            }
        }
    }

    fn take(&self, table: CountedTable) {
        let routing = Routing::new(table, &mut self.upstreams.borrow_mut());
        *self.routing.borrow_mut() = Rc::new(routing);
    }

    fn sweep(&self) {
        let now_us = (self.clock)();
        for upstream in self.upstreams.borrow().values() {
            upstream.sweep(now_us, self.common.limits.idle_timeout);
        }
    }

    /// What is upgraded is nobody's request any more and is not waited for.
    async fn drained(&self) {
        while self.connections.get() > self.upgraded.get() {
            self.freed.notified().await;
        }
    }

    fn listen(self: &Rc<Self>, listener: Option<Arc<StdListener>>, is_https: bool, until: &CancellationToken) {
        let Some(listener) = listener else { return };
        match listener::share(&listener) {
            Ok(listener) => {
                let (worker, until) = (Rc::clone(self), until.clone());
                spawn_local(async move { until.run_until_cancelled(worker.accept(listener, is_https)).await });
            }
            Err(error) => tracing::error!(%error, "a worker of the ingress cannot accept connections"),
        }
    }

    async fn accept(self: Rc<Self>, listener: TcpListener, is_https: bool) {
        loop {
            while self.connections.get() >= self.connections_max {
                self.freed.notified().await;
            }
            match listener.accept().await {
                Ok((stream, from)) => {
                    let Some(slot) = self.slot(from.ip()) else {
                        self.common.turned_away.fetch_add(1, Relaxed);
                        continue;
                    };
                    spawn_local(connection::serve(Rc::clone(&self), stream, slot, is_https));
                }
                Err(error) => {
                    tracing::warn!(%error, "the ingress cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A place for a connection, unless its client has too many.
    fn slot(self: &Rc<Self>, client: IpAddr) -> Option<Slot> {
        let mut by_client = self.by_client.borrow_mut();
        let own = by_client.entry(client).or_default();
        if *own >= self.common.limits.connections_per_client {
            return None;
        }
        *own += 1;
        self.connections.set(self.connections.get() + 1);
        self.common.connections.fetch_add(1, Relaxed);
        Some(Slot {
            worker: Rc::clone(self),
            client,
            is_upgraded: Cell::new(false),
        })
    }
}

/// The place of a connection, free again when it is dropped.
pub(crate) struct Slot {
    worker: Rc<Worker>,
    pub(crate) client: IpAddr,
    is_upgraded: Cell<bool>,
}

impl Slot {
    /// Requests are over on the connection.
    pub(crate) fn upgraded(&self) {
        if !self.is_upgraded.replace(true) {
            self.worker.upgraded.set(self.worker.upgraded.get() + 1);
            self.worker.freed.notify_waiters();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let worker = &self.worker;
        let mut by_client = worker.by_client.borrow_mut();
        if let Some(own) = by_client.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                by_client.remove(&self.client);
            }
        }
        worker.connections.set(worker.connections.get().saturating_sub(1));
        if self.is_upgraded.get() {
            worker.upgraded.set(worker.upgraded.get().saturating_sub(1));
        }
        worker.common.connections.fetch_sub(1, Relaxed);
        worker.freed.notify_waiters();
    }
}
