//! What the leader's sessions and its controller share for the length of one term.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_leader::Leases;
use gantry_leader::dispatch::{Acknowledgements, Routes};
use gantry_model::spec::Usage;
use gantry_model::{NodeId, ReplicaId};
use gantry_state::{Change, Op, State};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::encoded::Encoded;

/// Reports waiting for the controller; a session that finds it full waits, and with it its agent.
pub const REPORTS_MAX: usize = 4096;

/// One term of leadership, as its sessions see it.
#[derive(Debug)]
pub struct TermHandle {
    /// The Raft term.
    pub term: u64,
    /// Cancelled when leadership is lost: every session ends, and agents look for the new leader.
    pub ended: CancellationToken,
    /// What agents reported, as operations.
    pub reports: mpsc::Sender<Vec<Op>>,
    /// Rung when an acknowledgement may let a drain go on.
    pub acknowledged: Notify,
    /// Held while a new node is stored: each takes the next subnet, so that those who try at once refuse each other.
    pub joining: tokio::sync::Mutex<()>,
    /// Items of sets as they are sent.
    pub encoded: Encoded,
    leases: Mutex<Leases>,
    acks: Mutex<Acknowledgements>,
    /// What replicas use, not yet seen by the controller.
    measured: Mutex<Vec<(ReplicaId, Usage)>>,
    routed: Mutex<Routed>,
    /// The revision that sets are made from.
    revision: watch::Sender<u64>,
}

/// Whom changes concern, and how their sessions are woken.
///
/// **Invariant:** the acknowledgements are locked after this and never before it, so that no session takes what is pending
/// while it is being said that nothing is.
#[derive(Debug, Default)]
pub struct Routed {
    /// Whom changes concern.
    pub routes: Routes,
    bells: BTreeMap<NodeId, Arc<Bell>>,
}

/// Rung when something is pending for a session.
#[derive(Debug, Default)]
pub struct Bell {
    /// The bell.
    pub rung: Notify,
}

impl Routed {
    /// The node's session listens; an older one does so for the last time.
    pub fn listen(&mut self, node: NodeId) -> Arc<Bell> {
        let bell = Arc::new(Bell::default());
        if let Some(older) = self.bells.insert(node, bell.clone()) {
            older.rung.notify_one();
        }
        bell
    }

    /// The session is over.
    pub fn leave(&mut self, node: NodeId, bell: &Arc<Bell>) {
        if self.bells.get(&node).is_some_and(|current| Arc::ptr_eq(current, bell)) {
            self.bells.remove(&node);
            self.routes.close(node);
        }
    }

    fn ring(&self, nodes: &BTreeSet<NodeId>) {
        for bell in nodes.iter().filter_map(|node| self.bells.get(node)) {
            bell.rung.notify_one();
        }
    }
}

impl TermHandle {
    /// A term that begins with a state, and the other end of its reports.
    #[must_use]
    pub fn new(term: u64, state: State) -> (Self, mpsc::Receiver<Vec<Op>>) {
        let (reports, receiver) = mpsc::channel(REPORTS_MAX);
        let handle = Self {
            term,
            ended: CancellationToken::new(),
            reports,
            acknowledged: Notify::new(),
            joining: tokio::sync::Mutex::default(),
            encoded: Encoded::default(),
            leases: Mutex::default(),
            acks: Mutex::default(),
            measured: Mutex::default(),
            routed: Mutex::default(),
            revision: watch::Sender::new(0),
        };
        handle.start_over(state);
        (handle, receiver)
    }

    /// The state went on: sessions that it concerns are woken, all others have told their nodes everything.
    pub fn changed(&self, state: State, changes: &[Change]) {
        let revision = state.revision();
        let mut routed = self.routed();
        let concerned = routed.routes.changed(state, changes);
        self.acks().routed(revision, &concerned);
        routed.ring(&concerned);
        drop(routed);
        self.went_on(revision);
    }

    /// The state went on, and what changed is not known: every session begins anew.
    pub fn start_over(&self, state: State) {
        let revision = state.revision();
        let mut routed = self.routed();
        routed.routes.start_over(state);
        let all = routed.bells.keys().copied().collect();
        self.acks().routed(revision, &all);
        routed.ring(&all);
        drop(routed);
        self.went_on(revision);
    }

    fn went_on(&self, revision: u64) {
        self.revision.send_replace(revision);
        self.acknowledged.notify_one();
    }

    /// Waits until sets are made from a state at least this new; false when the term ends before.
    pub async fn reached(&self, revision: u64) -> bool {
        let mut now = self.revision.subscribe();
        tokio::select! {
            () = self.ended.cancelled() => false,
            reached = now.wait_for(|now| *now >= revision) => reached.is_ok(),
        }
    }

    /// Whom changes concern; never hold the guard across an await.
    pub fn routed(&self) -> MutexGuard<'_, Routed> {
        self.routed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leases; never hold the guard across an await.
    pub fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Agents said what replicas use.
    pub fn measured(&self, usage: Vec<(ReplicaId, Usage)>) {
        let mut waiting = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(usage);
    }

    /// Takes what was said of use since it was last asked for.
    #[must_use]
    pub fn take_measured(&self) -> Vec<(ReplicaId, Usage)> {
        std::mem::take(&mut self.measured.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The acknowledgements; never hold the guard across an await.
    pub fn acks(&self) -> MutexGuard<'_, Acknowledgements> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
