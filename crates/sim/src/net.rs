//! Connections between agents and leaders: in order and complete, until they break; then each side notices in its own time.
//!
//! The server's end drives production's session. Messages that were on their way when a connection broke, or when the node opened
//! a newer session, may still arrive.

use std::collections::{BTreeSet, VecDeque};

use gantry_leader::dispatch::Increment;
use gantry_leader::{Report, Session, Told, report};
use gantry_lifecycle::Update;
use gantry_model::object::ClusterConfig;
use gantry_model::{DurationMs, NodeId, Problem, ReplicaId};

use crate::script::Place;
use crate::world::{Event, World};

/// A message that cannot get through is sent again after so long.
const RESEND_MS: u64 = 150;
/// A connection on which nothing gets through breaks after so long.
const BREAKS_MS: u64 = 4_000;

/// Names a connection.
pub type ConnectionId = u64;

/// Said by an agent.
#[derive(Debug, Clone)]
pub enum Upward {
    /// It is there.
    Heartbeat,
    /// What it knows of replicas.
    Statuses(Vec<(ReplicaId, Report)>),
    /// A set is in effect.
    Applied(u64),
    /// An increment did not chain.
    Resync,
}

/// Said by a leader.
#[derive(Debug, Clone)]
pub enum Downward {
    /// The session begins.
    Welcome,
    /// Assignments.
    Assignments(Box<Update>),
}

/// See the module.
pub struct Connection {
    /// The node's number, and its agent's life.
    pub node: (usize, u32),
    /// The server's number, its life and the stretch of leadership.
    pub server: (usize, u32, u64),
    /// The server's end.
    pub session: Option<Session>,
    up: VecDeque<(u64, Upward)>,
    down: VecDeque<(u64, Downward)>,
    /// Neither side sends any more.
    broken: bool,
    /// The agent knows that it is over.
    pub(crate) left: bool,
    stalled_since: [Option<u64>; 2],
}

impl Connection {
    pub(crate) fn new(node: (usize, u32), server: (usize, u32, u64), session: Session) -> Self {
        Self {
            node,
            server,
            session: Some(session),
            up: VecDeque::new(),
            down: VecDeque::new(),
            broken: false,
            left: false,
            stalled_since: [None, None],
        }
    }
}

fn update(increment: Increment) -> Downward {
    Downward::Assignments(Box::new(Update {
        applies_to: increment.applies_to,
        results_in: increment.results_in,
        put: increment.put.iter().map(|item| item.as_ref().clone()).collect(),
        remove: increment.remove,
    }))
}

impl World {
    pub(crate) fn lease_deadline(&self) -> DurationMs {
        DurationMs(self.now) + ClusterConfig::default().lease
    }

    /// A node that has been registered gets its session, if this server still leads.
    pub(crate) fn open_session(&mut self, node: (usize, u32), id: NodeId, server: (usize, u32, u64)) {
        let deadline = self.lease_deadline();
        let session = self.fresh_session();
        let connection = self.count();
        // As production's session waits until sets are made from a state that knows its node.
        self.route(server.0, false);
        let Some(leader) = self.servers[server.0]
            .leader
            .as_mut()
            .filter(|leader| leader.stretch == server.2)
        else {
            return self.refused(node);
        };
        let mut session = Session::open(id, session, deadline, &mut leader.leases, &mut leader.acks);
        let Ok(complete) = session.begin(&leader.leases, &mut leader.routes, &mut leader.acks) else {
            return self.refused(node);
        };
        leader.sessions.insert(connection, ());
        leader.bells.insert(id, connection);
        self.connections
            .insert(connection, Connection::new(node, server, session));
        self.send_down(connection, Downward::Welcome);
        self.send_down(connection, update(complete));
    }

    pub(crate) fn send_up(&mut self, id: ConnectionId, message: Upward) {
        let delay = self.delay();
        let at = self.now + delay;
        let Some(connection) = self.connections.get_mut(&id).filter(|one| !one.broken) else {
            return;
        };
        connection.up.push_back((at, message));
        self.after(delay, Event::Delivered(id, true));
    }

    pub(crate) fn send_down(&mut self, id: ConnectionId, message: Downward) {
        let delay = self.delay();
        let at = self.now + delay;
        let Some(connection) = self.connections.get_mut(&id).filter(|one| !one.broken) else {
            return;
        };
        connection.down.push_back((at, message));
        self.after(delay, Event::Delivered(id, false));
    }

    /// Delivers what is due, in order; tries again later when nothing gets through.
    pub(crate) fn delivered(&mut self, id: ConnectionId, up: bool) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (server, node) = (Place::Server(connection.server.0), Place::Node(connection.node.0));
        let (from, to) = if up { (node, server) } else { (server, node) };
        let waiting = if up {
            connection.up.front().map(|one| one.0)
        } else {
            connection.down.front().map(|one| one.0)
        };
        let Some(due) = waiting else { return };
        if due > self.now {
            // It overtook an earlier one: that one's delivery takes it along.
            return self.after(due - self.now, Event::Delivered(id, up));
        }
        if self.is_cut(from, to) {
            return self.stall(id, up);
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.stalled_since[usize::from(up)] = None;
        if up {
            if let Some((_, message)) = connection.up.pop_front() {
                self.heard_upward(id, message);
            }
        } else if let Some((_, message)) = connection.down.pop_front() {
            self.heard_downward(id, message);
        }
    }

    fn stall(&mut self, id: ConnectionId, up: bool) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let since = *connection.stalled_since[usize::from(up)].get_or_insert(now);
        if now > since + BREAKS_MS {
            return self.hang_up(id);
        }
        self.after(RESEND_MS, Event::Delivered(id, up));
    }

    /// The server closes the connection, as when it leads no more.
    pub(crate) fn close(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id).filter(|one| !one.broken) else {
            return;
        };
        if self.is_cut(Place::Server(connection.server.0), Place::Node(connection.node.0)) {
            return self.hang_up(id);
        }
        let delay = self.delay();
        self.after(delay, Event::Noticed(id, false));
        self.session_ends(id);
    }

    /// The connection breaks; what is on its way may still arrive.
    pub(crate) fn hang_up(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id).filter(|one| !one.broken) else {
            return;
        };
        connection.broken = true;
        let first = self.dice.between(1, 400);
        let second = first + self.dice.between(1, 3_000);
        let server_first = self.dice.one_in(2);
        self.after(first, Event::Noticed(id, server_first));
        self.after(second, Event::Noticed(id, !server_first));
    }

    pub(crate) fn connections_of_server_break(&mut self, server: usize) {
        let ids: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, one)| one.server.0 == server)
            .map(|(id, _)| *id)
            .collect();
        ids.into_iter().for_each(|id| self.hang_up(id));
    }

    pub(crate) fn connections_of_node_break(&mut self, node: usize) {
        let ids: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, one)| one.node.0 == node)
            .map(|(id, _)| *id)
            .collect();
        ids.into_iter().for_each(|id| self.hang_up(id));
    }

    /// One side sees that the connection is gone.
    pub(crate) fn noticed(&mut self, id: ConnectionId, by_server: bool) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if by_server {
            self.session_ends(id);
        } else {
            connection.left = true;
            let node = connection.node;
            self.disconnected(node, id);
        }
    }

    /// The server's end is closed.
    fn session_ends(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (server, _, stretch) = connection.server;
        let Some(session) = connection.session.take() else {
            return;
        };
        connection.broken = true;
        let Some(leader) = self.servers[server]
            .leader
            .as_mut()
            .filter(|leader| leader.stretch == stretch)
        else {
            return;
        };
        leader.sessions.remove(&id);
        let node = self.nodes[connection.node.0].id;
        if leader.bells.get(&node) == Some(&id) {
            leader.bells.remove(&node);
            leader.routes.close(node);
        }
        session.close(&mut leader.leases, &mut leader.acks);
    }

    /// Finds out whom changes concern, and wakes their sessions; when it has fallen behind, it begins anew.
    pub(crate) fn route(&mut self, server: usize, behind: bool) {
        let Some(leader) = &mut self.servers[server].leader else {
            return;
        };
        let mut concerned = BTreeSet::new();
        if behind && let Some((state, _)) = leader.routing.drain(..).next_back() {
            let revision = state.revision();
            leader.routes.start_over(state);
            concerned.extend(leader.bells.keys().copied());
            leader.acks.routed(revision, &concerned);
        }
        while let Some((state, changes)) = leader.routing.pop_front() {
            let revision = state.revision();
            let some = leader.routes.changed(state, &changes);
            leader.acks.routed(revision, &some);
            concerned.extend(some);
        }
        leader.controller.acknowledged();
        let woken: Vec<ConnectionId> = concerned
            .iter()
            .filter_map(|node| leader.bells.get(node).copied())
            .collect();
        for connection in woken {
            let delay = self.dice.below(6);
            self.after(delay, Event::SessionFeed(connection));
        }
    }

    pub(crate) fn router_feed(&mut self, server: usize, life: u32) {
        if self.servers[server].life != life {
            return;
        }
        let behind = self.dice.one_in(60);
        self.route(server, behind);
        self.pump(server);
    }

    /// The session's task tells its node what is pending.
    pub(crate) fn session_feed(&mut self, id: ConnectionId) {
        self.check_session(id);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (server, _, stretch) = connection.server;
        let Some(leader) = self.servers[server]
            .leader
            .as_mut()
            .filter(|leader| leader.stretch == stretch)
        else {
            return;
        };
        let Some(session) = &mut connection.session else { return };
        match session.refresh(&leader.leases, &mut leader.routes, &mut leader.acks) {
            Ok(Told::Increment(increment)) => self.send_down(id, update(increment)),
            Ok(Told::UpToDate) => {
                leader.controller.acknowledged();
                self.pump(server);
            }
            Err(_) => self.session_ends(id),
        }
    }

    fn check_session(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (server, _, stretch) = connection.server;
        let Some(leader) = self.servers[server]
            .leader
            .as_ref()
            .filter(|leader| leader.stretch == stretch)
        else {
            return;
        };
        let current = connection
            .session
            .as_ref()
            .map(|session| session.check_current(&leader.leases));
        if matches!(current, Some(Err(_))) {
            self.close(id);
        }
    }

    fn heard_upward(&mut self, id: ConnectionId, message: Upward) {
        if let Err(problem) = self.hear(id, message) {
            self.trace.note(self.now, || format!("session {id} ends: {problem}"));
            self.session_ends(id);
            let delay = self.delay();
            return self.after(delay, Event::Noticed(id, false));
        }
        self.check_session(id);
    }

    /// As production's session task does it.
    fn hear(&mut self, id: ConnectionId, message: Upward) -> Result<(), Problem> {
        let deadline = self.lease_deadline();
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(());
        };
        let (number, _, stretch) = connection.server;
        let server = &mut self.servers[number];
        let Some(leader) = server.leader.as_mut().filter(|leader| leader.stretch == stretch) else {
            return Ok(());
        };
        let Some(session) = &mut connection.session else {
            return Ok(());
        };
        session.heard(&server.state, deadline, &mut leader.leases)?;
        match message {
            Upward::Heartbeat => {}
            Upward::Statuses(statuses) => {
                let node = self.nodes[connection.node.0].id;
                let ops = statuses
                    .into_iter()
                    .filter_map(|(replica, said)| report(&server.state, node, replica, said));
                leader.controller.report(ops.collect());
                self.pump(number);
            }
            Upward::Applied(set) => {
                if session.applied(set, &mut leader.acks) {
                    leader.controller.acknowledged();
                    self.pump(number);
                }
            }
            Upward::Resync => {
                let complete = session.begin(&leader.leases, &mut leader.routes, &mut leader.acks)?;
                self.send_down(id, update(complete));
            }
        }
        Ok(())
    }
}
