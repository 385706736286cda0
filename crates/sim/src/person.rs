//! People, and whoever else decides on a confirmed view and writes that: as production's API does it, a decision is made anew when
//! what it was made on has changed.

use gantry_env::Seeded;
use gantry_leader::admission::{self, ServiceEdit};
use gantry_leader::{Introduction, register};
use gantry_model::object::{Availability, Node as NodeRecord, NodeFacts, Service};
use gantry_model::spec::{Application, ServiceSpec};
use gantry_model::{ByteSize, Class, MilliCpu, Name, Problem, Timestamp};
use gantry_state::{Key, Object, Op, Outcome, Precondition, State, Transaction};

use crate::history::Call;
use crate::plant::Plant;
use crate::raft::Origin;
use crate::script::{Act, Place, SERVERS, node_labels};
use crate::specs;
use crate::world::{Event, World};

/// Names a task.
pub type TaskId = u64;

/// Decisions on the same thing before giving up; production's figure.
const ATTEMPTS_MAX: u32 = 16;
/// People give up after so long, in times of trouble.
const PATIENCE_MS: u64 = 8_000;
/// A task without a leader asks again after so long.
const AGAIN_MS: u64 = 250;

/// What somebody wants to be written.
#[derive(Debug, Clone)]
pub enum Wish {
    /// A step of the script, by a person.
    Person(Act),
    /// A node, its agent's life, and the server's stretch of leadership: its agent asks for a session.
    Register(usize, u32, u64),
    /// A service becomes as when nothing is in its way, anew.
    Mend(String),
}

/// Somebody who waits for an answer.
#[derive(Debug, Clone)]
pub struct Task {
    wish: Wish,
    server: Option<(usize, u32)>,
    attempts: u32,
    until: u64,
    call: Option<Call>,
    proposed: bool,
}

impl World {
    pub(crate) fn person_acts(&mut self, act: Act) {
        let call = match &act {
            Act::Write { node, value } => Some(self.check.history.begins(self.now, *node, Some(*value))),
            Act::Read { node } => Some(self.check.history.begins(self.now, *node, None)),
            _ => None,
        };
        let until = self.now + PATIENCE_MS;
        self.begin_task(Wish::Person(act), None, until, call);
    }

    pub(crate) fn begin_task(&mut self, wish: Wish, server: Option<(usize, u32)>, until: u64, call: Option<Call>) {
        let id = self.count();
        let task = Task {
            wish,
            server,
            attempts: 0,
            until,
            call,
            proposed: false,
        };
        self.tasks.insert(id, task);
        let delay = self.delay();
        self.after(delay, Event::Task(id));
    }

    /// An agent's hello arrives.
    pub(crate) fn dialled(&mut self, node: usize, life: u32, server: usize) {
        if self.nodes[node].life != life {
            return;
        }
        let one = &self.servers[server];
        match &one.leader {
            Some(leader) if one.up => {
                let wish = Wish::Register(node, life, leader.stretch);
                let at = (server, one.life);
                let until = self.now + 2_000;
                self.begin_task(wish, Some(at), until, None);
            }
            Some(_) | None => self.refused((node, life)),
        }
    }

    /// The server a person speaks with: one that says it leads.
    fn find_leader(&mut self) -> Option<(usize, u32)> {
        let leads = |one: &usize| {
            let (there, back) = (Place::Server(*one), Place::Person);
            self.servers[*one].leader.is_some() && !self.is_cut(there, back) && !self.is_cut(back, there)
        };
        let leading: Vec<usize> = (0..SERVERS).filter(leads).collect();
        let server = self.dice.pick(&leading)?;
        Some((server, self.servers[server].life))
    }

    pub(crate) fn task_goes_on(&mut self, id: TaskId) {
        let Some(mut task) = self.tasks.remove(&id) else { return };
        let registers = matches!(task.wish, Wish::Register(..));
        if !registers || task.server.is_none() {
            task.server = self.find_leader();
        }
        let usable = task.server.filter(|(server, life)| {
            let one = &self.servers[*server];
            one.up && one.life == *life && self.confirms(*server)
        });
        let Some((server, _)) = usable else {
            return self.task_later(id, task);
        };
        task.attempts += 1;
        let view = self.servers[server].state.clone();
        match self.decide(&task.wish, &view, server) {
            Ok(write) if write.ops.is_empty() => self.task_done(task, &view, server),
            Ok(write) => {
                if self.plant == Some(Plant::EarlyAnswer)
                    && let Some(call) = task.call.take()
                {
                    self.check.history.ends(self.now, call, None);
                }
                task.proposed = true;
                self.tasks.insert(id, task);
                self.propose(server, Origin::Task(id), write);
            }
            Err(problem) => {
                self.trace
                    .note(self.now, || format!("refused: {:?}: {problem}", task.wish_in_short()));
                if problem.class == Class::Unavailable {
                    return self.task_later(id, task);
                }
                self.task_fails(task);
            }
        }
    }

    fn task_later(&mut self, id: TaskId, task: Task) {
        if self.now > task.until {
            return self.task_fails(task);
        }
        self.tasks.insert(id, task);
        self.after(AGAIN_MS, Event::Task(id));
    }

    /// It came to nothing, for sure or maybe.
    fn task_fails(&mut self, task: Task) {
        if let Wish::Register(node, life, _) = task.wish {
            self.refused((node, life));
        }
        if let (Some(call), false) = (task.call, task.proposed) {
            self.check.history.never(call);
        }
    }

    pub(crate) fn task_lost(&mut self, origin: Origin) {
        if let Origin::Task(id) = origin
            && let Some(task) = self.tasks.remove(&id)
        {
            self.task_fails(task);
        }
    }

    pub(crate) fn task_answered(&mut self, id: TaskId, outcome: Option<Outcome>) {
        let Some(mut task) = self.tasks.remove(&id) else { return };
        let Some((server, _)) = task.server else { return };
        match outcome {
            Some(Outcome::Committed { revision }) => {
                self.check.acknowledged(revision, id);
                let view = self.servers[server].state.clone();
                self.task_done(task, &view, server);
            }
            Some(Outcome::Refused(_)) if task.attempts < ATTEMPTS_MAX => {
                task.proposed = false;
                self.tasks.insert(id, task);
                self.after(1, Event::Task(id));
            }
            Some(Outcome::Refused(_)) => {
                task.proposed = false;
                self.task_fails(task);
            }
            None => {
                // Whether it was made is not known: a person who mends things looks again.
                if let Wish::Mend(_) = task.wish {
                    return self.task_later(id, task);
                }
                self.task_fails(task);
            }
        }
    }

    fn task_done(&mut self, task: Task, view: &State, server: usize) {
        if let Some(call) = task.call {
            let value = match &task.wish {
                Wish::Person(Act::Read { node }) => register_of(view, self.nodes[*node].id),
                _ => None,
            };
            self.check.history.ends(self.now, call, value);
        }
        match task.wish {
            Wish::Register(node, life, stretch) => {
                if self.nodes[node].life == life && !self.nodes[node].gone {
                    let (id, server_life) = (self.nodes[node].id, self.servers[server].life);
                    self.open_session((node, life), id, (server, server_life, stretch));
                }
            }
            Wish::Person(Act::RemoveNode { node }) => {
                self.nodes[node].gone = true;
                self.agent_crashes(node);
                self.nodes[node].containers.clear();
                self.nodes[node].routes.clear();
            }
            Wish::Person(_) | Wish::Mend(_) => {}
        }
    }

    fn decide(&mut self, wish: &Wish, view: &State, server: usize) -> Result<Transaction, Problem> {
        let now = self.wall(server);
        let env = Seeded::new(self.dice.roll() | 1, now);
        match wish {
            Wish::Register(node, ..) => register(view, now, &introduction(*node, &self.nodes[*node])),
            Wish::Mend(name) => mend(view, &env, name),
            Wish::Person(act) => match act {
                Act::Availability { node, to } => edit_node(view, now, self.nodes[*node].id, |one| {
                    one.availability = match to.as_str() {
                        "drain" => Availability::Drain,
                        "pause" => Availability::Pause,
                        _ => Availability::Active,
                    };
                }),
                Act::Label { node, zone } => edit_node(view, now, self.nodes[*node].id, |one| {
                    one.labels.insert("zone".to_string(), zone.clone());
                }),
                Act::Write { node, value } => edit_node(view, now, self.nodes[*node].id, |one| {
                    one.labels.insert("register".to_string(), value.to_string());
                }),
                Act::RemoveNode { node } => remove_node(view, now, self.nodes[*node].id),
                act => person(act, view, &env),
            },
        }
    }
}

impl Task {
    fn wish_in_short(&self) -> String {
        match &self.wish {
            Wish::Person(Act::Apply { service, .. }) => format!("apply {service}"),
            wish => format!("{wish:?}"),
        }
    }
}

/// The value of a node's register.
pub(crate) fn register_of(state: &State, node: gantry_model::NodeId) -> Option<u64> {
    state.node(node)?.labels.get("register")?.parse().ok()
}

fn introduction(number: usize, node: &crate::node::Node) -> Introduction {
    Introduction {
        id: node.id,
        name: format!("node{number}"),
        address: format!("192.0.2.{}:7420", number + 1),
        facts: NodeFacts {
            os: "linux".to_string(),
            arch: "amd64".to_string(),
            cpu: MilliCpu::cores(4),
            memory: ByteSize::mib(4096),
            labels: node_labels(number),
            ..NodeFacts::default()
        },
    }
}

fn namespace() -> Name {
    Name::new("shop").expect("a valid name")
}

fn service<'a>(state: &'a State, name: &str) -> Result<&'a Service, Problem> {
    let found = Name::new(name)
        .ok()
        .and_then(|name| state.service_named(&namespace(), &name));
    found.ok_or_else(|| Problem::new(Class::NotFound, format!("service {name}"), "does not exist"))
}

fn apply(view: &State, env: &Seeded, name: &str, spec: ServiceSpec) -> Result<Transaction, Problem> {
    let application = Application {
        namespace: namespace(),
        services: [(Name::new(name).expect("a valid name"), spec)].into(),
        networks: Default::default(),
        volumes: Default::default(),
        configs: Default::default(),
        secrets: Default::default(),
    };
    admission::apply(view, env, &application, true).map(|decision| decision.transaction)
}

fn person(act: &Act, view: &State, env: &Seeded) -> Result<Transaction, Problem> {
    let decision = match act {
        Act::Apply { service, spec } => return apply(view, env, service, (**spec).clone()),
        Act::Scale {
            service: name,
            replicas,
        } => admission::scale(view, env, service(view, name)?, *replicas),
        Act::Delete { service: name } => {
            let names = [service(view, name)?.name.clone()];
            admission::delete(view, env, &namespace(), &names)
        }
        Act::Rollback { service: name } => admission::rollback(view, env, service(view, name)?, 0),
        Act::Restart { service: name } => {
            let edit = ServiceEdit {
                restart: true,
                ..ServiceEdit::default()
            };
            admission::edit_service(view, env, service(view, name)?, &edit)
        }
        Act::Read { .. } | Act::Join { .. } | Act::Fault { .. } => return Ok(Transaction::default()),
        Act::Availability { .. } | Act::Label { .. } | Act::Write { .. } | Act::RemoveNode { .. } => {
            return Ok(Transaction::default());
        }
    };
    decision.map(|decision| decision.transaction)
}

/// A spec with nothing in its way, and a new revision whatever was there.
fn mend(view: &State, env: &Seeded, name: &str) -> Result<Transaction, Problem> {
    let present = service(view, name)?;
    if present.deleting {
        return Ok(Transaction::default());
    }
    let healed = specs::healed(&present.spec);
    if healed != *present.spec {
        return apply(view, env, name, healed);
    }
    let edit = ServiceEdit {
        restart: true,
        ..ServiceEdit::default()
    };
    admission::edit_service(view, env, present, &edit).map(|decision| decision.transaction)
}

fn edit_node(
    view: &State,
    now: Timestamp,
    id: gantry_model::NodeId,
    edit: impl FnOnce(&mut NodeRecord),
) -> Result<Transaction, Problem> {
    let node = view.node(id);
    let node = node.ok_or_else(|| Problem::new(Class::NotFound, format!("node {id}"), "does not exist"))?;
    let mut edited = node.clone();
    edit(&mut edited);
    let ops = if edited == *node {
        Vec::new()
    } else {
        vec![Op::Put(Box::new(Object::Node(edited)))]
    };
    let key = Key::Node(id);
    let modified = view.modified(&key);
    Ok(Transaction::new(now, ops).requiring(Precondition::Unchanged { key, modified }))
}

/// As `gantry node rm --force`.
fn remove_node(view: &State, now: Timestamp, id: gantry_model::NodeId) -> Result<Transaction, Problem> {
    let key = Key::Node(id);
    if view.node(id).is_none() {
        return Err(Problem::new(Class::NotFound, format!("node {id}"), "does not exist"));
    }
    let replicas = view.replicas_on(id).map(|replica| Op::Delete(Key::Replica(replica.id)));
    let mut ops: Vec<Op> = replicas.collect();
    ops.push(Op::Delete(key.clone()));
    let modified = view.modified(&key);
    Ok(Transaction::new(now, ops).requiring(Precondition::Unchanged { key, modified }))
}
