//! A cluster in memory: the production planner and scheduler over a real state, with agents, nodes and people that act by a seed.
//!
//! **Invariant:** all that the leader knows beyond the state is which drained replicas are acknowledged; a failover forgets it.

pub mod agents;
pub mod invariants;
pub mod people;

use std::collections::BTreeSet;

use gantry_model::object::Replica;
use gantry_model::{DurationMs, NodeId, ReplicaId, ServiceId, Timestamp};
use gantry_reconcile::{Acks, ServicePlan, View, reconcile};
use gantry_scheduler::Fleet;
use gantry_state::{Key, Op, Outcome, State, Transaction};

/// A sequence that follows from a seed: SplitMix64 (Steele, Lea, Flood 2014).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() {
            return None;
        }
        Some(from[self.below(from.len() as u64) as usize])
    }
}

/// Acknowledged drained replicas.
#[derive(Default)]
pub struct AckedSet(pub BTreeSet<ReplicaId>);

impl Acks for AckedSet {
    fn drained(&self, replica: &Replica) -> bool {
        self.0.contains(&replica.id)
    }
}

/// The cluster.
pub struct World {
    pub state: State,
    pub fleet: Fleet,
    pub now: Timestamp,
    pub dice: Dice,
    pub acks: AckedSet,
    /// Revisions that cannot run, with how they fail.
    pub broken: BTreeSet<(ServiceId, u32)>,
    /// Whether agents fail at random.
    pub chaos: bool,
    next_id: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let state = State::default();
        Self {
            fleet: Fleet::from_state(&state),
            state,
            now: Timestamp(1_000_000),
            dice: Dice::new(seed),
            acks: AckedSet::default(),
            broken: BTreeSet::new(),
            chaos: false,
            next_id: 1,
        }
    }

    pub fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn advance(&mut self, by: DurationMs) {
        self.now = self.now.after(by);
    }

    /// Applies operations as one transaction; the fleet follows the changes.
    pub fn commit(&mut self, transaction: Transaction) -> bool {
        let (outcome, changes) = self.state.apply(self.state.revision() + 1, 1, &transaction);
        for change in &changes {
            self.fleet.apply(change);
        }
        matches!(outcome, Outcome::Committed { .. })
    }

    pub fn write(&mut self, ops: Vec<Op>) {
        let transaction = Transaction::new(self.now, ops);
        assert!(self.commit(transaction), "unconditional writes are committed");
    }

    pub fn plan(&mut self, service: ServiceId) -> ServicePlan {
        let mut next = self.next_id;
        let view = View {
            state: &self.state,
            now: self.now,
            acks: &self.acks,
        };
        let plan = reconcile(&view, service, &mut || {
            next += 1;
            ReplicaId(next)
        });
        self.next_id = next;
        plan
    }

    /// One pass of the control loop over one service; says whether anything was written.
    pub fn control(&mut self, service: ServiceId) -> bool {
        let plan = self.plan(service);
        invariants::check_plan(self, &plan);
        let mut ops = plan.ops;
        let decisions = self.fleet.place(&plan.place, self.now);
        let lost = self.dice.one_in(20);
        // Placing mutates the fleet before anything is committed: a refused write has to leave no trace.
        self.fleet.undo(&decisions);
        ops.extend(decisions.iter().filter_map(|decision| decision.op(&self.state)));
        if ops.is_empty() || lost {
            return !ops.is_empty();
        }
        let mut transaction = Transaction::new(self.now, ops);
        transaction.require = plan.require;
        self.commit(transaction);
        invariants::check(self);
        true
    }

    pub fn service_ids(&self) -> Vec<ServiceId> {
        self.state.services().map(|service| service.id).collect()
    }

    pub fn node_ids(&self) -> Vec<NodeId> {
        self.state.nodes().map(|node| node.id).collect()
    }

    /// Control passes over all services until nothing is written any more.
    pub fn control_until_quiet(&mut self) {
        for _ in 0..200 {
            let mut wrote = false;
            for service in self.service_ids() {
                wrote |= self.control(service);
            }
            if !wrote {
                return;
            }
        }
        panic!("the control loop writes for ever: {:?}", self.describe());
    }

    /// A new leader: what was acknowledged is not known to it.
    pub fn fail_over(&mut self) {
        self.acks.0.clear();
        self.fleet = Fleet::from_state(&self.state);
    }

    pub fn forget(&mut self, replica: ReplicaId) {
        self.write(vec![Op::Delete(Key::Replica(replica))]);
    }

    /// All services and replicas as text, for failed assertions.
    pub fn describe(&self) -> Vec<String> {
        let services = self.state.services().map(|one| {
            let mode = one.spec.mode;
            format!(
                "{} revision {} {mode:?} deleting {} {:?}",
                one.object(),
                one.revision,
                one.deleting,
                one.rollout
            )
        });
        let replicas = self.state.replicas().map(|one| {
            format!(
                "  {} {} r{} node {:?} desired {:?} ({}) {} ready {} {:?}",
                one.object(),
                one.id,
                one.revision,
                one.node,
                one.desired,
                one.desired_reason,
                one.observed.phase,
                one.observed.ready,
                one.explanation.as_ref().map(|why| &why.summary)
            )
        });
        let nodes = self
            .state
            .nodes()
            .map(|one| format!("  node {} {} {} {:?}", one.id, one.status, one.availability, one.labels));
        services.chain(replicas).chain(nodes).collect()
    }
}

impl World {
    /// A cluster of `count` nodes.
    pub fn with_nodes(count: usize) -> (Self, Vec<NodeId>) {
        let mut world = Self::new(7);
        let names = ["alpha", "beta", "gamma", "delta", "epsilon"];
        let nodes = names[..count]
            .iter()
            .map(|name| world.join(name, &agents::Shape::default()))
            .collect();
        (world, nodes)
    }

    /// Control, agents and acknowledgements take turns for so many rounds of one second.
    pub fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.control_until_quiet();
            let ids: Vec<ReplicaId> = self.state.replicas().map(|one| one.id).collect();
            ids.into_iter().for_each(|id| self.agent_step(id));
            self.acknowledge_all();
            self.advance(DurationMs::secs(1));
        }
        self.control_until_quiet();
    }

    /// The service's replicas that serve.
    pub fn endpoints(&self, service: ServiceId) -> Vec<&Replica> {
        self.state
            .replicas_of(service)
            .filter(|one| one.is_endpoint())
            .collect()
    }

    pub fn rollout(&self, service: ServiceId) -> gantry_model::object::Rollout {
        let stored = self.state.service(service).expect("the service exists");
        stored.rollout.clone().expect("it has a rollout")
    }
}
