//! `gantry ingress`: which HTTP requests go where, and what became of them.

use clap::{Args, Subcommand};
use gantry_agent::IngressReport;
use gantry_api::kind;
use gantry_api::v1::Empty;
use gantry_model::Problem;
use gantry_model::object::{Node, NodeStatus};
use gantry_model::spec::{IngressRedirect, IngressRule};
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, Read, parse, stream_problem};
use crate::engine::Engine;
use crate::failure::Outcome;
use crate::output::{self, Column, Table};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// List the rules of all services
    Ls,
    /// Show how many requests each node served by each rule, and how fast
    Stats(StatsArgs),
}

// Arguments of `gantry ingress stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Only this node's
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
}

/// Runs a command of the family.
pub async fn run(global: &Global, command: Command) -> Outcome {
    match command {
        Command::Ls => list(global).await,
        Command::Stats(args) => stats(global, args.node).await,
    }
}

async fn list(global: &Global) -> Outcome {
    let client = Client::open(global).await?;
    let mut table = Table::new(vec![
        Column::new("HOST"),
        Column::new("PATH"),
        Column::new("SERVICE"),
        Column::new("TO"),
        Column::new("TLS"),
        Column::wide("STICKY"),
        Column::wide("TIMEOUT"),
        Column::wide("RETRIES"),
    ]);
    for Read { object: service, .. } in client.services(&global.namespace()).await? {
        let name = format!("{}/{}", service.namespace, service.name);
        for rule in &service.spec.ingress {
            let cells = [
                rule.host.to_string(),
                rule.path.to_string(),
                name.clone(),
                target(rule),
                rule.tls
                    .as_ref()
                    .map_or_else(|| "-".to_string(), |tls| tls.secret.source.to_string()),
                rule.sticky.clone().unwrap_or_else(|| "-".to_string()),
                rule.timeout.to_string(),
                rule.retries.to_string(),
            ];
            table.push(rule.to_string(), cells, json!({ "service": name, "rule": rule }));
        }
    }
    output::list(
        global.output,
        &table,
        "no service has ingress rules: `x-gantry: {ingress: [{host: …, port: …}]}` makes one",
    )?;
    Ok(())
}

fn target(rule: &IngressRule) -> String {
    let port = rule.port.map(|port| format!("port {port}"));
    match (&rule.redirect, port) {
        (Some(IngressRedirect::To(origin)), _) => format!("redirect to {origin}"),
        (Some(IngressRedirect::Https), port) => format!("{}, by HTTPS only", port.unwrap_or_default()),
        (None, port) => port.unwrap_or_default(),
    }
}

async fn stats(global: &Global, node: Option<String>) -> Outcome {
    let names = match node {
        Some(name) => vec![name],
        None => ready_nodes(global).await?,
    };
    let mut table = Table::new(vec![
        Column::new("NODE"),
        Column::new("RULE"),
        Column::new("SERVICE"),
        Column::new("REPLICAS"),
        Column::new("REQUESTS"),
        Column::new("2XX"),
        Column::new("3XX"),
        Column::new("4XX"),
        Column::new("5XX"),
        Column::new("RETRIES"),
        Column::new("P50"),
        Column::new("P99"),
        Column::wide("UNSERVED"),
        Column::wide("UPGRADES"),
    ]);
    for name in names {
        let report = report(global, &name).await?;
        for problem in &report.problems {
            output::note(&format!("node {name}: {problem}"));
        }
        for route in &report.routes {
            let ms = |us: u64| format!("{}.{:03} ms", us / 1000, us % 1000);
            let class = |index: usize| route.by_class.get(index).copied().unwrap_or_default().to_string();
            let rule = format!("{}{}", route.host, route.path);
            let cells = [
                name.clone(),
                rule.clone(),
                route.service.clone(),
                route.replicas.to_string(),
                route.requests.to_string(),
                class(1),
                class(2),
                class(3),
                class(4),
                route.retries.to_string(),
                ms(route.p50_us),
                ms(route.p99_us),
                route.unserved.to_string(),
                route.upgrades.to_string(),
            ];
            let mut json = json!(route);
            json["node"] = json!(name);
            table.push(format!("{name} {rule}"), cells, json);
        }
    }
    output::list(global.output, &table, "no ingress has a rule: see `gantry ingress ls`")?;
    Ok(())
}

async fn ready_nodes(global: &Global) -> Result<Vec<String>, Problem> {
    let client = Client::open(global).await?;
    let nodes: Vec<Read<Node>> = client.read(kind::NODE, "", "").await?;
    let ready = nodes
        .into_iter()
        .map(|node| node.object)
        .filter(|node| node.status == NodeStatus::Ready);
    Ok(ready.map(|node| node.name).collect())
}

async fn report(global: &Global, node: &str) -> Result<IngressReport, Problem> {
    let engine = Engine::open(global, Some(node)).await?;
    let answer = engine.client().ingress_report(engine.request(Empty {})).await;
    let document = answer.map_err(|status| stream_problem(&status))?.into_inner();
    Ok(parse(&document, kind::INGRESS_REPORT)?.object)
}
