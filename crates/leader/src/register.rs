//! A node enters the state, or comes back, when its agent opens a session.

use std::collections::BTreeSet;

use gantry_model::net::Ipv4Net;
use gantry_model::object::{Availability, ClusterRecord, Node, NodeFacts, NodeStatus};
use gantry_model::{Class, NodeId, Problem, Timestamp};
use gantry_state::{Key, Object, Op, Precondition, State, Transaction};

/// What an agent says of itself when it opens a session.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// From its certificate.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// Its machine.
    pub facts: NodeFacts,
}

/// Decides what storing the node as ready writes; a new one gets a subnet of its own.
///
/// # Errors
/// When another node has the name, no subnet is left, or the cluster has no record yet.
pub fn register(state: &State, now: Timestamp, introduction: &Introduction) -> Result<Transaction, Problem> {
    let key = Key::Node(introduction.id);
    if let Some(other) = state
        .node_named(&introduction.name)
        .filter(|other| other.id != introduction.id)
    {
        let reason = format!("the name belongs to node {} already", other.id);
        return Err(
            Problem::new(Class::Conflict, format!("node {}", introduction.name), reason)
                .remedy("start the agent with another --name, or remove the old node with `gantry node rm`"),
        );
    }
    let mut transaction = Transaction::new(now, Vec::new());
    match state.node(introduction.id) {
        Some(known) => {
            let node = returned(known, introduction, now);
            if node != *known {
                transaction.ops.push(Op::Put(Box::new(Object::Node(node))));
                let modified = state.modified(&key);
                transaction.require.push(Precondition::Unchanged { key, modified });
            }
        }
        None => join(cluster(state)?, state, introduction, &mut transaction)?,
    }
    Ok(transaction)
}

fn cluster(state: &State) -> Result<&ClusterRecord, Problem> {
    state.cluster().ok_or_else(|| {
        Problem::new(Class::Unavailable, "cluster", "is being initialised").remedy("try again in a moment")
    })
}

fn returned(known: &Node, introduction: &Introduction, now: Timestamp) -> Node {
    Node {
        name: introduction.name.clone(),
        address: introduction.address.clone(),
        facts: introduction.facts.clone(),
        status: NodeStatus::Ready,
        status_since: if known.status == NodeStatus::Ready {
            known.status_since
        } else {
            now
        },
        ..known.clone()
    }
}

fn join(
    cluster: &ClusterRecord,
    state: &State,
    introduction: &Introduction,
    transaction: &mut Transaction,
) -> Result<(), Problem> {
    let subnet = free_subnet(cluster, state).ok_or_else(|| {
        let reason = format!(
            "no /{} is left in {}",
            cluster.config.node_prefix, cluster.config.replica_pool
        );
        Problem::new(Class::Exhausted, format!("node {}", introduction.name), reason)
            .remedy("remove nodes that are gone with `gantry node rm`")
    })?;
    let mut counted = cluster.clone();
    counted.subnets_given += 1;
    let modified = state.modified(&Key::Cluster);
    transaction.require.push(Precondition::Unchanged {
        key: Key::Cluster,
        modified,
    });
    transaction
        .require
        .push(Precondition::Absent(Key::Node(introduction.id)));
    transaction.ops.push(Op::Put(Box::new(Object::Cluster(counted))));
    transaction.ops.push(Op::Put(Box::new(Object::Node(Node {
        id: introduction.id,
        name: introduction.name.clone(),
        address: introduction.address.clone(),
        subnet,
        labels: Default::default(),
        availability: Availability::Active,
        status: NodeStatus::Ready,
        status_since: transaction.at,
        facts: introduction.facts.clone(),
        joined_at: transaction.at,
    }))));
    Ok(())
}

/// The next subnet that was never given out, then any that is free again: routes to a node that left linger for a while.
fn free_subnet(cluster: &ClusterRecord, state: &State) -> Option<Ipv4Net> {
    let config = &cluster.config;
    let count = 1u64 << config.node_prefix.saturating_sub(config.replica_pool.prefix());
    let nth = |offset| {
        let number = (cluster.subnets_given + offset) % count;
        config.replica_pool.subnet(config.node_prefix, number)
    };
    // Mostly the next one is free, and looking through the nodes is cheaper than gathering what they have.
    let next = nth(0).filter(|next| state.nodes().all(|node| node.subnet != *next));
    next.or_else(|| {
        let taken: BTreeSet<Ipv4Net> = state.nodes().map(|node| node.subnet).collect();
        (1..count).filter_map(nth).find(|subnet| !taken.contains(subnet))
    })
}
