//! `gantry node`: the machines.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use gantry_api::kind;
use gantry_api::v1::{ChangeServerRequest, RemoveNodeRequest, UpdateNodeRequest, change_server_request::Action};
use gantry_env::{Env, System};
use gantry_model::object::{Availability, Node};
use gantry_model::{Problem, Timestamp};
use gantry_rpc::Repeat;

use super::drain;
use crate::args::Global;
use crate::client::{Client, Read, parse};
use crate::complete;
use crate::failure::Outcome;
use crate::output::{self, Column, Table, age};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// List nodes
    Ls,
    /// Show all that is known of nodes
    Inspect(NodeArgs),
    /// Change labels
    Update(UpdateArgs),
    /// Move all replicas to other nodes, and place no more here
    Drain(DrainArgs),
    /// Place replicas here again
    Activate(NodeArgs),
    /// Keep what runs here, but place no more
    Pause(NodeArgs),
    /// Make the server on that machine a voter
    Promote(NodeArgs),
    /// Make the server on that machine a learner
    Demote(NodeArgs),
    /// Forget nodes that are down; their replicas run elsewhere
    Rm(RemoveArgs),
}

#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Names, ids, or beginnings of ids
    #[arg(required = true, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
    nodes: Vec<String>,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    nodes: NodeArgs,
    #[command(flatten)]
    wait: drain::WaitArgs,
}

#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// Name, id, or beginning of an id
    #[arg(add = ArgValueCompleter::new(complete::nodes))]
    node: String,
    /// Set a label
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label_add: Vec<String>,
    /// Remove a label
    #[arg(long, value_name = "KEY", value_parser = key)]
    label_rm: Vec<String>,
    /// What the node is for
    #[arg(long, value_name = "active|pause|drain", value_parser = ["active", "pause", "drain"])]
    availability: Option<String>,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    #[command(flatten)]
    nodes: NodeArgs,
    /// Also a node that is not down
    #[arg(long)]
    force: bool,
}

/// `KEY=VALUE`, or `KEY` for an empty value: the API takes a bare key as a removal.
fn label(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("", _)) => Err("a label needs a key: KEY=VALUE".to_string()),
        Some(_) => Ok(text.to_string()),
        None => Ok(format!("{text}=")),
    }
}

fn key(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('=') {
        return Err("name the label's key alone".to_string());
    }
    Ok(text.to_string())
}

/// Runs a command of the family.
pub async fn run(global: &Global, command: Command) -> Outcome {
    let client = Client::open(global).await?;
    match command {
        Command::Ls => list(global, &client).await,
        Command::Inspect(args) => inspect(global, &client, &args).await,
        Command::Update(args) => {
            let labels = [args.label_add, args.label_rm].concat();
            update(&client, &args.node, args.availability.unwrap_or_default(), labels).await
        }
        Command::Drain(args) => {
            set_availability(&client, &args.nodes, Availability::Drain).await?;
            drain::wait(&client, &args.wait, &args.nodes.nodes).await
        }
        Command::Activate(args) => set_availability(&client, &args, Availability::Active).await,
        Command::Pause(args) => set_availability(&client, &args, Availability::Pause).await,
        Command::Promote(args) => change_servers(&client, &args, Action::Promote).await,
        Command::Demote(args) => change_servers(&client, &args, Action::Demote).await,
        Command::Rm(args) => remove(&client, &args).await,
    }
}

async fn list(global: &Global, client: &Client) -> Outcome {
    let nodes: Vec<Read<Node>> = client.read(kind::NODE, "", "").await?;
    let table = table(nodes, System.now());
    output::list(
        global.output,
        &table,
        "there are no nodes: start one with `gantry agent --join`",
    )?;
    Ok(())
}

fn table(nodes: Vec<Read<Node>>, now: Timestamp) -> Table {
    let mut table = Table::new(vec![
        Column::new("ID"),
        Column::new("NAME"),
        Column::new("STATUS"),
        Column::new("AVAILABILITY"),
        Column::new("ADDRESS"),
        Column::new("CPU"),
        Column::new("MEMORY"),
        Column::wide("SUBNET"),
        Column::wide("PLATFORM"),
        Column::wide("KERNEL"),
        Column::wide("VERSION"),
        Column::wide("LABELS"),
        Column::wide("JOINED"),
    ]);
    for Read { object: node, json } in nodes {
        let labels: Vec<String> = node
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let cells = [
            node.id.to_string(),
            node.name.clone(),
            format!("{} {}", node.status, age::short(now.since(node.status_since))),
            node.availability.to_string(),
            node.address.clone(),
            node.facts.cpu.to_string(),
            node.facts.memory.to_string(),
            node.subnet.to_string(),
            format!("{}/{}", node.facts.os, node.facts.arch),
            node.facts.kernel.clone(),
            node.facts.version.clone(),
            labels.join(","),
            age::ago(now, node.joined_at),
        ];
        table.push(node.name.as_str(), cells, json);
    }
    table
}

async fn inspect(global: &Global, client: &Client, args: &NodeArgs) -> Outcome {
    let mut found = Vec::new();
    for name in &args.nodes {
        let nodes: Vec<Read<Node>> = client.read(kind::NODE, "", name).await?;
        found.extend(nodes.into_iter().map(|node| (node.object.name, node.json)));
    }
    output::inspect(global.output, &found)?;
    Ok(())
}

async fn update(client: &Client, node: &str, availability: String, labels: Vec<String>) -> Outcome {
    let request = UpdateNodeRequest {
        node: node.to_string(),
        availability,
        labels,
    };
    let document = client
        .call(Repeat::Harmless, |mut cluster| {
            let request = request.clone();
            async move { cluster.update_node(request).await }
        })
        .await?;
    let node: Read<Node> = parse(&document, kind::NODE)?;
    output::emit(&format!("{} {}\n", node.object.name, node.object.availability))?;
    Ok(())
}

async fn set_availability(client: &Client, args: &NodeArgs, availability: Availability) -> Outcome {
    for node in &args.nodes {
        update(client, node, availability.to_string(), Vec::new()).await?;
    }
    Ok(())
}

/// Servers are known by their addresses: the one on the node's host is meant.
async fn change_servers(client: &Client, args: &NodeArgs, action: Action) -> Outcome {
    for name in &args.nodes {
        let nodes: Vec<Read<Node>> = client.read(kind::NODE, "", name).await?;
        for Read { object: node, .. } in nodes {
            let server = server_on(client, &node).await?;
            let request = ChangeServerRequest {
                action: action as i32,
                server,
                address: String::new(),
            };
            client
                .call(Repeat::OnlyUnsent, |mut cluster| {
                    let request = request.clone();
                    async move { cluster.change_server(request).await }
                })
                .await?;
            output::emit(&format!("{}\n", node.name))?;
        }
    }
    Ok(())
}

async fn server_on(client: &Client, node: &Node) -> Result<String, Problem> {
    let host = |address: &str| address.rsplit_once(':').map_or(address, |(host, _)| host).to_string();
    let status = client
        .call(Repeat::Harmless, |mut cluster| async move {
            cluster.cluster_status(gantry_api::v1::Empty {}).await
        })
        .await?;
    let found = status
        .servers
        .iter()
        .find(|server| host(&server.address) == host(&node.address));
    found.map(|server| server.id.clone()).ok_or_else(|| {
        let object = format!("node {}", node.name);
        Problem::new(gantry_model::Class::NotFound, object, "no server runs on that machine")
            .remedy("start one there with `gantry server --join`, with a token of `gantry cluster token create server`")
    })
}

async fn remove(client: &Client, args: &RemoveArgs) -> Outcome {
    for node in &args.nodes.nodes {
        let request = RemoveNodeRequest {
            node: node.clone(),
            force: args.force,
        };
        client
            .call(Repeat::OnlyUnsent, |mut cluster| {
                let request = request.clone();
                async move { cluster.remove_node(request).await }
            })
            .await?;
        output::emit(&format!("{node} removed\n"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::net::Ipv4Net;
    use gantry_model::object::{NodeFacts, NodeStatus};
    use gantry_model::{ByteSize, MilliCpu, NodeId};
    use std::net::Ipv4Addr;

    #[test]
    fn nodes_are_listed_with_what_they_are() {
        let node = Node {
            id: NodeId(7),
            name: "alpha".to_string(),
            address: "10.0.0.7:7601".to_string(),
            subnet: Ipv4Net::new(Ipv4Addr::new(10, 128, 7, 0), 24),
            labels: [("disk".to_string(), "ssd".to_string())].into(),
            availability: Availability::Drain,
            status: NodeStatus::Ready,
            status_since: Timestamp(0),
            facts: NodeFacts {
                os: "linux".to_string(),
                arch: "amd64".to_string(),
                cpu: MilliCpu(2500),
                memory: ByteSize::mib(1536),
                ..NodeFacts::default()
            },
            joined_at: Timestamp(0),
        };
        let json = serde_json::to_value(&node).expect("a node");
        let text = table(vec![Read { object: node, json }], Timestamp(300_000)).render(false);
        let expected = "\
ID              NAME    STATUS     AVAILABILITY   ADDRESS         CPU   MEMORY
0000000000007   alpha   ready 5m   drain          10.0.0.7:7601   2.5   1.5 GiB
";
        assert_eq!(text, expected);
    }

    #[test]
    fn labels_are_checked_before_they_are_sent() {
        assert_eq!(label("a=b"), Ok("a=b".to_string()));
        assert_eq!(label("a"), Ok("a=".to_string()));
        assert!(label("=b").is_err() && key("a=b").is_err() && key("").is_err());
    }
}
