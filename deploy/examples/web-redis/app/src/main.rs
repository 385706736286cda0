//! The example application: a page that counts its visits in Redis, the check of its own health, and a client that puts load on
//! it. One static program, so that its image needs nothing else.

mod client;
mod drain;
mod load;
mod redis;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A page that counts its visits in Redis.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Options,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the page (this is the default)
    Serve(serve::Options),
    /// Ask the server on this machine whether it is well; exit status 0 when it is
    Healthcheck(client::HealthOptions),
    /// Send requests until told to stop and count what fails
    Load(load::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("start the runtime: {error}")),
    };
    let outcome = runtime.block_on(async {
        match arguments.command {
            None => serve::run(arguments.serve).await.map(|()| true),
            Some(Command::Serve(options)) => serve::run(options).await.map(|()| true),
            Some(Command::Healthcheck(options)) => client::check_health(&options).await.map(|()| true),
            Some(Command::Load(options)) => load::run(options).await,
        }
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => failed(&reason),
    }
}

fn failed(reason: &str) -> ExitCode {
    eprintln!("web-redis: {reason}");
    ExitCode::FAILURE
}
