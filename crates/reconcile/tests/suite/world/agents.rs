//! Nodes and their agents.

use std::collections::BTreeMap;

use gantry_model::net::Ipv4Net;
use gantry_model::object::{Availability, Node, NodeFacts, NodeStatus, Replica};
use gantry_model::phase::{Desired, Exit, Health, Observed, Phase};
use gantry_model::{ByteSize, MilliCpu, NodeId, ReplicaId};
use gantry_state::{Key, Object, Op};

use super::World;

/// What a node has.
pub struct Shape {
    pub cpu: MilliCpu,
    pub memory: ByteSize,
    pub prefix: u8,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            cpu: MilliCpu::cores(4),
            memory: ByteSize::mib(4096),
            prefix: 26,
        }
    }
}

impl World {
    pub fn join(&mut self, name: &str, shape: &Shape) -> NodeId {
        let id = NodeId(self.fresh_id());
        let pool: Ipv4Net = "10.128.0.0/10".parse().expect("a valid network");
        let node = Node {
            id,
            name: name.to_string(),
            address: format!("192.0.2.{}:7420", id.0 % 250),
            subnet: pool.subnet(shape.prefix, id.0).expect("ids stay small"),
            labels: BTreeMap::from([(
                "zone".to_string(),
                if id.0.is_multiple_of(2) { "a" } else { "b" }.to_string(),
            )]),
            availability: Availability::Active,
            status: NodeStatus::Ready,
            status_since: self.now,
            facts: NodeFacts {
                os: "linux".to_string(),
                arch: "amd64".to_string(),
                cpu: shape.cpu,
                memory: shape.memory,
                ..NodeFacts::default()
            },
            joined_at: self.now,
        };
        self.write(vec![Op::Put(Box::new(Object::Node(node)))]);
        id
    }

    pub fn edit_node(&mut self, id: NodeId, edit: impl FnOnce(&mut Node)) {
        let Some(node) = self.state.node(id) else { return };
        let mut node = node.clone();
        edit(&mut node);
        self.write(vec![Op::Put(Box::new(Object::Node(node)))]);
    }

    pub fn remove_node(&mut self, id: NodeId) {
        self.write(vec![Op::Delete(Key::Node(id))]);
    }

    /// The agent of a replica on a live node takes one step.
    pub fn agent_step(&mut self, id: ReplicaId) {
        let Some(replica) = self.state.replica(id).cloned() else {
            return;
        };
        let Some(node) = replica.node.and_then(|node| self.state.node(node)) else {
            return;
        };
        if node.status == NodeStatus::Down {
            return;
        }
        if replica.observed.phase.is_terminal() {
            if replica.desired == Desired::Remove {
                self.forget(id);
            }
            return;
        }
        let mut observed = match replica.desired {
            Desired::Stop | Desired::Remove => ended(&replica, Phase::Stopped),
            Desired::Run | Desired::Drain => self.progress(&replica),
        };
        observed.sequence += 1;
        observed.at = self.now;
        if observed.ready && observed.ready_since.is_none() {
            observed.ready_since = Some(self.now);
        }
        self.write(vec![Op::Observe { replica: id, observed }]);
    }

    fn progress(&mut self, replica: &Replica) -> Observed {
        let broken = self.broken.contains(&(replica.service, replica.revision));
        let fails = self.chaos && self.dice.one_in(12);
        let mut next = replica.observed.clone();
        match replica.observed.phase {
            Phase::Pending | Phase::Assigned => next.phase = Phase::Preparing,
            Phase::Preparing if fails || (broken && replica.id.0.is_multiple_of(2)) => {
                return ended(replica, Phase::Rejected);
            }
            Phase::Preparing => next.phase = Phase::Starting,
            Phase::Starting => {
                next.phase = Phase::Running;
                next.started_at = Some(self.now);
            }
            Phase::Running if broken || (fails && self.dice.one_in(3)) => return ended(replica, Phase::Failed),
            Phase::Running if fails => self.restart(&mut next),
            Phase::Running if self.is_job(replica) => return ended(replica, Phase::Completed),
            Phase::Running => {
                next.ready = true;
                next.health = Health::Healthy;
            }
            Phase::Completed | Phase::Stopped | Phase::Failed | Phase::Rejected | Phase::Lost => {}
        }
        next
    }

    fn is_job(&self, replica: &Replica) -> bool {
        let service = self.state.service(replica.service);
        service.is_some_and(|service| service.spec.mode.is_job())
    }

    fn restart(&mut self, next: &mut Observed) {
        next.restarts += 1;
        next.ready = false;
        next.last_exit = Some(Exit {
            code: 1,
            oom_killed: false,
            at: self.now,
        });
    }

    /// Every agent takes a step, in an order that follows from the dice.
    pub fn agents_step(&mut self) {
        let replicas: Vec<ReplicaId> = self.state.replicas().map(|one| one.id).collect();
        for replica in replicas {
            if !self.dice.one_in(3) {
                self.agent_step(replica);
            }
        }
    }

    /// All nodes acknowledge that what drains gets no traffic.
    pub fn acknowledge_all(&mut self) {
        let draining = self.state.replicas().filter(|one| one.desired == Desired::Drain);
        let ids: Vec<ReplicaId> = draining.map(|one| one.id).collect();
        self.acks.0.extend(ids);
    }
}

fn ended(replica: &Replica, phase: Phase) -> Observed {
    Observed {
        phase,
        ready: false,
        message: format!("it is {phase}"),
        ..replica.observed.clone()
    }
}
