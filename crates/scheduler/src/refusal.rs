//! Refusals of single nodes, gathered into one explanation with the closest miss and a remedy.

use std::collections::BTreeMap;

use gantry_model::NodeId;
use gantry_model::explain::{Explanation, Refusal};

use crate::filter::{FILTER_HOST_PORT, FILTER_MAX_PER_NODE, Miss};

/// Explains why no node would do; `misses` in order of node id.
pub(crate) fn explain(misses: &[(NodeId, Miss)]) -> Explanation {
    if misses.is_empty() {
        return Explanation {
            summary: "no suitable node: the cluster has no node yet".to_string(),
            remedy: "join a machine with 'gantry agent'".to_string(),
            refusals: Vec::new(),
        };
    }
    let groups = group(misses);
    let parts: Vec<String> = groups.iter().map(|(miss, nodes)| describe(miss, nodes.len())).collect();
    Explanation {
        summary: format!("no suitable node: {}", parts.join(", ")),
        remedy: groups
            .first()
            .map(|(miss, _)| remedy(miss.filter))
            .unwrap_or_default()
            .to_string(),
        refusals: groups
            .into_iter()
            .map(|(miss, nodes)| Refusal {
                filter: miss.filter.to_string(),
                reason: miss.reason.clone(),
                nodes,
            })
            .collect(),
    }
}

/// Explains why the one node a replica is meant for would not do.
pub(crate) fn explain_fixed(name: &str, node: NodeId, miss: &Miss) -> Explanation {
    Explanation {
        summary: format!("cannot run on node {name}: {}", miss.reason),
        remedy: remedy(miss.filter).to_string(),
        refusals: vec![Refusal {
            filter: miss.filter.to_string(),
            reason: miss.reason.clone(),
            nodes: vec![node],
        }],
    }
}

/// One group per filter and kind, the closest miss speaking for it; what most nodes lack comes first.
fn group(misses: &[(NodeId, Miss)]) -> Vec<(&Miss, Vec<NodeId>)> {
    let mut groups: BTreeMap<(&str, &str), (&Miss, Vec<NodeId>)> = BTreeMap::new();
    for (node, miss) in misses {
        let group = groups
            .entry((miss.filter, &miss.kind))
            .or_insert_with(|| (miss, Vec::new()));
        if miss.closeness > group.0.closeness {
            group.0 = miss;
        }
        group.1.push(*node);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|(_, nodes)| std::cmp::Reverse(nodes.len()));
    groups
}

fn describe(miss: &Miss, nodes: usize) -> String {
    let (noun, lack) = if nodes == 1 {
        ("node", "lacks")
    } else {
        ("nodes", "lack")
    };
    let reason = &miss.reason;
    match miss.filter {
        "cpu" | "memory" if nodes == 1 => format!("1 node lacks {} ({reason})", miss.filter),
        "cpu" | "memory" => format!("{nodes} nodes lack {} (closest: {reason})", miss.filter),
        "generic_resource" => format!("{nodes} {noun} {lack} {} ({reason})", miss.kind),
        "ready" | "availability" if nodes > 1 => format!("{nodes} nodes {}", reason.replacen("is ", "are ", 1)),
        "ready" | "availability" => format!("1 node {reason}"),
        "constraint" if nodes > 1 => format!("{nodes} nodes {}", reason.replacen("does not", "do not", 1)),
        "constraint" => format!("1 node {reason}"),
        _ => format!("{nodes} {noun}: {reason}"),
    }
}

fn remedy(filter: &str) -> &'static str {
    match filter {
        "ready" => "start the agent there again, or add a node",
        "availability" => "make a node active with 'gantry node activate', or add one",
        "constraint" => "label a node with 'gantry node update --label-add', or change the constraint",
        "platform" => "use an image for this platform, or add a node that runs it",
        "cpu" | "memory" => "lower the reservation, free some, or add a node",
        "generic_resource" => "free some, or add a node that has it",
        FILTER_HOST_PORT => "publish another port, publish it in ingress mode, or add a node",
        FILTER_MAX_PER_NODE => "raise max_replicas_per_node, or add a node",
        "address" => "add a node, or give nodes larger subnets",
        _ => "",
    }
}
