//! The command line: what all commands share, and which commands there are. Each command's own arguments stand in its module.
//!
//! **Invariant:** a struct of arguments has no documentation comment: made when its command is called, it would replace what the
//! list of commands says of that.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use crate::commands;
use crate::complete;
use crate::output::Format;

/// Run containers on one machine or on hundreds, from the Compose file you already have.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

// Options that every command takes.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Only this namespace; without it all, or the only one that fits a name
    #[arg(short, long, global = true, value_name = "NAME", help_heading = "Common options",
          add = ArgValueCompleter::new(complete::namespaces))]
    pub namespace: Option<String>,
    /// How to show the answer
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, help_heading = "Common options")]
    pub output: Format,
    /// Server to ask, instead of those of the context
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "GANTRY_SERVER",
        help_heading = "Common options"
    )]
    pub server: Vec<String>,
    /// Folder with the identity and the servers to use [default: ~/.config/gantry, else /etc/gantry]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "GANTRY_CONTEXT",
        help_heading = "Common options"
    )]
    pub context: Option<PathBuf>,
}

impl Global {
    /// The namespace asked for, empty for all.
    pub fn namespace(&self) -> String {
        self.namespace.clone().unwrap_or_default()
    }

    /// Namespace and name of what was written as `name` or `namespace/name`.
    pub fn qualified(&self, text: &str) -> (String, String) {
        match text.split_once('/') {
            Some((namespace, name)) => (namespace.to_string(), name.to_string()),
            None => (self.namespace(), text.to_string()),
        }
    }
}

// Here and in all families: a command's options are made when it is called. Making them all took a third of every call's time.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Make a cluster, join one, look after its servers
    #[command(subcommand)]
    Cluster(commands::cluster::Command),
    /// Look after the machines
    #[command(subcommand)]
    Node(commands::node::Command),
    /// Check a manifest without a cluster
    Check(commands::check::CheckArgs),
    /// Bring the cluster to what a manifest says
    Apply(commands::apply::ApplyArgs),
    /// Show what apply would change, and where replicas would run
    Plan(commands::plan::PlanArgs),
    /// Remove what a manifest names
    Delete(commands::apply::DeleteArgs),
    /// Look at the HTTP ingress
    #[command(subcommand)]
    Ingress(commands::ingress::Command),
    /// Look at namespaces
    #[command(subcommand)]
    Namespace(commands::namespace::Command),
    /// Look after services
    #[command(subcommand)]
    Service(commands::service::Command),
    /// Look after jobs that run by the clock
    #[command(subcommand)]
    Cron(commands::cron::Command),
    /// List replicas
    Ps(commands::ps::PsArgs),
    /// Show what replicas wrote
    Logs(commands::logs::LogsArgs),
    /// Run a command inside a replica
    Exec(commands::exec::ExecArgs),
    /// Show what happened in the cluster
    Events(commands::events::EventsArgs),
    /// Say why a service or replica is not as wanted, or why it is where it is
    Explain(commands::explain::ExplainArgs),
    /// Build an image from a Dockerfile
    Build(Box<commands::build::BuildArgs>),
    /// Look after images
    #[command(subcommand)]
    Image(commands::image::Command),
    /// Let other programs use the cluster's registry
    #[command(subcommand)]
    Registry(commands::registry::Command),
    /// Keep credentials for a registry
    Login(commands::login::LoginArgs),
    /// Forget credentials for a registry
    Logout(commands::login::LogoutArgs),
    /// Look after containers run by hand on one node
    #[command(subcommand)]
    Container(commands::container::Command),
    #[command(flatten)]
    ContainerVerb(commands::container::Verb),
    /// Run a server: the control plane
    Server(commands::server::ServerArgs),
    /// Run an agent: replicas on this machine
    Agent(commands::agent::AgentArgs),
    /// Run a server and an agent in one process, on this machine alone
    Dev(commands::dev::DevArgs),
    /// Create and run containers by the OCI runtime specification, with the command line of runc
    Oci(commands::oci::OciArgs),
    /// Print what a shell needs to complete commands and names
    Completion(complete::CompletionArgs),
}

impl Command {
    /// Whether it runs until it is stopped.
    pub const fn is_daemon(&self) -> bool {
        matches!(self, Self::Server(_) | Self::Agent(_) | Self::Dev(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Two arguments of one id would be read as each other, which only shows when the command runs.
    #[test]
    fn no_command_reuses_the_id_of_an_option_of_all_commands() {
        fn walk(command: &clap::Command, shared: &[String]) {
            for argument in command.get_arguments().filter(|argument| !argument.is_global_set()) {
                let id = argument.get_id().to_string();
                assert!(!shared.contains(&id), "{} of {}", id, command.get_name());
            }
            command.get_subcommands().for_each(|inner| walk(inner, shared));
        }
        let mut cli = Cli::command();
        let shared: Vec<String> = cli
            .get_arguments()
            .map(|argument| argument.get_id().to_string())
            .collect();
        cli.build();
        assert!(shared.contains(&"context".to_string()));
        cli.get_subcommands().for_each(|command| walk(command, &shared));
    }

    #[test]
    fn commands_say_of_themselves_what_their_list_says_of_them() {
        fn walk(listed: &clap::Command, called: &clap::Command) {
            for inner in listed.get_subcommands() {
                let name = inner.get_name();
                let own = called.find_subcommand(name).expect("made from the same");
                let text = |command: &clap::Command| command.get_about().map(ToString::to_string);
                assert_eq!(text(inner), text(own), "{name}");
                assert!(text(own).is_some(), "{name}");
                walk(inner, own);
            }
        }
        let mut called = Cli::command();
        called.build();
        walk(&Cli::command(), &called);
    }

    #[test]
    fn names_may_carry_their_namespace() {
        let global = Global {
            namespace: Some("shop".to_string()),
            ..Global::default()
        };
        let pair = |namespace: &str, name: &str| (namespace.to_string(), name.to_string());
        assert_eq!(global.qualified("web"), pair("shop", "web"));
        assert_eq!(global.qualified("blog/web"), pair("blog", "web"));
        assert_eq!(Global::default().qualified("web"), pair("", "web"));
    }

    #[test]
    fn options_of_all_commands_may_follow_the_command() {
        let cli = Cli::try_parse_from(["gantry", "ps", "web", "-n", "shop", "-o", "json"]).expect("valid");
        assert_eq!(cli.global.namespace(), "shop");
        assert_eq!(cli.global.output, Format::Json);
    }
}
