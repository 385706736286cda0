//! A model of a correct consensus log: leaders with terms, followers that lag, late writes of deposed leaders, disks that lose
//! what they had not synced, snapshots.
//!
//! It is a model because production uses a library for it; what the library promises is what is modelled: an entry that a
//! majority has synced is never lost, all servers apply the same entries in the same order, a leader knows that it leads only
//! after an entry of its own term was applied and as long as a majority answers. Votes are taken in one moment, among servers
//! that can reach each other then; the rest travels as messages that may be late, lost, doubled and out of order.

use std::sync::Arc;

use gantry_state::{Outcome, Transaction};
use imbl::Vector;

use crate::person::TaskId;
use crate::script::{Fault, Place, SERVERS};
use crate::world::{Event, World};

/// A leader's claim, and its followers' patience, in milliseconds; production's `election_max_ms`.
pub const LEASE_MS: u64 = 750;
/// A proposal is given up after so long.
const PROPOSAL_MS: u64 = 2_000;
/// A follower that is so far behind gets a snapshot.
const SNAPSHOT_BEHIND: usize = 60;

/// Names a proposal.
pub type ProposalId = u64;

/// One entry.
#[derive(Debug)]
pub struct Entry {
    /// The term of the leader that took it in.
    pub term: u64,
    /// What to write; none in a leader's first entry.
    pub write: Option<(ProposalId, Transaction)>,
}

/// A log; clones are cheap. The entry with index n is at n − 1.
pub type Log = Vector<Arc<Entry>>;

/// Between servers.
#[derive(Debug, Clone)]
pub enum Message {
    /// A leader's log.
    Append {
        /// Its term.
        term: u64,
        /// All of its log.
        log: Log,
        /// How much of it is committed.
        commit: usize,
        /// When it was sent.
        sent: u64,
    },
    /// A follower has synced so much of it.
    Stored {
        /// The follower's term.
        term: u64,
        /// Entries synced that agree with the leader's.
        length: usize,
        /// When what it answers was sent.
        sent: u64,
    },
    /// The follower knows of a later term.
    Outdated(u64),
    /// A proposal for the leader.
    Forward(ProposalId, Box<Transaction>),
    /// What became of it.
    Answer(ProposalId, Outcome),
}

/// What a leader knows of its followers.
#[derive(Debug, Clone)]
pub struct Leading {
    /// Entries that each has synced.
    pub stored: [usize; SERVERS],
    /// When the newest message that each answered was sent.
    pub heard: [u64; SERVERS],
    /// Index of its first entry.
    pub first: usize,
}

/// A write under way.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Whose it is.
    pub origin: Origin,
    /// The server that waits for it, and in which life.
    pub server: (usize, u32),
}

/// Who waits for a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The controller of a stretch of leadership.
    Controller(u64),
    /// A task.
    Task(TaskId),
}

fn last(log: &Log) -> (u64, usize) {
    (log.last().map_or(0, |entry| entry.term), log.len())
}

impl World {
    pub(crate) fn send_raft(&mut self, from: usize, to: usize, message: Message) {
        if self.is_cut(Place::Server(from), Place::Server(to)) {
            return;
        }
        let loss = self.faults.values().find_map(|fault| match fault {
            Fault::Loss(part) => Some(*part),
            _ => None,
        });
        if let Some(part) = loss {
            if self.dice.permille(part) {
                return;
            }
            if self.dice.permille(part) {
                let delay = self.delay() + self.dice.below(300);
                self.after(delay, Event::Raft(from, to, message.clone()));
            }
        }
        let delay = self.delay();
        self.after(delay, Event::Raft(from, to, message));
    }

    /// The leader's log to everybody.
    pub(crate) fn replicate(&mut self, leader: usize) {
        let server = &self.servers[leader];
        let message = Message::Append {
            term: server.term,
            log: server.log.clone(),
            commit: server.commit,
            sent: self.now,
        };
        for to in (0..SERVERS).filter(|to| *to != leader) {
            self.send_raft(leader, to, message.clone());
        }
    }

    /// Stands for election if nobody has been heard of for long; the vote is taken at once.
    pub(crate) fn stand(&mut self, candidate: usize) {
        let patience = self.servers[candidate].patience;
        if self.servers[candidate].leading.is_some() || self.now < self.servers[candidate].heard_at + patience {
            return;
        }
        self.servers[candidate].patience = LEASE_MS + self.dice.between(100, 700);
        let own = last(&self.servers[candidate].log);
        let reachable = |other: &usize| {
            let (one, two) = (Place::Server(candidate), Place::Server(*other));
            *other == candidate || !(self.is_cut(one, two) || self.is_cut(two, one))
        };
        let content = |other: &usize| {
            let voter = &self.servers[*other];
            let patient = *other != candidate && self.now < voter.heard_at + LEASE_MS;
            let leads = voter.leading.is_some() && voter.holds_lease(*other, self.now);
            voter.up && !patient && !leads && last(&voter.log) <= own
        };
        let voters: Vec<usize> = (0..SERVERS).filter(|one| reachable(one) && content(one)).collect();
        if voters.len() * 2 <= SERVERS {
            return;
        }
        let term = voters.iter().map(|one| self.servers[*one].term).max().unwrap_or(0) + 1;
        for voter in voters {
            self.step_down(voter);
            self.servers[voter].term = term;
            self.servers[voter].heard_at = self.now;
        }
        self.trace
            .note(self.now, || format!("server {candidate} elected in term {term}"));
        self.elected(candidate, term);
    }

    fn elected(&mut self, leader: usize, term: u64) {
        let now = self.now;
        let server = &mut self.servers[leader];
        server.log.push_back(Arc::new(Entry { term, write: None }));
        let mut heard = [0; SERVERS];
        heard[leader] = u64::MAX;
        server.leading = Some(Leading {
            stored: [0; SERVERS],
            heard: heard.map(|at| if at == 0 { now } else { at }),
            first: server.log.len(),
        });
        server.leader_hint = Some(leader);
        self.sync_soon(leader);
        self.replicate(leader);
    }

    /// It leads no more; its controller and its sessions hear of that a little later.
    pub(crate) fn step_down(&mut self, server: usize) {
        self.servers[server].leading = None;
    }

    /// The log is on disk a while from now; what a crash before that loses.
    pub(crate) fn sync_soon(&mut self, server: usize) {
        let slow = self.faults.values().find_map(|fault| match fault {
            Fault::SlowDisk(which, by) if *which == server => Some(*by),
            _ => None,
        });
        let delay = 1 + self.dice.below(3 + slow.unwrap_or(0));
        let (life, log) = (self.servers[server].life, self.servers[server].log.clone());
        self.after(delay, Event::Synced(server, life, log));
    }

    pub(crate) fn synced(&mut self, server: usize, life: u32, log: Log) {
        let one = &mut self.servers[server];
        if one.life != life || !one.up {
            return;
        }
        if last(&log) > last(&one.synced) {
            one.synced = log;
        }
        if let Some(leading) = &mut one.leading {
            leading.stored[server] = one.synced.len();
            self.commit_more(server);
        } else if let (Some(leader), Some(sent)) = (one.leader_hint, one.answers) {
            self.tell_stored(server, leader, sent);
        }
    }

    fn tell_stored(&mut self, server: usize, leader: usize, sent: u64) {
        let one = &self.servers[server];
        let term = one.term;
        // Only what is of the leader's own log counts: a log that ends in its term is a part of it.
        let agrees = last(&one.synced).0 == term;
        let length = if agrees { one.synced.len() } else { 0 };
        self.send_raft(server, leader, Message::Stored { term, length, sent });
    }

    pub(crate) fn raft_message(&mut self, from: usize, to: usize, message: Message) {
        if !self.servers[to].up {
            return;
        }
        match message {
            Message::Append {
                term,
                log,
                commit,
                sent,
            } => self.appended(from, to, (term, log, commit, sent)),
            Message::Stored { term, length, sent } => self.stored(from, to, term, (length, sent)),
            Message::Outdated(term) => {
                if term > self.servers[to].term {
                    self.servers[to].term = term;
                    self.step_down(to);
                }
            }
            Message::Forward(id, write) => {
                if self.servers[to].leading.is_some() {
                    self.take_in(to, id, *write);
                }
            }
            Message::Answer(id, outcome) => self.proposal_ends(id, Some(outcome)),
        }
    }

    fn appended(&mut self, from: usize, to: usize, (term, log, commit, sent): (u64, Log, usize, u64)) {
        let own = self.servers[to].term;
        if term < own {
            return self.send_raft(to, from, Message::Outdated(own));
        }
        if term > own || self.servers[to].leading.is_some() {
            self.step_down(to);
        }
        let now = self.now;
        let server = &mut self.servers[to];
        server.term = term;
        server.heard_at = now;
        server.leader_hint = Some(from);
        server.answers = Some(sent);
        let news = last(&log) > last(&server.log);
        if news {
            server.log = log;
        }
        let agrees = last(&server.log).0 == term;
        if agrees {
            server.commit = server.commit.max(commit.min(server.log.len()));
        }
        if news {
            self.sync_soon(to);
        } else {
            self.tell_stored(to, from, sent);
        }
        let behind = self.servers[to].commit.saturating_sub(self.applied(to));
        if behind > SNAPSHOT_BEHIND
            && self.applied(from) > self.applied(to)
            && self.applied(from) <= self.servers[to].commit
        {
            self.install_snapshot(from, to);
        }
        self.apply_committed(to);
    }

    fn stored(&mut self, from: usize, to: usize, term: u64, (length, sent): (usize, u64)) {
        let server = &mut self.servers[to];
        let (own, now) = (server.term, self.now);
        let Some(leading) = server.leading.as_mut().filter(|_| term == own) else {
            return;
        };
        leading.stored[from] = leading.stored[from].max(length);
        leading.heard[from] = leading.heard[from].max(sent.min(now));
        self.commit_more(to);
    }

    fn commit_more(&mut self, leader: usize) {
        let server = &mut self.servers[leader];
        let Some(leading) = &server.leading else { return };
        let mut stored = leading.stored;
        stored.sort_unstable();
        // The least of the most advanced majority.
        let common = stored[SERVERS - (SERVERS / 2 + 1)];
        if common >= leading.first && common > server.commit {
            server.commit = common;
            self.apply_committed(leader);
            self.replicate(leader);
        }
    }

    /// Writes something through a server; what becomes of it comes back as an event.
    pub(crate) fn propose(&mut self, server: usize, origin: Origin, write: Transaction) -> ProposalId {
        let id = self.count();
        let life = self.servers[server].life;
        self.proposals.insert(
            id,
            Proposal {
                origin,
                server: (server, life),
            },
        );
        self.after(PROPOSAL_MS, Event::ProposalLate(id));
        if self.servers[server].leading.is_some() {
            self.take_in(server, id, write);
        } else if let Some(leader) = self.servers[server].leader_hint.filter(|leader| *leader != server) {
            self.send_raft(server, leader, Message::Forward(id, Box::new(write)));
        }
        id
    }

    fn take_in(&mut self, leader: usize, id: ProposalId, write: Transaction) {
        let term = self.servers[leader].term;
        // A message that came twice is taken in twice: preconditions have to hold either off.
        let entry = Entry {
            term,
            write: Some((id, write)),
        };
        self.servers[leader].log.push_back(Arc::new(entry));
        self.sync_soon(leader);
        self.replicate(leader);
    }

    pub(crate) fn proposal_ends(&mut self, id: ProposalId, outcome: Option<Outcome>) {
        let Some(proposal) = self.proposals.remove(&id) else {
            return;
        };
        let (server, life) = proposal.server;
        if self.servers[server].life != life || !self.servers[server].up {
            return self.task_lost(proposal.origin);
        }
        match proposal.origin {
            Origin::Controller(stretch) => self.controller_answered(server, stretch, outcome),
            Origin::Task(task) => self.task_answered(task, outcome),
        }
    }

    /// Whether a server may answer reads now: no later term can have begun, as far as a majority knows.
    pub(crate) fn confirms(&self, server: usize) -> bool {
        let one = &self.servers[server];
        let Some(leading) = &one.leading else { return false };
        let agrees = |other: &usize| {
            let (here, there) = (Place::Server(server), Place::Server(*other));
            let other_server = &self.servers[*other];
            *other == server
                || (other_server.up
                    && other_server.term <= one.term
                    && !self.is_cut(here, there)
                    && !self.is_cut(there, here))
        };
        let agreeing = (0..SERVERS).filter(agrees).count();
        agreeing * 2 > SERVERS && one.commit >= leading.first && self.applied(server) >= one.commit
    }
}
