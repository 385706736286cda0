//! Room for what matters more: which replicas of lower priority have to give way.
//!
//! **Invariant:** only replicas of strictly lower priority give way, no more than are needed, and never more of a service than
//! its disruption budget allows. Whose slot gave way displaces nobody in turn, so there is no cascade.
//! Deliberately not here: ending them. They are drained first like all that serve, and the room is given when it is free.

use std::collections::BTreeMap;

use gantry_model::object::Replica;
use gantry_model::phase::Desired;
use gantry_model::spec::Mode;
use gantry_model::{NodeId, ReplicaId, ServiceId, Timestamp};
use gantry_state::{Op, State};

use crate::Fleet;
use crate::filter::Miss;
use crate::ground::Ground;
use crate::held::Held;
use crate::node_use::NodeUse;
use crate::nodes::NodeIx;
use crate::place::{DISPLACED, Request};
use crate::reservation::Reservation;

/// Nodes looked at closely, those that lack least: what is chosen is the least harm among these.
const NODES_MAX: usize = 64;

/// Replicas that are to give way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Displacement {
    /// Where there will be room.
    pub node: NodeId,
    /// Who gives way, the lowest priority first.
    pub victims: Vec<ReplicaId>,
    /// For people: `displaced by shop/db (priority 10)`.
    pub reason: String,
}

impl Displacement {
    /// The operations that write it down: what serves is drained, the rest is stopped.
    #[must_use]
    pub fn ops(&self, state: &State) -> Vec<Op> {
        let serves = |id: &ReplicaId| state.replica(*id).is_some_and(Replica::is_endpoint);
        let op = |replica: &ReplicaId| Op::Desire {
            replica: *replica,
            desired: if serves(replica) { Desired::Drain } else { Desired::Stop },
            reason: self.reason.clone(),
        };
        self.victims.iter().map(op).collect()
    }
}

/// One node's way of making room; the least harm compares lowest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Harm {
    highest_priority: i32,
    victims: usize,
    serving: usize,
    node: NodeId,
    replicas: Vec<ReplicaId>,
}

impl Fleet {
    /// Who should give way so that a refused request finds room. Nobody when priority does not help, and nobody either when
    /// enough is on its way out already. Those named count as leaving from now on.
    pub fn displace(&mut self, state: &State, request: &Request, now: Timestamp) -> Option<Displacement> {
        let priority = request.spec.placement.priority;
        let lowest = self.known.values().map(|known| known.spec.placement.priority).min();
        if !request.may_displace || lowest.is_none_or(|lowest| lowest >= priority) {
            return None;
        }
        let ground = self.survey(request, now);
        let mut lacking: Vec<(u64, NodeIx)> = Vec::new();
        for (number, used) in self.nodes.iter() {
            if request.node.is_some_and(|node| node != used.id) {
                continue;
            }
            match room(&ground, number, used, priority) {
                Room::Coming => return None,
                Room::None => {}
                Room::Below { lacks } => lacking.push((lacks, number)),
            }
        }
        lacking.sort_unstable();
        lacking.truncate(NODES_MAX);
        let ways = lacking.iter().filter_map(|(_, node)| self.harm(state, *node, &ground));
        let least = ways.min()?;
        for victim in &least.replicas {
            self.mark_leaving(*victim);
        }
        Some(Displacement {
            node: least.node,
            victims: least.replicas,
            reason: format!(
                "{DISPLACED}{}/{} (priority {priority})",
                request.namespace, request.service_name
            ),
        })
    }

    /// The fewest replicas of one node that would have to go, those of the lowest priority first.
    fn harm(&self, state: &State, node: NodeIx, ground: &Ground<'_>) -> Option<Harm> {
        let used = self.nodes.get(node)?;
        let priority = ground.request.spec.placement.priority;
        let mut below: Vec<(ReplicaId, &Held)> = state
            .replicas_on(used.id)
            .filter_map(|replica| Some((replica.id, self.held.get(&replica.id)?)))
            .filter(|(_, held)| held.holds && held.wanted && held.reservation.priority < priority)
            .collect();
        // The lowest priority first, what does not serve before what does, the largest first: so the fewest go.
        below.sort_by_key(|(id, held)| {
            let size = held.reservation.cpu.0.max(held.reservation.memory.0 >> 22);
            (held.reservation.priority, held.serves, std::cmp::Reverse(size), *id)
        });
        let mut what_if = used.clone();
        let leaving: Vec<&Held> = state
            .replicas_on(used.id)
            .filter_map(|replica| self.held.get(&replica.id))
            .filter(|held| held.holds && !held.wanted)
            .collect();
        leaving.iter().for_each(|held| what_if.give_back(held));
        let mut gone: Vec<(ReplicaId, &Held)> = Vec::new();
        let mut disrupted: BTreeMap<ServiceId, u32> = BTreeMap::new();
        for (id, held) in below {
            if fits(&what_if, &ground.reservation) {
                break;
            }
            if !self.may_disrupt(held, &disrupted) {
                continue;
            }
            *disrupted.entry(held.service).or_default() += u32::from(held.serves);
            what_if.give_back(held);
            gone.push((id, held));
        }
        if !fits(&what_if, &ground.reservation) {
            return None;
        }
        spare_the_needless(&mut what_if, &mut gone, &ground.reservation);
        Some(Harm {
            highest_priority: gone.iter().map(|(_, held)| held.reservation.priority).max()?,
            victims: gone.len(),
            serving: gone.iter().filter(|(_, held)| held.serves).count(),
            node: used.id,
            replicas: gone.into_iter().map(|(id, _)| id).collect(),
        })
    }

    /// Whether the budget of the replica's service allows one more to be away.
    fn may_disrupt(&self, held: &Held, disrupted: &BTreeMap<ServiceId, u32>) -> bool {
        if !held.serves {
            return true;
        }
        let Some(known) = self.known.get(&held.service) else {
            return true;
        };
        let (Some(budget), Mode::Replicated { replicas }) = (known.spec.placement.max_unavailable, known.spec.mode)
        else {
            return true;
        };
        let serving = self.services.get(&held.service).map_or(0, |used| used.serving);
        let away = disrupted.get(&held.service).copied().unwrap_or(0);
        let left = serving.saturating_sub(away + 1);
        left >= replicas.saturating_sub(budget.of(replicas))
    }

    /// The replica has been told to end; what it holds is free once it has.
    pub fn leaves(&mut self, replica: ReplicaId) {
        self.mark_leaving(replica);
    }

    fn mark_leaving(&mut self, replica: ReplicaId) {
        if let Some(held) = self.held.get(&replica).cloned() {
            let leaving = Held { wanted: false, ..held };
            self.hold(replica, leaving);
        }
    }
}

/// What a node could do for a request.
enum Room {
    /// Nothing.
    None,
    /// Enough, once what is leaving has left.
    Coming,
    /// Enough, if some of lower priority gave way too; so many thousandths of the node are missing.
    Below { lacks: u64 },
}

fn room(ground: &Ground<'_>, number: NodeIx, used: &NodeUse, priority: i32) -> Room {
    if used.leaving.replicas == 0 && used.taken_below(priority).2 == 0 {
        return Room::None;
    }
    match ground.refuses(number, used) {
        Some(Miss::Cpu { .. } | Miss::Memory { .. } | Miss::Generic { .. } | Miss::Port(_)) => {}
        // The others are no matter of room, or the node would do.
        Some(_) | None => return Room::None,
    }
    let needed = &ground.reservation;
    let (cpu, memory) = (
        used.cpu_free() + used.leaving.cpu,
        used.memory_free() + used.leaving.memory,
    );
    let rare = needed.is_rare();
    if needed.cpu <= cpu && needed.memory <= memory && !rare && used.leaving.replicas > 0 {
        return Room::Coming;
    }
    let (cpu_below, memory_below, count) = used.taken_below(priority);
    if count == 0 || needed.cpu > cpu + cpu_below || needed.memory > memory + memory_below {
        return Room::None;
    }
    let part = |lack: u64, whole: u64| lack.saturating_mul(1000) / whole.max(1);
    Room::Below {
        lacks: part((needed.cpu - cpu).0, used.cpu_allocatable.0)
            + part((needed.memory - memory).0, used.memory_allocatable.0),
    }
}

/// Whether the node would have all that is asked for.
fn fits(used: &NodeUse, needed: &Reservation) -> bool {
    let generic = needed
        .generic
        .iter()
        .all(|(kind, value)| used.generic_free(kind) >= *value);
    let taken = |port: &crate::reservation::HostPort| used.ports.keys().any(|other| other.clashes(*port));
    needed.cpu <= used.cpu_free() && needed.memory <= used.memory_free() && generic && !needed.ports.iter().any(taken)
}

/// Lets those stay, the highest priority first, without which there is room enough anyway.
fn spare_the_needless(what_if: &mut NodeUse, gone: &mut Vec<(ReplicaId, &Held)>, needed: &Reservation) {
    for index in (0..gone.len()).rev() {
        let (_, held) = gone[index];
        what_if.take(held);
        if fits(what_if, needed) {
            gone.remove(index);
        } else {
            what_if.give_back(held);
        }
    }
}
