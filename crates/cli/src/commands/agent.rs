//! `gantry agent`: replicas on this machine.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use gantry_agent::{AGENT_PORT, AgentConfig, IngressConfig, Join};
use gantry_control_plane::SERVER_PORT;
use gantry_model::net::Ipv4Net;
use gantry_model::spec::GenericResource;
use gantry_model::{ByteSize, MilliCpu};

use super::daemon::{self, JoinArgs, LogArgs};
use crate::failure::Outcome;

// Arguments of `gantry agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Folder of the agent: identity, images, volumes, logs
    #[arg(long, value_name = "DIR", default_value = daemon::AGENT_FOLDER)]
    data_dir: PathBuf,
    /// Folder for what need not outlive the machine's running
    #[arg(long, value_name = "DIR", default_value = daemon::RUN_FOLDER)]
    run_dir: PathBuf,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([0, 0, 0, 0], AGENT_PORT)))]
    listen: SocketAddr,
    /// Where servers and other nodes reach it [default: this machine's address towards a server]
    #[arg(long, value_name = "ADDRESS:PORT")]
    advertise: Option<String>,
    /// Name of the node [default: the host's]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    join: JoinArgs,
    #[command(flatten)]
    log: LogArgs,
}

// What the machine is and has; also of `gantry dev`.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// Label of the machine, `engine.labels.KEY` in constraints
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Something the machine has, for reservations
    #[arg(long = "generic", value_name = "KIND=COUNT", value_parser = generic)]
    generic: Vec<GenericResource>,
    /// Parent of all control groups; another one for each agent on a machine
    #[arg(long, value_name = "NAME", default_value = "gantry")]
    cgroup_parent: String,
    /// Bridge that replicas hang on; another one for each agent in a network namespace
    #[arg(long, value_name = "NAME", default_value = "gantry0")]
    bridge: String,
    /// Addresses of containers run by hand on this node [default: a pool that clashes with no route]
    #[arg(long, value_name = "NETWORK/PREFIX")]
    local_pool: Option<Ipv4Net>,
    /// Processor time that replicas may not reserve
    #[arg(long, value_name = "CORES", default_value_t = AgentConfig::default().reserve_cpu)]
    reserve_cpu: MilliCpu,
    /// Memory that replicas may not reserve
    #[arg(long, value_name = "BYTES", default_value = "64m")]
    reserve_memory: ByteSize,
    /// Where services with an ingress rule get HTTP requests, or `off`
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:80")]
    ingress_http: Switchable,
    /// Where those with a certificate get HTTPS requests, or `off`
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:443")]
    ingress_https: Switchable,
    /// Note every request of the ingress in this file, one line of JSON each
    #[arg(long, value_name = "FILE")]
    ingress_log: Option<PathBuf>,
    /// Proxies before the ingress whose X-Forwarded headers are believed
    #[arg(long, value_name = "NETWORK/PREFIX")]
    ingress_trusted: Vec<Ipv4Net>,
}

/// An address, or nothing.
#[derive(Debug, Clone, Copy)]
struct Switchable(Option<SocketAddr>);

impl std::str::FromStr for Switchable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let address = text
            .parse()
            .map_err(|_| format!("'{text}' is neither ADDRESS:PORT nor off"))?;
        Ok(Self(Some(address)))
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_string(), value.to_string())),
        _ => Err("write KEY=VALUE".to_string()),
    }
}

fn generic(text: &str) -> Result<GenericResource, String> {
    let (kind, count) = label(text).map_err(|_| "write KIND=COUNT, such as gpu=2")?;
    let value = count.parse().map_err(|_| format!("'{count}' is not a count"))?;
    Ok(GenericResource { kind, value })
}

impl NodeArgs {
    /// A configuration with what these arguments say.
    pub fn into_config(self) -> AgentConfig {
        AgentConfig {
            labels: self.labels.into_iter().collect(),
            generic: self.generic,
            cgroup_parent: self.cgroup_parent,
            bridge: self.bridge,
            local_pool: self.local_pool,
            reserve_cpu: self.reserve_cpu,
            reserve_memory: self.reserve_memory,
            ingress: IngressConfig {
                http: self.ingress_http.0,
                https: self.ingress_https.0,
                access_log: self.ingress_log,
                trusted: self.ingress_trusted,
                ..IngressConfig::default()
            },
            ..AgentConfig::default()
        }
    }
}

/// Runs until a signal. Replicas outlive it.
pub async fn run(args: AgentArgs) -> Outcome {
    args.log.start()?;
    let join = args.join.resolve(SERVER_PORT)?;
    let advertise = args
        .advertise
        .map(|advertise| daemon::with_port(&advertise, args.listen.port()));
    let fixed = (!args.listen.ip().is_unspecified()).then(|| args.listen.to_string());
    let config = AgentConfig {
        data_dir: args.data_dir,
        run_dir: args.run_dir,
        listen: args.listen,
        advertise: advertise.or(fixed).unwrap_or_default(),
        name: args.name,
        join: join.map(|(servers, token)| Join { servers, token }),
        // One process for each: a server on the same machine keeps its identity in its usual folder.
        runs_server: gantry_pki::Identity::exists(&gantry_control_plane::identity_dir(daemon::SERVER_FOLDER.as_ref())),
        ..args.node.into_config()
    };
    gantry_agent::run(config, daemon::shutdown_on_signal()?).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_resources_are_read() {
        assert_eq!(label("disk=ssd"), Ok(("disk".to_string(), "ssd".to_string())));
        assert!(label("disk").is_err() && label("=x").is_err());
        assert_eq!(generic("gpu=2").map(|generic| generic.value), Ok(2));
        assert!(generic("gpu=many").is_err() && generic("gpu").is_err());
    }
}
