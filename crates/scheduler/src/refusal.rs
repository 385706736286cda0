//! Refusals of single nodes, gathered into one explanation with the closest miss and a remedy.

use gantry_model::explain::{Explanation, NODES_NAMED_MAX, Refusal};
use gantry_model::{ByteSize, MilliCpu, NodeId};

use crate::Fleet;
use crate::constraint::{Barrier, describe};
use crate::filter::{FILTER_HOST_PORT, FILTER_MAX_PER_NODE, Miss};
use crate::ground::Ground;
use crate::node_use::NodeUse;

/// Refusals of one kind.
struct Group<'a> {
    /// The closest of them, with its node.
    closest: (Miss, &'a NodeUse),
    named: Vec<NodeId>,
    count: u32,
}

impl Fleet {
    /// Explains why no node would do.
    pub(crate) fn explain_refusal(&mut self, ground: &Ground<'_>) -> Explanation {
        let groups_of_service = self.groups(ground);
        let preferences = &ground.request.spec.placement.preferences;
        let keys: Vec<_> = preferences.iter().map(|one| one.key().clone()).collect();
        if !keys.is_empty() {
            self.topologies.of(&keys, &self.nodes);
        }
        let topology = self.topologies.known(&keys);
        let mut groups: Vec<Group<'_>> = Vec::new();
        for (id, number) in self.nodes.sorted() {
            let Some(used) = self.nodes.get(number).filter(|used| used.node.is_some()) else {
                continue;
            };
            let ahead = || groups_of_service.too_far_ahead(topology?.leaf(number)).map(Miss::Skew);
            let Some(miss) = ground.refuses(number, used).or_else(ahead) else {
                continue;
            };
            gather(&mut groups, miss, used, id);
        }
        if groups.is_empty() {
            return Explanation {
                summary: "no suitable node: the cluster has no node yet".to_string(),
                remedy: "join a machine with 'gantry agent'".to_string(),
                refusals: Vec::new(),
            };
        }
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        let parts: Vec<String> = groups.iter().map(|group| summarise(group, ground)).collect();
        Explanation {
            summary: format!("no suitable node: {}", parts.join(", ")),
            remedy: groups.first().map(|group| help(group, ground)).unwrap_or_default(),
            refusals: groups.iter().map(|group| refusal(group, ground)).collect(),
        }
    }

    /// Explains why the one node a replica is meant for would not do.
    pub(crate) fn explain_fixed(&self, id: NodeId, ground: &Ground<'_>) -> Explanation {
        let gone = NodeUse::new(id);
        let used = self.nodes.by_id(id).unwrap_or(&gone);
        let number = self.nodes.number(id).unwrap_or_default();
        let miss = ground.refuses(number, used).unwrap_or(Miss::Removed);
        let group = Group {
            closest: (miss, used),
            named: vec![id],
            count: 1,
        };
        Explanation {
            summary: format!("cannot run on node {}: {}", used.name(), reason(&group, ground)),
            remedy: help(&group, ground),
            refusals: vec![refusal(&group, ground)],
        }
    }
}

fn gather<'a>(groups: &mut Vec<Group<'a>>, miss: Miss, used: &'a NodeUse, id: NodeId) {
    let known = groups.iter_mut().find(|group| is_same_kind(&group.closest.0, &miss));
    match known {
        Some(group) => {
            group.count += 1;
            if group.named.len() < NODES_NAMED_MAX {
                group.named.push(id);
            }
            if miss.closeness() > group.closest.0.closeness() {
                group.closest = (miss, used);
            }
        }
        None => groups.push(Group {
            closest: (miss, used),
            named: vec![id],
            count: 1,
        }),
    }
}

fn is_same_kind(one: &Miss, two: &Miss) -> bool {
    match (one, two) {
        (Miss::Generic { kind: one, .. }, Miss::Generic { kind: two, .. }) => one == two,
        (Miss::Cpu { .. }, Miss::Cpu { .. })
        | (Miss::Memory { .. }, Miss::Memory { .. })
        | (Miss::MaxPerNode { .. }, Miss::MaxPerNode { .. })
        | (Miss::Address { .. }, Miss::Address { .. }) => true,
        _ => one == two,
    }
}

fn refusal(group: &Group<'_>, ground: &Ground<'_>) -> Refusal {
    Refusal {
        filter: group.closest.0.filter().to_string(),
        reason: reason(group, ground),
        nodes: group.named.clone(),
        count: group.count,
    }
}

/// Why the closest of the nodes was refused.
fn reason(group: &Group<'_>, ground: &Ground<'_>) -> String {
    let (miss, used) = &group.closest;
    let placement = &ground.request.spec.placement;
    match miss {
        Miss::Removed => "is removed".to_string(),
        Miss::Down => "is down".to_string(),
        Miss::Paused => "is paused".to_string(),
        Miss::Drained => "is drained".to_string(),
        Miss::Barrier(barrier) => match &used.node {
            Some(node) => describe(barrier, node, placement, ground.platform.as_deref()),
            None => "is removed".to_string(),
        },
        Miss::Volume => "does not have the slot's volumes".to_string(),
        Miss::Neighbour(index) => neighbour_reason(*index, ground),
        Miss::Cpu { free } => format!("needs {} cores, {free} free", ground.reservation.cpu),
        Miss::Memory { free } => format!("needs {}, {free} free", ground.reservation.memory),
        Miss::Generic { kind, needed, free } => format!("needs {needed} {kind}, {free} free"),
        Miss::Port(port) => format!("port {}/{} is taken", port.port, port.protocol),
        Miss::MaxPerNode { here } => format!(
            "runs {here} of this service, {} allowed per node",
            placement.max_replicas_per_node
        ),
        Miss::Address { usable } => format!("all {usable} addresses of its subnet are in use"),
        Miss::Skew(level) => {
            let preference = placement.preferences.get(*level);
            let by = preference.map(|one| one.key().to_string()).unwrap_or_default();
            let skew = preference.and_then(|one| one.max_skew()).unwrap_or_default();
            format!("would be more than {skew} ahead of other values of {by}")
        }
    }
}

fn neighbour_reason(index: usize, ground: &Ground<'_>) -> String {
    use gantry_model::spec::NeighbourRule;
    match ground.neighbours.get(index) {
        Some(view) if view.rule == NeighbourRule::With => format!("has no replica of {} near", view.name),
        Some(view) => format!("is too near to {}", view.name),
        None => "has the wrong neighbours".to_string(),
    }
}

/// One part of the summary: how many nodes, and what they lack.
fn summarise(group: &Group<'_>, ground: &Ground<'_>) -> String {
    let reason = reason(group, ground);
    let (miss, used) = &group.closest;
    let count = group.count;
    let (noun, lack) = if count == 1 {
        ("node", "lacks")
    } else {
        ("nodes", "lack")
    };
    let what = match miss {
        Miss::Cpu { .. } | Miss::Memory { .. } => Some(miss.filter()),
        Miss::Generic { kind, .. } => Some(kind.as_str()),
        _ => None,
    };
    let closest = if count == 1 { "" } else { "closest: " };
    match (what, lacks(miss, ground)) {
        (Some(what), Some(missing)) => {
            format!(
                "{count} {noun} {lack} {what} ({closest}{} lacks {missing})",
                used.name()
            )
        }
        _ if count == 1 && has_verb(miss) => format!("1 node {reason}"),
        _ if has_verb(miss) => format!("{count} nodes {}", in_plural(&reason)),
        _ => format!("{count} {noun}: {reason}"),
    }
}

/// How much the closest node lacks.
fn lacks(miss: &Miss, ground: &Ground<'_>) -> Option<String> {
    let needed = &ground.reservation;
    match miss {
        Miss::Cpu { free } => Some(format!("{} of {} cores", needed.cpu - *free, needed.cpu)),
        Miss::Memory { free } => Some(format!("{} of {}", needed.memory - *free, needed.memory)),
        Miss::Generic { needed, free, .. } => Some(format!("{} of {needed}", needed - free)),
        _ => None,
    }
}

fn has_verb(miss: &Miss) -> bool {
    matches!(
        miss,
        Miss::Removed
            | Miss::Down
            | Miss::Paused
            | Miss::Drained
            | Miss::Barrier(Barrier::Constraint(_) | Barrier::Taint(_))
            | Miss::Volume
            | Miss::Neighbour(_)
    )
}

fn in_plural(reason: &str) -> String {
    let verbs = [("is ", "are "), ("does not ", "do not "), ("has ", "have ")];
    let plural = verbs
        .iter()
        .find_map(|(one, many)| reason.strip_prefix(one).map(|rest| format!("{many}{rest}")));
    plural.unwrap_or_else(|| reason.to_string())
}

/// What would help the most nodes.
fn help(group: &Group<'_>, ground: &Ground<'_>) -> String {
    let (miss, used) = &group.closest;
    let name = used.name();
    match miss {
        Miss::Cpu { free } if *free > MilliCpu::ZERO => format!(
            "lower the reservation to {free} cores, free {} cores on {name}, or add a node",
            ground.reservation.cpu - *free
        ),
        Miss::Memory { free } if *free > ByteSize::ZERO => format!(
            "lower the reservation to {free}, free {} on {name}, or add a node",
            ground.reservation.memory - *free
        ),
        _ => remedy(miss.filter()).to_string(),
    }
}

fn remedy(filter: &str) -> &'static str {
    match filter {
        "ready" => "start the agent there again, or add a node",
        "availability" => "make a node active with 'gantry node activate', or add one",
        "constraint" => "label a node with 'gantry node update --label-add', or change the constraint",
        "taint" => "tolerate the taint in x-gantry.placement.tolerations, or remove its label from a node",
        "platform" => "use an image for this platform, or add a node that runs it",
        "volume" => "make the node with the volumes available again, or set x-gantry.placement.volumes to prefer",
        "neighbour" => "change the rule in x-gantry.placement.neighbours, or add a node",
        "cpu" | "memory" => "lower the reservation, free some, or add a node",
        "generic_resource" => "free some, or add a node that has it",
        "spread" => "make room where there are fewer, or raise max_skew",
        FILTER_HOST_PORT => "publish another port, publish it in ingress mode, or add a node",
        FILTER_MAX_PER_NODE => "raise max_replicas_per_node, or add a node",
        "address" => "add a node, or give nodes larger subnets",
        _ => "",
    }
}
