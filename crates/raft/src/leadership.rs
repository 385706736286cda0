//! Who leads, as seen from this server, and whether this server may act as the leader.
//!
//! **Invariant:** `is_leader` is true only after an entry of its own term was applied here, and with it everything before.
//! **Invariant:** a leader cut off from the majority says so before another can be elected: its lease, counted from the sending of
//! the last heartbeat that a majority answered, is no longer than the time for which that majority elects nobody else.

use std::time::Duration;

use gantry_model::ServerId;
use openraft::async_runtime::WatchReceiver as _;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{Instant as _, ServerState};
use tokio::sync::watch;

use crate::options::Options;
use crate::types::{Metrics, TypeConfig};

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The newest term this server knows of.
    pub term: u64,
    /// The leader of that term, while it is known and believed to lead.
    pub leader: Option<Leader>,
    /// This server is that leader, holds its lease and has applied everything before its term.
    pub is_leader: bool,
}

/// The leader and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its id.
    pub id: ServerId,
    /// Where it is reached; empty if it is no member any more.
    pub address: String,
}

/// Keeps `published` up to date until Raft stops.
pub async fn follow(
    options: Options,
    mut metrics: WatchReceiverOf<TypeConfig, Metrics>,
    published: watch::Sender<Leadership>,
) {
    let lease = Duration::from_millis(options.election_max_ms);
    // A lease runs out without any event, so a leader looks at it at least this often.
    let check = Duration::from_millis(options.heartbeat_ms / 2);
    loop {
        let (seen, leads, stopped) = {
            let metrics = metrics.borrow_watched();
            let leads = metrics.state == ServerState::Leader;
            (observe(&metrics, lease), leads, metrics.running_state.is_err())
        };
        publish(&published, seen, stopped);
        if stopped {
            return;
        }
        let ended = if leads {
            matches!(tokio::time::timeout(check, metrics.changed()).await, Ok(Err(_)))
        } else {
            metrics.changed().await.is_err()
        };
        if ended {
            let seen = published.borrow().clone();
            return publish(&published, seen, true);
        }
    }
}

fn publish(published: &watch::Sender<Leadership>, seen: Leadership, stopped: bool) {
    let seen = if stopped {
        Leadership {
            term: seen.term,
            ..Leadership::default()
        }
    } else {
        seen
    };
    published.send_if_modified(|current| {
        let differs = *current != seen;
        *current = seen;
        differs
    });
}

fn observe(metrics: &Metrics, lease: Duration) -> Leadership {
    let leads = metrics.state == ServerState::Leader;
    let holds_lease = leads && holds_lease(metrics, lease);
    let leader = metrics
        .current_leader
        .filter(|leader| *leader != metrics.id || holds_lease);
    let term = metrics.current_term;
    let applied_own = metrics
        .last_applied
        .is_some_and(|applied| applied.committed_leader_id().term == term);
    Leadership {
        term,
        leader: leader.map(|id| Leader {
            id: ServerId(id),
            address: address_of(metrics, id).unwrap_or_default(),
        }),
        is_leader: holds_lease && applied_own,
    }
}

fn holds_lease(metrics: &Metrics, lease: Duration) -> bool {
    let mut voters = metrics.membership_config.voter_ids();
    let alone = voters.next() == Some(metrics.id) && voters.next().is_none();
    alone || metrics.last_quorum_acked.is_some_and(|at| at.elapsed() < lease)
}

pub fn address_of(metrics: &Metrics, id: u64) -> Option<String> {
    metrics.membership_config.get_node(&id).map(|node| node.address.clone())
}
