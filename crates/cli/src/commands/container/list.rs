//! `gantry container ls` and `prune`.

use clap::Args;
use gantry_api::v1::{ListContainersRequest, PruneContainersRequest};
use gantry_env::{Env, System};
use gantry_model::container::{Container, ContainerStatus};
use gantry_model::phase::Health;
use gantry_model::{ByteSize, Timestamp};

use super::{NodeArgs, verbs};
use crate::args::Global;
use crate::client::{json, stream_problem};
use crate::engine::Engine;
use crate::failure::Outcome;
use crate::output::{self, Column, Table, age};

/// Characters of a command that a table shows, as in Docker.
const COMMAND_SHOWN: usize = 20;

// Arguments of `gantry container ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// label=KEY[=VALUE], name=, status=, ancestor=, id=
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Ids alone
    #[arg(short, long)]
    quiet: bool,
}

// Arguments of `gantry container prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// label=KEY[=VALUE], until=DURATION
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
}

/// Lists containers of a node.
pub async fn list(global: &Global, args: &ListArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let request = ListContainersRequest {
        all: args.all,
        filters: args.filter.clone(),
    };
    let answer = engine.client().list_containers(engine.request(request)).await;
    let documents = answer.map_err(|status| stream_problem(&status))?.into_inner();
    let mut table = Table::new(vec![
        Column::new("ID"),
        Column::new("NAME"),
        Column::new("IMAGE"),
        Column::new("COMMAND"),
        Column::new("STATUS"),
        Column::new("PORTS"),
        Column::wide("NODE"),
        Column::wide("ADDRESS"),
        Column::wide("CREATED"),
    ]);
    let now = System.now();
    let mut ids = String::new();
    for document in &documents.items {
        let found: Container = gantry_api::decode(document, gantry_api::kind::CONTAINER)?;
        ids.push_str(&format!("{}\n", found.id));
        let cells = [
            found.id.to_string(),
            found.name.clone(),
            found.spec.container.image.clone(),
            command(&found.command),
            status(&found, now),
            ports(&found),
            found.node.clone(),
            found.address.map(|address| address.to_string()).unwrap_or_default(),
            age::ago(now, found.created_at),
        ];
        table.push(found.name.clone(), cells, json(document));
    }
    if args.quiet {
        output::emit(&ids)?;
        return Ok(());
    }
    let nothing = if args.all {
        "there are no containers"
    } else {
        "no container runs; -a also shows those that do not"
    };
    output::list(global.output, &table, nothing)?;
    Ok(())
}

fn command(words: &[String]) -> String {
    let line = words.join(" ");
    if line.chars().count() <= COMMAND_SHOWN {
        return line;
    }
    let beginning: String = line.chars().take(COMMAND_SHOWN - 1).collect();
    format!("{beginning}…")
}

/// `running 3m (healthy)`, `exited (1) 2h ago`.
fn status(found: &Container, now: Timestamp) -> String {
    let state = &found.state;
    let running_for = || state.started_at.map(|at| age::short(now.since(at))).unwrap_or_default();
    match state.status {
        ContainerStatus::Running => {
            let health = match state.health {
                Health::None => "",
                Health::Starting => " (health: starting)",
                Health::Healthy => " (healthy)",
                Health::Unhealthy => " (unhealthy)",
            };
            format!("running {}{health}", running_for())
        }
        ContainerStatus::Paused => format!("running {} (paused)", running_for()),
        ContainerStatus::Exited | ContainerStatus::Restarting => {
            let code = state.exit_code.map(|code| format!(" ({code})")).unwrap_or_default();
            let when = state
                .finished_at
                .map(|at| format!(" {}", age::ago(now, at)))
                .unwrap_or_default();
            let oom = if state.oom_killed { " out of memory" } else { "" };
            format!("{}{code}{when}{oom}", state.status.as_str())
        }
        ContainerStatus::Created | ContainerStatus::Removing => state.status.as_str().to_string(),
    }
}

fn ports(found: &Container) -> String {
    let shown = found.ports.iter().map(|port| match (port.host_ip, port.published) {
        (Some(address), Some(published)) => format!("{address}:{published}->{}/{}", port.target, port.protocol),
        _ => port.to_string(),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Removes containers that have ended.
pub async fn prune(global: &Global, args: &PruneArgs) -> Outcome {
    if !verbs::confirm("remove all containers that do not run?", args.force)? {
        return Ok(());
    }
    let engine = Engine::open(global, args.node.name()).await?;
    let request = PruneContainersRequest {
        filters: args.filter.clone(),
    };
    let answer = engine.client().prune_containers(engine.request(request)).await;
    let reply = answer.map_err(|status| stream_problem(&status))?.into_inner();
    for removed in &reply.removed {
        output::emit(&format!("{removed}\n"))?;
    }
    output::note(&format!("{} freed", ByteSize(reply.freed_bytes)));
    Ok(())
}
