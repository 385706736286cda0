//! `gantry ps`: replicas.

use std::collections::BTreeMap;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use gantry_env::{Env, System};
use gantry_model::object::{Replica, Slot};
use gantry_model::phase::{Desired, Health, Phase};
use gantry_model::{NodeId, Timestamp};

use crate::args::Global;
use crate::client::{Client, Read};
use crate::complete;
use crate::failure::Outcome;
use crate::output::{self, Column, Table, age};

// Arguments of `gantry ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Only of these services or replicas
    #[arg(value_name = "SERVICE", add = ArgValueCompleter::new(complete::replicas))]
    services: Vec<String>,
    /// Also those that have ended
    #[arg(short, long)]
    all: bool,
}

/// Lists replicas.
pub async fn run(global: &Global, args: &PsArgs) -> Outcome {
    let client = Client::open(global).await?;
    let mut replicas = Vec::new();
    if args.services.is_empty() {
        replicas = client.replicas(&global.namespace(), "").await?;
    }
    for text in &args.services {
        let (namespace, name) = global.qualified(text);
        replicas.extend(client.replicas(&namespace, &name).await?);
    }
    // What has not ended is shown even when it is not wanted any more: it still runs.
    replicas.retain(|read| args.all || !read.object.observed.phase.is_terminal());
    replicas.sort_by_cached_key(|read| order(&read.object));
    replicas.dedup_by_key(|read| read.object.id);
    let nodes = client.node_names().await?;
    let table = table(replicas, &nodes, System.now());
    let nothing = if args.all {
        "there are no replicas"
    } else {
        "no replica runs; -a also shows those that have ended"
    };
    output::list(global.output, &table, nothing)?;
    Ok(())
}

/// By service, then slot, then newest first.
fn order(
    replica: &Replica,
) -> (
    String,
    String,
    Slot,
    std::cmp::Reverse<Timestamp>,
    gantry_model::ReplicaId,
) {
    (
        replica.namespace.to_string(),
        replica.service_name.to_string(),
        replica.slot,
        std::cmp::Reverse(replica.created_at),
        replica.id,
    )
}

fn table(replicas: Vec<Read<Replica>>, nodes: &BTreeMap<NodeId, String>, now: Timestamp) -> Table {
    let mut table = Table::new(vec![
        Column::new("ID"),
        Column::new("NAME"),
        Column::new("NODE"),
        Column::new("STATUS"),
        Column::new("RESTARTS"),
        Column::new("MESSAGE"),
        Column::wide("ADDRESS"),
        Column::wide("REVISION"),
        Column::wide("WANTED"),
        Column::wide("CREATED"),
    ]);
    for Read { object: replica, json } in replicas {
        let node = replica
            .node
            .map(|id| nodes.get(&id).cloned().unwrap_or_else(|| id.to_string()));
        let name = name(&replica, nodes);
        let cells = [
            replica.id.to_string(),
            name.clone(),
            node.unwrap_or_default(),
            status(&replica, now),
            replica.observed.restarts.to_string(),
            message(&replica),
            replica.address.map(|address| address.to_string()).unwrap_or_default(),
            replica.revision.to_string(),
            wanted(replica.desired).to_string(),
            age::ago(now, replica.created_at),
        ];
        table.push(name, cells, json);
    }
    table
}

/// `shop/web.3`; a global service's replicas are named after their nodes.
fn name(replica: &Replica, nodes: &BTreeMap<NodeId, String>) -> String {
    let slot = match replica.slot {
        Slot::Index(index) => index.to_string(),
        Slot::Node(node) => nodes.get(&node).cloned().unwrap_or_else(|| node.to_string()),
    };
    format!("{}/{}.{slot}", replica.namespace, replica.service_name)
}

/// `running 3m (healthy)`, `failed 2h ago (exit 1)`.
fn status(replica: &Replica, now: Timestamp) -> String {
    let observed = &replica.observed;
    let since = match observed.phase {
        Phase::Pending => age::short(now.since(replica.created_at)),
        Phase::Assigned | Phase::Preparing | Phase::Starting => {
            age::short(now.since(replica.assigned_at.unwrap_or(replica.created_at)))
        }
        Phase::Running => age::short(now.since(observed.started_at.unwrap_or(observed.at))),
        Phase::Completed | Phase::Stopped | Phase::Failed | Phase::Rejected | Phase::Lost => age::ago(now, observed.at),
    };
    let phase = match replica.desired {
        Desired::Run => observed.phase.to_string(),
        Desired::Drain if !observed.phase.is_terminal() => "draining".to_string(),
        Desired::Stop | Desired::Remove if !observed.phase.is_terminal() => "stopping".to_string(),
        Desired::Drain | Desired::Stop | Desired::Remove => observed.phase.to_string(),
    };
    let detail = match (observed.phase, observed.health) {
        (Phase::Running, Health::Healthy) if replica.held => " (healthy, held: no traffic yet)".to_string(),
        (Phase::Running, Health::Healthy) => " (healthy)".to_string(),
        (Phase::Running, Health::Unhealthy) => " (unhealthy)".to_string(),
        (Phase::Running, Health::Starting) => " (health: starting)".to_string(),
        (Phase::Running, Health::None) if !observed.ready => " (not ready)".to_string(),
        // Its rollout has not switched over to it yet.
        (Phase::Running, Health::None) if replica.held => " (held: no traffic yet)".to_string(),
        (Phase::Failed, _) => observed.last_exit.map(|exit| exit_words(&exit)).unwrap_or_default(),
        _ => String::new(),
    };
    format!("{phase} {since}{detail}")
}

fn exit_words(exit: &gantry_model::phase::Exit) -> String {
    if exit.oom_killed {
        return " (out of memory)".to_string();
    }
    format!(" (exit {})", exit.code)
}

/// Why it is as it is: what the agent says, else why it is not placed, else why it is not wanted.
fn message(replica: &Replica) -> String {
    let pending = replica
        .explanation
        .as_ref()
        .filter(|_| replica.observed.phase == Phase::Pending);
    if !replica.observed.message.is_empty() {
        return replica.observed.message.clone();
    }
    pending.map_or_else(
        || replica.desired_reason.clone(),
        |explanation| explanation.summary.clone(),
    )
}

const fn wanted(desired: Desired) -> &'static str {
    match desired {
        Desired::Run => "run",
        Desired::Drain => "drain",
        Desired::Stop => "stop",
        Desired::Remove => "remove",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::explain::Explanation;
    use gantry_model::phase::{Exit, Observed};
    use gantry_model::{Name, ReplicaId, ServiceId};

    fn replica(slot: u32, observed: Observed) -> Read<Replica> {
        let name = |text: &str| Name::new(text).expect("a valid name");
        let placed = observed.phase != Phase::Pending;
        let object = Replica {
            id: ReplicaId(slot.into()),
            service: ServiceId(1),
            namespace: name("shop"),
            service_name: name("web"),
            slot: Slot::Index(slot),
            revision: 1,
            node: placed.then_some(NodeId(1)),
            address: None,
            desired: Desired::Run,
            desired_reason: String::new(),
            observed,
            explanation: Some(Explanation {
                summary: "no suitable node: 1 node is drained".to_string(),
                ..Explanation::default()
            }),
            created_at: Timestamp(0),
            assigned_at: None,
            desired_since: None,
            held: false,
        };
        let json = serde_json::to_value(&object).expect("a replica");
        Read { object, json }
    }

    #[test]
    fn replicas_are_listed_with_how_they_are_and_why() {
        let running = Observed {
            phase: Phase::Running,
            ready: true,
            health: Health::Healthy,
            started_at: Some(Timestamp(0)),
            ..Observed::default()
        };
        let failed = Observed {
            phase: Phase::Failed,
            restarts: 3,
            message: "gave up".to_string(),
            last_exit: Some(Exit {
                code: 1,
                oom_killed: false,
                at: Timestamp(0),
            }),
            ..Observed::default()
        };
        let replicas = vec![replica(1, running), replica(2, Observed::default()), replica(3, failed)];
        let nodes = [(NodeId(1), "alpha".to_string())].into();
        let expected = "\
ID              NAME         NODE    STATUS                   RESTARTS   MESSAGE
0000000000001   shop/web.1   alpha   running 3m (healthy)     0          -
0000000000002   shop/web.2   -       pending 3m               0          no suitable node: 1 node is drained
0000000000003   shop/web.3   alpha   failed 3m ago (exit 1)   3          gave up
";
        let text = table(replicas, &nodes, Timestamp(180_000)).render(false);
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_not_wanted_any_more_is_stopping_until_it_has_ended() {
        let mut read = replica(
            1,
            Observed {
                phase: Phase::Running,
                ready: true,
                ..Observed::default()
            },
        );
        read.object.desired = Desired::Stop;
        assert_eq!(status(&read.object, Timestamp(1000)), "stopping 1s");
        read.object.observed.phase = Phase::Stopped;
        assert_eq!(status(&read.object, Timestamp(1000)), "stopped 1s ago");
    }
}
