//! The newest report of every replica, and which of them the leader has not been told yet.
//!
//! Workers put reports here, the session takes them: several reports of one replica become one, and what is held is bounded
//! by the number of replicas. After a new session begins everything is told again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_model::ReplicaId;
use gantry_model::phase::{Observed, Phase};
use gantry_model::spec::Usage;
use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub struct Board {
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    observed: BTreeMap<ReplicaId, Observed>,
    /// Gone from the node, and not yet from the leader's set.
    removed: BTreeSet<ReplicaId>,
    untold: BTreeSet<ReplicaId>,
    /// What replicas used lately, until it is told.
    usage: BTreeMap<ReplicaId, Usage>,
}

/// One entry of a report to the leader.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// What is observed of it.
    Observed(ReplicaId, Observed),
    /// Nothing of it is left here.
    Removed(ReplicaId),
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A newer report.
    pub fn report(&self, replica: ReplicaId, observed: Observed) {
        let mut inner = self.lock();
        inner.removed.remove(&replica);
        inner.observed.insert(replica, observed);
        inner.untold.insert(replica);
        drop(inner);
        self.news.notify_one();
    }

    /// Nothing of the replica is left.
    pub fn removed(&self, replica: ReplicaId) {
        let mut inner = self.lock();
        inner.observed.remove(&replica);
        inner.removed.insert(replica);
        inner.untold.insert(replica);
        drop(inner);
        self.news.notify_one();
    }

    /// The leader knows that these are the replicas of the node; removals of others need not be told again.
    pub fn retain_removed(&self, wanted: impl Fn(ReplicaId) -> bool) {
        let mut inner = self.lock();
        inner.removed.retain(|replica| wanted(*replica));
    }

    /// How far the replica has come, if there is a report.
    #[must_use]
    pub fn phase(&self, replica: ReplicaId) -> Option<Phase> {
        self.lock().observed.get(&replica).map(|observed| observed.phase)
    }

    /// A session begins, whose leader knows nothing for sure.
    pub fn tell_all(&self) {
        let mut inner = self.lock();
        let all: BTreeSet<_> = inner.observed.keys().chain(&inner.removed).copied().collect();
        inner.untold = all;
        let any = !inner.untold.is_empty();
        drop(inner);
        if any {
            self.news.notify_one();
        }
    }

    /// Takes what has not been told, at most `max` entries.
    #[must_use]
    pub fn take(&self, max: usize) -> Vec<Told> {
        let mut inner = self.lock();
        let mut told = Vec::new();
        while told.len() < max {
            let Some(replica) = inner.untold.pop_first() else { break };
            match inner.observed.get(&replica) {
                Some(observed) => told.push(Told::Observed(replica, observed.clone())),
                None if inner.removed.contains(&replica) => told.push(Told::Removed(replica)),
                None => {}
            }
        }
        if !inner.untold.is_empty() {
            self.news.notify_one();
        }
        told
    }

    /// What replicas use now.
    pub fn measured(&self, usage: BTreeMap<ReplicaId, Usage>) {
        self.lock().usage = usage;
        self.news.notify_one();
    }

    /// Takes the figures that have not been told.
    #[must_use]
    pub fn take_usage(&self) -> BTreeMap<ReplicaId, Usage> {
        std::mem::take(&mut self.lock().usage)
    }

    /// Waits until there is something to tell.
    pub async fn news(&self) {
        self.news.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(sequence: u64) -> Observed {
        Observed {
            phase: Phase::Running,
            sequence,
            ..Observed::default()
        }
    }

    #[test]
    fn several_reports_of_a_replica_become_the_newest() {
        let board = Board::default();
        for sequence in 1..=3 {
            board.report(ReplicaId(1), observed(sequence));
        }
        board.report(ReplicaId(2), observed(9));
        assert_eq!(
            board.take(10),
            [
                Told::Observed(ReplicaId(1), observed(3)),
                Told::Observed(ReplicaId(2), observed(9))
            ]
        );
        assert_eq!(board.take(10), []);
    }

    #[test]
    fn a_new_session_is_told_everything_removals_included() {
        let board = Board::default();
        board.report(ReplicaId(1), observed(1));
        board.report(ReplicaId(2), observed(1));
        board.removed(ReplicaId(2));
        assert_eq!(board.take(10).len(), 2);
        board.tell_all();
        assert_eq!(
            board.take(10),
            [Told::Observed(ReplicaId(1), observed(1)), Told::Removed(ReplicaId(2))]
        );
        board.retain_removed(|replica| replica != ReplicaId(2));
        board.tell_all();
        assert_eq!(board.take(10), [Told::Observed(ReplicaId(1), observed(1))]);
    }

    #[tokio::test]
    async fn what_does_not_fit_into_one_message_is_news_again() {
        let board = Board::default();
        for id in 0..5 {
            board.report(ReplicaId(id), observed(1));
        }
        let mut told = 0;
        while told < 5 {
            board.news().await;
            told += board.take(2).len();
        }
        assert_eq!(told, 5);
    }
}
