//! Applies committed entries to the state, publishes it, and takes and installs snapshots of it.
//!
//! **Invariant:** a state is published before the answer to any entry in it is sent, so a proposer reads its own write.
//! Deliberately not here: durability of single entries; after a restart the log is replayed onto the newest snapshot.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use gantry_state::{Change, State};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::task::spawn_blocking;

use crate::feed::{Feed, Update};
use crate::log_store::Database;
use crate::snapshot::{Loaded, Snapshot, SnapshotFile, Snapshots};
use crate::types::{Entry, LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig};

/// Entries applied before the state is published; bounds how long the first of a long batch waits for its answer.
const APPLY_BATCH_MAX: usize = 512;

/// The one writer of the state.
pub struct Machine {
    state: State,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<Snapshots>,
    feed: Arc<Feed>,
    folder: Arc<Database>,
}

impl Machine {
    pub fn new(loaded: Loaded, snapshots: Arc<Snapshots>, feed: Arc<Feed>, folder: Arc<Database>) -> Self {
        Self {
            state: loaded.state,
            applied: loaded.meta.last_log_id,
            membership: loaded.meta.last_membership,
            snapshots,
            feed,
            folder,
        }
    }

    fn apply_entry(&mut self, entry: Entry, changes: &mut Vec<Change>) -> Reply {
        let (index, term) = (entry.log_id.index, entry.log_id.committed_leader_id().term);
        self.applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Normal(proposal) => {
                let (outcome, made) = self.state.apply(index, term, proposal.transaction());
                changes.extend(made);
                Reply { outcome: Some(outcome) }
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                self.state.skip(index);
                Reply::default()
            }
            EntryPayload::Blank => {
                self.state.skip(index);
                Reply::default()
            }
        }
    }

    fn publish(&self, changes: Vec<Change>, answers: &mut Vec<(ApplyResponder<TypeConfig>, Reply)>) {
        self.feed.publish(&Update::Changes {
            state: self.state.clone(),
            changes: changes.into(),
        });
        for (responder, reply) in answers.drain(..) {
            responder.send(reply);
        }
    }

    fn builder(&self) -> Builder {
        Builder {
            meta: SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
            },
            state: self.state.clone(),
            snapshots: self.snapshots.clone(),
            folder: self.folder.clone(),
        }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(APPLY_BATCH_MAX);
        let mut answers = Vec::new();
        while let Some(batch) = batches.next().await {
            let mut changes = Vec::new();
            for item in batch {
                let (entry, responder) = item?;
                let reply = self.apply_entry(entry, &mut changes);
                answers.extend(responder.map(|responder| (responder, reply)));
            }
            self.publish(changes, &mut answers);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.builder()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let (snapshots, meta) = (self.snapshots.clone(), meta.clone());
        let loaded = spawn_blocking(move || {
            let loaded = snapshot.load()?;
            snapshots.install(&meta, &snapshot)?;
            Ok::<_, io::Error>(loaded)
        })
        .await??;
        self.state = loaded.state;
        self.applied = loaded.meta.last_log_id;
        self.membership = loaded.meta.last_membership;
        let state = self.state.clone();
        self.feed.publish(&Update::Reset { state });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self
            .snapshots
            .current()
            .map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Writes a snapshot of one moment while the state moves on. It may outlive Raft, but not the lock on the folder.
pub struct Builder {
    meta: SnapshotMeta,
    state: State,
    snapshots: Arc<Snapshots>,
    folder: Arc<Database>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let (snapshots, meta, state) = (self.snapshots.clone(), self.meta.clone(), self.state.clone());
        let folder = self.folder.clone();
        let snapshot = spawn_blocking(move || {
            let written = snapshots.write(&meta, &state);
            drop(folder);
            written
        })
        .await??;
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot,
        })
    }
}
