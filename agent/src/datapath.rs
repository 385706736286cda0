//! The one task that applies the node's network. Sets that arrive while it works become one application.
//!
//! **Invariant:** a set is acknowledged only after its network is in effect.

use std::sync::Arc;

use gantry_model::Timestamp;
use gantry_netplan::NodeNetwork;
use gantry_network::Disturbance;
use tokio::sync::watch;

use crate::limits::{DATAPATH_HEAL_INTERVAL, DATAPATH_REPAIR_PAUSE, DATAPATH_RETRY, INGRESS_RESUME};
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
    /// Until then the ingress does not go by a saved set.
    resume_at: Timestamp,
    /// Disturbances are not looked at before.
    repair_after: Timestamp,
}

enum Wake {
    Work(Work),
    Over,
}

/// What is done to the kernel's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// What differs from the last plan.
    Change,
    /// What others may have changed.
    Repair(Disturbance),
    /// Everything.
    Heal,
}

impl Datapath {
    pub(crate) fn new(shared: Arc<Shared>, wanted: watch::Receiver<Wanted>, applied: watch::Sender<SetNumber>) -> Self {
        let now = shared.clock.now();
        let heal_at = now.after(DATAPATH_HEAL_INTERVAL);
        Self {
            shared,
            wanted,
            applied,
            retry_at: None,
            heal_at,
            resume_at: now.after(INGRESS_RESUME),
            repair_after: now,
        }
    }

    /// Runs until nobody can want anything any more.
    pub(crate) async fn run(mut self) {
        self.wanted.mark_changed();
        loop {
            match self.select().await {
                Wake::Work(work) => self.apply(work).await,
                Wake::Over => return,
            }
        }
    }

    async fn select(&mut self) -> Wake {
        let (retry_at, heal_at) = (self.retry_at, self.heal_at);
        let (clock, network) = (&self.shared.clock, &self.shared.drivers.network);
        let disturbed = async {
            clock.sleep_until(Some(self.repair_after)).await;
            network.disturbed().await
        };
        tokio::select! {
            changed = self.wanted.changed() => match changed {
                Ok(()) => Wake::Work(Work::Change),
                Err(_) => Wake::Over,
            },
            () = clock.sleep_until(retry_at), if retry_at.is_some() => Wake::Work(Work::Change),
            () = clock.sleep_until(Some(heal_at)) => Wake::Work(Work::Heal),
            disturbance = disturbed => Wake::Work(Work::Repair(disturbance)),
        }
    }

    async fn apply(&mut self, work: Work) {
        let wanted = self.wanted.borrow_and_update().clone();
        let network = &self.shared.drivers.network;
        let plan = wanted.network.as_ref().map(|network| Arc::new(network.plan()));
        // Saved by a former agent, a second before its end or so: the kernel may be further.
        let is_of_no_session = wanted.set.epoch == 0;
        let done = match (plan, work) {
            (None, _) => Ok(()),
            (Some(plan), _) if is_of_no_session => network.resume(plan).await,
            (Some(plan), Work::Change) => network.apply(plan).await,
            (Some(plan), Work::Repair(disturbance)) => network.repair(plan, disturbance).await,
            (Some(plan), Work::Heal) => network.heal(plan).await,
        };
        let now = self.shared.clock.now();
        match done {
            Ok(()) => {
                self.retry_at = None;
                self.serve_http(is_of_no_session, now).await;
                self.applied.send_replace(wanted.set);
            }
            Err(problem) => {
                tracing::error!(%problem, "the node's network could not be applied, trying again");
                self.retry_at = Some(now.after(DATAPATH_RETRY));
            }
        }
        match work {
            Work::Change => {}
            Work::Repair(_) => self.repair_after = now.after(DATAPATH_REPAIR_PAUSE),
            Work::Heal => self.heal_at = now.after(DATAPATH_HEAL_INTERVAL),
        }
    }

    /// The set that the core has by now, which is the wanted one or a newer one.
    async fn serve_http(&mut self, is_of_no_session: bool, now: Timestamp) {
        let surroundings = self.shared.surroundings.load_full();
        if is_of_no_session && now < self.resume_at {
            if self.shared.ingress.concerns(&surroundings) {
                self.retry_at = Some(self.resume_at);
            }
            return;
        }
        self.shared.ingress.apply(&surroundings).await;
    }
}
