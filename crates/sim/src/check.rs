//! What must hold, checked against what really happened: the one sequence of entries that was agreed upon, the containers that
//! ran, the routes that were in effect. What is a property of the stored state alone is checked by `gantry_state` itself.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::object::{Node as NodeRecord, NodeStatus, Replica, Service, Slot};
use gantry_model::phase::{Desired, Phase};
use gantry_model::{NodeId, ReplicaId, ServiceId};
use gantry_state::{Change, Object, State};

use crate::history::History;
use crate::node::{Node, Routes};
use crate::plant;
use crate::raft::Entry;

/// A node's label may be changed while a placement is under way that was decided on before.
const RACE_MS: u64 = 5_000;
/// What was decided before an entry of somebody else comes at most so many entries after it.
const RACE_ENTRIES: usize = 4;
/// States are compared at every so many entries.
const COMPARE_EVERY: usize = 8;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When, in milliseconds.
    pub at: u64,
    /// Which promise.
    pub promise: &'static str,
    /// How.
    pub message: String,
}

/// See the module.
#[derive(Default)]
pub struct Checker {
    /// The newest state that any server has come to.
    pub state: State,
    /// The state one entry before.
    before: State,
    /// Reads and writes of registers.
    pub history: History,
    /// What was broken first.
    pub violation: Option<Violation>,
    /// All was well.
    pub over: bool,
    /// When people set everything right.
    pub mended_at: Option<u64>,
    /// Since when nothing was written, and how many entries there were.
    pub still: Option<(u64, usize)>,
    entries: Vec<(u64, Option<u64>)>,
    fingerprints: BTreeMap<usize, u64>,
    drained_at: BTreeMap<ReplicaId, usize>,
    /// Replicas that served until they were stopped, every node having said that it does not route to them any more.
    closed: BTreeSet<ReplicaId>,
    ready_since: BTreeMap<NodeId, usize>,
    nodes_changed: BTreeMap<NodeId, u64>,
    homes: BTreeMap<ReplicaId, usize>,
    retired: BTreeMap<ServiceId, BTreeSet<Slot>>,
    /// Since when a person wants every position of a service to be filled once at most.
    exclusive_since: BTreeMap<ServiceId, usize>,
    /// The entries that made replicas.
    made_by: BTreeMap<ReplicaId, usize>,
}

impl Checker {
    /// Whether the run has come to its end, good or bad.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.over || self.violation.is_some()
    }

    /// Entries agreed upon, as far as any server has applied them.
    #[must_use]
    pub fn committed(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn violation(&mut self, at: u64, promise: &'static str, message: String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { at, promise, message });
        }
    }

    /// A server has applied an entry.
    pub(crate) fn applied(
        &mut self,
        now: u64,
        index: usize,
        entry: &Entry,
        state: &State,
        changes: &[Change],
        nodes: &[Node],
    ) {
        let name = (entry.term, entry.write.as_ref().map(|(id, _)| *id));
        match self.entries.get(index - 1) {
            Some(known) if *known != name => {
                let message = format!("entry {index} is {known:?} on one server and {name:?} on another");
                self.violation(now, "one-log", message);
            }
            Some(_) => {}
            None => {
                self.entries.push(name);
                self.before = std::mem::replace(&mut self.state, state.clone());
                self.first_applied(now, index, changes, nodes);
            }
        }
        if index.is_multiple_of(COMPARE_EVERY) {
            let own = state.fingerprint();
            if *self.fingerprints.entry(index).or_insert(own) != own {
                self.violation(now, "equal-states", format!("states differ at entry {index}"));
            }
        }
    }

    fn first_applied(&mut self, now: u64, index: usize, changes: &[Change], nodes: &[Node]) {
        for violation in self.state.violations_of(changes) {
            self.violation(now, "state", violation.to_string());
        }
        let mut touched = BTreeSet::new();
        for change in changes {
            match (change.before.as_deref(), change.after.as_deref()) {
                (before, Some(Object::Node(node))) => self.node_changed(now, index, before, node),
                (Some(Object::Replica(before)), Some(Object::Replica(after))) => {
                    self.replica_changed(now, index, before, after, nodes);
                    touched.insert(after.service);
                }
                (before, Some(Object::Service(service))) => self.service_changed(before, index, service),
                (_, Some(Object::Replica(after))) => {
                    self.made_by.insert(after.id, index);
                    touched.insert(after.service);
                }
                (_, _) => {}
            }
        }
        for service in touched {
            self.check_slots(now, service);
            self.check_rollout(now, service);
        }
    }

    fn node_changed(&mut self, now: u64, index: usize, before: Option<&Object>, node: &NodeRecord) {
        let was = match before {
            Some(Object::Node(before)) => Some(before.status),
            _ => None,
        };
        if node.status == NodeStatus::Ready && was != Some(NodeStatus::Ready) {
            self.ready_since.insert(node.id, index);
        }
        self.nodes_changed.insert(node.id, now);
    }

    fn replica_changed(&mut self, now: u64, index: usize, before: &Replica, after: &Replica, nodes: &[Node]) {
        if before.node.is_none()
            && let Some(node) = after.node
        {
            self.check_placement(now, after, node);
        }
        if before.desired < Desired::Drain && plant::drains(after) {
            self.drained_at.insert(after.id, index);
        }
        if before.desired <= Desired::Drain && after.desired > Desired::Drain {
            self.check_stop(now, after, nodes);
        }
        if before.desired == Desired::Run
            && before.is_endpoint()
            && after.desired_reason.starts_with("replaced by revision")
        {
            self.retired.entry(after.service).or_default().insert(after.slot);
        }
    }

    /// Whether two replicas of one position must not run at once: the position was exclusive when the later one was made. What
    /// was there twice before a person asked for that may stay so.
    pub(crate) fn excludes(&self, service: ServiceId, one: ReplicaId, other: ReplicaId) -> bool {
        let since = self.exclusive_since.get(&service);
        let later = self.made_by.get(&one).max(self.made_by.get(&other));
        since.is_some_and(|since| later.is_some_and(|later| *since + RACE_ENTRIES < *later))
    }

    fn service_changed(&mut self, before: Option<&Object>, index: usize, service: &Service) {
        if service.spec.stateful.is_some_and(|stateful| stateful.exclusive) {
            self.exclusive_since.entry(service.id).or_insert(index);
        } else {
            self.exclusive_since.remove(&service.id);
        }

        let same = |former: &Service| {
            let target = |one: &Service| one.rollout.as_ref().map(|rollout| (rollout.to, rollout.started_at));
            former.spec == service.spec && target(former) == target(service)
        };
        if !matches!(before, Some(Object::Service(former)) if same(former)) {
            self.retired.remove(&service.id);
        }
    }

    /// No node over its allocatable, no port taken twice, constraints kept.
    fn check_placement(&mut self, now: u64, replica: &Replica, node: NodeId) {
        let mut found: Vec<String> = self.state.crowding(node).iter().map(ToString::to_string).collect();
        let changed = self.nodes_changed.get(&node).copied().unwrap_or(0);
        let spec = self
            .state
            .revision_of(replica.service, replica.revision)
            .map(|one| one.spec.clone());
        if let (Some(record), Some(spec)) = (self.state.node(node), spec)
            && now > changed + RACE_MS
            && let Err(reason) = gantry_scheduler::eligible(record, &spec, None)
        {
            found.push(format!(
                "{} is placed on {}, which {reason}",
                replica.object(),
                record.name
            ));
        }
        if let Some(message) = found.into_iter().next() {
            self.violation(now, "placement", message);
        }
    }

    /// A replica that had traffic is told to stop: nobody who has been there since it began to drain may route to it any more.
    fn check_stop(&mut self, now: u64, after: &Replica, nodes: &[Node]) {
        // What an entry itself reports was never in effect anywhere.
        let Some(before) = self.before.replica(after.id) else {
            return;
        };
        let serves = before.observed.ready && before.observed.phase == Phase::Running;
        let live = before
            .node
            .and_then(|node| self.state.node(node))
            .is_some_and(|node| node.status == NodeStatus::Ready);
        if !serves || !live || after.desired_reason == "service deleted" {
            return;
        }
        let Some(drained_at) = self.drained_at.get(&after.id).copied() else {
            let message = format!(
                "{} ({}) is stopped while it serves: {}",
                after.object(),
                after.id,
                after.desired_reason
            );
            return self.violation(now, "drain", message);
        };
        let routes = |node: &&Node| {
            let routes = node
                .routes
                .get(&after.service)
                .is_some_and(|endpoints| endpoints.contains(&after.id));
            routes && self.was_there(node.id, drained_at)
        };
        let router = nodes.iter().find(routes);
        self.closed.insert(after.id);
        if let Some(node) = router {
            let message = format!(
                "{} ({}) is stopped while node {} routes to it",
                after.object(),
                after.id,
                node.number
            );
            self.violation(now, "drain", message);
        }
    }

    /// Ready now, and without a break since that entry.
    fn was_there(&self, node: NodeId, since: usize) -> bool {
        let ready = self
            .state
            .node(node)
            .is_some_and(|node| node.status == NodeStatus::Ready);
        ready && self.ready_since.get(&node).is_some_and(|at| *at < since)
    }

    /// A node's data path changes: nothing that was stopped because no node routed to it may come back.
    ///
    /// What ended by itself, or with its node, is not asked about: nobody waited for acknowledgements, and a node that is behind
    /// learns of its beginning and its end one after the other.
    pub(crate) fn routes_change(&mut self, now: u64, node: &Node, routes: &Routes) {
        // A machine that was started anew begins with what its disk knows, and routes nothing to anybody before.
        if node.routes.is_empty() {
            return;
        }
        for (service, endpoints) in routes {
            for id in endpoints {
                let known = node.routes.get(service).is_some_and(|before| before.contains(id));
                let drained_at = self.drained_at.get(id).copied();
                if !known && self.closed.contains(id) && drained_at.is_some_and(|at| self.was_there(node.id, at)) {
                    let record = self
                        .state
                        .replica(*id)
                        .map(|one| (one.object(), one.desired, one.desired_reason.clone()));
                    let message = format!(
                        "node {} routes anew to {id}, which was stopped: {record:?}",
                        node.number
                    );
                    return self.violation(now, "stale-route", message);
                }
            }
        }
    }

    /// A slot has one replica that is to run, and a second one while it takes over.
    fn check_slots(&mut self, now: u64, service: ServiceId) {
        let mut active: BTreeMap<Slot, usize> = BTreeMap::new();
        // Its node was given up and has come back before its successor was stored: both are there until the next decision.
        let just_back = |replica: &&Replica| {
            let since = replica.node.and_then(|node| self.ready_since.get(&node));
            since.is_some_and(|since| self.entries.len() <= since + RACE_ENTRIES)
        };
        let active_ones = self.state.replicas_of(service).filter(|one| one.is_active());
        for replica in active_ones.filter(|one| !just_back(one)) {
            *active.entry(replica.slot).or_default() += 1;
        }
        if let Some((slot, count)) = active.into_iter().find(|(_, count)| *count > 2) {
            let message = format!(
                "slot {slot} of service {service} has {count} replicas that are to run\n{}",
                self.describe()
            );
            self.violation(now, "surge", message);
        }
    }

    /// No more slots than a batch holds are without service because of a rollout.
    fn check_rollout(&mut self, now: u64, id: ServiceId) {
        let Some(service) = self.state.service(id).cloned() else {
            return;
        };
        let Some(rollout) = service.rollout.as_ref().filter(|rollout| rollout.is_running()) else {
            self.retired.remove(&id);
            return;
        };
        let state = &self.state;
        let Some(retired) = self.retired.get_mut(&id) else {
            return;
        };
        // A slot may have had two replicas that served, and keeps one of them.
        let settled = |slot: &Slot| {
            let mut own = state.replicas_of(id).filter(|one| one.slot == *slot);
            own.any(|one| {
                let over = one.observed.phase.is_terminal() || rollout.failed.contains(&one.id);
                one.is_endpoint() || (one.revision == rollout.to && over)
            })
        };
        // What is on a node that is down is missing because of that.
        let lost = |slot: &Slot| {
            let mut left = state
                .replicas_of(id)
                .filter(|one| one.slot == *slot && one.holds_resources());
            left.any(|one| {
                one.node
                    .and_then(|node| state.node(node))
                    .is_none_or(|node| node.status == NodeStatus::Down)
            })
        };
        // A person who pauses, drains or labels a node so that the service is not to run there takes its slot out of the rollout.
        let withdrawn = |slot: &Slot| match slot {
            Slot::Node(node) => state.node(*node).is_none_or(|node| {
                !node.takes_replicas() || gantry_scheduler::eligible(node, &service.spec, None).is_err()
            }),
            Slot::Index(_) => false,
        };
        retired.retain(|slot| !settled(slot) && !lost(slot) && !withdrawn(slot));
        let parallelism = match rollout.kind {
            gantry_model::object::RolloutKind::Update => service.spec.update.parallelism,
            gantry_model::object::RolloutKind::Rollback => service.spec.rollback.parallelism,
        };
        let missing = retired.len();
        if parallelism > 0 && missing > parallelism as usize && !service.deleting {
            let message = format!(
                "{missing} slots of {} are being replaced at once, {parallelism} may be",
                service.object()
            );
            self.violation(now, "availability", message);
        }
    }

    /// A container begins.
    pub(crate) fn container_started(&mut self, now: u64, node: usize, replica: ReplicaId, already: bool) {
        if already {
            self.violation(now, "once", format!("replica {replica} runs twice on node {node}"));
        }
        let home = *self.homes.entry(replica).or_insert(node);
        if home != node {
            self.violation(
                now,
                "one-node",
                format!("replica {replica} runs on node {home} and on node {node}"),
            );
        }
    }

    pub(crate) fn acknowledged(&mut self, revision: u64, _by: u64) {
        if revision as usize > self.entries.len() {
            self.violation(
                0,
                "acknowledged",
                format!("entry {revision} is acknowledged before it is agreed upon"),
            );
        }
    }

    /// What is stored and what really is, where they differ.
    pub(crate) fn disagreement(&self, nodes: &[Node]) -> Option<String> {
        for node in nodes.iter().filter(|node| !node.gone && node.life > 0) {
            for id in node.running() {
                let wanted = self
                    .state
                    .replica(id)
                    .is_some_and(|one| one.desired == Desired::Run && one.node == Some(node.id));
                if !wanted {
                    let worker = node.agent.as_ref().map(|agent| agent.describe(id));
                    return Some(format!(
                        "{id} runs on node {} and is not wanted there; its worker: {worker:?}",
                        node.number
                    ));
                }
            }
            for (service, endpoints) in &node.routes {
                let stored = self
                    .state
                    .replicas_of(*service)
                    .filter(|one| one.is_endpoint())
                    .map(|one| one.id);
                if *endpoints != stored.collect::<BTreeSet<_>>() {
                    return Some(format!(
                        "node {} routes service {service} to {endpoints:?}",
                        node.number
                    ));
                }
            }
        }
        let lingers = |one: &&Replica| one.desired > Desired::Run && one.holds_resources();
        if let Some(replica) = self.state.replicas().find(lingers) {
            let node = nodes.iter().find(|node| Some(node.id) == replica.node);
            let worker = node
                .and_then(|node| node.agent.as_ref())
                .map(|agent| agent.describe(replica.id));
            return Some(format!(
                "{} ({}) does not end; its worker: {worker:?}",
                replica.object(),
                replica.id
            ));
        }
        for replica in self.state.replicas() {
            let running = replica.observed.phase == Phase::Running;
            let node = nodes.iter().find(|node| Some(node.id) == replica.node);
            let runs = node.is_some_and(|node| node.running().any(|id| id == replica.id));
            if replica.desired == Desired::Run && running != runs {
                return Some(format!(
                    "{} ({}) is said to be {}",
                    replica.object(),
                    replica.id,
                    replica.observed.phase
                ));
            }
        }
        None
    }

    pub(crate) fn last_checks(&mut self, now: u64) {
        let mut found: Vec<(&'static str, String)> = Vec::new();
        found.extend(
            self.state
                .violations()
                .into_iter()
                .map(|one| ("state", one.to_string())),
        );
        for replica in self.state.replicas() {
            if self.state.service(replica.service).is_none() {
                found.push(("deleted", format!("{} outlives its service", replica.object())));
            }
            let node = replica.node.and_then(|node| self.state.node(node));
            let spec = self.state.revision_of(replica.service, replica.revision);
            if let (Some(node), Some(record), true) = (node, spec, replica.is_active())
                && let Err(reason) = gantry_scheduler::eligible(node, &record.spec, None)
            {
                found.push((
                    "placement",
                    format!("{} stays on {}, which {reason}", replica.object(), node.name),
                ));
            }
        }
        if let Some((register, operations)) = self.history.offender() {
            found.push(("linearizable", format!("register {register}: {operations:#?}")));
        }
        if let Some((promise, message)) = found.into_iter().next() {
            self.violation(now, promise, message);
        }
    }

    /// The state for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let services = self.state.services().map(|one| {
            format!(
                "  {} r{} {:?} deleting {} rollout {:?}\n",
                one.object(),
                one.revision,
                one.spec.mode,
                one.deleting,
                one.rollout
            )
        });
        let replicas = self.state.replicas().map(|one| {
            let observed = &one.observed;
            format!(
                "  {} {} r{} node {:?} {:?} ({}) {} ready {} '{}' {:?}\n",
                one.object(),
                one.id,
                one.revision,
                one.node,
                one.desired,
                one.desired_reason,
                observed.phase,
                observed.ready,
                observed.message,
                one.explanation.as_ref().map(|why| &why.summary)
            )
        });
        let nodes = self.state.nodes().map(|one| {
            format!(
                "  node {} {} {} {:?}\n",
                one.id, one.status, one.availability, one.labels
            )
        });
        services.chain(replicas).chain(nodes).collect()
    }
}
