//! The controller: turns what is stored into what is to be done.
//!
//! One transaction in flight at a time. A pass looks at the services that something happened to, lets `reconcile` decide and
//! `scheduler` place, and proposes everything as one transaction that only this term may commit. What a pass wrote comes back
//! through the change feed before the next pass decides, so that no pass decides on a view without its own writes. A write whose
//! fate is not known may be made later; it is waited out by a write of its own before anything is decided again.
//!
//! **Invariant:** nothing here outlives the term, and nothing that matters is only here.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use gantry_model::object::{NodeStatus, Replica};
use gantry_model::phase::Desired;
use gantry_model::spec::Usage;
use gantry_model::{DurationMs, NodeId, ReplicaId, ServiceId, Timestamp};
use gantry_reconcile::{Acks, ServicePlan, View, reconcile};
use gantry_scheduler::{Fleet, Request};
use gantry_state::{Change, Key, Object, Op, Outcome, Precondition, Refusal, State, Transaction};

use crate::autoscale::Autoscaler;
use crate::work::Work;

/// Pause after a write that failed, so that a cluster without quorum is not hammered.
const PAUSE_AFTER_FAILURE: DurationMs = DurationMs(100);

/// Operations in one transaction at most: larger plans are written in several passes, so that no entry blocks the log.
const OPS_PER_PASS: usize = 2000;

/// About the bytes of reports in one transaction at most. With a pass of the largest size they stay below the largest entry.
const REPORT_BYTES_MAX: usize = 768 * 1024;

/// The leader's two clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For records and people; it may jump.
    pub now: Timestamp,
    /// Never jumps back.
    pub monotonic: DurationMs,
}

/// A write whose fate is not known: it may have been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed;

/// Whether the term goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    GoOn,
    /// Another leader has been elected.
    TermEnded,
}

/// See the module.
pub struct Controller {
    term: u64,
    state: State,
    fleet: Fleet,
    work: Work,
    autoscaler: Autoscaler,
    /// Nodes that were stored as ready since they were asked for.
    arrived: BTreeSet<NodeId>,
    /// Reports and node changes to be written.
    pending: Vec<Op>,
    /// Those among the transaction in flight: written again if it is refused.
    in_flight: Vec<Op>,
    /// A transaction is in flight.
    proposing: bool,
    /// An earlier write of this term may still come: of a former controller when leadership lapsed and came back within the
    /// term, or one whose fate was not heard. Nothing is decided before a write of this controller's own has gone through, which
    /// has all earlier ones before it in the log.
    uncertain: bool,
    /// No pass before the state has come this far.
    awaited: u64,
    paused_until: DurationMs,
}

/// Acknowledgements as `reconcile` asks for them.
struct LiveAcks<'a> {
    state: &'a State,
    /// The least revision of all ready nodes, asked for once in a pass however many replicas drain.
    least: &'a OnceCell<u64>,
    /// The revision up to which a node's data path is known to be.
    applied: &'a dyn Fn(NodeId) -> u64,
}

impl Acks for LiveAcks<'_> {
    /// Every ready node has in effect a set computed after the replica began to drain.
    fn drained(&self, replica: &Replica) -> bool {
        let since = self.state.modified(&Key::Replica(replica.id));
        let ready = || self.state.nodes().filter(|node| node.status == NodeStatus::Ready);
        let least = || ready().map(|node| (self.applied)(node.id)).min().unwrap_or(u64::MAX);
        *self.least.get_or_init(least) >= since
    }
}

impl Controller {
    /// The controller of a term, from the state as this server has it.
    #[must_use]
    pub fn begin(term: u64, state: State) -> Self {
        let mut autoscaler = Autoscaler::default();
        autoscaler.look_at(&state);
        Self {
            autoscaler,
            term,
            arrived: ready(&state).collect(),
            fleet: Fleet::from_state(&state),
            work: Work::everything(&state),
            state,
            pending: Vec::new(),
            in_flight: Vec::new(),
            proposing: false,
            uncertain: true,
            awaited: 0,
            paused_until: DurationMs::ZERO,
        }
    }

    /// The state as the controller knows it.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The nodes and what is reserved on them, as the controller knows them.
    #[must_use]
    pub const fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The state went on.
    pub fn changed(&mut self, state: State, changes: &[Change]) {
        for change in changes {
            self.fleet.apply(change);
            self.work.note(&state, change);
            self.autoscaler.note(change);
            if let Some(Object::Node(node)) = change.after.as_deref()
                && node.status == NodeStatus::Ready
            {
                self.arrived.insert(node.id);
            }
        }
        self.state = state;
    }

    /// The state went on, and what changed is not known.
    pub fn start_over(&mut self, state: State) {
        self.fleet = Fleet::from_state(&state);
        self.work = Work::everything(&state);
        self.autoscaler.look_at(&state);
        self.arrived.extend(ready(&state));
        self.state = state;
    }

    /// Nodes that are ready, and may have no lease: whoever registers a node opens its session afterwards, and may not come so far.
    pub fn take_arrived(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.arrived)
    }

    /// Something to be written as it is.
    pub fn report(&mut self, ops: Vec<Op>) {
        self.pending.extend(ops);
    }

    /// An agent said what a replica uses; nothing that is written.
    pub fn measured(&mut self, replica: ReplicaId, usage: Usage, at: DurationMs) {
        self.autoscaler.measured(replica, usage, at);
    }

    /// An acknowledgement came.
    pub fn acknowledged(&mut self) {
        self.work.note_acknowledgement();
    }

    /// The node's lease has run out. Says whether that is news.
    pub fn take_down(&mut self, id: NodeId) -> bool {
        let Some(node) = self.state.node(id).filter(|node| node.status == NodeStatus::Ready) else {
            return false;
        };
        let ready_since = node.status_since;
        self.pending.push(Op::TakeDown { node: id, ready_since });
        true
    }

    /// When a service wants to be looked at next.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.work.next_wake()
    }

    /// The next transaction, if there is something to write and nothing in flight; its fate is to be told by
    /// [`Controller::proposed`]. `applied` says up to which revision a node's data path is known to be.
    pub fn propose(
        &mut self,
        moment: Moment,
        applied: &dyn Fn(NodeId) -> u64,
        ids: &mut dyn FnMut() -> ReplicaId,
    ) -> Option<Transaction> {
        if self.proposing || moment.monotonic < self.paused_until {
            return None;
        }
        self.in_flight = self.take_reports();
        let mut transaction =
            Transaction::new(moment.now, self.in_flight.clone()).requiring(Precondition::Term(self.term));
        let knows_all = !self.uncertain && self.state.revision() >= self.awaited;
        if knows_all && self.autoscaler.is_due(moment.monotonic) {
            // Before anything else is decided: the counts are looked at with the rest in the next pass.
            for (unchanged, ops) in self.autoscaler.decide(&self.state, moment) {
                transaction.require.push(unchanged);
                transaction.ops.extend(ops);
            }
        }
        if knows_all && transaction.ops.len() == self.in_flight.len() && self.work.is_pending(moment.now) {
            self.decide(&mut transaction, applied, ids);
        }
        if transaction.ops.is_empty() && !self.uncertain {
            return None;
        }
        self.proposing = true;
        Some(transaction)
    }

    /// As many reports as one transaction takes, and at least one.
    fn take_reports(&mut self) -> Vec<Op> {
        let mut bytes = 0;
        let fits = |op: &&Op| {
            bytes += weight(op);
            bytes <= REPORT_BYTES_MAX
        };
        let count = self.pending.iter().take_while(fits).count().max(1);
        let rest = self.pending.split_off(count.min(self.pending.len()));
        std::mem::replace(&mut self.pending, rest)
    }

    /// What became of the transaction in flight.
    pub fn proposed(&mut self, result: Result<Outcome, Failed>, monotonic: DurationMs) -> Verdict {
        self.proposing = false;
        match result {
            Ok(Outcome::Committed { revision }) => {
                self.awaited = revision;
                self.uncertain = false;
            }
            Ok(Outcome::Refused(Refusal::Term { .. })) => return Verdict::TermEnded,
            // A person was faster: the service is decided on again, as it is now. Reports are true all the same.
            Ok(Outcome::Refused(_)) => self.decide_anew(),
            // Whether it was made is not known; what is stored will tell, and reports may be written twice.
            Err(Failed) => {
                self.paused_until = monotonic + PAUSE_AFTER_FAILURE;
                self.uncertain = true;
                self.decide_anew();
            }
        }
        Verdict::GoOn
    }

    fn decide_anew(&mut self) {
        let mut reports = std::mem::take(&mut self.in_flight);
        reports.append(&mut self.pending);
        self.pending = reports;
        self.start_over(self.state.clone());
    }

    /// One pass: what each service needs, and where new replicas go.
    fn decide(
        &mut self,
        transaction: &mut Transaction,
        applied: &dyn Fn(NodeId) -> u64,
        ids: &mut dyn FnMut() -> ReplicaId,
    ) {
        let mut left: BTreeSet<ServiceId> = self.work.take(transaction.at);
        let mut homeless: Vec<Request> = Vec::new();
        let least = OnceCell::new();
        while let Some(service) = left.pop_first() {
            if transaction.ops.len() + homeless.len() >= OPS_PER_PASS {
                left.insert(service);
                break;
            }
            homeless.extend(self.decide_service(service, transaction, (applied, &least), ids));
        }
        self.work.put_back(left);
        self.place(&homeless, transaction);
    }

    /// Finds nodes for the replicas of all services of the pass together, so that what matters more goes first and what goes
    /// well together is packed together. What is refused may have others of lower priority give way.
    fn place(&mut self, homeless: &[Request], transaction: &mut Transaction) {
        let requests: BTreeMap<ReplicaId, &Request> = homeless.iter().map(|one| (one.replica, one)).collect();
        for decision in self.fleet.place(homeless, transaction.at) {
            transaction.ops.extend(decision.op(&self.state));
            let refused = requests.get(&decision.replica).filter(|_| decision.result.is_err());
            let Some(request) = refused else { continue };
            self.work.lacks_room(request.service);
            if let Some(displacement) = self.fleet.displace(&self.state, request, transaction.at) {
                transaction.ops.extend(displacement.ops(&self.state));
            }
        }
    }

    fn decide_service(
        &mut self,
        service: ServiceId,
        transaction: &mut Transaction,
        (applied, least): (&dyn Fn(NodeId) -> u64, &OnceCell<u64>),
        ids: &mut dyn FnMut() -> ReplicaId,
    ) -> Vec<Request> {
        let acks = LiveAcks {
            state: &self.state,
            least,
            applied,
        };
        let view = View {
            state: &self.state,
            now: transaction.at,
            acks: &acks,
        };
        let mut plan = reconcile(&view, service, ids);
        limit_new(&mut plan, OPS_PER_PASS);
        self.work.wake(service, plan.wake_at);
        let drains = |replica: &Replica| replica.desired == Desired::Drain;
        if self.state.replicas_of(service).any(drains) {
            self.work.still_drains(service);
        }
        transaction.require.extend(plan.require);
        for op in &plan.ops {
            // Whoever has to give way later in this pass is chosen knowing who is on the way out already.
            if let Op::Desire { replica, .. } = op {
                self.fleet.leaves(*replica);
            }
        }
        transaction.ops.extend(plan.ops);
        plan.place
    }
}

fn ready(state: &State) -> impl Iterator<Item = NodeId> + '_ {
    let ready = state.nodes().filter(|node| node.status == NodeStatus::Ready);
    ready.map(|node| node.id)
}

/// About the bytes that a report takes in an entry.
fn weight(op: &Op) -> usize {
    match op {
        Op::Observe { observed, .. } => 384 + observed.message.len(),
        Op::Hold { image, .. } => 768 + 192 * (image.manifest.blobs.len() + image.manifest.manifests.len()),
        Op::Put(_)
        | Op::Delete(_)
        | Op::Assign { .. }
        | Op::Desire { .. }
        | Op::Admit { .. }
        | Op::GiveUp { .. }
        | Op::Explain { .. }
        | Op::Release { .. }
        | Op::TakeDown { .. }
        | Op::Record(_) => 384,
    }
}

/// Leaves replicas beyond `most` to a later pass, which misses them: one entry cannot hold any number.
fn limit_new(plan: &mut ServicePlan, most: usize) {
    let (mut new, mut left) = (0, BTreeSet::new());
    plan.ops.retain(|op| match op {
        Op::Put(object) => match object.as_ref() {
            Object::Replica(replica) => {
                new += 1;
                let kept = new <= most;
                if !kept {
                    left.insert(replica.id);
                }
                kept
            }
            _ => true,
        },
        _ => true,
    });
    if !left.is_empty() {
        plan.place.retain(|request| !left.contains(&request.replica));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ByteSize;
    use gantry_model::object::Node;

    fn moment(ms: u64) -> Moment {
        Moment {
            now: Timestamp(ms),
            monotonic: DurationMs(ms),
        }
    }

    fn next(controller: &mut Controller, ms: u64) -> Option<Transaction> {
        controller.propose(moment(ms), &|_| 0, &mut || ReplicaId(ms))
    }

    /// A state with a node and a service of one replica, by way of the log.
    fn state() -> State {
        let node = serde_json::from_value::<Node>(serde_json::json!({
            "id": NodeId(1), "name": "alpha", "address": "192.0.2.1:7420", "subnet": "10.128.0.0/24", "status": "ready",
            "status_since": 1, "joined_at": 1,
            "facts": { "os": "linux", "arch": "amd64", "kernel": "", "version": "", "cpu": 4000, "memory": ByteSize::mib(1024) },
        }));
        let spec =
            serde_json::json!({ "mode": { "replicated": { "replicas": 1 } }, "container": { "image": "app:1" } });
        let revision = serde_json::from_value(serde_json::json!({
            "service": ServiceId(5), "number": 1, "spec": spec, "created_at": 1, "cause": "apply",
        }));
        let service = serde_json::from_value(serde_json::json!({
            "id": ServiceId(5), "namespace": "shop", "name": "web", "spec": spec, "revision": 1, "created_at": 1, "updated_at": 1,
        }));
        let objects = [
            Object::Node(node.expect("a node")),
            Object::Revision(revision.expect("a revision")),
            Object::Service(service.expect("a service")),
        ];
        let ops = objects.into_iter().map(|object| Op::Put(Box::new(object))).collect();
        let mut state = State::default();
        state.apply(1, 1, &Transaction::new(Timestamp(1), ops));
        state
    }

    #[test]
    fn a_node_that_becomes_ready_is_named_once_whether_or_not_a_session_follows() {
        let mut controller = Controller::begin(1, state());
        assert_eq!(controller.take_arrived(), BTreeSet::from([NodeId(1)]));
        assert_eq!(controller.take_arrived(), BTreeSet::new());
        let mut state = state();
        let known = state.node(NodeId(1)).expect("it is there").clone();
        let mut write = |index, status, at| {
            let status_since = Timestamp(at);
            let node = Node {
                status,
                status_since,
                ..known.clone()
            };
            let put = Op::Put(Box::new(Object::Node(node)));
            let (_, changes) = state.apply(index, 1, &Transaction::new(Timestamp(at), vec![put]));
            controller.changed(state.clone(), &changes);
            controller.take_arrived()
        };
        assert_eq!(write(2, NodeStatus::Down, 2), BTreeSet::new());
        assert_eq!(write(3, NodeStatus::Ready, 3), BTreeSet::from([NodeId(1)]));
        controller.start_over(state);
        assert_eq!(
            controller.take_arrived(),
            BTreeSet::from([NodeId(1)]),
            "what changed is not known"
        );
    }

    #[test]
    fn nothing_is_decided_before_earlier_writes_of_the_term_are_known() {
        let mut controller = Controller::begin(1, state());
        let barrier = next(&mut controller, 10).expect("a write of its own comes first");
        assert_eq!(barrier.ops, []);
        assert_eq!(next(&mut controller, 20), None, "one at a time");
        let verdict = controller.proposed(Ok(Outcome::Committed { revision: 2 }), DurationMs(30));
        assert_eq!(verdict, Verdict::GoOn);
        assert_eq!(next(&mut controller, 40), None, "its own write has not come back");
        let mut state = state();
        state.skip(2);
        controller.changed(state, &[]);
        let decision = next(&mut controller, 50).expect("a replica is wanted");
        assert!(
            decision.ops.iter().any(|op| matches!(op, Op::Assign { .. })),
            "{decision:?}"
        );

        controller.proposed(Err(Failed), DurationMs(60));
        assert_eq!(next(&mut controller, 70), None, "a pause after a failure");
        let barrier = next(&mut controller, 1_000).expect("the fate of the last write has to be known");
        assert_eq!(barrier.ops, []);
    }

    #[test]
    fn reports_are_written_in_entries_of_a_bounded_size_and_none_is_lost() {
        let mut controller = Controller::begin(1, State::default());
        let op = |number: usize| Op::Record(gantry_state::NewEvent::new(format!("node {number}"), "joined", ""));
        let all: Vec<Op> = (0..10_000).map(op).collect();
        controller.report(all.clone());
        let mut written = Vec::new();
        for ms in 1.. {
            let Some(transaction) = next(&mut controller, ms) else {
                break;
            };
            assert!(
                transaction.ops.len() <= REPORT_BYTES_MAX / 384,
                "{}",
                transaction.ops.len()
            );
            written.extend(transaction.ops);
            controller.proposed(Ok(Outcome::Committed { revision: ms }), DurationMs(ms));
        }
        assert!(written == all);
    }

    #[test]
    fn a_service_of_any_size_is_made_in_passes() {
        let mut state = state();
        let mut service = state.service(ServiceId(5)).expect("it is there").clone();
        let mut spec = (*service.spec).clone();
        spec.mode = gantry_model::spec::Mode::Replicated { replicas: 5_000 };
        service.spec = std::sync::Arc::new(spec);
        let put = Op::Put(Box::new(Object::Service(service)));
        state.apply(2, 1, &Transaction::new(Timestamp(2), vec![put]));
        let mut controller = Controller::begin(1, state.clone());
        let mut made = 0;
        for index in 3..30 {
            let mut id = 0;
            let transaction = controller.propose(moment(index), &|_| 0, &mut || {
                id += 1;
                ReplicaId(index * 100_000 + id)
            });
            let Some(transaction) = transaction else { break };
            let new = |op: &&Op| matches!(op, Op::Put(object) if matches!(object.as_ref(), Object::Replica(_)));
            let count = transaction.ops.iter().filter(new).count();
            assert!(count <= OPS_PER_PASS, "{count}");
            made += count;
            let (outcome, changes) = state.apply(index, 1, &transaction);
            controller.changed(state.clone(), &changes);
            controller.proposed(Ok(outcome), DurationMs(index));
        }
        assert_eq!(made, 5_000);
    }

    #[test]
    fn reports_are_written_again_after_a_failure() {
        let mut controller = Controller::begin(1, State::default());
        let op = Op::Record(gantry_state::NewEvent::new("node alpha", "joined", ""));
        controller.report(vec![op.clone()]);
        let first = next(&mut controller, 10).expect("a report to write");
        assert_eq!(first.ops, std::slice::from_ref(&op));
        controller.proposed(Err(Failed), DurationMs(10));
        let second = next(&mut controller, 1_000).expect("the report again");
        assert_eq!(second.ops, [op]);
    }
}
