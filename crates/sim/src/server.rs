//! A server: its part of the log, the state it has applied, and the leader's work while it leads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use gantry_leader::dispatch::{Acknowledgements, Routes};
use gantry_leader::{Controller, Failed, Leases, Moment, Verdict};
use gantry_model::object::{ClusterConfig, ClusterRecord, ImageRecord, NodeStatus, RootCertificate, TagRecord};
use gantry_model::{DurationMs, NodeId, ReplicaId};
use gantry_state::{Change, Object, Op, Outcome, State, Transaction};

use crate::net::ConnectionId;
use crate::plant;
use crate::raft::{Entry, LEASE_MS, Leading, Log, Message, Origin};
use crate::script::SERVERS;
use crate::specs;
use crate::world::{BEGINNING, Event, World};

/// How often a server's clock strikes: heartbeats of Raft, elections, leases, wake-ups.
const TICK_MS: u64 = 100;
/// A leader without a majority goes on for so long; production's figure.
const GRACE_MS: u64 = 2_000;
/// With the defect that deposed leaders go on: for so long.
const DEPOSED_MS: u64 = 6_000;
/// A snapshot is taken after so many entries.
const SNAPSHOT_EVERY: u64 = 50;

/// One server.
#[derive(Default)]
pub struct Server {
    /// It runs.
    pub up: bool,
    /// Counts its starts.
    pub life: u32,
    /// The newest term it knows of; on disk.
    pub term: u64,
    /// Its log, as far as it has taken it in.
    pub log: Log,
    /// Its log, as far as it is on disk.
    pub synced: Log,
    /// Entries known to be committed.
    pub commit: usize,
    /// When it last heard of a leader, or voted.
    pub heard_at: u64,
    /// How long it waits for a leader.
    pub patience: u64,
    /// Who leads, as far as it knows.
    pub leader_hint: Option<usize>,
    /// When the message was sent that its next answer answers.
    pub answers: Option<u64>,
    /// It leads in Raft.
    pub leading: Option<Leading>,
    /// What it has applied.
    pub state: State,
    /// Its newest snapshot, on disk.
    pub snapshot: Vec<u8>,
    /// It acts as the leader.
    pub leader: Option<Leader>,
    /// How wrong its wall clock is, in milliseconds.
    pub skew: i64,
}

/// The work of a leader, for one stretch of leadership.
pub struct Leader {
    /// Names the stretch.
    pub stretch: u64,
    /// Production's controller.
    pub controller: Controller,
    /// Production's leases.
    pub leases: Leases,
    /// Production's acknowledgements.
    pub acks: Acknowledgements,
    /// Changes that the controller has not heard of.
    pub feed: VecDeque<(State, Arc<Vec<Change>>)>,
    /// Changes of which it is not known yet whom they concern.
    pub routing: VecDeque<(State, Arc<Vec<Change>>)>,
    /// Production's knowledge of whom changes concern.
    pub routes: Routes,
    /// The newest session of each node.
    pub bells: BTreeMap<NodeId, ConnectionId>,
    /// Connections with a session.
    pub sessions: BTreeMap<ConnectionId, ()>,
    /// The Raft term.
    term: u64,
    /// Since when it should have ended, or no majority is heard of.
    lapsed_since: Option<u64>,
}

impl Server {
    /// Whether a majority has answered lately.
    pub fn holds_lease(&self, own: usize, now: u64) -> bool {
        let Some(leading) = &self.leading else { return false };
        let fresh = |one: &usize| *one == own || leading.heard[*one] + LEASE_MS > now;
        (0..SERVERS).filter(fresh).count() * 2 > SERVERS
    }
}

impl World {
    pub(crate) fn applied(&self, server: usize) -> usize {
        self.servers[server].state.revision() as usize
    }

    pub(crate) fn server_starts(&mut self, server: usize) {
        let patience = LEASE_MS + self.dice.between(100, 700);
        let now = self.now;
        let one = &mut self.servers[server];
        one.up = true;
        one.life += 1;
        one.log = one.synced.clone();
        one.heard_at = now;
        one.patience = patience;
        one.state = match one.snapshot.is_empty() {
            true => State::default(),
            false => rmp_serde::from_slice(&one.snapshot).expect("a snapshot that was just written"),
        };
        one.commit = one.state.revision() as usize;
        let life = one.life;
        let delay = self.dice.below(TICK_MS);
        self.after(delay, Event::ServerTick(server, life));
    }

    pub(crate) fn server_crashes(&mut self, server: usize) {
        if !self.servers[server].up {
            return;
        }
        self.step_down(server);
        self.end_term(server);
        let one = &mut self.servers[server];
        one.up = false;
        one.life += 1;
        one.leader_hint = None;
        one.answers = None;
        self.connections_of_server_break(server);
    }

    pub(crate) fn server_tick(&mut self, server: usize, life: u32) {
        if self.servers[server].life != life {
            return;
        }
        self.after(TICK_MS, Event::ServerTick(server, life));
        if self.servers[server].leading.is_some() {
            self.replicate(server);
        } else {
            self.stand(server);
        }
        self.follow_leadership(server);
        self.expire_leases(server);
        self.pump(server);
    }

    /// The leader's work begins and ends with what Raft says of leadership, and only hears of it now and then.
    fn follow_leadership(&mut self, server: usize) {
        if self.servers[server].leader.is_some() && !self.goes_on(server) {
            self.end_term(server);
        }
        let one = &self.servers[server];
        let ready = one
            .leading
            .as_ref()
            .is_some_and(|leading| self.applied(server) >= leading.first);
        if one.leader.is_none() && ready && one.holds_lease(server, self.now) {
            self.begin_term(server);
        }
    }

    /// As production decides it: a leader that is late in hearing from a majority goes on for a while.
    fn goes_on(&mut self, server: usize) -> bool {
        let (now, plant) = (self.now, self.plant);
        let one = &mut self.servers[server];
        let lease = one.holds_lease(server, now);
        let (leads, term) = (one.leading.is_some(), one.term);
        let Some(leader) = &mut one.leader else { return false };
        let same = leads && leader.term == term;
        if same && lease {
            leader.lapsed_since = None;
            return true;
        }
        let since = *leader.lapsed_since.get_or_insert(now);
        match plant {
            Some(plant::Plant::NoFence) => now < since + DEPOSED_MS,
            Some(_) | None => same && now < since + GRACE_MS,
        }
    }

    fn begin_term(&mut self, server: usize) {
        let stretch = self.count();
        let deadline = DurationMs(self.now) + ClusterConfig::default().lease;
        let one = &mut self.servers[server];
        let mut leases = Leases::default();
        for node in one.state.nodes().filter(|node| node.status == NodeStatus::Ready) {
            leases.extend(node.id, deadline);
        }
        let mut acks = Acknowledgements::default();
        acks.routed(one.state.revision(), &BTreeSet::new());
        one.leader = Some(Leader {
            stretch,
            controller: Controller::begin(one.term, one.state.clone()),
            leases,
            acks,
            feed: VecDeque::new(),
            routing: VecDeque::new(),
            routes: Routes::of(one.state.clone()),
            bells: BTreeMap::new(),
            sessions: BTreeMap::new(),
            term: one.term,
            lapsed_since: None,
        });
        let term = one.term;
        self.trace
            .note(self.now, || format!("server {server} leads in term {term}"));
        if self.servers[server].state.cluster().is_none() {
            self.found_cluster(server);
        }
    }

    fn found_cluster(&mut self, server: usize) {
        let at = self.wall(server);
        // Held by a node that never was, so that no removal of one takes the image away.
        let image = serde_json::json!({
            "digest": specs::DIGEST, "config_digest": specs::DIGEST, "size": 1, "platform": "linux/amd64", "nodes": [NodeId(1)],
        });
        let image: ImageRecord = serde_json::from_value(image).expect("a valid record");
        let tag = TagRecord {
            reference: specs::IMAGE.to_string(),
            digest: specs::DIGEST.to_string(),
            updated_at: at,
        };
        let cluster = ClusterRecord {
            name: "sim".to_string(),
            created_at: BEGINNING,
            root: RootCertificate {
                certificate_pem: String::new(),
                key_pem: String::new(),
            },
            config: ClusterConfig::default(),
            subnets_given: 0,
        };
        let objects = [Object::Cluster(cluster), Object::Image(image), Object::Tag(tag)];
        let ops = objects.into_iter().map(|object| Op::Put(Box::new(object))).collect();
        let write = Transaction::new(at, ops).requiring(gantry_state::Precondition::Absent(gantry_state::Key::Cluster));
        self.propose(server, Origin::Controller(0), write);
    }

    pub(crate) fn end_term(&mut self, server: usize) {
        if let Some(leader) = self.servers[server].leader.take() {
            for connection in leader.sessions.into_keys() {
                self.close(connection);
            }
        }
    }

    /// Applies what is committed, and lets everybody hear of it.
    pub(crate) fn apply_committed(&mut self, server: usize) {
        while self.applied(server) < self.servers[server].commit {
            let index = self.applied(server) + 1;
            let Some(entry) = self.servers[server].log.get(index - 1).cloned() else {
                return;
            };
            let one = &mut self.servers[server];
            let (outcome, changes) = match &entry.write {
                Some((_, write)) => {
                    let (outcome, changes) = match plant::diverging(self.plant, server, write) {
                        Some(other) => one.state.apply(index as u64, entry.term, &other),
                        None => one.state.apply(index as u64, entry.term, write),
                    };
                    (Some(outcome), changes)
                }
                None => {
                    one.state.skip(index as u64);
                    (None, Vec::new())
                }
            };
            if (index as u64).is_multiple_of(SNAPSHOT_EVERY) {
                one.snapshot = rmp_serde::to_vec_named(&one.state).expect("a state is data");
            }
            if index > self.check.committed() {
                self.trace.note(self.now, || {
                    describe(index, &entry, outcome.as_ref(), &self.servers[server].state)
                });
            }
            self.check.applied(
                self.now,
                index,
                &entry,
                &self.servers[server].state,
                &changes,
                &self.nodes,
            );
            self.publish(server, changes);
            if let (Some(outcome), Some((id, _))) = (outcome, &entry.write) {
                self.answer(server, *id, outcome);
            }
        }
    }

    fn answer(&mut self, server: usize, id: u64, outcome: Outcome) {
        if self.servers[server].leading.is_none() {
            return;
        }
        match self.proposals.get(&id).map(|proposal| proposal.server.0) {
            Some(origin) if origin == server => {
                let delay = self.dice.below(3);
                self.after(delay, Event::Answered(id, outcome));
            }
            Some(origin) => self.send_raft(server, origin, Message::Answer(id, outcome)),
            None => {}
        }
    }

    fn publish(&mut self, server: usize, changes: Vec<Change>) {
        let life = self.servers[server].life;
        let state = self.servers[server].state.clone();
        let Some(leader) = &mut self.servers[server].leader else {
            return;
        };
        let changes = Arc::new(changes);
        leader.feed.push_back((state.clone(), changes.clone()));
        leader.routing.push_back((state, changes));
        let delay = self.dice.below(4);
        self.after(delay, Event::ControllerFeed(server, life));
        let delay = self.dice.below(4);
        self.after(delay, Event::RouterFeed(server, life));
    }

    pub(crate) fn install_snapshot(&mut self, from: usize, to: usize) {
        let bytes = rmp_serde::to_vec_named(&self.servers[from].state).expect("a state is data");
        self.servers[to].state = rmp_serde::from_slice(&bytes).expect("a snapshot that was just written");
        self.servers[to].snapshot = bytes;
        self.trace
            .note(self.now, || format!("server {to} took a snapshot of server {from}"));
    }

    pub(crate) fn controller_feed(&mut self, server: usize, life: u32) {
        if self.servers[server].life != life {
            return;
        }
        let Some(leader) = &mut self.servers[server].leader else {
            return;
        };
        let newest = self.dice.one_in(100).then(|| leader.feed.drain(..).next_back());
        if let Some((state, _)) = newest.flatten() {
            leader.controller.start_over(state);
        }
        while let Some((state, changes)) = leader.feed.pop_front() {
            leader.controller.changed(state, &changes);
        }
        self.pump(server);
    }

    fn expire_leases(&mut self, server: usize) {
        let (now, deadline) = (DurationMs(self.now), self.lease_deadline());
        let Some(leader) = &mut self.servers[server].leader else {
            return;
        };
        for node in leader.controller.take_arrived() {
            if self.plant != Some(plant::Plant::NoLease) {
                leader.leases.grant(node, deadline);
            }
        }
        for node in leader.leases.take_expired(now) {
            if leader.controller.take_down(node) {
                self.trace.note(self.now, || format!("lease of {node} ran out"));
            }
        }
    }

    /// Lets the controller decide.
    pub(crate) fn pump(&mut self, server: usize) {
        let moment = Moment {
            now: self.wall(server),
            monotonic: DurationMs(self.now),
        };
        let (plant, mut dice) = (self.plant, crate::dice::Dice::new(self.dice.roll()));
        let Some(leader) = &mut self.servers[server].leader else {
            return;
        };
        let acks = &leader.acks;
        let applied = |node| match plant {
            Some(plant::Plant::AckEarly) => u64::MAX,
            Some(_) | None => acks.revision(node),
        };
        let mut ids = || ReplicaId(dice.roll() | 1 << 63);
        let Some(mut write) = leader.controller.propose(moment, &applied, &mut ids) else {
            return;
        };
        plant::spoil(plant, &mut write, leader.controller.state());
        let origin = Origin::Controller(leader.stretch);
        self.propose(server, origin, write);
    }

    pub(crate) fn controller_answered(&mut self, server: usize, stretch: u64, outcome: Option<Outcome>) {
        let now = DurationMs(self.now);
        let Some(leader) = &mut self.servers[server].leader else {
            return;
        };
        if leader.stretch != stretch {
            return;
        }
        let verdict = leader.controller.proposed(outcome.ok_or(Failed), now);
        if verdict == Verdict::TermEnded {
            return self.end_term(server);
        }
        self.pump(server);
    }
}

/// An entry for people; `state` is that after it.
fn describe(index: usize, entry: &Entry, outcome: Option<&Outcome>, state: &State) -> String {
    let Some((id, write)) = &entry.write else {
        return format!("entry {index} of term {}: blank", entry.term);
    };
    let ops: Vec<String> = write.ops.iter().map(|op| describe_op(op, state)).collect();
    let refused = match outcome {
        Some(Outcome::Refused(refusal)) => format!(" refused, {refusal};"),
        Some(Outcome::Committed { .. }) | None => String::new(),
    };
    format!(
        "entry {index} of term {} ({id}):{refused} {}",
        entry.term,
        ops.join("; ")
    )
}

fn describe_op(op: &Op, state: &State) -> String {
    let name = |id: &ReplicaId| {
        let known = state.replica(*id);
        known.map_or_else(
            || id.to_string(),
            |one| format!("{id} ({} r{})", one.name(), one.revision),
        )
    };
    match op {
        Op::Put(object) => match object.as_ref() {
            Object::Replica(replica) => format!("put replica {}", name(&replica.id)),
            Object::Service(service) => format!("put {} with {:?}", service.object(), service.rollout),
            Object::Node(node) => format!("put node {} {} {}", node.name, node.status, node.availability),
            other => format!("put {}", other.key()),
        },
        Op::Delete(key) => format!("delete {key}"),
        Op::Assign { replica, node, .. } => format!("{} goes to {node}", name(replica)),
        Op::Desire {
            replica,
            desired,
            reason,
        }
        | Op::GiveUp {
            replica,
            desired,
            reason,
            ..
        } => format!("{} is to {desired:?} ({reason})", name(replica)),
        Op::Observe { replica, observed } => {
            let ready = if observed.ready { " and ready" } else { "" };
            format!("{} is {}{ready}", name(replica), observed.phase)
        }
        Op::Explain { replica, explanation } => {
            let why = explanation.as_ref().map(|one| one.summary.as_str());
            format!("{} waits: {why:?}", name(replica))
        }
        Op::Admit { replica } => format!("{} is admitted", name(replica)),
        Op::Hold { .. } | Op::Release { .. } => format!("{op:?}"),
        Op::TakeDown { node, .. } => format!("{node} is down"),
        Op::Record(event) => format!("[{}: {}]", event.object, event.kind),
    }
}
