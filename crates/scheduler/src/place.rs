//! A batch of decisions.

use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_model::explain::Explanation;
use gantry_model::object::Slot;
use gantry_model::spec::{ServiceSpec, Strategy};
use gantry_model::{Name, NodeId, ReplicaId, ServiceId, Timestamp};
use gantry_state::{Op, State};

use crate::Fleet;
use crate::ground::Ground;
use crate::nodes::NodeIx;
use crate::queue::{Groups, Queue, best_of};
use crate::score::Candidate;

/// How the reason begins that is stored with a replica which gave way to one of higher priority.
pub const DISPLACED: &str = "displaced by ";

/// A replica that needs a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The replica.
    pub replica: ReplicaId,
    /// Its service.
    pub service: ServiceId,
    /// Namespace of the service.
    pub namespace: Name,
    /// Name of the service.
    pub service_name: Name,
    /// The position it fills.
    pub slot: Slot,
    /// Its revision.
    pub revision: u32,
    /// The spec of its revision.
    pub spec: Arc<ServiceSpec>,
    /// The one node it is for, in a global service or job.
    pub node: Option<NodeId>,
    /// Nodes that could not run earlier replicas of this slot: taken only when there is no other.
    pub avoid: Vec<NodeId>,
    /// Nodes that have the named volumes of this slot.
    pub volumes_on: Vec<NodeId>,
    /// It may displace replicas of lower priority. Not one whose slot was displaced itself: there are no cascades.
    pub may_displace: bool,
}

/// Where a replica goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The node.
    pub node: NodeId,
    /// Its address there.
    pub address: Ipv4Addr,
    /// Why there.
    pub why: Why,
}

/// Why a node was chosen, in numbers; [`Why::explain`] says it in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Why {
    /// Nodes that would have done.
    pub fitting: u32,
    /// Replicas of the service that were on the node.
    pub others: u32,
    /// By which rule.
    pub rule: Rule,
}

/// The rule by which a node was chosen among equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// It is the node the replica is for.
    OnePerNode,
    /// The one that is packed best.
    BestPacked,
    /// The emptiest.
    Emptiest,
    /// The one with the fewest replicas, since nothing is reserved.
    FewestReplicas,
}

impl Why {
    /// For people.
    #[must_use]
    pub fn explain(self) -> Explanation {
        let Self { fitting, others, rule } = self;
        let rule = match rule {
            Rule::OnePerNode => {
                return Explanation {
                    summary: "placed here: one replica on every eligible node".to_string(),
                    ..Explanation::default()
                };
            }
            Rule::BestPacked => "the one that is packed best",
            Rule::Emptiest => "the emptiest",
            Rule::FewestReplicas => "the one with the fewest replicas",
        };
        Explanation {
            summary: format!("placed here: {fitting} node(s) would do, {others} of the service ran here; then {rule}"),
            ..Explanation::default()
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The replica.
    pub replica: ReplicaId,
    /// Where it goes, or why nowhere.
    pub result: Result<Placed, Explanation>,
}

impl Decision {
    /// The operation that writes it down; none when `state` says the same already.
    #[must_use]
    pub fn op(&self, state: &State) -> Option<Op> {
        match &self.result {
            Ok(placed) => Some(Op::Assign {
                replica: self.replica,
                node: placed.node,
                address: placed.address,
                explanation: Some(placed.why.explain()),
            }),
            Err(explanation) => {
                let known = state
                    .replica(self.replica)
                    .and_then(|replica| replica.explanation.as_ref());
                (known != Some(explanation)).then(|| Op::Explain {
                    replica: self.replica,
                    explanation: Some(explanation.clone()),
                })
            }
        }
    }
}

/// How the best node is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    /// In a queue that is kept in order.
    Queue,
    /// By looking at all nodes anew.
    Scan,
}

impl Fleet {
    /// Decides the requests and reserves what it gives, so that later decisions see earlier ones. Decisions come in the order
    /// of the requests, and do not depend on it: higher priority goes first, then the largest, then by service and slot.
    pub fn place(&mut self, requests: &[Request], now: Timestamp) -> Vec<Decision> {
        self.place_by(requests, now, Search::Queue)
    }

    /// The same decisions, each found by looking at all nodes: what [`Fleet::place`] is checked against.
    pub fn place_by_scan(&mut self, requests: &[Request], now: Timestamp) -> Vec<Decision> {
        self.place_by(requests, now, Search::Scan)
    }

    fn place_by(&mut self, requests: &[Request], now: Timestamp, search: Search) -> Vec<Decision> {
        let mut order: Vec<&Request> = requests.iter().collect();
        // Most batches come in order: then this is one walk.
        order.sort_by_key(|request| sort_key(request));
        let mut decided = crate::id_map::IdMap::default();
        let (cpu, memory) = demand(&order);
        let needed = self.nodes.capacity().nodes_needed(cpu, memory);
        let mut rest = order.as_slice();
        while let Some(first) = rest.first() {
            let like = rest.iter().take_while(|other| are_alike(first, other)).count();
            let (group, later) = rest.split_at(like);
            let outlook = Outlook { now, needed };
            self.place_group(group, outlook, search, &mut decided);
            rest = later;
        }
        let decision = |request: &Request| {
            let result = decided.remove(&request.replica)?;
            Some(Decision {
                replica: request.replica,
                result,
            })
        };
        requests.iter().filter_map(decision).collect()
    }

    fn place_group(&mut self, group: &[&Request], outlook: Outlook, search: Search, decided: &mut Decided) {
        let Some(first) = group.first().copied() else { return };
        let mut ground = self.survey(first, outlook.now);
        if let Some(node) = first.node {
            let result = self.place_fixed(node, &ground);
            self.note(first, &ground, result, decided);
            return;
        }
        ground.fresh = self.fresh_for(&ground, outlook.needed);
        let candidates = self.candidates(&ground);
        let groups = self.groups(&ground);
        let mut fitting = u32::try_from(candidates.len()).unwrap_or(u32::MAX);
        if search == Search::Scan || must_scan(&ground, &candidates, &groups) {
            let fresh = ground.fresh;
            for request in group {
                self.place_anew(request, outlook.now, &fresh, decided);
            }
            return;
        }
        let mut queue = Queue::new(candidates, groups);
        for (index, request) in group.iter().enumerate() {
            let Some((leaf, key)) = queue.peek() else {
                let why = self.explain_refusal(&ground);
                for request in &group[index..] {
                    decided.insert(request.replica, Err(why.clone()));
                }
                return;
            };
            let result = self.grant(request, key.node, &ground, fitting);
            let placed = result.is_ok();
            self.note(request, &ground, result, decided);
            if placed {
                ground.note_placed(key.node);
            }
            let hot = self.nodes.hot().get(key.node as usize);
            let again = hot.filter(|_| placed && ground.still_fits(key.node, &self.nodes));
            fitting -= u32::from(again.is_none());
            queue.settle(leaf, again.map(|hot| ground.key(key.node, hot)));
        }
    }

    /// One replica, decided by looking at all nodes.
    fn place_anew(&mut self, request: &Request, now: Timestamp, fresh: &[NodeIx], decided: &mut Decided) {
        let mut ground = self.survey(request, now);
        ground.fresh = fresh.to_vec();
        let candidates = self.candidates(&ground);
        let groups = self.groups(&ground);
        let fitting = u32::try_from(candidates.len()).unwrap_or(u32::MAX);
        let result = match best_of(&candidates, &groups) {
            Some(best) => self.grant(request, best.key.node, &ground, fitting),
            None => Err(self.explain_refusal(&ground)),
        };
        self.note(request, &ground, result, decided);
    }

    fn place_fixed(&self, node: NodeId, ground: &Ground<'_>) -> Result<Placed, Explanation> {
        let number = self.nodes.number(node);
        let used = number.and_then(|number| Some((number, self.nodes.get(number)?)));
        match used.map(|(number, used)| (number, ground.refuses(number, used))) {
            Some((number, None)) => {
                let mut placed = self.grant(ground.request, number, ground, 1)?;
                placed.why.rule = Rule::OnePerNode;
                Ok(placed)
            }
            Some((_, Some(_))) | None => Err(self.explain_fixed(node, ground)),
        }
    }

    /// The groups over which the service is to be spread, with its replicas in them.
    pub(crate) fn groups(&mut self, ground: &Ground<'_>) -> Groups {
        let placement = &ground.request.spec.placement;
        if placement.preferences.is_empty() {
            return Groups::none();
        }
        let keys: Vec<_> = placement.preferences.iter().map(|one| one.key().clone()).collect();
        let service = (ground.request.service, ground.request.revision);
        let class = self
            .classes
            .of(service, placement, ground.platform.as_deref(), &self.nodes);
        let topology = self.topologies.of(&keys, &self.nodes);
        let counts = ground.counts_in(topology);
        Groups::new(topology, counts, &placement.preferences, class.eligible())
    }

    /// Turns a node that would do into a placement.
    fn grant(&self, request: &Request, node: NodeIx, ground: &Ground<'_>, fitting: u32) -> Result<Placed, Explanation> {
        let free = self.nodes.get(node).and_then(|used| {
            let subnet = used.node.as_ref()?.subnet;
            Some((used.id, used.addresses.free(subnet, request.replica)?))
        });
        match free {
            Some((id, address)) => Ok(Placed {
                node: id,
                address,
                why: Why {
                    fitting,
                    others: ground.count(node).all,
                    rule: rule(ground),
                },
            }),
            None => Err(Explanation {
                summary: "no free address on the node".to_string(),
                ..Explanation::default()
            }),
        }
    }

    fn note(
        &mut self,
        request: &Request,
        ground: &Ground<'_>,
        result: Result<Placed, Explanation>,
        decided: &mut Decided,
    ) {
        if let Ok(placed) = &result {
            self.reserve(request, placed, &ground.reservation);
        }
        decided.insert(request.replica, result);
    }
}

/// What is the same for all groups of a batch.
#[derive(Debug, Clone, Copy)]
struct Outlook {
    now: Timestamp,
    /// Nodes without which the cluster and the batch cannot have room.
    needed: u64,
}

/// What the requests ask for in all.
fn demand(requests: &[&Request]) -> (u64, u64) {
    requests.iter().fold((0, 0), |(cpu, memory), request| {
        let resources = &request.spec.resources;
        (
            cpu.saturating_add(resources.cpu_reservation.0),
            memory.saturating_add(resources.memory_reservation.0),
        )
    })
}

type Decided = crate::id_map::IdMap<ReplicaId, Result<Placed, Explanation>>;

/// The queue does not see rules that a service makes about itself, nor what a spent tier means for the groups.
fn must_scan(ground: &Ground<'_>, candidates: &[Candidate], groups: &Groups) -> bool {
    let about_itself = ground
        .request
        .spec
        .placement
        .neighbours
        .iter()
        .any(|rule| rule.service == ground.request.service_name);
    let first = candidates.first().map(|one| one.tier);
    let mixed = || candidates.iter().any(|one| Some(one.tier) != first);
    about_itself || (groups.is_strict() && mixed())
}

fn rule(ground: &Ground<'_>) -> Rule {
    match (ground.scale.weighted, ground.scale.strategy) {
        (false, _) => Rule::FewestReplicas,
        (true, Strategy::Binpack) => Rule::BestPacked,
        (true, Strategy::Spread) => Rule::Emptiest,
    }
}

/// Higher priority first, then the largest, so that the small ones fill what is left.
fn sort_key(request: &Request) -> impl Ord + use<> {
    let resources = &request.spec.resources;
    let size = resources.cpu_reservation.0.max(resources.memory_reservation.0 >> 22);
    (
        std::cmp::Reverse((request.spec.placement.priority, size)),
        request.service,
        request.revision,
        request.slot,
        request.replica,
    )
}

/// Whether the same nodes are asked the same.
fn are_alike(one: &Request, two: &Request) -> bool {
    one.node.is_none()
        && two.node.is_none()
        && one.service == two.service
        && one.revision == two.revision
        && (Arc::ptr_eq(&one.spec, &two.spec) || one.spec == two.spec)
        && one.avoid == two.avoid
        && one.volumes_on == two.volumes_on
        || std::ptr::eq(one, two)
}
