//! Drives the leader's controller: events in, one transaction at a time out.
//!
//! **Invariant:** `select` only picks what happened next; what it means is decided by `gantry_leader::Controller`.

use std::sync::Arc;

use gantry_env::FreshIds;
use gantry_leader::{Controller, Failed, Moment, Verdict};
use gantry_model::object::NodeStatus;
use gantry_model::{DurationMs, Problem};
use gantry_raft::{ChangeFeed, FeedError, Proposed, Update};
use gantry_state::{Op, Outcome};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::shared::TermHandle;
use crate::context::Context;

/// Longest time between two looks at leases and wake-ups.
const TICK_MAX: DurationMs = DurationMs(100);

/// Leads until the term ends. Returns when leadership or the server is gone.
pub async fn lead(context: Arc<Context>, term: Arc<TermHandle>, reports: mpsc::Receiver<Vec<Op>>) {
    let (state, feed) = context.raft.watch_from();
    let deadline = context.env.monotonic() + context.timing().lease;
    for node in state.nodes().filter(|node| node.status == NodeStatus::Ready) {
        term.leases().extend(node.id, deadline);
    }
    let mut driver = Driver {
        controller: Controller::begin(term.term, state),
        context,
        term,
        feed,
        reports,
        proposal: None,
    };
    tracing::info!(term = driver.term.term, "leading");
    driver.run().await;
    tracing::info!(term = driver.term.term, "no longer leading");
}

struct Driver {
    controller: Controller,
    context: Arc<Context>,
    term: Arc<TermHandle>,
    feed: ChangeFeed,
    reports: mpsc::Receiver<Vec<Op>>,
    /// The transaction in flight.
    proposal: Option<JoinHandle<Result<Proposed, gantry_raft::ProposeError>>>,
}

enum Event {
    Feed(Result<Update, FeedError>),
    Reports(Option<Vec<Op>>),
    Proposed(Result<Proposed, Problem>),
    Acknowledged,
    Tick,
    TermEnded,
}

impl Driver {
    async fn run(&mut self) {
        loop {
            let event = self.select().await;
            if !self.apply(event) {
                return;
            }
            self.pump();
        }
    }

    async fn select(&mut self) -> Event {
        let until_tick = self.until_tick();
        tokio::select! {
            biased;
            () = self.term.ended.cancelled() => Event::TermEnded,
            event = self.feed.next() => Event::Feed(event),
            result = async { self.proposal.as_mut().expect("guarded by is_some").await }, if self.proposal.is_some() => {
                Event::Proposed(match result {
                    Ok(outcome) => outcome.map_err(Problem::from),
                    Err(error) => Err(Problem::new(gantry_model::Class::Internal, "controller", error.to_string())),
                })
            }
            ops = self.reports.recv() => Event::Reports(ops),
            () = self.term.acknowledged.notified() => Event::Acknowledged,
            () = tokio::time::sleep(until_tick.to_std()) => Event::Tick,
        }
    }

    fn until_tick(&self) -> DurationMs {
        let wake = self
            .controller
            .next_wake()
            .map_or(TICK_MAX, |at| at.since(self.context.env.now()));
        // At least a millisecond, so that a wake-up in the past which is still in flight does not spin.
        DurationMs(wake.0.clamp(1, TICK_MAX.0))
    }

    /// Takes an event in; false ends the term.
    fn apply(&mut self, event: Event) -> bool {
        match event {
            Event::Feed(Ok(Update::Changes { state, changes })) => self.controller.changed(state, &changes),
            Event::Feed(Ok(Update::Reset { state })) => self.controller.start_over(state),
            Event::Feed(Err(FeedError::Lagged)) => {
                let (state, feed) = self.context.raft.watch_from();
                self.feed = feed;
                self.controller.start_over(state);
            }
            Event::Feed(Err(FeedError::Closed)) | Event::TermEnded => return false,
            Event::Reports(Some(ops)) => self.controller.report(ops),
            Event::Reports(None) => return false,
            Event::Proposed(result) => {
                self.proposal = None;
                return self.proposed(result);
            }
            Event::Acknowledged => self.controller.acknowledged(),
            Event::Tick => self.expire_leases(),
        }
        true
    }

    fn proposed(&mut self, result: Result<Proposed, Problem>) -> bool {
        let result = match result {
            Ok(proposed) => {
                if let Outcome::Refused(refusal) = &proposed.outcome {
                    tracing::debug!(%refusal, "a plan was overtaken");
                }
                Ok(proposed.outcome)
            }
            Err(problem) => {
                tracing::warn!(%problem, "a write of the controller failed");
                Err(Failed)
            }
        };
        self.controller.proposed(result, self.context.env.monotonic()) == Verdict::GoOn
    }

    fn expire_leases(&mut self) {
        let now = self.context.env.monotonic();
        let deadline = now + self.context.timing().lease;
        for node in self.controller.take_arrived() {
            self.term.leases().grant(node, deadline);
        }
        let expired = self.term.leases().take_expired(now);
        for node in expired {
            if self.controller.take_down(node) {
                tracing::warn!(%node, "no heartbeat within the lease");
            }
        }
    }

    /// Starts the next transaction, if there is something to write and nothing in flight.
    fn pump(&mut self) {
        let env = &self.context.env;
        let moment = Moment {
            now: env.now(),
            monotonic: env.monotonic(),
        };
        for (replica, usage) in self.term.take_measured() {
            self.controller.measured(replica, usage, moment.monotonic);
        }
        let applied = |node| self.term.acks().revision(node);
        let proposal = self.controller.propose(moment, &applied, &mut || env.replica_id());
        if let Some(transaction) = proposal {
            let raft = self.context.raft.clone();
            self.proposal = Some(tokio::spawn(async move { raft.propose(transaction).await }));
        }
    }
}
