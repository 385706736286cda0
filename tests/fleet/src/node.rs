//! What one agent knows and has to say: its replicas, and the newest report of each that is not sent yet.
//!
//! **Invariant:** a node keeps its replicas from session to session, as machines do, and reports all of them at the beginning
//! of each; a set that does not follow the one it has changes nothing.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use gantry_api::v1::{Assignments, Status};
use gantry_api::{decode, encode, kind};
use gantry_model::assignment::ItemKey;
use gantry_model::object::Slot;
use gantry_model::phase::{Desired, Observed, Phase};
use gantry_model::{Name, Problem, ReplicaId, Timestamp};
use serde::Deserialize;

use crate::clock::micros;
use crate::ledger::{Arrival, Ledger, add, subtract};

/// Reports in one message, as of a real agent.
const STATUSES_PER_MESSAGE: usize = 1000;

/// Of an item what an agent without containers needs: the rest is skipped by the parser.
#[derive(Deserialize)]
struct Seen {
    item: Kind,
    id: Option<String>,
    namespace: Option<Name>,
    service_name: Option<Name>,
    slot: Option<Slot>,
    desired: Option<Desired>,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Node,
    Replica,
    Service,
    Peer,
    Data,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    desired: Desired,
    phase: Phase,
    sequence: u64,
}

/// How an increment fits.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// In effect.
    Applied(u64),
    /// It follows another set than this node has.
    Resync,
}

/// See the module.
pub struct Node {
    ledger: Arc<Ledger>,
    /// How long a container takes to start.
    delay: u64,
    /// Arrivals in this namespace are noted one by one.
    watched: String,
    set: u64,
    replicas: HashMap<ReplicaId, Held>,
    board: BTreeMap<ReplicaId, Option<Phase>>,
    starting: VecDeque<(u64, ReplicaId)>,
}

impl Drop for Node {
    fn drop(&mut self) {
        for (_, held) in self.replicas.drain() {
            uncount(&self.ledger, held);
        }
    }
}

fn uncount(ledger: &Ledger, held: Held) {
    if wanted(held.desired) {
        subtract(&ledger.wanted, 1);
    }
    if held.phase == Phase::Running {
        subtract(&ledger.running, 1);
    }
}

fn wanted(desired: Desired) -> bool {
    desired == Desired::Run
}

impl Node {
    /// A node without replicas whose containers take `delay` microseconds to start.
    pub fn new(ledger: Arc<Ledger>, delay: u64, watched: String) -> Self {
        Self {
            ledger,
            delay,
            watched,
            set: 0,
            replicas: HashMap::new(),
            board: BTreeMap::new(),
            starting: VecDeque::new(),
        }
    }

    /// A session begins: there is everything to tell.
    pub fn begin_session(&mut self) {
        self.set = 0;
        self.board = self.replicas.iter().map(|(id, held)| (*id, Some(held.phase))).collect();
    }

    /// Takes a set in.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn take(&mut self, set: &Assignments) -> Result<Taken, Problem> {
        let is_complete = set.applies_to == 0;
        if !is_complete && set.applies_to != self.set {
            add(&self.ledger.resyncs, 1);
            return Ok(Taken::Resync);
        }
        let counter = if is_complete {
            &self.ledger.complete
        } else {
            &self.ledger.increments
        };
        add(counter, 1);
        add(&self.ledger.items, set.put.len());
        add(
            &self.ledger.item_bytes,
            set.put.iter().map(|item| item.json.len()).sum(),
        );
        let mut named = HashSet::new();
        for document in &set.put {
            let seen: Seen = decode(document, kind::ITEM)?;
            if seen.item == Kind::Replica {
                named.extend(self.put(seen)?);
            }
        }
        for document in &set.remove {
            if let ItemKey::Replica(id) = decode(document, kind::ITEM_KEY)? {
                self.forget(id);
            }
        }
        if is_complete {
            let gone: Vec<ReplicaId> = self.replicas.keys().filter(|id| !named.contains(id)).copied().collect();
            gone.into_iter().for_each(|id| self.forget(id));
        }
        self.set = set.results_in;
        Ok(Taken::Applied(self.set))
    }

    fn put(&mut self, seen: Seen) -> Result<Option<ReplicaId>, Problem> {
        let (Some(id), Some(desired)) = (seen.id, seen.desired) else {
            return Ok(None);
        };
        let id: ReplicaId = gantry_api::parse_id("replica", &id)?;
        let Some(held) = self.replicas.get(&id).copied() else {
            self.replicas.insert(
                id,
                Held {
                    desired,
                    phase: Phase::Preparing,
                    sequence: 0,
                },
            );
            if wanted(desired) {
                add(&self.ledger.wanted, 1);
                add(&self.ledger.assigned, 1);
            }
            self.note(seen.namespace, seen.service_name, seen.slot);
            self.follow(id, desired);
            return Ok(Some(id));
        };
        if held.desired != desired {
            if wanted(held.desired) && !wanted(desired) {
                subtract(&self.ledger.wanted, 1);
            }
            if let Some(held) = self.replicas.get_mut(&id) {
                held.desired = desired;
            }
            self.follow(id, desired);
        }
        Ok(Some(id))
    }

    fn note(&self, namespace: Option<Name>, service: Option<Name>, slot: Option<Slot>) {
        if let (Some(namespace), Some(service), Some(slot)) = (namespace, service, slot)
            && namespace.as_str() == self.watched
        {
            let replica = format!("{service}.{slot}");
            self.ledger.arrived(Arrival { replica, at: micros() });
        }
    }

    /// Does what is desired of a replica, as far as it takes no time.
    fn follow(&mut self, id: ReplicaId, desired: Desired) {
        match desired {
            Desired::Run | Desired::Drain if self.delay == 0 => self.reach(id, Phase::Running),
            Desired::Run | Desired::Drain => {
                self.board.insert(id, Some(Phase::Preparing));
                self.starting.push_back((micros() + self.delay, id));
            }
            Desired::Stop => self.reach(id, Phase::Stopped),
            Desired::Remove => {
                self.reach(id, Phase::Stopped);
                self.board.insert(id, None);
            }
        }
    }

    /// A replica has come so far. What has ended stays ended.
    fn reach(&mut self, id: ReplicaId, phase: Phase) {
        let Some(held) = self.replicas.get_mut(&id).filter(|held| held.phase < phase) else {
            return;
        };
        match (held.phase == Phase::Running, phase == Phase::Running) {
            (false, true) => add(&self.ledger.running, 1),
            (true, false) => subtract(&self.ledger.running, 1),
            (true, true) | (false, false) => {}
        }
        held.phase = phase;
        self.board.insert(id, Some(phase));
    }

    fn forget(&mut self, id: ReplicaId) {
        self.board.remove(&id);
        if let Some(held) = self.replicas.remove(&id) {
            uncount(&self.ledger, held);
        }
    }

    /// When the next container has started.
    pub fn next_start(&self) -> Option<u64> {
        self.starting.front().map(|(at, _)| *at)
    }

    /// Lets the containers run that have started by now.
    pub fn started(&mut self, now: u64) {
        while self.starting.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, id)) = self.starting.pop_front() {
                self.reach(id, Phase::Running);
            }
        }
    }

    /// Whether there is something to report.
    pub fn has_news(&self) -> bool {
        !self.board.is_empty()
    }

    /// Takes the reports of one message.
    pub fn report(&mut self, now: Timestamp) -> Vec<Status> {
        let mut items = Vec::new();
        while items.len() < STATUSES_PER_MESSAGE {
            let Some((id, told)) = self.board.pop_first() else {
                break;
            };
            let observed = told.and_then(|phase| self.observed(id, phase, now));
            items.push(Status {
                replica: id.to_string(),
                removed: observed.is_none(),
                observed: observed.map(|observed| encode(kind::OBSERVED, &observed)),
            });
        }
        items
    }

    fn observed(&mut self, id: ReplicaId, phase: Phase, now: Timestamp) -> Option<Observed> {
        let held = self.replicas.get_mut(&id)?;
        held.sequence += 1;
        let is_running = phase == Phase::Running;
        Some(Observed {
            phase,
            sequence: held.sequence,
            ready: is_running,
            pid: is_running.then_some(1),
            started_at: is_running.then_some(now),
            ready_since: is_running.then_some(now),
            at: now,
            ..Observed::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_api::v1::Document;
    use std::sync::atomic::Ordering;

    fn node(delay: u64) -> (Node, Arc<Ledger>) {
        let ledger = Arc::new(Ledger::default());
        (Node::new(ledger.clone(), delay, "one".into()), ledger)
    }

    fn replica(id: u64, namespace: &str, desired: &str) -> Document {
        let item = serde_json::json!({
            "item": "replica", "id": ReplicaId(id), "service": ReplicaId(9), "namespace": namespace, "service_name": "s",
            "slot": { "index": id }, "revision": 1, "address": "10.0.0.1", "desired": desired, "spec": { "any": ["thing"] },
        });
        encode(kind::ITEM, &item)
    }

    fn set(applies_to: u64, put: Vec<Document>, remove: &[u64]) -> Assignments {
        let remove = remove
            .iter()
            .map(|id| encode(kind::ITEM_KEY, &ItemKey::Replica(ReplicaId(*id))));
        Assignments {
            applies_to,
            results_in: applies_to + 1,
            put,
            remove: remove.collect(),
        }
    }

    fn phases(node: &mut Node) -> Vec<(String, Option<Phase>)> {
        let told = node.report(Timestamp(1)).into_iter().map(|status| {
            let observed = status
                .observed
                .map(|document| decode::<Observed>(&document, kind::OBSERVED));
            (
                status.replica,
                observed.map(|observed| observed.expect("a report").phase),
            )
        });
        told.collect()
    }

    #[test]
    fn a_replica_runs_stops_and_is_forgotten_as_the_leader_wants() {
        let (mut node, ledger) = node(0);
        let id = ReplicaId(1).to_string();
        assert_eq!(
            node.take(&set(0, vec![replica(1, "one", "run")], &[])),
            Ok(Taken::Applied(1))
        );
        assert_eq!(phases(&mut node), [(id.clone(), Some(Phase::Running))]);
        assert_eq!(ledger.running.load(Ordering::Relaxed), 1);
        assert_eq!(ledger.take_arrivals().len(), 1, "its namespace is watched");
        assert_eq!(
            node.take(&set(1, vec![replica(1, "one", "drain")], &[])),
            Ok(Taken::Applied(2))
        );
        assert!(!node.has_news(), "it goes on running");
        assert_eq!(
            node.take(&set(2, vec![replica(1, "one", "stop")], &[])),
            Ok(Taken::Applied(3))
        );
        assert_eq!(phases(&mut node), [(id.clone(), Some(Phase::Stopped))]);
        assert_eq!(
            node.take(&set(3, vec![replica(1, "one", "remove")], &[])),
            Ok(Taken::Applied(4))
        );
        assert_eq!(phases(&mut node), [(id, None)]);
        assert_eq!(node.take(&set(4, vec![], &[1])), Ok(Taken::Applied(5)));
        let counts = [&ledger.wanted, &ledger.running, &ledger.assigned].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts, [0, 0, 1]);
    }

    #[test]
    fn an_increment_to_another_set_changes_nothing() {
        let (mut node, ledger) = node(0);
        assert_eq!(node.take(&set(0, vec![], &[])), Ok(Taken::Applied(1)));
        assert_eq!(node.take(&set(7, vec![replica(1, "a", "run")], &[])), Ok(Taken::Resync));
        assert!(!node.has_news());
        assert_eq!(ledger.resyncs.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_container_takes_its_time_and_a_new_session_hears_of_everything() {
        let (mut node, ledger) = node(1_000_000);
        let complete = set(0, vec![replica(1, "a", "run"), replica(2, "a", "run")], &[]);
        assert_eq!(node.take(&complete), Ok(Taken::Applied(1)));
        assert!(
            phases(&mut node)
                .iter()
                .all(|(_, phase)| *phase == Some(Phase::Preparing))
        );
        let due = node.next_start().expect("two containers start");
        node.started(due - 1);
        assert!(!node.has_news());
        node.started(due + 1_000_000);
        assert_eq!(phases(&mut node).len(), 2);
        node.begin_session();
        assert_eq!(
            node.take(&set(0, vec![replica(2, "a", "run")], &[])),
            Ok(Taken::Applied(1))
        );
        assert_eq!(phases(&mut node), [(ReplicaId(2).to_string(), Some(Phase::Running))]);
        assert_eq!(
            ledger.wanted.load(Ordering::Relaxed),
            1,
            "the other one is not in the complete set"
        );
        drop(node);
        assert_eq!(ledger.running.load(Ordering::Relaxed), 0);
    }
}
