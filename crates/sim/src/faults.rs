//! Faults begin and end; at last everything heals, and then all must become well within a bounded time.

use gantry_model::object::{Availability, NodeStatus};

use crate::person::Wish;
use crate::script::{Act, Fault};
use crate::world::{Event, World};

/// Between the end of the faults and the moment at which people set everything right.
const CALM_MS: u64 = 9_000;
/// How often it is looked whether all is well.
const LOOK_MS: u64 = 1_000;
/// All must be well so long after people set everything right.
const BOUND_MS: u64 = 240_000;
/// All must stay well, and nothing be written, for so long.
const STILL_MS: u64 = 4_000;

impl World {
    pub(crate) fn fault_begins(&mut self, index: usize, fault: Fault) {
        if self.healed {
            return;
        }
        self.trace.note(self.now, || format!("fault: {fault:?}"));
        match &fault {
            Fault::ServerDown(server) => self.server_crashes(*server),
            Fault::NodeDown(node) => self.node_crashes(*node),
            Fault::AgentDown(node) => self.agent_crashes(*node),
            Fault::Skew(server, by) => self.servers[*server].skew = *by,
            Fault::Cut(..) | Fault::Isolate(_) | Fault::Loss(_) | Fault::Slow(_) | Fault::SlowDisk(..) => {}
        }
        self.faults.insert(index, fault);
    }

    pub(crate) fn fault_ends(&mut self, index: usize) {
        let Some(fault) = self.faults.remove(&index) else {
            return;
        };
        match fault {
            Fault::ServerDown(server) => {
                let other = self.faults.values().any(|one| *one == Fault::ServerDown(server));
                if !other && !self.servers[server].up {
                    self.server_starts(server);
                }
            }
            Fault::NodeDown(node) | Fault::AgentDown(node) => {
                let down = |one: &Fault| matches!(one, Fault::NodeDown(one) | Fault::AgentDown(one) if *one == node);
                if !self.faults.values().any(down) && self.nodes[node].life > 0 {
                    self.agent_starts(node);
                }
            }
            Fault::Skew(server, _) => self.servers[server].skew = 0,
            Fault::Cut(..) | Fault::Isolate(_) | Fault::Loss(_) | Fault::Slow(_) | Fault::SlowDisk(..) => {}
        }
    }

    pub(crate) fn heal(&mut self) {
        if !self.healed {
            self.healed = true;
            let faults: Vec<usize> = self.faults.keys().copied().collect();
            faults.into_iter().for_each(|index| self.fault_ends(index));
            self.trace.note(self.now, || "faults are over".to_string());
            return self.after(CALM_MS, Event::Heal);
        }
        self.trace.note(self.now, || "people set everything right".to_string());
        let until = self.now + BOUND_MS / 2;
        let state = &self.check.state;
        let tired: Vec<usize> = self
            .nodes
            .iter()
            .filter(|node| {
                let record = state.node(node.id);
                record.is_some_and(|record| record.availability != Availability::Active)
            })
            .map(|node| node.number)
            .collect();
        // A removed node's agent may have registered once more before it was stopped: who looks sees it, down, and removes it again.
        let left: Vec<usize> = self
            .nodes
            .iter()
            .filter(|node| {
                let record = state.node(node.id);
                node.gone && record.is_some_and(|record| record.status == NodeStatus::Down)
            })
            .map(|node| node.number)
            .collect();
        let names: Vec<String> = state.services().map(|service| service.name.to_string()).collect();
        for node in tired {
            let act = Act::Availability {
                node,
                to: "active".to_string(),
            };
            self.begin_task(Wish::Person(act), None, until, None);
        }
        for node in left {
            self.begin_task(Wish::Person(Act::RemoveNode { node }), None, until, None);
        }
        for name in names {
            self.begin_task(Wish::Mend(name), None, until, None);
        }
        for node in 0..2 {
            self.person_acts(Act::Read { node });
        }
        self.check.mended_at = Some(self.now);
        self.after(LOOK_MS, Event::Look);
    }

    /// Ends the run when all has been well for a while, or was not in time.
    pub(crate) fn look(&mut self) {
        self.after(LOOK_MS, Event::Look);
        let trouble = self.trouble();
        let entries = self.check.committed();
        let since = self.check.mended_at.unwrap_or(self.now);
        match trouble {
            None => {
                let (still_since, length) = *self.check.still.get_or_insert((self.now, entries));
                if length != entries {
                    self.check.still = Some((self.now, entries));
                } else if self.now >= still_since + STILL_MS {
                    self.last_checks();
                    self.check.over = true;
                }
                if self.now > since + BOUND_MS {
                    self.check
                        .violation(self.now, "idle", "a settled cluster goes on writing".to_string());
                }
            }
            Some(what) => {
                self.check.still = None;
                if self.now > since + BOUND_MS {
                    self.check.violation(self.now, "convergence", what);
                }
            }
        }
    }

    /// What is not as it should be, if anything.
    fn trouble(&self) -> Option<String> {
        if !self.tasks.is_empty() {
            return Some(format!("somebody still waits: {:?}", self.tasks.values().next()));
        }
        let state = &self.check.state;
        let disagreement = self.check.disagreement(&self.nodes);
        for service in state.services() {
            let progress = gantry_reconcile::converged(state, service.id);
            if !progress.done || progress.failed {
                return Some(format!(
                    "{}: {progress:?} {disagreement:?}\n{}",
                    service.object(),
                    self.check.describe()
                ));
            }
        }
        let newest = self.check.committed();
        for (number, server) in self.servers.iter().enumerate() {
            if server.state.revision() as usize != newest {
                return Some(format!(
                    "server {number} has applied {} of {newest}",
                    server.state.revision()
                ));
            }
        }
        disagreement
    }

    fn last_checks(&mut self) {
        let states: Vec<Vec<u8>> = self
            .servers
            .iter()
            .map(|one| rmp_serde::to_vec_named(&one.state).expect("a state is data"))
            .collect();
        if states.windows(2).any(|pair| pair[0] != pair[1]) {
            self.check.violation(
                self.now,
                "equal-states",
                "servers that applied the same entries differ".to_string(),
            );
        }
        self.check.last_checks(self.now);
    }
}
