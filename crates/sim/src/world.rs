//! The whole simulated cluster: a queue of events in time, and everything they happen to.
//!
//! **Invariant:** whatever happens follows from the script alone: one queue, one source of chance, ordered maps everywhere.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use gantry_lifecycle::Attempt;
use gantry_model::{ReplicaId, SessionId, Timestamp};
use gantry_state::Outcome;

use crate::check::Checker;
use crate::dice::Dice;
use crate::net::{Connection, ConnectionId};
use crate::node::{Node, WorkerNews};
use crate::person::{Task, TaskId};
use crate::plant::Plant;
use crate::raft::{Log, Message, Proposal, ProposalId};
use crate::script::{Act, NODES, Place, SERVERS, SPARE_NODES, Script};
use crate::server::Server;
use crate::trace::Trace;

/// The wall clock at the beginning.
pub const BEGINNING: Timestamp = Timestamp(1_700_000_000_000);

/// Something that is to happen.
#[derive(Debug, Clone)]
pub enum Event {
    /// A step of the script.
    Step(usize),
    /// The fault of a step is over.
    FaultEnds(usize),
    /// Everything heals.
    Heal,
    /// Is all well?
    Look,
    /// A server's clock strikes.
    ServerTick(usize, u32),
    /// A message between servers arrives.
    Raft(usize, usize, Message),
    /// A server's disk has synced its log.
    Synced(usize, u32, Log),
    /// A proposal is answered.
    Answered(ProposalId, Outcome),
    /// A proposal is given up.
    ProposalLate(ProposalId),
    /// The leader's controller hears of new changes.
    ControllerFeed(usize, u32),
    /// The leader finds out whom new changes concern.
    RouterFeed(usize, u32),
    /// A session has something to tell.
    SessionFeed(ConnectionId),
    /// An agent asks a server for a session.
    Dialled(usize, u32, usize),
    /// The next message of a connection arrives, upwards or downwards.
    Delivered(ConnectionId, bool),
    /// One side of a connection notices that it is gone; the server's when true.
    Noticed(ConnectionId, bool),
    /// An agent's clock strikes.
    AgentTick(usize, u32),
    /// An agent begins.
    AgentStarts(usize),
    /// Something that a worker waited for has come.
    Worker(usize, u32, ReplicaId, u64, WorkerNews),
    /// A container ends.
    ContainerEnds(usize, u32, ReplicaId, Attempt, i32),
    /// A node's data path is what its agent wanted.
    DatapathDone(usize, u32),
    /// An agent looks for leftovers.
    Leftovers(usize, u32),
    /// A task goes on: its view is confirmed, or it tries again.
    Task(TaskId),
}

struct Queued {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// See the module.
pub struct World {
    pub(crate) script: Script,
    pub(crate) plant: Option<Plant>,
    /// Milliseconds since the beginning.
    pub(crate) now: u64,
    pub(crate) dice: Dice,
    queue: BinaryHeap<Reverse<Queued>>,
    queued: u64,
    pub(crate) servers: Vec<Server>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    pub(crate) proposals: BTreeMap<ProposalId, Proposal>,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    /// Faults that act now, by the step that brought them.
    pub(crate) faults: BTreeMap<usize, crate::script::Fault>,
    pub(crate) healed: bool,
    pub(crate) check: Checker,
    pub(crate) trace: Trace,
    next_id: u64,
}

impl World {
    /// A cluster at its beginning.
    #[must_use]
    pub fn new(script: Script, plant: Option<Plant>, trace: Trace) -> Self {
        let mut world = Self {
            now: 0,
            dice: Dice::new(script.seed),
            queue: BinaryHeap::new(),
            queued: 0,
            servers: (0..SERVERS).map(|_| Server::default()).collect(),
            nodes: (0..NODES + SPARE_NODES).map(Node::new).collect(),
            connections: BTreeMap::new(),
            proposals: BTreeMap::new(),
            tasks: BTreeMap::new(),
            faults: BTreeMap::new(),
            healed: false,
            check: Checker::default(),
            trace,
            next_id: 0,
            script,
            plant,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for server in 0..SERVERS {
            self.server_starts(server);
        }
        for node in 0..NODES {
            let delay = self.dice.between(500, 1_200);
            self.after(delay, Event::AgentStarts(node));
        }
        for index in 0..self.script.steps.len() {
            let at = self.script.steps[index].at;
            self.after(at, Event::Step(index));
        }
        self.after(crate::script::TROUBLE_MS + 1_000, Event::Heal);
    }

    /// Puts an event into the queue.
    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse(Queued {
            at: self.now + delay,
            order: self.queued,
            event,
        }));
    }

    /// Lets the next thing happen; false when nothing is left to happen, or all is over.
    pub fn turn(&mut self) -> bool {
        if self.check.is_over() {
            return false;
        }
        let Some(Reverse(next)) = self.queue.pop() else {
            return false;
        };
        self.now = next.at;
        self.trace.event(self.now, &next.event);
        self.happen(next.event);
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Step(index) => self.step(index),
            Event::FaultEnds(index) => self.fault_ends(index),
            Event::Heal => self.heal(),
            Event::Look => self.look(),
            Event::ServerTick(server, life) => self.server_tick(server, life),
            Event::Raft(from, to, message) => self.raft_message(from, to, message),
            Event::Synced(server, life, log) => self.synced(server, life, log),
            Event::Answered(id, outcome) => self.proposal_ends(id, Some(outcome)),
            Event::ProposalLate(id) => self.proposal_ends(id, None),
            Event::ControllerFeed(server, life) => self.controller_feed(server, life),
            Event::RouterFeed(server, life) => self.router_feed(server, life),
            Event::SessionFeed(connection) => self.session_feed(connection),
            Event::Dialled(node, life, server) => self.dialled(node, life, server),
            Event::Delivered(connection, up) => self.delivered(connection, up),
            Event::Noticed(connection, by_server) => self.noticed(connection, by_server),
            Event::AgentTick(node, life) => self.agent_tick(node, life),
            Event::AgentStarts(node) => self.agent_starts(node),
            Event::Worker(node, life, replica, token, news) => self.worker_news(node, life, replica, token, news),
            Event::ContainerEnds(node, boot, replica, attempt, code) => {
                self.container_ends(node, boot, replica, attempt, code);
            }
            Event::DatapathDone(node, life) => self.datapath_done(node, life),
            Event::Leftovers(node, life) => self.leftovers(node, life),
            Event::Task(id) => self.task_goes_on(id),
        }
    }

    fn step(&mut self, index: usize) {
        match self.script.steps[index].act.clone() {
            Act::Fault { fault, lasts } => {
                self.after(lasts, Event::FaultEnds(index));
                self.fault_begins(index, fault);
            }
            Act::Join { node } => {
                if !self.nodes[node].is_gone() && self.nodes[node].agent.is_none() {
                    self.agent_starts(node);
                }
            }
            act => self.person_acts(act),
        }
    }

    /// A fresh number, for ids: spread, so that nothing depends on their being small.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.dice.roll() | 1 << 63
    }

    /// A fresh number that counts up.
    pub(crate) fn count(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn fresh_session(&mut self) -> SessionId {
        SessionId(self.fresh())
    }

    /// The wall clock of a server, wrong as it may be.
    pub(crate) fn wall(&self, server: usize) -> Timestamp {
        let skew = self.servers[server].skew;
        Timestamp((BEGINNING.0 + self.now).saturating_add_signed(skew))
    }

    /// The wall clock of the nodes.
    pub(crate) fn node_wall(&self) -> Timestamp {
        Timestamp(BEGINNING.0 + self.now)
    }

    /// Whether messages from one place to another are stopped now.
    pub(crate) fn is_cut(&self, from: Place, to: Place) -> bool {
        use crate::script::Fault;
        self.faults.values().any(|fault| match fault {
            Fault::Cut(one, two) => (*one, *two) == (from, to),
            Fault::Isolate(place) => from != to && (*place == from || *place == to),
            Fault::ServerDown(_)
            | Fault::NodeDown(_)
            | Fault::AgentDown(_)
            | Fault::Loss(_)
            | Fault::Slow(_)
            | Fault::SlowDisk(..)
            | Fault::Skew(..) => false,
        })
    }

    /// How long a message takes now.
    pub(crate) fn delay(&mut self) -> u64 {
        let slow = self.faults.values().filter_map(|fault| match fault {
            crate::script::Fault::Slow(most) => Some(*most),
            _ => None,
        });
        let most = slow.max().unwrap_or(0);
        1 + self.dice.below(4) + self.dice.below(most + 1)
    }
}
