//! What the leader's sessions and its controller share for the length of one term.

use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_state::Op;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use gantry_leader::Leases;
use gantry_leader::dispatch::Acknowledgements;

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
    leases: Mutex<Leases>,
    acks: Mutex<Acknowledgements>,
}

impl TermHandle {
    /// A term that begins, and the other end of its reports.
    #[must_use]
    pub fn new(term: u64) -> (Self, mpsc::Receiver<Vec<Op>>) {
        let (reports, receiver) = mpsc::channel(REPORTS_MAX);
        let handle = Self {
            term,
            ended: CancellationToken::new(),
            reports,
            acknowledged: Notify::new(),
            leases: Mutex::default(),
            acks: Mutex::default(),
        };
        (handle, receiver)
    }

    /// The leases; never hold the guard across an await.
    pub fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The acknowledgements; never hold the guard across an await.
    pub fn acks(&self) -> MutexGuard<'_, Acknowledgements> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
