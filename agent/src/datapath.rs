//! The one task that applies the node's network. Sets that arrive while it works become one application.
//!
//! **Invariant:** a set is acknowledged only after its network is in effect.

use std::sync::Arc;

use gantry_model::Timestamp;
use gantry_netplan::NodeNetwork;
use tokio::sync::watch;

use crate::limits::{DATAPATH_HEAL_INTERVAL, DATAPATH_RETRY};
use crate::shared::Shared;

/// The newest network to have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// Which set of which session it is of.
    pub(crate) set: SetNumber,
    /// The network; none while the node knows nothing of it.
    pub(crate) network: Option<Arc<NodeNetwork>>,
}

/// A set of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SetNumber {
    /// Counts the sessions of this agent from 1.
    pub(crate) epoch: u64,
    /// The number within the session.
    pub(crate) number: u64,
}

/// See the module.
pub(crate) struct Datapath {
    shared: Arc<Shared>,
    wanted: watch::Receiver<Wanted>,
    applied: watch::Sender<SetNumber>,
    retry_at: Option<Timestamp>,
    heal_at: Timestamp,
}

enum Wake {
    Wanted,
    Retry,
    Heal,
    Over,
}

impl Datapath {
    pub(crate) fn new(shared: Arc<Shared>, wanted: watch::Receiver<Wanted>, applied: watch::Sender<SetNumber>) -> Self {
        let heal_at = shared.clock.now().after(DATAPATH_HEAL_INTERVAL);
        Self {
            shared,
            wanted,
            applied,
            retry_at: None,
            heal_at,
        }
    }

    /// Runs until nobody can want anything any more.
    pub(crate) async fn run(mut self) {
        self.wanted.mark_changed();
        loop {
            let heal = match self.select().await {
                Wake::Wanted | Wake::Retry => false,
                Wake::Heal => true,
                Wake::Over => return,
            };
            self.apply(heal).await;
        }
    }

    async fn select(&mut self) -> Wake {
        let (retry_at, heal_at) = (self.retry_at, self.heal_at);
        tokio::select! {
            changed = self.wanted.changed() => if changed.is_ok() { Wake::Wanted } else { Wake::Over },
            () = self.shared.clock.sleep_until(retry_at), if retry_at.is_some() => Wake::Retry,
            () = self.shared.clock.sleep_until(Some(heal_at)) => Wake::Heal,
        }
    }

    async fn apply(&mut self, heal: bool) {
        let wanted = self.wanted.borrow_and_update().clone();
        let done = match &wanted.network {
            None => Ok(()),
            Some(network) => {
                let plan = Arc::new(network.plan());
                if heal {
                    self.shared.drivers.network.heal(plan).await
                } else {
                    self.shared.drivers.network.apply(plan).await
                }
            }
        };
        let now = self.shared.clock.now();
        match done {
            Ok(()) => {
                self.retry_at = None;
                self.applied.send_replace(wanted.set);
            }
            Err(problem) => {
                tracing::error!(%problem, "the node's network could not be applied, trying again");
                self.retry_at = Some(now.after(DATAPATH_RETRY));
            }
        }
        if heal {
            self.heal_at = now.after(DATAPATH_HEAL_INTERVAL);
        }
    }
}
