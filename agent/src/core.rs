//! The agent's heart: holds the node's set, and keeps one worker per replica and the data path in step with it.
//!
//! **Invariant:** `select` only picks what happened next, `apply` changes the state and never waits.
//! **Invariant:** a replica is removed only because the leader says so: by its item, or by a complete set that lacks it. The loss
//! of a session changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::assignment::{Item, ReplicaItem};
use gantry_model::phase::Phase;
use gantry_model::{DurationMs, Problem, ReplicaId, Timestamp};
use gantry_netplan::NodeNetwork;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::datapath::{SetNumber, Wanted};
use crate::disk::Record;
use crate::drivers::blocking;
use crate::limits::SET_SAVE_INTERVAL;
use crate::replica::{Command, Ended, Worker};
use crate::shared::{Shared, Surroundings};
use gantry_lifecycle::{AssignmentSet, Update};

/// What the session hands in.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A leader took the node in.
    Began {
        /// Counts the sessions.
        epoch: u64,
        /// After so long without a heartbeat the leader takes the node for lost. What must not run twice has to stop before.
        lease: DurationMs,
    },
    /// It sent assignments.
    Assignments {
        /// In which session.
        epoch: u64,
        /// What it sent.
        update: Update,
    },
}

/// What the session hands on to the leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ack {
    /// What is in effect.
    pub(crate) applied: SetNumber,
    /// How often a complete set had to be asked for.
    pub(crate) resyncs: u64,
}

/// The ends of channels that the core holds.
pub(crate) struct Ports {
    pub(crate) incoming: mpsc::Receiver<Incoming>,
    pub(crate) acks: watch::Sender<Ack>,
    pub(crate) wanted: watch::Sender<Wanted>,
    pub(crate) applied: watch::Receiver<SetNumber>,
}

/// See the module.
pub(crate) struct Core {
    shared: Arc<Shared>,
    ports: Ports,
    shutdown: CancellationToken,
    set: AssignmentSet,
    epoch: u64,
    /// Length of the lease of the present session.
    lease: Option<DurationMs>,
    workers: BTreeMap<ReplicaId, watch::Sender<Option<Command>>>,
    tasks: JoinSet<Ended>,
    chores: JoinSet<Chore>,
    save_at: Option<Timestamp>,
}

/// What was done beside.
enum Chore {
    Done,
    /// Replicas of which there are traces.
    Traces(Vec<ReplicaId>),
}

enum Wake {
    Incoming(Incoming),
    Applied,
    Ended(Ended),
    Crashed,
    Save,
    Chore(Chore),
    Shutdown,
}

impl Core {
    /// A core with what a former agent left: its set and the records of its replicas.
    pub(crate) fn new(
        shared: Arc<Shared>,
        ports: Ports,
        saved: Vec<Item>,
        records: Vec<Record>,
        shutdown: CancellationToken,
    ) -> Self {
        let items = records.iter().map(|record| Item::Replica(record.item.clone()));
        let set = AssignmentSet::saved(saved.into_iter().chain(items).collect());
        shared.surroundings.store(Arc::new(Surroundings::of(&set)));
        let mut core = Self {
            shared,
            ports,
            shutdown,
            set,
            epoch: 0,
            lease: None,
            workers: BTreeMap::new(),
            tasks: JoinSet::new(),
            chores: JoinSet::new(),
            save_at: None,
        };
        core.want_network();
        for record in records {
            core.recover(record);
        }
        core
    }

    /// Runs until shutdown; replicas go on.
    ///
    /// # Errors
    /// When a worker crashed: the agent has to start anew.
    pub(crate) async fn run(mut self) -> Result<(), Problem> {
        loop {
            let wake = self.select().await;
            match wake {
                Wake::Shutdown => break,
                Wake::Crashed => {
                    let reason = "the worker of a replica crashed";
                    return Err(Problem::new(gantry_model::Class::Internal, "agent", reason));
                }
                wake => self.apply(wake),
            }
        }
        while self.tasks.join_next().await.is_some() {}
        self.save_now().await;
        Ok(())
    }

    async fn select(&mut self) -> Wake {
        let save_at = self.save_at;
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Wake::Shutdown,
            Some(ended) = self.tasks.join_next() => ended.map_or(Wake::Crashed, Wake::Ended),
            Some(incoming) = self.ports.incoming.recv() => Wake::Incoming(incoming),
            Ok(()) = self.ports.applied.changed() => Wake::Applied,
            Some(chore) = self.chores.join_next() => Wake::Chore(chore.unwrap_or(Chore::Done)),
            () = self.shared.clock.sleep_until(save_at), if save_at.is_some() => Wake::Save,
        }
    }

    fn apply(&mut self, wake: Wake) {
        match wake {
            Wake::Incoming(Incoming::Began { epoch, lease }) => {
                self.epoch = epoch;
                self.lease = Some(lease);
                self.set.begin_session();
            }
            Wake::Incoming(Incoming::Assignments { epoch, update }) => {
                if epoch == self.epoch {
                    self.take(update);
                }
            }
            Wake::Applied => {
                let applied = *self.ports.applied.borrow_and_update();
                self.ports.acks.send_modify(|ack| ack.applied = applied);
            }
            Wake::Ended(Ended::Gone(id)) => self.worker_gone(id),
            Wake::Chore(Chore::Traces(found)) => self.remove_leftovers(found),
            Wake::Ended(Ended::Shutdown(_)) | Wake::Chore(Chore::Done) | Wake::Crashed | Wake::Shutdown => {}
            Wake::Save => {
                self.save_at = None;
                let shared = Arc::clone(&self.shared);
                let items: Vec<Item> = self.set.items().cloned().collect();
                self.chores.spawn(save_set(shared, items));
            }
        }
    }

    fn take(&mut self, update: Update) {
        let delta = match self.set.apply(update) {
            Ok(delta) => delta,
            Err(unchained) => {
                tracing::info!(%unchained, "asking for a complete set");
                self.ports.acks.send_modify(|ack| ack.resyncs += 1);
                return;
            }
        };
        self.shared.surroundings.store(Arc::new(Surroundings::of(&self.set)));
        // Before the workers hear of it: an attach of theirs finds the bridge sooner.
        self.want_network();
        for id in delta.replicas_put {
            if let Some(item) = self.set.replica(id).cloned() {
                self.put(item);
            }
        }
        if delta.complete {
            self.settle();
        }
        for id in delta.replicas_gone {
            self.gone(id);
        }
        let set = &self.set;
        self.shared.board.retain_removed(|id| set.replica(id).is_some());
        self.save_at
            .get_or_insert_with(|| self.shared.clock.now().after(SET_SAVE_INTERVAL));
    }

    fn put(&mut self, item: ReplicaItem) {
        match self.workers.get(&item.id) {
            Some(worker) => {
                worker.send_replace(Some(Command::Put(Arc::new(item))));
            }
            None => self.spawn(item),
        }
    }

    fn gone(&mut self, id: ReplicaId) {
        if let Some(worker) = self.workers.get(&id) {
            worker.send_replace(Some(Command::Gone));
        }
    }

    /// After a complete set: what it does not name is removed, with whatever former agents may have left behind.
    fn settle(&mut self) {
        let unwanted: Vec<_> = self
            .workers
            .keys()
            .filter(|id| self.set.replica(**id).is_none())
            .copied()
            .collect();
        for id in unwanted {
            self.gone(id);
        }
        self.chores.spawn(find_traces(Arc::clone(&self.shared)));
    }

    /// Traces without a worker belong to nobody: whatever the leader wants here has a worker before it leaves a trace.
    fn remove_leftovers(&mut self, found: Vec<ReplicaId>) {
        let left: Vec<_> = found.into_iter().filter(|id| !self.workers.contains_key(id)).collect();
        if !left.is_empty() {
            self.chores.spawn(remove_leftovers(Arc::clone(&self.shared), left));
        }
    }

    fn spawn(&mut self, item: ReplicaItem) {
        let (sender, inbox) = watch::channel(None);
        self.workers.insert(item.id, sender);
        let worker = Worker::new(Arc::clone(&self.shared), item, inbox, self.shutdown.clone());
        self.tasks.spawn(worker.run());
    }

    fn recover(&mut self, record: Record) {
        let (sender, inbox) = watch::channel(None);
        self.workers.insert(record.item.id, sender);
        let worker = Worker::recover(Arc::clone(&self.shared), record, inbox, self.shutdown.clone());
        self.tasks.spawn(worker.run());
    }

    fn worker_gone(&mut self, id: ReplicaId) {
        self.workers.remove(&id);
        let again = self
            .set
            .replica(id)
            .filter(|item| item.desired < gantry_model::phase::Desired::Remove)
            .cloned();
        if let Some(item) = again {
            self.spawn(item);
        }
    }

    /// Ended replicas are left out: their addresses may be another's already.
    fn want_network(&mut self) {
        let board = &self.shared.board;
        let ended = |id| board.phase(id).is_some_and(Phase::is_terminal);
        let items = self
            .set
            .items()
            .filter(|item| !matches!(item, Item::Replica(replica) if ended(replica.id)));
        let set = SetNumber {
            epoch: self.epoch,
            number: self.set.number(),
        };
        let network = NodeNetwork::from_items(items).map(Arc::new);
        self.ports.wanted.send_replace(Wanted { set, network });
    }

    async fn save_now(&mut self) {
        while self.chores.join_next().await.is_some() {}
        let items: Vec<Item> = self.set.items().cloned().collect();
        let _done = save_set(Arc::clone(&self.shared), items).await;
    }
}

async fn save_set(shared: Arc<Shared>, items: Vec<Item>) -> Chore {
    if let Err(problem) = blocking(move || shared.disk.save_set(&items)).await {
        tracing::warn!(%problem, "the set of assignments could not be saved");
    }
    Chore::Done
}

async fn find_traces(shared: Arc<Shared>) -> Chore {
    let disk = Arc::clone(&shared);
    let mut found = blocking(move || disk.disk.replicas()).await.unwrap_or_else(|problem| {
        tracing::warn!(%problem, "cannot look for leftovers");
        Vec::new()
    });
    match shared.drivers.network.attached().await {
        Ok(attached) => found.extend(attached),
        Err(problem) => tracing::warn!(%problem, "cannot look for leftovers of the network"),
    }
    found.sort_unstable();
    found.dedup();
    Chore::Traces(found)
}

async fn remove_leftovers(shared: Arc<Shared>, left: Vec<ReplicaId>) -> Chore {
    for id in left {
        match remove_leftover(&shared, id).await {
            Ok(()) => tracing::info!(replica = %id, "a leftover was removed"),
            Err(problem) => tracing::warn!(%problem, replica = %id, "a leftover could not be removed"),
        }
    }
    Chore::Done
}

async fn remove_leftover(shared: &Arc<Shared>, id: ReplicaId) -> Result<(), Problem> {
    shared.drivers.runtime.release(id).await?;
    shared.drivers.network.detach(id).await?;
    shared.drivers.volumes.remove(id).await?;
    let disk = Arc::clone(shared);
    blocking(move || disk.disk.forget(id)).await
}
