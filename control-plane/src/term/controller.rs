//! The controller: turns what is stored into what is to be done, and writes that.
//!
//! One loop, one transaction in flight at a time. A pass looks at the services that something happened to, lets `reconcile`
//! decide and `scheduler` place, and proposes everything as one transaction that only this term may commit. What a pass wrote
//! comes back through the change feed before the next pass decides, so that no pass decides on a view without its own writes.
//!
//! **Invariant:** nothing here outlives the term, and nothing that matters is only here.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_env::FreshIds;
use gantry_model::object::{Node, NodeStatus, Replica};
use gantry_model::{DurationMs, NodeId, Problem, ServiceId};
use gantry_raft::{ChangeFeed, FeedError, Proposed, Update};
use gantry_reconcile::{Acks, View, reconcile};
use gantry_scheduler::Fleet;
use gantry_state::{Key, Object, Op, Outcome, Precondition, Refusal, State, Transaction};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::shared::TermHandle;
use super::work::Work;
use crate::context::Context;

/// Longest time between two looks at leases and wake-ups.
const TICK_MAX: DurationMs = DurationMs(100);

/// Pause after a write that failed, so that a cluster without quorum is not hammered.
const PAUSE_AFTER_FAILURE: DurationMs = DurationMs(100);

/// Operations in one transaction at most: larger plans are written in several passes, so that no entry blocks the log.
const OPS_PER_PASS: usize = 2000;

/// Leads until the term ends. Returns when leadership or the server is gone.
pub async fn lead(context: Arc<Context>, term: Arc<TermHandle>, reports: mpsc::Receiver<Vec<Op>>) {
    let (state, feed) = context.raft.watch_from();
    let mut controller = Controller::begin(context, term, state, feed, reports);
    tracing::info!(term = controller.term.term, "leading");
    controller.run().await;
    tracing::info!(term = controller.term.term, "no longer leading");
}

struct Controller {
    context: Arc<Context>,
    term: Arc<TermHandle>,
    feed: ChangeFeed,
    reports: mpsc::Receiver<Vec<Op>>,
    state: State,
    fleet: Fleet,
    work: Work,
    /// Reports and node changes to be written.
    pending: Vec<Op>,
    /// Those among the transaction in flight: written again if it is refused.
    in_flight: Vec<Op>,
    /// The transaction in flight.
    proposal: Option<JoinHandle<Result<Proposed, gantry_raft::ProposeError>>>,
    /// No pass before the state has come this far.
    awaited: u64,
    paused_until: DurationMs,
}

enum Event {
    Feed(Result<Update, FeedError>),
    Reports(Option<Vec<Op>>),
    Proposed(Result<Proposed, Problem>),
    Acknowledged,
    Tick,
    TermEnded,
}

/// Acknowledgements as `reconcile` asks for them.
struct LiveAcks<'a> {
    state: &'a State,
    term: &'a TermHandle,
}

impl Acks for LiveAcks<'_> {
    /// Every ready node has in effect a set computed after the replica began to drain.
    fn drained(&self, replica: &Replica) -> bool {
        let since = self.state.modified(&Key::Replica(replica.id));
        let acks = self.term.acks();
        let mut ready = self.state.nodes().filter(|node| node.status == NodeStatus::Ready);
        ready.all(|node| acks.revision(node.id) >= since)
    }
}

impl Controller {
    fn begin(
        context: Arc<Context>,
        term: Arc<TermHandle>,
        state: State,
        feed: ChangeFeed,
        reports: mpsc::Receiver<Vec<Op>>,
    ) -> Self {
        let deadline = context.env.monotonic() + context.timing().lease;
        for node in state.nodes().filter(|node| node.status == NodeStatus::Ready) {
            term.leases().extend(node.id, deadline);
        }
        Self {
            fleet: Fleet::from_state(&state),
            work: Work::everything(&state),
            context,
            term,
            feed,
            reports,
            state,
            pending: Vec::new(),
            in_flight: Vec::new(),
            proposal: None,
            awaited: 0,
            paused_until: DurationMs::ZERO,
        }
    }

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
            .work
            .next_wake()
            .map_or(TICK_MAX, |at| at.since(self.context.env.now()));
        // At least a millisecond, so that a wake-up in the past which is still in flight does not spin.
        DurationMs(wake.0.clamp(1, TICK_MAX.0))
    }

    /// Takes an event in; false ends the term.
    fn apply(&mut self, event: Event) -> bool {
        match event {
            Event::Feed(Ok(Update::Changes { state, changes })) => {
                for change in changes.iter() {
                    self.fleet.apply(change);
                    self.work.note(&state, change);
                }
                self.state = state;
            }
            Event::Feed(Ok(Update::Reset { state })) => self.start_over(state),
            Event::Feed(Err(FeedError::Lagged)) => {
                let (state, feed) = self.context.raft.watch_from();
                self.feed = feed;
                self.start_over(state);
            }
            Event::Feed(Err(FeedError::Closed)) | Event::TermEnded => return false,
            Event::Reports(Some(ops)) => self.pending.extend(ops),
            Event::Reports(None) => return false,
            Event::Proposed(result) => {
                self.proposal = None;
                return self.proposed(result);
            }
            Event::Acknowledged => self.work.note_acknowledgement(),
            Event::Tick => self.expire_leases(),
        }
        true
    }

    fn start_over(&mut self, state: State) {
        self.fleet = Fleet::from_state(&state);
        self.work = Work::everything(&state);
        self.state = state;
    }

    fn proposed(&mut self, result: Result<Proposed, Problem>) -> bool {
        match result.map(|proposed| proposed.outcome) {
            Ok(Outcome::Committed { revision }) => {
                self.awaited = revision;
                true
            }
            Ok(Outcome::Refused(Refusal::Term { .. })) => false,
            // A person was faster: the service is decided on again, as it is now. Reports are true all the same.
            Ok(Outcome::Refused(refusal)) => {
                tracing::debug!(%refusal, "a plan was overtaken");
                self.decide_anew();
                true
            }
            Err(problem) => {
                tracing::warn!(%problem, "a write of the controller failed");
                self.paused_until = self.context.env.monotonic() + PAUSE_AFTER_FAILURE;
                // Whether it was made is not known; what is stored will tell, and reports may be written twice.
                self.decide_anew();
                true
            }
        }
    }

    fn decide_anew(&mut self) {
        let mut reports = std::mem::take(&mut self.in_flight);
        reports.append(&mut self.pending);
        self.pending = reports;
        self.start_over(self.state.clone());
    }

    fn expire_leases(&mut self) {
        let expired = self.term.leases().take_expired(self.context.env.monotonic());
        for id in expired {
            self.take_down(id);
        }
    }

    fn take_down(&mut self, id: NodeId) {
        let Some(node) = self.state.node(id).filter(|node| node.status == NodeStatus::Ready) else {
            return;
        };
        tracing::warn!(node = %node.name, "no heartbeat within the lease");
        let node = Node {
            status: NodeStatus::Down,
            status_since: self.context.env.now(),
            ..node.clone()
        };
        self.pending.push(Op::Put(Box::new(Object::Node(node))));
    }

    /// Starts the next transaction, if there is something to write and nothing in flight.
    fn pump(&mut self) {
        let idle = self.proposal.is_none() && self.context.env.monotonic() >= self.paused_until;
        if !idle {
            return;
        }
        self.in_flight = std::mem::take(&mut self.pending);
        let mut transaction = Transaction::new(self.context.env.now(), self.in_flight.clone())
            .requiring(Precondition::Term(self.term.term));
        if self.state.revision() >= self.awaited && self.work.is_pending(transaction.at) {
            self.decide(&mut transaction);
        }
        if transaction.ops.is_empty() {
            return;
        }
        let raft = self.context.raft.clone();
        self.proposal = Some(tokio::spawn(async move { raft.propose(transaction).await }));
    }

    /// One pass: what each service needs, and where new replicas go.
    fn decide(&mut self, transaction: &mut Transaction) {
        let mut left: BTreeSet<ServiceId> = self.work.take(self.context.env.now());
        while let Some(service) = left.pop_first() {
            if transaction.ops.len() >= OPS_PER_PASS {
                left.insert(service);
                break;
            }
            self.decide_service(service, transaction);
        }
        self.work.put_back(left);
    }

    fn decide_service(&mut self, service: ServiceId, transaction: &mut Transaction) {
        let now = self.context.env.now();
        let acks = LiveAcks {
            state: &self.state,
            term: &self.term,
        };
        let view = View {
            state: &self.state,
            now,
            acks: &acks,
        };
        let env = self.context.env.clone();
        let mut ids = || env.replica_id();
        let plan = reconcile(&view, service, &mut ids);
        self.work.wake(service, plan.wake_at);
        let drains = |replica: &Replica| replica.desired == gantry_model::phase::Desired::Drain;
        if self.state.replicas_of(service).any(drains) {
            self.work.still_drains(service);
        }
        transaction.require.extend(plan.require);
        transaction.ops.extend(plan.ops);
        for decision in self.fleet.place(&plan.place, now) {
            if decision.result.is_err() {
                self.work.lacks_room(service);
            }
            transaction.ops.extend(decision.op(&self.state));
        }
    }
}
