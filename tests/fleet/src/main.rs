//! `fleet`: many agents in one process, and a person's calls beside them, to measure a real control plane at scale.
//!
//! `fleet agents` holds the sessions of as many nodes as asked for, each with an identity and a connection of its own, and
//! answers as agents do. `fleet drive` applies applications and times the answers. Both take one command per line on standard
//! input and answer each with one line of JSON; every time is in microseconds of the machine's monotonic clock, which all
//! processes of the machine share.
//!
//! Deliberately not here: containers, images, data paths. What an agent says of them is what it would say if all went well.

mod agent;
mod application;
mod clock;
mod crowd;
mod drive;
mod ledger;
mod node;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Many agents in one process, to measure a control plane")]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Plays agents: `counts`, `arrivals`, `vanish COUNT`
    Agents(crowd::Options),
    /// Calls the API: `apply PREFIX COUNT SIZES WORKERS`, `probe MILLISECONDS`, `stop`, `more COUNT MILLISECONDS`, `status`
    Drive(drive::Options),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let threads = match &arguments.role {
        Role::Agents(options) => options.threads,
        Role::Drive(_) => 1,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match arguments.role {
            Role::Agents(options) => crowd::play(options).await,
            Role::Drive(options) => drive::drive(options).await,
        }
    })
}
