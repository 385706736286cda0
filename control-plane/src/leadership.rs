//! Starts the leader's work when this server becomes leader, and ends it when it no longer is.
//!
//! A leader that is late in hearing from a majority, on a busy machine or network, mostly hears from it a moment later in the
//! same term. Its sessions live through that: ending them would make every agent introduce itself anew, which is most work when
//! there is most to do already. Nothing can be written meanwhile, nor after another leader is elected.

use std::sync::Arc;

use gantry_model::DurationMs;
use gantry_raft::Leadership;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::registry::keep_copies;
use crate::term::{TermHandle, lead, route};

/// Longest time without a majority for which sessions wait; by then another leader has mostly been elected.
const GRACE_MAX: DurationMs = DurationMs::secs(2);

/// The term that this server leads.
struct Leading {
    handle: Arc<TermHandle>,
    controller: JoinHandle<()>,
    /// Since when no majority has been heard of, on the monotonic clock.
    lapsed_since: Option<DurationMs>,
}

/// What a look at the leadership means for the term that this server leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It goes on.
    Leads,
    /// No majority is heard of, nor of another leader.
    Lapsed,
    /// There is a newer term.
    Over,
}

fn standing(now: &Leadership, term: u64) -> Standing {
    match (now.term == term, now.is_leader, &now.leader) {
        (true, true, _) => Standing::Leads,
        (true, false, None) => Standing::Lapsed,
        (true, false, Some(_)) | (false, _, _) => Standing::Over,
    }
}

/// How long sessions wait for a majority. The next leader trusts every node for a whole lease from the start of its term, so
/// a node that hears of the end of its session half a lease late still does so in time.
fn grace(lease: DurationMs) -> DurationMs {
    DurationMs(lease.0 / 2).min(GRACE_MAX)
}

/// How the term goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Unlimited,
    /// For so long, unless a majority is heard of.
    Limited(DurationMs),
    Over,
}

impl Leading {
    fn life(&mut self, now: &Leadership, monotonic: DurationMs, grace: DurationMs) -> Life {
        if self.controller.is_finished() {
            return Life::Over;
        }
        match standing(now, self.handle.term) {
            Standing::Over => Life::Over,
            Standing::Leads => {
                self.lapsed_since = None;
                Life::Unlimited
            }
            Standing::Lapsed => {
                let since = *self.lapsed_since.get_or_insert(monotonic);
                remaining(since, monotonic, grace).map_or(Life::Over, Life::Limited)
            }
        }
    }
}

/// What is left of the grace, unless it is over.
fn remaining(since: DurationMs, now: DurationMs, grace: DurationMs) -> Option<DurationMs> {
    let left = (since + grace).0.saturating_sub(now.0);
    (left > 0).then_some(DurationMs(left))
}

/// Follows leadership until `stop`.
pub async fn follow(context: Arc<Context>, stop: CancellationToken) {
    let mut leadership = context.raft.leadership();
    let mut leading: Option<Leading> = None;
    loop {
        let now = leadership.borrow_and_update().clone();
        let (monotonic, grace) = (context.env.monotonic(), grace(context.timing().lease));
        let life = leading.as_mut().map(|leading| leading.life(&now, monotonic, grace));
        if life.is_none_or(|life| life == Life::Over) {
            end(&context, leading.take()).await;
            leading = now.is_leader.then(|| begin(&context, now.term));
        }
        let limit = async {
            match life {
                Some(Life::Limited(left)) => tokio::time::sleep(left.to_std()).await,
                Some(Life::Unlimited | Life::Over) | None => std::future::pending().await,
            }
        };
        let finished = async {
            match leading.as_mut() {
                Some(leading) => {
                    let _ = (&mut leading.controller).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = limit => {}
            changed = leadership.changed() => if changed.is_err() { break },
            () = finished => {
                // The controller saw the end of the term before this watch did, or failed: look again.
                if let Some(ended) = leading.take() {
                    context.term.store(None);
                    ended.handle.ended.cancel();
                }
            }
        }
    }
    end(&context, leading.take()).await;
}

fn begin(context: &Arc<Context>, term: u64) -> Leading {
    let (state, feed) = context.raft.watch_from();
    let (handle, reports) = TermHandle::new(term, state);
    let handle = Arc::new(handle);
    tokio::spawn(route(context.clone(), handle.clone(), feed));
    context.term.store(Some(handle.clone()));
    let controller = tokio::spawn(lead(context.clone(), handle.clone(), reports));
    tokio::spawn(keep_copies(context.clone(), term, handle.ended.clone()));
    Leading {
        handle,
        controller,
        lapsed_since: None,
    }
}

async fn end(context: &Context, leading: Option<Leading>) {
    let Some(leading) = leading else { return };
    context.term.store(None);
    leading.handle.ended.cancel();
    if let Err(error) = leading.controller.await {
        tracing::error!(%error, "the controller ended badly");
    }
}

#[cfg(test)]
mod partition;

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ServerId;
    use gantry_raft::Leader;

    fn seen(term: u64, is_leader: bool, leader: Option<u64>) -> Leadership {
        let leader = leader.map(|id| Leader {
            id: ServerId(id),
            address: String::new(),
        });
        Leadership {
            term,
            leader,
            is_leader,
        }
    }

    #[test]
    fn a_term_outlives_a_moment_without_a_majority_and_nothing_else() {
        for (now, expected) in [
            (seen(3, true, Some(1)), Standing::Leads),
            (seen(3, false, None), Standing::Lapsed),
            (seen(3, false, Some(2)), Standing::Over),
            (seen(4, false, None), Standing::Over),
            (seen(4, false, Some(2)), Standing::Over),
            (seen(4, true, Some(1)), Standing::Over),
        ] {
            assert_eq!(standing(&now, 3), expected, "{now:?}");
        }
    }

    #[test]
    fn the_wait_for_a_majority_is_bounded_by_the_nodes_lease() {
        assert_eq!(grace(DurationMs(200)), DurationMs(100));
        assert_eq!(grace(DurationMs::secs(60)), GRACE_MAX);
        let since = DurationMs(1_000);
        assert_eq!(
            remaining(since, DurationMs(1_000), DurationMs(50)),
            Some(DurationMs(50))
        );
        assert_eq!(remaining(since, DurationMs(1_049), DurationMs(50)), Some(DurationMs(1)));
        assert_eq!(remaining(since, DurationMs(1_050), DurationMs(50)), None);
        assert_eq!(remaining(since, DurationMs(9_999), DurationMs(50)), None);
    }
}
