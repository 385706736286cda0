//! `gantry server`: the control plane on this machine.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use gantry_control_plane::{JoinConfig, SERVER_PORT, ServerConfig};

use super::daemon::{self, JoinArgs, LogArgs};
use crate::failure::Outcome;

// Arguments of `gantry server`.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Folder of the server
    #[arg(long, value_name = "DIR", default_value = daemon::SERVER_FOLDER)]
    data_dir: PathBuf,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([0, 0, 0, 0], SERVER_PORT)))]
    listen: SocketAddr,
    /// Where other machines reach it [default: this machine's address and the port listened on]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Further name or address by which clients of the image registry reach it, such as a load balancer's
    #[arg(long = "tls-name", value_name = "HOST")]
    name: Vec<String>,
    #[command(flatten)]
    join: JoinArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// Runs until a signal.
pub async fn run(args: ServerArgs) -> Outcome {
    args.log.start()?;
    let join = args.join.resolve(SERVER_PORT)?;
    let servers = join.as_ref().map(|(servers, _)| servers.clone()).unwrap_or_default();
    let config = ServerConfig {
        data_dir: args.data_dir,
        listen: args.listen,
        advertise: match args.advertise {
            Some(advertise) => daemon::with_port(&advertise, args.listen.port()),
            None => daemon::advertised(args.listen, &servers),
        },
        names: [vec![daemon::host_name()], args.name].concat(),
        join: join.map(|(servers, token)| JoinConfig { servers, token }),
    };
    gantry_control_plane::run(config, daemon::shutdown_on_signal()?).await?;
    Ok(())
}
