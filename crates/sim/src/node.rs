//! A machine: its containers and its disk, its data path, and its agent, whose workers drive production's life-cycle machines as
//! production's workers do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gantry_leader::Report;
use gantry_lifecycle::{
    Action, AssignmentSet, Attempt, Event as Happening, Found, Machine, Policy, State as Stage, Update,
};
use gantry_model::assignment::{Item, ReplicaItem};
use gantry_model::object::Slot;
use gantry_model::phase::{Desired, Exit, Observed};
use gantry_model::{NodeId, ReplicaId, ServiceId, Timestamp};

use crate::net::{ConnectionId, Downward, Upward};
use crate::plant::Plant;
use crate::script::{Place, SERVERS};
use crate::specs::Conduct;
use crate::world::{Event, World};

/// How often an agent's clock strikes.
const TICK_MS: u64 = 100;
/// Between heartbeats.
const HEARTBEAT_MS: u64 = 1_000;
/// The set of assignments is saved so long after it changed.
const SAVE_MS: u64 = 1_000;
/// An agent that gets no answer to its hello tries another server after so long.
const DIAL_MS: u64 = 2_500;

/// Who may get traffic, by service.
pub type Routes = BTreeMap<ServiceId, BTreeSet<ReplicaId>>;

/// A machine.
pub struct Node {
    /// Its id, from its certificate.
    pub id: NodeId,
    /// Its number.
    pub number: usize,
    /// It was removed from the cluster, and its agent will not come back.
    pub gone: bool,
    /// Counts the starts of the machine.
    pub boot: u32,
    /// Counts the starts of its agent.
    pub life: u32,
    /// The agent, while it runs.
    pub agent: Option<Agent>,
    /// What runs, or did.
    pub containers: BTreeMap<ReplicaId, Container>,
    /// What is on disk of each replica.
    pub records: BTreeMap<ReplicaId, (ReplicaItem, Machine)>,
    /// The set on disk.
    pub saved: Vec<Item>,
    /// The data path in effect; the kernel's, so it outlives the agent.
    pub routes: Routes,
}

/// A container.
#[derive(Debug, Clone)]
pub struct Container {
    /// Which start of its replica.
    pub attempt: Attempt,
    /// When it was started.
    pub started_at: Timestamp,
    /// How it ended, if it did.
    pub exit: Option<Exit>,
    conduct: Conduct,
    /// The position that it fills.
    position: (ServiceId, Slot),
}

/// An agent, in memory.
pub struct Agent {
    set: AssignmentSet,
    workers: BTreeMap<ReplicaId, Worker>,
    connection: Option<ConnectionId>,
    /// Counts its sessions.
    epoch: u64,
    dialling_until: u64,
    next_server: usize,
    beat_at: u64,
    save_at: Option<u64>,
    observed: BTreeMap<ReplicaId, Observed>,
    removed: BTreeSet<ReplicaId>,
    untold: BTreeSet<ReplicaId>,
    wanted: (u64, u64, Routes),
    applying: Option<(u64, u64, Routes)>,
}

/// The worker of one replica.
struct Worker {
    item: ReplicaItem,
    machine: Machine,
    queue: VecDeque<Action>,
    current: Option<u64>,
    beside: BTreeSet<u64>,
    unwanted: bool,
}

/// What a worker waited for.
#[derive(Debug, Clone)]
pub enum WorkerNews {
    /// It is done.
    Done,
    /// Something happened.
    Happened(Happening),
    /// The container's process is made.
    Launched(Attempt),
    /// The replica's record is on disk.
    Saved,
    /// Nothing of the replica is left.
    Forgotten,
    /// The container was looked for.
    Looked,
    /// Its network and root are released, and it is dead.
    Released(bool),
}

impl Node {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            id: NodeId(0x100 + number as u64),
            number,
            gone: false,
            boot: 0,
            life: 0,
            agent: None,
            containers: BTreeMap::new(),
            records: BTreeMap::new(),
            saved: Vec::new(),
            routes: Routes::new(),
        }
    }

    pub(crate) const fn is_gone(&self) -> bool {
        self.gone
    }

    /// Replicas whose container runs now.
    pub fn running(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.containers
            .iter()
            .filter(|(_, one)| one.exit.is_none())
            .map(|(id, _)| *id)
    }
}

impl World {
    pub(crate) fn agent_starts(&mut self, node: usize) {
        let one = &mut self.nodes[node];
        if one.gone || one.agent.is_some() {
            return;
        }
        one.life += 1;
        let life = one.life;
        let records: Vec<(ReplicaItem, Machine)> = one.records.values().cloned().collect();
        let items = records.iter().map(|(item, _)| Item::Replica(item.clone()));
        let set = AssignmentSet::saved(one.saved.iter().cloned().chain(items).collect());
        one.agent = Some(Agent {
            set,
            workers: BTreeMap::new(),
            connection: None,
            epoch: 0,
            dialling_until: 0,
            next_server: node % SERVERS,
            beat_at: 0,
            save_at: None,
            observed: BTreeMap::new(),
            removed: BTreeSet::new(),
            untold: BTreeSet::new(),
            wanted: (0, 0, Routes::new()),
            applying: None,
        });
        // What the kernel has in effect is newer than what was saved, unless the machine was started anew.
        let anew = self.nodes[node].routes.is_empty() || self.plant == Some(Plant::OldRoutes);
        if anew && !self.nodes[node].saved.is_empty() {
            self.want_network(node);
        }
        for (item, machine) in records {
            self.recover(node, item, machine);
        }
        let delay = self.dice.below(TICK_MS);
        self.after(delay, Event::AgentTick(node, life));
    }

    pub(crate) fn agent_crashes(&mut self, node: usize) {
        if self.nodes[node].agent.take().is_some() {
            self.nodes[node].life += 1;
            self.connections_of_node_break(node);
        }
    }

    pub(crate) fn node_crashes(&mut self, node: usize) {
        self.agent_crashes(node);
        let one = &mut self.nodes[node];
        one.boot += 1;
        one.containers.clear();
        one.routes.clear();
    }

    fn agent(&mut self, node: usize) -> Option<&mut Agent> {
        self.nodes[node].agent.as_mut()
    }

    fn worker(&mut self, node: usize, replica: ReplicaId) -> Option<&mut Worker> {
        self.agent(node)?.workers.get_mut(&replica)
    }

    pub(crate) fn agent_tick(&mut self, node: usize, life: u32) {
        if self.nodes[node].life != life || self.nodes[node].agent.is_none() {
            return;
        }
        self.after(TICK_MS, Event::AgentTick(node, life));
        self.keep_session(node, life);
        self.flush(node);
        let (now, wall) = (self.now, self.node_wall());
        let Some(agent) = self.agent(node) else { return };
        if agent.save_at.is_some_and(|at| at <= now) {
            agent.save_at = None;
            let items: Vec<Item> = agent.set.items().cloned().collect();
            self.nodes[node].saved = items;
        }
        let Some(agent) = self.agent(node) else { return };
        let due = agent.workers.iter().filter(|(_, worker)| {
            let idle = worker.current.is_none() && worker.queue.is_empty();
            idle && worker.machine.wake_at().is_some_and(|at| at <= wall)
        });
        let due: Vec<ReplicaId> = due.map(|(id, _)| *id).collect();
        due.into_iter()
            .for_each(|replica| self.worker_step(node, replica, Happening::Tick));
    }

    fn keep_session(&mut self, node: usize, life: u32) {
        let now = self.now;
        let Some(agent) = self.agent(node) else { return };
        if let Some(connection) = agent.connection {
            if agent.beat_at <= now {
                agent.beat_at = now + HEARTBEAT_MS;
                self.send_up(connection, Upward::Heartbeat);
            }
            return;
        }
        if agent.dialling_until > now {
            return;
        }
        agent.dialling_until = now + DIAL_MS;
        let server = agent.next_server;
        agent.next_server = (server + 1) % SERVERS;
        if !self.is_cut(Place::Node(node), Place::Server(server)) {
            let delay = self.delay();
            self.after(delay, Event::Dialled(node, life, server));
        }
    }

    /// No session with that server: the next one, soon.
    pub(crate) fn refused(&mut self, (node, life): (usize, u32)) {
        let soon = self.now + self.dice.between(20, 400);
        if self.nodes[node].life == life
            && let Some(agent) = self.agent(node)
        {
            agent.dialling_until = agent.dialling_until.min(soon);
        }
    }

    pub(crate) fn disconnected(&mut self, (node, life): (usize, u32), connection: ConnectionId) {
        if self.nodes[node].life == life
            && let Some(agent) = self.agent(node)
            && agent.connection == Some(connection)
        {
            agent.connection = None;
        }
    }

    pub(crate) fn heard_downward(&mut self, id: ConnectionId, message: Downward) {
        let known = self.connections.get(&id).filter(|one| !one.left);
        let Some((node, life)) = known.map(|one| one.node) else {
            return;
        };
        if self.nodes[node].life != life {
            return;
        }
        let now = self.now;
        let Some(agent) = self.agent(node) else { return };
        match message {
            Downward::Welcome if agent.connection.is_none() => {
                agent.connection = Some(id);
                agent.epoch += 1;
                agent.beat_at = now;
                agent.set.begin_session();
                agent.untold = agent.observed.keys().chain(&agent.removed).copied().collect();
            }
            Downward::Welcome => {}
            Downward::Assignments(update) if agent.connection == Some(id) => self.take(node, *update),
            Downward::Assignments(_) => {}
        }
    }

    fn take(&mut self, node: usize, update: Update) {
        let Some(agent) = self.agent(node) else { return };
        let delta = match agent.set.apply(update) {
            Ok(delta) => delta,
            Err(_) => {
                if let Some(connection) = agent.connection {
                    self.send_up(connection, Upward::Resync);
                }
                return;
            }
        };
        self.want_network(node);
        for id in delta.replicas_put {
            self.put(node, id);
        }
        if delta.complete {
            self.settle(node);
        }
        for id in delta.replicas_gone {
            self.unwanted(node, id);
        }
        let save_at = self.now + SAVE_MS;
        let Some(agent) = self.agent(node) else { return };
        let set = &agent.set;
        agent.removed.retain(|id| set.replica(*id).is_some());
        agent.save_at.get_or_insert(save_at);
    }

    fn put(&mut self, node: usize, id: ReplicaId) {
        let Some(item) = self.agent(node).and_then(|agent| agent.set.replica(id).cloned()) else {
            return;
        };
        let desired = item.desired;
        match self.worker(node, id) {
            Some(worker) => {
                worker.item.desired = desired;
                worker.unwanted = false;
            }
            None => self.spawn(node, item),
        }
        self.worker_step(node, id, Happening::Desired(desired));
    }

    fn unwanted(&mut self, node: usize, id: ReplicaId) {
        if let Some(worker) = self.worker(node, id) {
            worker.unwanted = true;
            self.worker_step(node, id, Happening::Desired(Desired::Remove));
        }
    }

    fn settle(&mut self, node: usize) {
        let life = self.nodes[node].life;
        let Some(agent) = self.agent(node) else { return };
        let unwanted = agent.workers.keys().filter(|id| agent.set.replica(**id).is_none());
        let unwanted: Vec<ReplicaId> = unwanted.copied().collect();
        unwanted.into_iter().for_each(|id| self.unwanted(node, id));
        let delay = self.dice.between(5, 50);
        self.after(delay, Event::Leftovers(node, life));
    }

    /// Traces without a worker belong to nobody.
    pub(crate) fn leftovers(&mut self, node: usize, life: u32) {
        if self.nodes[node].life != life {
            return;
        }
        let one = &mut self.nodes[node];
        let Some(agent) = &one.agent else { return };
        let workers = &agent.workers;
        one.containers.retain(|id, _| workers.contains_key(id));
        one.records.retain(|id, _| workers.contains_key(id));
    }

    fn spawn(&mut self, node: usize, item: ReplicaItem) {
        let machine = Machine::new(Policy::of(&item.spec));
        let id = item.id;
        let worker = Worker::of(item, machine);
        if let Some(agent) = self.agent(node) {
            agent.workers.insert(id, worker);
        }
    }

    fn recover(&mut self, node: usize, item: ReplicaItem, machine: Machine) {
        let (id, observed) = (item.id, machine.observed().clone());
        if let Some(agent) = self.agent(node) {
            agent.workers.insert(id, Worker::of(item, machine));
            agent.observed.insert(id, observed);
            agent.untold.insert(id);
        }
        let delay = self.dice.between(2, 40);
        self.wait_current(node, id, delay, WorkerNews::Looked);
    }

    /// Lets the machine take a step, and begins what it asks for.
    fn worker_step(&mut self, node: usize, id: ReplicaId, happening: Happening) {
        let now = self.node_wall();
        let Some(worker) = self.worker(node, id) else { return };
        let actions = worker.machine.step(happening, now);
        worker.queue.extend(actions);
        self.proceed(node, id);
    }

    fn proceed(&mut self, node: usize, id: ReplicaId) {
        loop {
            let Some(worker) = self.worker(node, id) else { return };
            if worker.current.is_some() {
                return;
            }
            let Some(action) = worker.queue.pop_front() else { break };
            self.begin_action(node, id, action);
        }
        let over = self
            .worker(node, id)
            .is_some_and(|worker| *worker.machine.state() == Stage::Gone);
        if over {
            self.worker_gone(node, id);
        }
    }

    fn worker_gone(&mut self, node: usize, id: ReplicaId) {
        let Some(agent) = self.agent(node) else { return };
        agent.workers.remove(&id);
        let again = agent
            .set
            .replica(id)
            .filter(|item| item.desired < Desired::Remove)
            .cloned();
        if let Some(item) = again {
            self.spawn(node, item);
            self.put(node, id);
        }
    }

    fn wait_current(&mut self, node: usize, id: ReplicaId, delay: u64, news: WorkerNews) {
        let (token, life) = (self.count(), self.nodes[node].life);
        if let Some(worker) = self.worker(node, id) {
            worker.current = Some(token);
            self.after(delay, Event::Worker(node, life, id, token, news));
        }
    }

    fn wait_beside(&mut self, node: usize, id: ReplicaId, delay: u64, news: WorkerNews) {
        let (token, life) = (self.count(), self.nodes[node].life);
        if let Some(worker) = self.worker(node, id) {
            worker.beside.insert(token);
            self.after(delay, Event::Worker(node, life, id, token, news));
        }
    }

    fn begin_action(&mut self, node: usize, id: ReplicaId, action: Action) {
        let short = self.dice.between(1, 5);
        match action {
            Action::Save => self.wait_current(node, id, short, WorkerNews::Saved),
            Action::Prepare => self.prepare(node, id),
            Action::Start { attempt } => {
                let delay = self.dice.between(5, 200);
                self.wait_beside(node, id, delay, WorkerNews::Launched(attempt));
            }
            Action::Signal => {
                let deaf = self.dice.one_in(8);
                if !deaf {
                    let delay = self.dice.between(5, 400);
                    self.ends_after(node, id, delay, 143);
                }
                self.wait_current(node, id, short, WorkerNews::Done);
            }
            Action::Kill => {
                self.ends_after(node, id, 1, 137);
                self.wait_current(node, id, short, WorkerNews::Done);
            }
            Action::Probe { attempt, .. } => {
                let ill = self.nodes[node]
                    .containers
                    .get(&id)
                    .is_none_or(|one| one.conduct == Conduct::Ill);
                let probed = Happening::Probed {
                    attempt,
                    healthy: !ill,
                    output: String::new(),
                };
                let delay = self.dice.between(5, 60);
                self.wait_beside(node, id, delay, WorkerNews::Happened(probed));
            }
            Action::Release => {
                self.abort_beside(node, id);
                self.wait_current(node, id, short, WorkerNews::Released(false));
            }
            Action::Remove => {
                self.abort_beside(node, id);
                self.wait_current(node, id, short, WorkerNews::Released(true));
            }
            Action::Forget => self.wait_current(node, id, short, WorkerNews::Forgotten),
            Action::Report(observed) => {
                if let Some(agent) = self.agent(node) {
                    agent.removed.remove(&id);
                    agent.observed.insert(id, observed);
                    agent.untold.insert(id);
                }
            }
        }
    }

    fn abort_beside(&mut self, node: usize, id: ReplicaId) {
        if let Some(worker) = self.worker(node, id) {
            worker.beside.clear();
        }
    }

    fn prepare(&mut self, node: usize, id: ReplicaId) {
        let Some(worker) = self.worker(node, id) else { return };
        let missing = Conduct::of(&worker.item.spec) == Conduct::Missing;
        let happening = if missing {
            Happening::PrepareFailed(gantry_lifecycle::Failure {
                reason: "no such file".to_string(),
                retryable: true,
            })
        } else {
            Happening::Prepared { image_health: None }
        };
        let delay = self.dice.between(5, 300);
        self.wait_beside(node, id, delay, WorkerNews::Happened(happening));
    }

    pub(crate) fn worker_news(&mut self, node: usize, life: u32, id: ReplicaId, token: u64, news: WorkerNews) {
        if self.nodes[node].life != life {
            return self.after_the_agent(node, id, &news);
        }
        let Some(worker) = self.worker(node, id) else { return };
        let expected = worker.current == Some(token) || worker.beside.remove(&token);
        if !expected {
            return;
        }
        if worker.current == Some(token) {
            worker.current = None;
        }
        match news {
            WorkerNews::Done => self.proceed(node, id),
            WorkerNews::Happened(happening) => self.worker_step(node, id, happening),
            WorkerNews::Launched(attempt) => self.launched(node, id, attempt),
            WorkerNews::Saved => self.saved(node, id),
            WorkerNews::Forgotten => self.forgotten(node, id),
            WorkerNews::Looked => self.looked(node, id),
            WorkerNews::Released(removed) => {
                self.nodes[node].containers.remove(&id);
                let done = if removed {
                    Happening::Removed
                } else {
                    Happening::Released
                };
                self.worker_step(node, id, done);
            }
        }
    }

    /// A start that the agent had begun may go through although the agent died meanwhile; so may a write to disk.
    fn after_the_agent(&mut self, node: usize, id: ReplicaId, news: &WorkerNews) {
        if let WorkerNews::Launched(attempt) = news
            && self.nodes[node].agent.is_none()
            && self.dice.one_in(2)
            && let Some((item, _)) = self.nodes[node].records.get(&id).cloned()
        {
            self.make_container(node, &item, *attempt);
        }
    }

    fn saved(&mut self, node: usize, id: ReplicaId) {
        if self.plant != Some(Plant::Unsaved)
            && let Some(worker) = self.worker(node, id)
        {
            let record = (worker.item.clone(), worker.machine.clone());
            self.nodes[node].records.insert(id, record);
        }
        self.proceed(node, id);
    }

    fn forgotten(&mut self, node: usize, id: ReplicaId) {
        self.nodes[node].records.remove(&id);
        let Some(agent) = self.nodes[node].agent.as_mut() else {
            return;
        };
        agent.observed.remove(&id);
        let unwanted = agent.workers.get(&id).is_some_and(|worker| worker.unwanted);
        if !unwanted {
            agent.removed.insert(id);
            agent.untold.insert(id);
        }
        self.proceed(node, id);
    }

    fn looked(&mut self, node: usize, id: ReplicaId) {
        let attempt = self.worker(node, id).map(|worker| worker.machine.attempt());
        let container = self.nodes[node]
            .containers
            .get(&id)
            .filter(|one| Some(one.attempt) == attempt);
        let found = match container {
            None => Found::Nothing,
            Some(Container { exit: Some(exit), .. }) => Found::Exited(*exit),
            Some(container) => Found::Running {
                pid: 1,
                started_at: container.started_at,
            },
        };
        self.worker_step(node, id, Happening::Recovered(found));
    }

    fn launched(&mut self, node: usize, id: ReplicaId, attempt: Attempt) {
        let Some(worker) = self.worker(node, id) else { return };
        let item = worker.item.clone();
        self.make_container(node, &item, attempt);
        let at = self.node_wall();
        self.worker_step(node, id, Happening::Started { attempt, pid: 1, at });
    }

    fn make_container(&mut self, node: usize, item: &ReplicaItem, attempt: Attempt) {
        let id = item.id;
        let already = self.nodes[node]
            .containers
            .get(&id)
            .is_some_and(|one| one.exit.is_none());
        self.check.container_started(self.now, node, id, already);
        let position = (item.service, item.slot);
        self.check_exclusive(node, id, position);
        let conduct = Conduct::of(&item.spec);
        let container = Container {
            attempt,
            started_at: self.node_wall(),
            exit: None,
            conduct,
            position,
        };
        self.nodes[node].containers.insert(id, container);
        match conduct {
            Conduct::Crashes => {
                let delay = self.dice.between(50, 500);
                self.ends_after(node, id, delay, 1);
            }
            Conduct::Flaky => {
                let delay = self.dice.between(1_000, 15_000);
                self.ends_after(node, id, delay, 1);
            }
            Conduct::Good | Conduct::Ill | Conduct::Missing if item.spec.mode.is_job() => {
                let delay = self.dice.between(100, 4_000);
                self.ends_after(node, id, delay, 0);
            }
            Conduct::Good | Conduct::Ill | Conduct::Missing => {}
        }
    }

    /// Nowhere, except on machines that a person said are gone, does another one run that fills the same position.
    fn check_exclusive(&mut self, node: usize, id: ReplicaId, position: (ServiceId, Slot)) {
        let others = self.nodes.iter().filter(|one| one.number != node && !one.gone);
        let known = others.filter(|one| self.check.state.node(one.id).is_some());
        let twin = known
            .flat_map(|one| {
                one.containers
                    .iter()
                    .map(move |(id, container)| (one.number, id, container))
            })
            .filter(|(_, _, other)| other.exit.is_none() && other.position == position)
            .find(|(_, other, _)| self.check.excludes(position.0, id, **other));
        if let Some((there, other, _)) = twin {
            let message = format!("{id} starts on node {node} while {other} runs on node {there} in the same position");
            self.check.violation(self.now, "exclusive", message);
        }
    }

    fn ends_after(&mut self, node: usize, id: ReplicaId, delay: u64, code: i32) {
        let boot = self.nodes[node].boot;
        if let Some(container) = self.nodes[node].containers.get(&id) {
            let attempt = container.attempt;
            self.after(delay, Event::ContainerEnds(node, boot, id, attempt, code));
        }
    }

    pub(crate) fn container_ends(&mut self, node: usize, boot: u32, id: ReplicaId, attempt: Attempt, code: i32) {
        let at = self.node_wall();
        if self.nodes[node].boot != boot {
            return;
        }
        let exit = Exit {
            code,
            oom_killed: false,
            at,
        };
        match self.nodes[node].containers.get_mut(&id) {
            Some(container) if container.attempt == attempt && container.exit.is_none() => container.exit = Some(exit),
            Some(_) | None => return,
        }
        // The worker waits for the exit unless it is still looking for its container, and then finds it.
        let waits = self
            .worker(node, id)
            .is_some_and(|worker| matches!(worker.machine.state(), Stage::Running { .. } | Stage::Stopping { .. }));
        if waits {
            self.worker_step(node, id, Happening::Exited { attempt, exit });
        }
    }

    /// Tells the leader what it has not been told.
    fn flush(&mut self, node: usize) {
        let Some(agent) = self.agent(node) else { return };
        let Some(connection) = agent.connection else { return };
        let untold = std::mem::take(&mut agent.untold);
        let told: Vec<(ReplicaId, Report)> = untold
            .into_iter()
            .filter_map(|id| match agent.observed.get(&id) {
                Some(observed) => Some((id, Report::Observed(Box::new(observed.clone())))),
                None => agent.removed.contains(&id).then_some((id, Report::Removed)),
            })
            .collect();
        if !told.is_empty() {
            self.send_up(connection, Upward::Statuses(told));
        }
    }

    fn want_network(&mut self, node: usize) {
        let Some(agent) = self.agent(node) else { return };
        let services = agent.set.services().into_iter();
        let routes: Routes = services
            .map(|(id, service)| (id, service.endpoints.iter().map(|one| one.replica).collect()))
            .collect();
        agent.wanted = (agent.epoch, agent.set.number(), routes);
        self.apply_network(node);
    }

    fn apply_network(&mut self, node: usize) {
        let life = self.nodes[node].life;
        let Some(agent) = self.agent(node) else { return };
        if agent.applying.is_some() {
            return;
        }
        agent.applying = Some(agent.wanted.clone());
        let slow = if self.dice.one_in(20) { 400 } else { 20 };
        let delay = self.dice.between(2, slow);
        self.after(delay, Event::DatapathDone(node, life));
    }

    pub(crate) fn datapath_done(&mut self, node: usize, life: u32) {
        if self.nodes[node].life != life {
            return;
        }
        let Some(agent) = self.nodes[node].agent.as_mut() else {
            return;
        };
        let Some((epoch, number, routes)) = agent.applying.take() else {
            return;
        };
        let (again, acknowledges) = (
            agent.wanted != (epoch, number, routes.clone()),
            epoch == agent.epoch && number > 0,
        );
        let connection = agent.connection;
        self.trace.note(self.now, || {
            format!("node {node} routes as in set {number} of its session {epoch}: {routes:?}")
        });
        self.check.routes_change(self.now, &self.nodes[node], &routes);
        self.nodes[node].routes = routes;
        if let Some(connection) = connection.filter(|_| acknowledges) {
            self.send_up(connection, Upward::Applied(number));
        }
        if again {
            self.apply_network(node);
        }
    }
}

impl Worker {
    fn of(item: ReplicaItem, machine: Machine) -> Self {
        Self {
            item,
            machine,
            queue: VecDeque::new(),
            current: None,
            beside: BTreeSet::new(),
            unwanted: false,
        }
    }
}

impl Agent {
    /// A worker for people.
    pub(crate) fn describe(&self, id: ReplicaId) -> String {
        let item = self.set.replica(id).map(|item| item.desired);
        self.workers.get(&id).map_or_else(
            || format!("none, item {item:?}"),
            |one| {
                format!(
                    "{:?} {:?} {:?} {:?} item {item:?}",
                    one.machine.state(),
                    one.machine.desired(),
                    one.queue,
                    one.current
                )
            },
        )
    }
}
