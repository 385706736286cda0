//! What is still on a node that is to be empty, and what it waits for: no drain goes on without saying why.

use gantry_model::object::{NodeStatus, Replica, Slot};
use gantry_model::phase::Desired;
use gantry_model::{NodeId, ReplicaId};
use gantry_state::State;

use crate::budget;

/// A replica that holds resources of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remaining {
    /// The replica.
    pub replica: ReplicaId,
    /// For people: `web.2: its successor web.2 is pending: no suitable node`.
    pub reason: String,
    /// The next thing to do; empty where waiting is all.
    pub remedy: String,
}

/// What is left on a node, in order of services and slots.
#[must_use]
pub fn remaining(state: &State, node: NodeId) -> Vec<Remaining> {
    let mut left: Vec<&Replica> = state.replicas_on(node).filter(|one| one.holds_resources()).collect();
    left.sort_by_key(|one| (&one.namespace, &one.service_name, one.slot, one.created_at, one.id));
    let down = state.node(node).is_some_and(|node| node.status == NodeStatus::Down);
    let describe = |one: &Replica| {
        let (reason, remedy) = match one.desired {
            _ if down => ("its node is down and cannot end it".to_string(), String::new()),
            Desired::Run => waits_for(state, one),
            Desired::Drain => ("waits until no node routes to it".to_string(), String::new()),
            Desired::Stop | Desired::Remove => (stopping(one), String::new()),
        };
        Remaining {
            replica: one.id,
            reason: format!("{}/{}: {reason}", one.namespace, one.name()),
            remedy,
        }
    };
    left.into_iter().map(describe).collect()
}

fn stopping(replica: &Replica) -> String {
    match replica.observed.message.as_str() {
        "" => "is stopping".to_string(),
        message => format!("is stopping: {message}"),
    }
}

/// What a replica that still runs waits for: its successor, or its budget.
fn waits_for(state: &State, replica: &Replica) -> (String, String) {
    let Some(service) = state.service(replica.service) else {
        return ("its service is gone".to_string(), String::new());
    };
    let newest = state
        .replicas_of(replica.service)
        .filter(|one| one.slot == replica.slot && one.id != replica.id && one.created_at >= replica.created_at)
        .max_by_key(|one| (one.created_at, one.id));
    let remedy = |of: &Replica| format!("see 'gantry explain {}/{}'", of.namespace, of.name());
    match newest {
        Some(next) if next.is_active() && next.node.is_none() => {
            let why = next.explanation.clone().unwrap_or_default();
            (format!("its successor has no node: {}", why.summary), why.remedy)
        }
        Some(next) if next.is_ready() && next.held => {
            ("its successor is held back by the rollout".to_string(), remedy(next))
        }
        Some(next) if next.is_ready() => ("its successor serves, it is about to go".to_string(), String::new()),
        Some(next) if next.desired == Desired::Run => (successor(state, next), remedy(next)),
        Some(_) | None => match (budget::exhausted(state, service), replica.slot) {
            (Some(budget), _) => (budget, remedy(replica)),
            (None, Slot::Index(_)) => ("waits for its successor".to_string(), remedy(replica)),
            (None, Slot::Node(_)) => ("is about to go".to_string(), String::new()),
        },
    }
}

fn successor(state: &State, next: &Replica) -> String {
    let observed = &next.observed;
    let place = next.node.and_then(|node| state.node(node));
    let place = place.map_or_else(String::new, |node| format!(" on node {}", node.name));
    let mut text = format!("its successor{place} is {}", observed.phase);
    if observed.phase == gantry_model::phase::Phase::Running {
        text.push_str(", not ready");
    }
    if observed.restarts > 0 {
        text.push_str(&format!(", restarted {} time(s)", observed.restarts));
    }
    if !observed.message.is_empty() {
        text.push_str(&format!(": {}", observed.message));
    }
    text
}
