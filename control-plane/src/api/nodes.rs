//! Nodes as people manage them.

use gantry_api::v1::{RemoveNodeRequest, UpdateNodeRequest};
use gantry_model::object::{Availability, Node, NodeStatus, check_label};
use gantry_model::{Class, Problem};
use gantry_state::{Key, NewEvent, Object, Op, Precondition, State, Transaction};

use super::find;
use crate::context::Context;
use gantry_leader::admission::Decision;

/// Sets availability and labels; returns the node as it is then.
///
/// # Errors
/// An unknown node or availability, a malformed label.
pub async fn update(context: &Context, request: &UpdateNodeRequest) -> Result<Node, Problem> {
    let mut updated = None;
    context
        .commit(|state| {
            let node = find::node(state, &request.node)?;
            let mut edited = node.clone();
            edit(&mut edited, request)?;
            let unchanged = edited == *node;
            let ops = if unchanged {
                Vec::new()
            } else {
                vec![Op::Put(Box::new(Object::Node(edited.clone())))]
            };
            let key = Key::Node(edited.id);
            let modified = state.modified(&key);
            updated = Some(edited);
            Ok(Decision {
                transaction: Transaction::new(context.env.now(), ops)
                    .requiring(Precondition::Unchanged { key, modified }),
                changes: Vec::new(),
            })
        })
        .await?;
    updated.ok_or_else(|| Problem::new(Class::Internal, format!("node {}", request.node), "was not decided on"))
}

fn edit(node: &mut Node, request: &UpdateNodeRequest) -> Result<(), Problem> {
    let object = format!("node {}", node.name);
    node.availability = match request.availability.as_str() {
        "" => node.availability,
        "active" => Availability::Active,
        "pause" => Availability::Pause,
        "drain" => Availability::Drain,
        other => {
            let reason = format!("'{other}' is not an availability");
            return Err(Problem::new(Class::Invalid, object, reason).remedy("use active, pause or drain"));
        }
    };
    for label in &request.labels {
        match label.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                check_label(key, value).map_err(|reason| Problem::new(Class::Invalid, object.clone(), reason))?;
                node.labels.insert(key.to_string(), value.to_string());
            }
            None if !label.is_empty() => {
                node.labels.remove(label);
            }
            _ => {
                return Err(Problem::new(
                    Class::Invalid,
                    object,
                    format!("label '{label}' has no key"),
                ));
            }
        }
    }
    Ok(())
}

/// Removes a node that is down, or any with `force`; its replicas are lost and run elsewhere.
///
/// # Errors
/// An unknown node; one that is there, without `force`.
pub async fn remove(context: &Context, request: &RemoveNodeRequest) -> Result<(), Problem> {
    context.commit(|state| decide_removal(context, state, request)).await?;
    Ok(())
}

fn decide_removal(context: &Context, state: &State, request: &RemoveNodeRequest) -> Result<Decision, Problem> {
    let node = find::node(state, &request.node)?;
    let object = format!("node {}", node.name);
    if node.status == NodeStatus::Ready && !request.force {
        return Err(Problem::new(Class::Conflict, object, "is ready: its agent still runs")
            .remedy("drain it and stop its agent first, or use --force"));
    }
    let mut ops: Vec<Op> = state
        .replicas_on(node.id)
        .map(|replica| Op::Delete(Key::Replica(replica.id)))
        .collect();
    let held = state.images().filter(|image| image.nodes.contains(&node.id));
    ops.extend(held.map(|image| Op::Release {
        digest: image.digest.clone(),
        node: node.id,
    }));
    ops.push(Op::Delete(Key::Node(node.id)));
    ops.push(Op::Record(NewEvent::new(object, "removed", "removed from the cluster")));
    let key = Key::Node(node.id);
    let modified = state.modified(&key);
    Ok(Decision {
        transaction: Transaction::new(context.env.now(), ops).requiring(Precondition::Unchanged { key, modified }),
        changes: Vec::new(),
    })
}
