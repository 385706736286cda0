//! `gantry`: server, agent, and every command of a person.
//!
//! A thin shell: it reads arguments and files, calls the API, and shows answers. **Invariant:** standard output carries the
//! answer alone; progress, warnings and errors go to standard error. **Invariant:** nothing is decided here that the cluster
//! should decide.
//! Deliberately not here: what manifests mean (`manifest`), what commands do (`control-plane`, `agent`).

mod args;
mod client;
mod commands;
mod complete;
mod context;
mod engine;
mod failure;
mod output;
mod terminal;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command};
use crate::failure::{Failure, Outcome};

/// Threads of a server or agent: their work waits for disks, networks and the kernel.
const DAEMON_THREADS: usize = 2;

fn main() -> ExitCode {
    if let Some(code) = commands::oci::called_for(std::env::args_os()) {
        leave(code);
    }
    clap_complete::CompleteEnv::with_factory(Cli::command).complete();
    let cli = Cli::parse_from(commands::build::spelling(std::env::args_os()));
    let is_daemon = cli.command.is_daemon();
    let runtime = if is_daemon {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(DAEMON_THREADS)
            .enable_all()
            .build()
    } else {
        tokio::runtime::Builder::new_current_thread().enable_all().build()
    };
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(cli));
            // A thread may still wait for standard input; it ends with the process.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure::from(error)),
    };
    let code = outcome.map_or_else(|failure| failure.report(), |()| 0);
    if is_daemon {
        return ExitCode::from(code);
    }
    leave(code)
}

/// Ends a command without the exit handlers of libraries, which free memory that the kernel frees anyway. Daemons take the long
/// way, since the database has something to close.
fn leave(code: u8) -> ! {
    // Whoever closed standard output has been told, or does not care.
    drop(std::io::stdout().flush());
    gantry_sys::process::exit_now(i32::from(code))
}

async fn run(cli: Cli) -> Outcome {
    let global = &cli.global;
    match cli.command {
        Command::Cluster(command) => commands::cluster::run(global, command).await,
        Command::Node(command) => commands::node::run(global, command).await,
        Command::Check(args) => commands::check::run(global, &args),
        Command::Apply(args) => commands::apply::apply(global, &args).await,
        Command::Plan(args) => commands::plan::run(global, &args).await,
        Command::Delete(args) => commands::apply::delete(global, &args).await,
        Command::Ingress(command) => commands::ingress::run(global, command).await,
        Command::Namespace(command) => commands::namespace::run(global, command).await,
        Command::Service(command) => commands::service::run(global, command).await,
        Command::Cron(command) => commands::cron::run(global, command).await,
        Command::Ps(args) => commands::ps::run(global, &args).await,
        Command::Logs(args) => commands::logs::run(global, &args).await,
        Command::Exec(args) => commands::exec::run(global, args).await,
        Command::Events(args) => commands::events::run(global, &args).await,
        Command::Explain(args) => commands::explain::run(global, &args).await,
        Command::Build(args) => commands::build::run(global, *args).await,
        Command::Image(command) => commands::image::run(global, command).await,
        Command::Registry(command) => commands::registry::run(global, command).await,
        Command::Server(args) => commands::server::run(args).await,
        Command::Agent(args) => commands::agent::run(args).await,
        Command::Dev(args) => commands::dev::run(global, args).await,
        Command::Login(args) => commands::login::login(&args).await,
        Command::Logout(args) => commands::login::logout(&args).await,
        Command::Container(command) => commands::container::run(global, command).await,
        Command::ContainerVerb(verb) => commands::container::verb(global, verb).await,
        Command::Oci(args) => args.run(),
        Command::Completion(args) => complete::registration(&args),
    }
}
