//! Why something is not running, or why it runs there; how many more would run, and what becomes of a node's replicas without it.

use std::sync::Arc;

use gantry_api::v1::{ExplainReply, ExplainRequest};
use gantry_model::object::{Availability, Node, Service, Slot};
use gantry_model::spec::Mode;
use gantry_model::{Class, NodeId, Problem, ReplicaId, Timestamp};
use gantry_reconcile::{Target, remaining};
use gantry_scheduler::{Fleet, Loss, Request, RoomFor};
use gantry_state::State;

use super::find;
use crate::context::Context;

/// Replicas looked for at most when the question is how many more would fit.
const MORE_MAX: u32 = 1000;

/// Explains a service, or the current replica of a slot, or a replica by id, or a node.
///
/// # Errors
/// When nothing fits the name.
pub async fn explain(context: &Context, request: &ExplainRequest) -> Result<ExplainReply, Problem> {
    let state = context.raft.linearizable().await?;
    if !request.node.is_empty() {
        return Ok(explain_node(context, &state, find::node(&state, &request.node)?));
    }
    let target = match find::service(&state, &request.namespace, &request.object) {
        Ok(service) => Target::Service(service.id),
        Err(no_service) => match find::replicas(&state, &request.namespace, &request.object) {
            Ok(replicas) => Target::Replica(find::current(&replicas).ok_or(no_service)?.id),
            Err(no_replica) => match find::node(&state, &request.object) {
                Ok(node) => return Ok(explain_node(context, &state, node)),
                Err(_) => return Err(no_replica),
            },
        },
    };
    let answer = gantry_reconcile::explain(&state, target)
        .ok_or_else(|| Problem::new(Class::NotFound, request.object.clone(), "does not exist any more"))?;
    let mut reasons = answer.reasons;
    if let Target::Service(id) = target {
        reasons.extend(
            state
                .service(id)
                .and_then(|service| room_left(context, &state, service)),
        );
    }
    let replicas = answer.replicas.iter().filter_map(|id| state.replica(*id));
    Ok(ExplainReply {
        object: answer.object,
        summary: answer.summary,
        reasons,
        remedy: answer.remedy,
        replicas: replicas.map(|replica| gantry_api::encode("replica", replica)).collect(),
    })
}

/// How many more replicas of a service would find room, and what they would lack first.
fn room_left(context: &Context, state: &State, service: &Service) -> Option<String> {
    if !matches!(service.spec.mode, Mode::Replicated { .. }) || service.deleting {
        return None;
    }
    let room = room_for(&Fleet::from_state(state), service, context.env.now());
    Some(match room.limit {
        Some(limit) => format!("room for {} more replica(s); then {}", room.more, limit.summary),
        None => format!("room for {} more replicas and beyond", room.more),
    })
}

/// How many more replicas of a service would find room.
pub(super) fn room_for(fleet: &Fleet, service: &Service, now: Timestamp) -> RoomFor {
    let like = Request {
        replica: ReplicaId(0),
        service: service.id,
        namespace: service.namespace.clone(),
        service_name: service.name.clone(),
        slot: Slot::Index(0),
        revision: service.revision,
        spec: Arc::clone(&service.spec),
        node: None,
        avoid: Vec::new(),
        volumes_on: Vec::new(),
        may_displace: false,
    };
    fleet.room_for(&like, MORE_MAX, now)
}

/// A node's name, or its id when it is gone.
pub(super) fn node_name(state: &State, node: NodeId) -> String {
    state
        .node(node)
        .map_or_else(|| node.to_string(), |node| node.name.clone())
}

/// What is still on a node that is to be empty, and what it waits for.
fn explain_drain(state: &State, node: &Node) -> ExplainReply {
    let left = remaining(state, node.id);
    let summary = match left.len() {
        0 => "it is empty".to_string(),
        count => format!("{count} replica(s) are still here"),
    };
    let remedy = left.iter().find(|one| !one.remedy.is_empty());
    let replicas = left.iter().filter_map(|one| state.replica(one.replica));
    ExplainReply {
        object: format!("node {}", node.name),
        summary: format!("{}, {}: {summary}", node.status, node.availability),
        replicas: replicas.map(|replica| gantry_api::encode("replica", replica)).collect(),
        remedy: remedy.map(|one| one.remedy.clone()).unwrap_or_default(),
        reasons: left.into_iter().map(|one| one.reason).collect(),
    }
}

/// What would become of a node's replicas without it; of a drained one, what is left there.
fn explain_node(context: &Context, state: &State, node: &Node) -> ExplainReply {
    if node.availability == Availability::Drain {
        return explain_drain(state, node);
    }
    let losses = Fleet::from_state(state).without(state, &[node.id], context.env.now());
    let moved: u32 = losses.iter().map(|loss| loss.moved).sum();
    let stranded: u32 = losses.iter().map(|loss| loss.stranded).sum();
    let summary = match stranded {
        0 => format!("without it its {moved} replica(s) would run elsewhere"),
        _ => {
            format!("without it {moved} of its replicas would run elsewhere, and {stranded} nowhere")
        }
    };
    let stuck = losses.iter().find_map(|loss| loss.why.as_ref());
    ExplainReply {
        object: format!("node {}", node.name),
        summary: format!("{}, {}: {summary}", node.status, node.availability),
        reasons: losses.iter().map(|loss| fate(state, loss)).collect(),
        remedy: stuck.map(|why| why.remedy.clone()).unwrap_or_default(),
        replicas: Vec::new(),
    }
}

fn fate(state: &State, loss: &Loss) -> String {
    let name = state
        .service(loss.service)
        .map_or_else(|| format!("service {}", loss.service), Service::object);
    match &loss.why {
        Some(why) => format!(
            "{name}: {} elsewhere, {} nowhere: {}",
            loss.moved, loss.stranded, why.summary
        ),
        None => format!("{name}: {} elsewhere", loss.moved),
    }
}
