//! `gantry cluster`: making a cluster, joining it, its servers and tokens.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use gantry_api::v1::change_server_request::Action;
use gantry_api::v1::{ChangeServerRequest, ClusterStatusReply, Empty, ServerStatus};
use gantry_control_plane::{InitConfig, SERVER_PORT, init};
use gantry_env::System;
use gantry_model::net::Ipv4Net;
use gantry_model::object::{ClusterConfig, Role};
use gantry_model::spec::Strategy;
use gantry_model::{Class, DurationMs, Problem};
use gantry_pki::Token;
use gantry_rpc::{Patience, Repeat, enroll};
use serde_json::json;

use super::{daemon, token};
use crate::args::Global;
use crate::client::Client;
use crate::context::{self, Context};
use crate::failure::Outcome;
use crate::output::{self, Column, Table, age};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Make a new cluster, with this machine's server as its first
    Init(InitArgs),
    /// Get an identity to use a cluster with, by a token of role admin
    Join(JoinArgs),
    /// Show servers, leader and counts
    Status,
    /// Look after join tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Make a server a voter
    Promote(ServerArg),
    /// Make a voter a learner, which follows but does not vote
    Demote(ServerArg),
    /// Take a server out of the cluster
    Remove(ServerArg),
    /// Hand leadership to another server
    TransferLeader(TransferArgs),
}

// Arguments of `gantry cluster init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Folder of the server
    #[arg(long, value_name = "DIR", default_value = daemon::SERVER_FOLDER)]
    data_dir: PathBuf,
    /// Where other machines reach the server [default: this machine's address, port 7600]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Name of the cluster, for people
    #[arg(long, default_value = "gantry")]
    name: String,
    /// Replicas get their addresses here, a subnet for each node
    #[arg(long, value_name = "NETWORK", default_value_t = ClusterConfig::default().replica_pool)]
    replica_pool: Ipv4Net,
    /// Prefix length of a node's subnet
    #[arg(long, value_name = "BITS", default_value_t = ClusterConfig::default().node_prefix)]
    node_prefix: u8,
    /// Services get their virtual addresses here
    #[arg(long, value_name = "NETWORK", default_value_t = ClusterConfig::default().service_pool)]
    service_pool: Ipv4Net,
    /// How often an agent sends a heartbeat
    #[arg(long, value_name = "DURATION", default_value_t = ClusterConfig::default().heartbeat)]
    heartbeat: DurationMs,
    /// A node that is silent this long is down
    #[arg(long, value_name = "DURATION", default_value_t = ClusterConfig::default().lease)]
    lease: DurationMs,
    /// Lifetime of the certificates of servers and agents
    #[arg(long, value_name = "DURATION", default_value_t = ClusterConfig::default().certificate_lifetime)]
    certificate_lifetime: DurationMs,
    /// How many nodes keep each image that has a name
    #[arg(long, value_name = "NODES", default_value_t = ClusterConfig::default().image_copies)]
    image_copies: u32,
    /// How nodes are filled, for services that do not say: binpack or spread
    #[arg(long, value_name = "STRATEGY", default_value_t = ClusterConfig::default().placement)]
    placement: Strategy,
}

// Arguments of `gantry cluster join`.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The token, of `gantry cluster token create admin`
    #[arg(long, env = "GANTRY_TOKEN", hide_env_values = true)]
    token: String,
    /// Addresses of servers
    #[arg(required = true, value_name = "HOST:PORT")]
    servers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ServerArg {
    /// Id of the server, its beginning, or its address
    // Not `server`: clap would take it for the global --server, and that one be asked.
    #[arg(value_name = "SERVER")]
    member: String,
}

#[derive(Debug, Args)]
pub struct TransferArgs {
    /// The new leader; any voter when absent
    #[arg(value_name = "SERVER")]
    member: Option<String>,
}

/// Runs a command of the family.
pub async fn run(global: &Global, command: Command) -> Outcome {
    let change = |action, server: &str| ChangeServerRequest {
        action: action as i32,
        server: server.to_string(),
        address: String::new(),
    };
    match command {
        Command::Init(args) => initialise(global, args),
        Command::Join(args) => join(global, &args).await,
        Command::Status => status(global).await,
        Command::Token(command) => token::run(global, command).await,
        Command::Promote(arg) => change_server(global, change(Action::Promote, &arg.member)).await,
        Command::Demote(arg) => change_server(global, change(Action::Demote, &arg.member)).await,
        Command::Remove(arg) => change_server(global, change(Action::Remove, &arg.member)).await,
        Command::TransferLeader(args) => {
            let server = args.member.unwrap_or_default();
            change_server(global, change(Action::TransferLeader, &server)).await
        }
    }
}

fn check(args: &InitArgs) -> Result<(), Problem> {
    let mut wrong = Vec::new();
    if args.node_prefix <= args.replica_pool.prefix() || args.node_prefix > 30 {
        let prefix = args.replica_pool.prefix();
        wrong.push(format!(
            "a node prefix must be longer than the pool's /{prefix} and at most 30 bits"
        ));
    }
    if args.replica_pool.contains(args.service_pool.base()) || args.service_pool.contains(args.replica_pool.base()) {
        wrong.push("the pools of replicas and services overlap".to_string());
    }
    if args.heartbeat.0 < 50 || args.lease.0 < args.heartbeat.0 * 2 {
        wrong.push("the heartbeat must be at least 50ms, and the lease at least two heartbeats".to_string());
    }
    if args.certificate_lifetime < DurationMs::secs(3600) {
        wrong.push("certificates must live for at least an hour".to_string());
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Problem::new(Class::Invalid, "cluster settings", wrong.join("; ")))
}

fn initialise(global: &Global, args: InitArgs) -> Outcome {
    check(&args)?;
    context::check_free(global, None)?;
    let advertise = match args.advertise {
        Some(advertise) => daemon::with_port(&advertise, SERVER_PORT),
        None => daemon::own_address(&[], SERVER_PORT),
    };
    let config = InitConfig {
        data_dir: args.data_dir.clone(),
        advertise: advertise.clone(),
        name: args.name.clone(),
        config: ClusterConfig {
            replica_pool: args.replica_pool,
            node_prefix: args.node_prefix,
            service_pool: args.service_pool,
            heartbeat: args.heartbeat,
            lease: args.lease,
            certificate_lifetime: args.certificate_lifetime,
            placement: args.placement,
            image_copies: args.image_copies,
        },
    };
    let report = init(&config, &System)?;
    let context = Context {
        cluster: args.name.clone(),
        servers: vec![advertise.clone()],
    };
    let folder = context.save(global, &report.admin)?;
    let json = json!({
        "cluster": args.name, "advertise": advertise, "context": folder,
        "server_token": report.server_token, "agent_token": report.agent_token,
        "tokens_expire_after_ms": report.tokens_expire_after,
    });
    let folder_flag = match args.data_dir.to_str() {
        Some(daemon::SERVER_FOLDER) => String::new(),
        _ => format!(" --data-dir {}", args.data_dir.display()),
    };
    output::object(global.output, &args.name, &json, || {
        format!(
            "Cluster {} is ready to start; your identity is in {}.\n\n\
             Start its first server here:\n    gantry server{folder_flag} --advertise {advertise}\n\n\
             Add agents, on this machine and others:\n    gantry agent --join {advertise} --token {}\n\n\
             Add servers, on other machines:\n    gantry server --join {advertise} --token {}\n\n\
             The tokens work for {}; make more with `gantry cluster token create`.\n",
            args.name,
            folder.display(),
            report.agent_token,
            report.server_token,
            age::short(report.tokens_expire_after),
        )
    })?;
    Ok(())
}

async fn join(global: &Global, args: &JoinArgs) -> Outcome {
    let token: Token = args.token.parse().map_err(Problem::from)?;
    if token.role != Role::Admin {
        let role = token.role;
        let reason = format!("is for role {role}, and this command makes an identity for a person");
        let remedy = format!(
            "start the {role} with it: `gantry {role} --join {} --token TOKEN`",
            args.servers[0]
        );
        return Err(Problem::new(Class::Invalid, "join token", reason).remedy(remedy).into());
    }
    context::check_free(global, Some(token.authority))?;
    let servers: Vec<String> = args
        .servers
        .iter()
        .map(|server| daemon::with_port(server, SERVER_PORT))
        .collect();
    let patience = Patience::person(|problem| output::note(&format!("{problem}; trying again for a while")));
    let enrolled = enroll(&servers, &args.token, &daemon::host_name(), patience).await?;
    let context = Context {
        cluster: enrolled.cluster_name,
        servers: if enrolled.servers.is_empty() {
            servers
        } else {
            enrolled.servers
        },
    };
    let folder = context.save(global, &enrolled.identity)?;
    output::emit(&format!(
        "Joined cluster {} as {}; your identity is in {}.\n",
        context.cluster,
        enrolled.identity.id,
        folder.display()
    ))?;
    Ok(())
}

async fn status(global: &Global) -> Outcome {
    let client = Client::open(global).await?;
    let reply = client
        .call(Repeat::Harmless, |mut cluster| async move {
            cluster.cluster_status(Empty {}).await
        })
        .await?;
    show(global, &reply)
}

async fn change_server(global: &Global, request: ChangeServerRequest) -> Outcome {
    let client = Client::open(global).await?;
    let reply = client
        .call(Repeat::OnlyUnsent, |mut cluster| {
            let request = request.clone();
            async move { cluster.change_server(request).await }
        })
        .await?;
    show(global, &reply)
}

fn show(global: &Global, reply: &ClusterStatusReply) -> Outcome {
    Context::of(reply).learn(global);
    let servers: Vec<_> = reply.servers.iter().map(server_json).collect();
    let json = json!({
        "name": reply.name, "leader": reply.leader, "term": reply.term, "applied": reply.applied,
        "servers": servers,
        "nodes_ready": reply.nodes_ready, "nodes_down": reply.nodes_down, "services": reply.services,
        "replicas_running": reply.replicas_running, "replicas_wanted": reply.replicas_wanted,
    });
    output::object(global.output, &reply.name, &json, || human(reply))?;
    Ok(())
}

fn server_json(server: &ServerStatus) -> serde_json::Value {
    json!({
        "id": server.id, "address": server.address, "voter": server.voter, "leader": server.leader,
        "matched": server.matched, "reachable": server.reachable,
    })
}

fn human(reply: &ClusterStatusReply) -> String {
    let leader = match reply.leader.as_str() {
        "" => "no leader: most servers do not answer, so nothing can be changed".to_string(),
        leader => format!("leader {leader}, term {}", reply.term),
    };
    let mut table = Table::new(vec![
        Column::new("SERVER"),
        Column::new("ADDRESS"),
        Column::new("ROLE"),
        Column::new("STATUS"),
        Column::new("LOG"),
    ]);
    for server in &reply.servers {
        let role = match (server.leader, server.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        let status = if server.reachable { "reachable" } else { "unreachable" };
        let log = if server.matched == 0 {
            String::new()
        } else {
            server.matched.to_string()
        };
        let cells = [
            server.id.clone(),
            server.address.clone(),
            role.into(),
            status.into(),
            log,
        ];
        table.push(server.id.as_str(), cells, serde_json::Value::Null);
    }
    format!(
        "Cluster {}: {leader}, revision {}\nNodes      {} ready, {} down\nServices   {}\nReplicas   {} of {} ready\n\n{}",
        reply.name,
        reply.applied,
        reply.nodes_ready,
        reply.nodes_down,
        reply.services,
        reply.replicas_running,
        reply.replicas_wanted,
        table.render(true)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_reads_at_a_glance() {
        let server = |id: &str, leader, voter, reachable, matched| ServerStatus {
            id: id.to_string(),
            address: format!("{id}:7600"),
            voter,
            leader,
            matched,
            reachable,
        };
        let reply = ClusterStatusReply {
            name: "prod".to_string(),
            leader: "aa".to_string(),
            term: 3,
            servers: vec![server("aa", true, true, true, 12), server("bb", false, false, false, 0)],
            applied: 12,
            nodes_ready: 2,
            nodes_down: 1,
            services: 4,
            replicas_running: 7,
            replicas_wanted: 9,
        };
        let expected = "\
Cluster prod: leader aa, term 3, revision 12
Nodes      2 ready, 1 down
Services   4
Replicas   7 of 9 ready

SERVER   ADDRESS   ROLE      STATUS        LOG
aa       aa:7600   leader    reachable     12
bb       bb:7600   learner   unreachable   -
";
        assert_eq!(human(&reply), expected);
    }
}
