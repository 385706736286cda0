//! Containers that a person runs by hand on one node: Docker's verbs.

mod attach;
mod copy;
mod detach;
mod list;
mod options;
mod run;
mod stats;
mod transfer;
mod verbs;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use gantry_distribution::DockerConfig;
use gantry_model::ImageReference;
use gantry_model::build::RegistryAuth;

use crate::args::Global;
use crate::failure::Outcome;

pub use transfer::Progress;
pub use verbs::confirm;

// Where the container is.
#[derive(Debug, Clone, Default, Args)]
pub struct NodeArgs {
    /// Node to do it on, instead of this machine
    #[arg(long, value_name = "NODE", add = clap_complete::engine::ArgValueCompleter::new(crate::complete::nodes))]
    node: Option<String>,
}

impl NodeArgs {
    /// The node that was named.
    pub fn name(&self) -> Option<&str> {
        self.node.as_deref()
    }
}

/// `gantry container …`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    #[command(flatten)]
    Verb(Verb),
    /// List containers
    #[command(visible_alias = "ps")]
    Ls(list::ListArgs),
    /// Remove containers that have ended
    Prune(list::PruneArgs),
}

/// Docker's verbs; each is a command of its own, too.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Verb {
    /// Make a container and run it
    Run(Box<run::RunArgs>),
    /// Make a container without starting it
    Create(Box<run::CreateArgs>),
    /// Start containers that were made, or that have ended
    Start(run::StartArgs),
    /// Stop containers: their stop signal, then SIGKILL
    Stop(verbs::StopArgs),
    /// Stop and start containers
    Restart(verbs::StopArgs),
    /// Send containers a signal, SIGKILL by default
    Kill(verbs::KillArgs),
    /// Freeze all processes of containers
    Pause(verbs::NamesArgs),
    /// Let frozen containers go on
    Unpause(verbs::NamesArgs),
    /// Wait until containers end, and print their exit statuses
    Wait(verbs::WaitArgs),
    /// Remove containers
    Rm(verbs::RemoveArgs),
    /// Give a container another name
    Rename(verbs::RenameArgs),
    /// Change limits and the restart policy of containers
    Update(Box<verbs::UpdateArgs>),
    /// Show everything known of containers
    Inspect(verbs::NamesArgs),
    /// Show the processes of a container or replica
    Top(verbs::OneArgs),
    /// Show what containers and replicas use
    Stats(stats::StatsArgs),
    /// Show which files of its image a container or replica changed
    Diff(verbs::OneArgs),
    /// Show a container's published ports
    Port(verbs::OneArgs),
    /// Copy files between here and a container or replica
    Cp(copy::CopyArgs),
    /// Write all files of a container as a tar
    Export(copy::ExportArgs),
    /// Make an image of a container's changes
    Commit(verbs::CommitArgs),
    /// Join a container that runs: its output, input and signals
    Attach(run::AttachArgs),
}

/// Runs one of `gantry container`.
pub async fn run(global: &Global, command: Command) -> Outcome {
    match command {
        Command::Verb(verb) => self::verb(global, verb).await,
        Command::Ls(args) => list::list(global, &args).await,
        Command::Prune(args) => list::prune(global, &args).await,
    }
}

/// Runs one.
pub async fn verb(global: &Global, verb: Verb) -> Outcome {
    match verb {
        Verb::Run(args) => run::run(global, *args).await,
        Verb::Create(args) => run::create_only(global, &args).await,
        Verb::Start(args) => run::start(global, &args).await,
        Verb::Stop(args) => verbs::stop(global, &args).await,
        Verb::Restart(args) => verbs::restart(global, &args).await,
        Verb::Kill(args) => verbs::kill(global, &args).await,
        Verb::Pause(args) => verbs::pause(global, &args).await,
        Verb::Unpause(args) => verbs::unpause(global, &args).await,
        Verb::Wait(args) => verbs::wait(global, &args).await,
        Verb::Rm(args) => verbs::remove(global, &args).await,
        Verb::Rename(args) => verbs::rename(global, &args).await,
        Verb::Update(args) => verbs::update(global, &args).await,
        Verb::Inspect(args) => verbs::inspect(global, &args).await,
        Verb::Top(args) => verbs::top(global, &args).await,
        Verb::Stats(args) => stats::run(global, &args).await,
        Verb::Diff(args) => verbs::diff(global, &args).await,
        Verb::Port(args) => verbs::port(global, &args).await,
        Verb::Cp(args) => copy::run(global, &args).await,
        Verb::Export(args) => copy::export(global, &args).await,
        Verb::Commit(args) => verbs::commit(global, &args).await,
        Verb::Attach(args) => run::attach_running(global, &args).await,
    }
}

/// How to log in at the registry of an image, as `docker login` left it; what cannot be read is as good as nothing, since most
/// images need none and the registry says so otherwise.
pub async fn registry_auth(image: &str) -> Vec<u8> {
    let mut known: BTreeMap<String, RegistryAuth> = BTreeMap::new();
    if let (Ok(reference), Some(config)) = (image.parse::<ImageReference>(), DockerConfig::of_user())
        && let Ok(Some(auth)) = config.credential(reference.registry()).await
    {
        known.insert(reference.registry().to_string(), auth);
    }
    serde_json::to_vec(&known).unwrap_or_default()
}
