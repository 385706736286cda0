//! `gantry dev`: a whole cluster in one process, for a laptop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use gantry_agent::{AGENT_PORT, AgentConfig, Join};
use gantry_api::v1::{CreateTokenRequest, Empty};
use gantry_control_plane::{InitConfig, SERVER_PORT, ServerConfig, identity_dir, init};
use gantry_env::System;
use gantry_model::object::{ClusterConfig, Role};
use gantry_model::{Class, DurationMs, Problem};
use gantry_pki::Identity;
use gantry_rpc::Repeat;
use tokio_util::sync::CancellationToken;

use super::agent::NodeArgs;
use super::daemon::{self, LogArgs};
use crate::args::Global;
use crate::client::Client;
use crate::context::{self, Context};
use crate::failure::Outcome;
use crate::output;

/// Longest wait for the one server to lead itself.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Wait before it is asked again.
const START_PAUSE: Duration = Duration::from_millis(50);

// Arguments of `gantry dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Folder of server and agent
    #[arg(long, value_name = "DIR", default_value = "/var/lib/gantry/dev")]
    data_dir: PathBuf,
    /// Folder for what need not outlive the machine's running
    #[arg(long, value_name = "DIR", default_value = daemon::RUN_FOLDER)]
    run_dir: PathBuf,
    /// Address of server and agent
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    address: std::net::IpAddr,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// Runs until a signal.
pub async fn run(global: &Global, args: DevArgs) -> Outcome {
    args.log.start()?;
    let (server_dir, agent_dir) = (args.data_dir.join("server"), args.data_dir.join("agent"));
    let address = SocketAddr::new(args.address, SERVER_PORT).to_string();
    let mut global = own_context(global, &args.data_dir);
    if !Identity::exists(&identity_dir(&server_dir)) {
        make(&global, &server_dir, &address)?;
    }
    global.server = vec![address.clone()];
    let shutdown = daemon::shutdown_on_signal()?;
    let server = ServerConfig {
        data_dir: server_dir,
        listen: SocketAddr::new(args.address, SERVER_PORT),
        advertise: address.clone(),
        names: vec!["localhost".to_string()],
        join: None,
    };
    let server = gantry_control_plane::run(server, shutdown.clone());
    let agent = async {
        let join = join(&global, &agent_dir, &address).await?;
        let config = AgentConfig {
            data_dir: agent_dir,
            run_dir: args.run_dir,
            listen: SocketAddr::new(args.address, AGENT_PORT),
            advertise: SocketAddr::new(args.address, AGENT_PORT).to_string(),
            join,
            runs_server: true,
            ..args.node.into_config()
        };
        let context = match &global.context {
            Some(folder) => format!(" with --context {}", folder.display()),
            None => String::new(),
        };
        output::note(&format!(
            "gantry is ready; use it from another terminal{context}, and stop it with Ctrl-C"
        ));
        gantry_agent::run(config, shutdown.clone()).await
    };
    // Whichever ends first, for whatever reason, ends the other too.
    let (server, agent) = tokio::join!(ending(server, &shutdown), ending(agent, &shutdown));
    server?;
    agent?;
    Ok(())
}

/// The person's own context stays what it is when it is of another cluster.
fn own_context(global: &Global, data_dir: &Path) -> Global {
    let inside = data_dir.join("context");
    let mut global = global.clone();
    if Identity::exists(&inside) || (global.context.is_none() && context::check_free(&global, None).is_err()) {
        // Where a former start put it, or where there is room.
        let usual = context::reading_folder(&global);
        let ours = Identity::load(&usual).ok().and_then(|own| own.authority_digest().ok());
        let server = Identity::load(&identity_dir(&data_dir.join("server"))).ok();
        let theirs = server.and_then(|server| server.authority_digest().ok());
        if ours.is_none() || ours != theirs {
            global.context = Some(inside);
        }
    }
    global
}

async fn ending<T>(part: impl Future<Output = T>, shutdown: &CancellationToken) -> T {
    let _guard = shutdown.clone().drop_guard();
    part.await
}

fn make(global: &Global, server_dir: &Path, address: &str) -> Result<(), Problem> {
    let config = InitConfig {
        data_dir: server_dir.to_path_buf(),
        advertise: address.to_string(),
        name: "dev".to_string(),
        config: ClusterConfig::default(),
    };
    context::check_free(global, None)?;
    let report = init(&config, &System)?;
    let context = Context {
        cluster: "dev".to_string(),
        servers: vec![address.to_string()],
    };
    let folder = context.save(global, &report.admin)?;
    output::note(&format!("made cluster dev; your identity is in {}", folder.display()));
    Ok(())
}

/// Waits for the server to lead, and gets the agent's token the first time.
async fn join(global: &Global, agent_dir: &Path, address: &str) -> Result<Option<Join>, Problem> {
    let client = Client::open(global).await?;
    tokio::time::timeout(START_TIMEOUT, led(&client)).await.map_err(|_| {
        let reason = format!("has no leader after {} s", START_TIMEOUT.as_secs());
        Problem::new(Class::Timeout, format!("server {address}"), reason)
    })?;
    if Identity::exists(&agent_dir.join("identity")) || Identity::exists(agent_dir) {
        return Ok(None);
    }
    let request = CreateTokenRequest {
        role: Role::Agent.to_string(),
        ttl_ms: DurationMs::secs(600).0,
    };
    let reply = client
        // A second token would be no harm, and a server that has just begun to lead may still be storing the cluster.
        .call(Repeat::Harmless, |mut cluster| {
            let request = request.clone();
            async move { cluster.create_token(request).await }
        })
        .await?;
    Ok(Some(Join {
        servers: vec![address.to_string()],
        token: reply.token,
    }))
}

async fn led(client: &Client) {
    loop {
        let status = client
            .call(Repeat::Harmless, |mut cluster| async move {
                cluster.cluster_status(Empty {}).await
            })
            .await;
        // A leader has no name for its cluster until it has stored it, and makes no tokens before that.
        if status.is_ok_and(|status| !status.leader.is_empty() && !status.name.is_empty()) {
            return;
        }
        tokio::time::sleep(START_PAUSE).await;
    }
}
