//! The handle of one server: starting, reading locally, following, stopping.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gantry_state::State;
use openraft::Raft;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{InitializeError, RaftError};
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;

use crate::dir::Dir;
use crate::feed::{ChangeFeed, Feed};
use crate::leadership::{Leadership, follow};
use crate::log_store::{Closing, Counters, DiskStats, LogStore, OpenedLog};
use crate::machine::Machine;
use crate::members::Members;
use crate::network::Network;
use crate::options::Options;
use crate::read::Confirmed;
use crate::rounds::Rounds;
use crate::runtime::Runtime;
use crate::snapshot::{Loaded, Snapshots};
use crate::transport::Transport;
use crate::types::{Metrics, ServerAddress, TypeConfig};
use crate::{ChangeError, OpenError};

/// Time to hand over leadership when stopping; without a successor by then the others elect one.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for the last reader of the log to let go of it when stopping, and for the database to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// One server's part in the cluster; clones share it.
#[derive(Clone)]
pub struct Replicated {
    pub(crate) inner: Arc<Inner>,
}

pub struct Inner {
    pub options: Options,
    pub raft: Raft<TypeConfig, Machine>,
    pub transport: Arc<dyn Transport>,
    pub snapshots: Arc<Snapshots>,
    feed: Arc<Feed>,
    counters: Arc<Counters>,
    leadership: watch::Receiver<Leadership>,
    closing: Mutex<Closing>,
    /// Reads that wait for a majority.
    pub rounds: Rounds<Confirmed>,
    /// Dropped last: Raft runs on it.
    runtime: Runtime,
}

struct Stores {
    log: OpenedLog,
    snapshots: Snapshots,
    loaded: Loaded,
}

impl Replicated {
    /// Opens the folder, replays what is committed onto the newest snapshot, and takes part in Raft. A new server waits to be
    /// added to a cluster, or for [`Replicated::bootstrap`].
    ///
    /// # Errors
    /// When the folder cannot be used: see [`OpenError`].
    pub async fn open(options: Options, transport: Arc<dyn Transport>) -> Result<Self, OpenError> {
        let config = options
            .config()
            .map_err(|error| OpenError::Settings(error.to_string()))?;
        let stores = open_stores(options.clone()).await?;
        let feed = Arc::new(Feed::new(stores.loaded.state.clone()));
        let snapshots = Arc::new(stores.snapshots);
        let machine = Machine::new(stores.loaded, snapshots.clone(), feed.clone(), stores.log.store.hold());
        let network = Network {
            transport: transport.clone(),
        };
        let OpenedLog {
            store,
            counters,
            mut closing,
        } = stores.log;
        let runtime = Runtime::start().map_err(|error| OpenError::Raft(error.to_string()))?;
        let starting = Raft::new(options.id.0, Arc::new(config), network, store, machine);
        let started = runtime.handle().spawn(starting).await;
        let raft = match started.map_err(|error| error.to_string()) {
            Ok(Ok(raft)) => raft,
            Ok(Err(error)) => {
                closing.wait().await;
                return Err(OpenError::Raft(error.to_string()));
            }
            Err(error) => return Err(OpenError::Raft(error)),
        };
        let (published, leadership) = watch::channel(Leadership::default());
        runtime
            .handle()
            .spawn(follow(options.clone(), raft.metrics(), published));
        let inner = Inner {
            options,
            raft,
            transport,
            snapshots,
            feed,
            counters,
            leadership,
            closing: Mutex::new(closing),
            rounds: Rounds::default(),
            runtime,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes this server the only voter of a new cluster. Does nothing if it belongs to one already.
    ///
    /// # Errors
    /// When this server has stopped.
    pub async fn bootstrap(&self) -> Result<(), ChangeError> {
        let options = &self.inner.options;
        let address = options.address.clone();
        let members = BTreeMap::from([(options.id.0, ServerAddress { address })]);
        match self.inner.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(ChangeError::Refused(error.to_string())),
            Err(RaftError::Fatal(error)) => Err(ChangeError::Stopped(error.to_string())),
        }
    }

    /// Whether this server belongs to a cluster.
    ///
    /// # Errors
    /// When this server has stopped.
    pub async fn is_member(&self) -> Result<bool, ChangeError> {
        let initialized = self.inner.raft.is_initialized().await;
        initialized.map_err(|error| ChangeError::Stopped(error.to_string()))
    }

    /// The state as applied on this server, which may be behind the leader's.
    #[must_use]
    pub fn state(&self) -> State {
        self.inner.feed.state()
    }

    /// The state, and every change from exactly there on.
    #[must_use]
    pub fn watch_from(&self) -> (State, ChangeFeed) {
        self.inner.feed.watch_from()
    }

    /// Index of the last entry applied on this server; to wait for one.
    #[must_use]
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.inner.feed.revision()
    }

    /// Who leads, as it changes.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// The servers of the cluster, as this one knows them; the leader also knows how far and how alive each is.
    #[must_use]
    pub fn members(&self) -> Members {
        self.inner.members_now()
    }

    /// What the disk of this server had to do.
    #[must_use]
    pub fn disk_stats(&self) -> DiskStats {
        self.inner.counters.stats()
    }

    /// Takes a snapshot now instead of after [`Options::snapshot_every`] entries.
    ///
    /// # Errors
    /// When this server has stopped.
    pub async fn snapshot(&self) -> Result<(), ChangeError> {
        let triggered = self.inner.raft.trigger().snapshot().await;
        triggered.map_err(|error| ChangeError::Stopped(error.to_string()))
    }

    /// Ends when this server takes no part in Raft any more, by [`Replicated::shutdown`] or because its disk failed, and says why.
    pub async fn stopped(&self) -> String {
        let mut metrics = self.inner.raft.metrics();
        loop {
            if let Some(reason) = self.inner.stopped() {
                return reason;
            }
            if metrics.changed().await.is_err() {
                return "it was shut down".to_string();
            }
        }
    }

    /// Hands over leadership if it leads and another can, stops, and releases the folder: the database is closed when this
    /// returns, whoever called it first.
    pub async fn shutdown(self) {
        let leads = self.inner.leadership.borrow().is_leader;
        if leads && self.members().voters().count() > 1 {
            let handed_over = tokio::time::timeout(HAND_OVER_TIMEOUT, self.transfer_leader(None)).await;
            if !matches!(handed_over, Ok(Ok(()))) {
                tracing::warn!("stopping without a successor: the other servers will elect one");
            }
        }
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(%error, "stopping Raft");
        }
        self.inner.feed.close();
        let closed = async { self.inner.closing.lock().await.wait().await };
        if tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_err() {
            tracing::warn!("the log is still in use after stopping");
        }
    }
}

impl Inner {
    /// Runs a task beside Raft.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.handle().spawn(task);
    }

    /// Waits until this server has applied an entry; says whether it has.
    pub async fn applied(&self, index: u64, timeout: Duration) -> bool {
        let mut revision = self.feed.revision();
        let reached = revision.wait_for(|revision| *revision >= index);
        matches!(tokio::time::timeout(timeout, reached).await, Ok(Ok(_)))
    }

    pub fn members_now(&self) -> Members {
        let lease = Duration::from_millis(self.options.election_max_ms);
        self.metrics(|metrics| Members::observe(metrics, lease))
    }

    pub fn metrics<T>(&self, read: impl FnOnce(&Metrics) -> T) -> T {
        read(&self.raft.metrics().borrow_watched())
    }

    /// Why this server takes no part any more, if so.
    pub fn stopped(&self) -> Option<String> {
        self.metrics(|metrics| metrics.running_state.as_ref().err().map(ToString::to_string))
    }
}

async fn open_stores(options: Options) -> Result<Stores, OpenError> {
    let opened = spawn_blocking(move || {
        let dir = Dir::open(&options.dir)?;
        // The log first: its lock keeps another process out of the snapshots as well.
        let log = LogStore::open(&dir.log, options.id)?;
        match Snapshots::open(&dir.snapshots) {
            Ok((snapshots, loaded)) => Ok(Stores { log, snapshots, loaded }),
            Err(error) => {
                let OpenedLog { store, closing, .. } = log;
                drop(store);
                closing.wait_blocking();
                Err(error)
            }
        }
    });
    opened.await.map_err(|error| OpenError::Raft(error.to_string()))?
}
