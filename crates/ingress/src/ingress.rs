//! The ingress as the agent holds it: given tables, asked for figures, drained at the end.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_env::Env;
use gantry_model::net::Ipv4Net;
use gantry_model::spec::{HostPattern, PathPattern};
use tokio::sync::{mpsc, oneshot};

use crate::access_log::AccessLog;
use crate::certificates::{self, Certificates, Current};
use crate::limits::{Limits, WORKERS_MAX};
use crate::listener;
use crate::routing::CountedTable;
use crate::stats::{Report, RouteStats};
use crate::table::Table;
use crate::worker::{self, Command, Common};

/// Commands that wait for a worker.
const COMMANDS: usize = 16;

/// Configuration of an ingress.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Where to listen for HTTP while there are rules; nowhere when absent.
    pub http: Option<SocketAddr>,
    /// Where to listen for HTTPS while a rule has a certificate; nowhere when absent.
    pub https: Option<SocketAddr>,
    /// Threads; as many as the machine has cores, at most 8, when 0.
    pub workers: usize,
    /// Where each request is noted.
    pub access_log: Option<PathBuf>,
    /// Proxies before this one whose word about their clients counts.
    pub trusted: Vec<Ipv4Net>,
    /// What clients may cost.
    pub limits: Limits,
}

/// Why an ingress cannot be.
#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    /// Of the access log.
    #[error("cannot open the access log {path}")]
    AccessLog {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Of TLS.
    #[error("cannot speak TLS")]
    Tls(#[source] rustls::Error),
    /// Of a thread.
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
    /// A worker is gone.
    #[error("a worker has ended")]
    WorkerEnded,
}

type RouteKey = (String, HostPattern, PathPattern);

/// See the crate.
pub struct Ingress {
    config: Config,
    common: Arc<Common>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    workers: Vec<mpsc::Sender<Command>>,
    http: Option<(SocketAddr, Arc<TcpListener>)>,
    https: Option<(SocketAddr, Arc<TcpListener>)>,
    stats: HashMap<RouteKey, Arc<RouteStats>>,
    table: Arc<Table>,
    problems: Vec<String>,
    is_draining: bool,
}

impl Ingress {
    /// An ingress that does nothing yet: threads and sockets come with the first rule.
    ///
    /// # Errors
    /// When its access log cannot be written.
    pub fn new(config: Config, env: Arc<dyn Env>) -> Result<Self, IngressError> {
        let certificates = Arc::new(Current::default());
        let tls = certificates::tls(Arc::clone(&certificates)).map_err(IngressError::Tls)?;
        let log = match &config.access_log {
            None => None,
            Some(path) => Some(AccessLog::open(path).map_err(|source| IngressError::AccessLog {
                path: path.clone(),
                source,
            })?),
        };
        let common = Arc::new(Common {
            env,
            limits: config.limits.clone(),
            trusted: config.trusted.clone(),
            certificates,
            tls: Arc::new(tls),
            log,
            connections: 0.into(),
            turned_away: 0.into(),
            unrouted: 0.into(),
        });
        Ok(Self {
            config,
            common,
            state: Mutex::default(),
        })
    }

    /// Brings a table into effect. When it returns, no worker hands a request to a replica that is not in it. An address that
    /// cannot be listened on is noted, for the report, and tried again with the next table.
    ///
    /// # Errors
    /// When a worker is gone, or cannot be started.
    pub async fn apply(&self, table: Table, certificates: Certificates) -> Result<(), IngressError> {
        let mut waiting = Vec::new();
        let commands = {
            let mut state = self.state();
            if table.routes().is_empty() && state.workers.is_empty() {
                return Ok(());
            }
            self.common.certificates.0.store(Arc::new(certificates));
            state.take(table);
            if state.workers.is_empty() {
                state.workers = self.start()?;
            }
            let table = state.counted();
            for worker in &state.workers {
                let (done, applied) = oneshot::channel();
                waiting.push(applied);
                worker
                    .try_send(Command::Table(table.clone(), done))
                    .map_err(|_| IngressError::WorkerEnded)?;
            }
            self.listen(&mut state)
        };
        for applied in waiting {
            applied.await.map_err(|_| IngressError::WorkerEnded)?;
        }
        for (worker, command) in commands {
            worker.send(command).await.map_err(|_| IngressError::WorkerEnded)?;
        }
        Ok(())
    }

    /// Opens and closes sockets as the table asks for it; returns what workers are to be told.
    fn listen(&self, state: &mut State) -> Vec<(mpsc::Sender<Command>, Command)> {
        let has_routes = !state.table.routes().is_empty() && !state.is_draining;
        let has_tls = has_routes && state.table.has_tls();
        state.problems.clear();
        let before = (state.http.is_some(), state.https.is_some());
        let wanted = [(self.config.http, has_routes), (self.config.https, has_tls)];
        for (index, (address, is_wanted)) in wanted.into_iter().enumerate() {
            let listening = if index == 0 { &mut state.http } else { &mut state.https };
            match address {
                Some(address) if is_wanted => {
                    if listening.is_none() {
                        match listener::bind(address) {
                            Ok(socket) => {
                                let address = socket.local_addr().unwrap_or(address);
                                *listening = Some((address, Arc::new(socket)));
                            }
                            Err(error) => {
                                tracing::warn!(%error, %address, "the ingress cannot listen");
                                state.problems.push(format!("cannot listen on {address}: {error}"));
                            }
                        }
                    }
                }
                Some(_) | None => *listening = None,
            }
        }
        if before == (state.http.is_some(), state.https.is_some()) {
            return Vec::new();
        }
        let socket = |listening: &Option<(SocketAddr, Arc<TcpListener>)>| {
            listening.as_ref().map(|(_, socket)| Arc::clone(socket))
        };
        let workers = state.workers.iter().map(|worker| {
            let command = Command::Listen {
                http: socket(&state.http),
                https: socket(&state.https),
            };
            (worker.clone(), command)
        });
        workers.collect()
    }

    fn start(&self) -> Result<Vec<mpsc::Sender<Command>>, IngressError> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let count = if self.config.workers == 0 {
            cores.min(WORKERS_MAX)
        } else {
            self.config.workers
        };
        let each = self.common.limits.connections.div_ceil(count);
        let start = |index| {
            let (commands, received) = mpsc::channel(COMMANDS);
            let common = Arc::clone(&self.common);
            let thread = std::thread::Builder::new().name(format!("ingress-{index}"));
            thread
                .spawn(move || worker::run(common, each, received))
                .map_err(IngressError::Worker)?;
            Ok(commands)
        };
        (0..count).map(start).collect()
    }

    /// What happened since the start, and what keeps it from serving.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.state();
        let address = |listening: &Option<(SocketAddr, Arc<TcpListener>)>| {
            listening.as_ref().map(|(address, _)| address.to_string())
        };
        let routes = state.table.routes().iter().filter_map(|route| {
            let key = (route.service.clone(), route.rule.host.clone(), route.rule.path.clone());
            let stats = state.stats.get(&key)?;
            Some(stats.report(&route.service, &route.rule.host, &route.rule.path, route.backends.len()))
        });
        Report {
            node: String::new(),
            http: address(&state.http),
            https: address(&state.https),
            problems: state.problems.clone(),
            connections: self.common.connections.load(Relaxed),
            turned_away: self.common.turned_away.load(Relaxed),
            unrouted: self.common.unrouted.load(Relaxed),
            log_lines_lost: self.common.log.as_ref().map_or(0, AccessLog::lost),
            routes: routes.collect(),
        }
    }

    /// Takes no more clients and waits until the requests that are under way have their answers, or the time is up.
    pub async fn drain(&self, within: Duration) {
        let workers = {
            let mut state = self.state();
            state.is_draining = true;
            (state.http, state.https) = (None, None);
            state.workers.clone()
        };
        let mut waiting = Vec::new();
        for worker in workers {
            let (done, drained) = oneshot::channel();
            if worker.send(Command::Drain(done)).await.is_ok() {
                waiting.push(drained);
            }
        }
        let all = async {
            for drained in waiting {
                // One that is gone has nothing under way.
                let _ = drained.await;
            }
        };
        if tokio::time::timeout(within, all).await.is_err() {
            let connections = self.common.connections.load(Relaxed);
            tracing::warn!(connections, "the ingress ends with requests under way");
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Keeps the counters of routes that stay, and forgets those of routes that go.
    fn take(&mut self, table: Table) {
        let mut before = std::mem::take(&mut self.stats);
        for route in table.routes() {
            let key = (route.service.clone(), route.rule.host.clone(), route.rule.path.clone());
            let kept = before.remove(&key).unwrap_or_default();
            self.stats.entry(key).or_insert(kept);
        }
        self.table = Arc::new(table);
    }

    fn counted(&self) -> CountedTable {
        let stats = self.table.routes().iter().map(|route| {
            let key = (route.service.clone(), route.rule.host.clone(), route.rule.path.clone());
            self.stats.get(&key).cloned().unwrap_or_default()
        });
        CountedTable {
            table: Arc::clone(&self.table),
            stats: Arc::new(stats.collect()),
        }
    }
}
