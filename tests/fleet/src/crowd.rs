//! All agents of this process: they join a few at a time, then each lives in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use futures::StreamExt;
use gantry_model::{ByteSize, Problem};
use gantry_rpc::{Enrolled, Patience};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::agent::{Agent, Size};
use crate::ledger::{Ledger, add};
use crate::node::Node;

/// Nodes that join at the same time; operators bring machines up by the rack.
const JOINS: usize = 32;

/// Agents that wait to be started.
const STARTS: usize = 64;

/// Addresses of one /16, so that each agent has one of its own: nothing connects to them.
const ADDRESSES_PER_BLOCK: usize = 250;

#[derive(Args, Clone)]
pub struct Options {
    /// Addresses of servers
    #[arg(long, value_delimiter = ',', required = true)]
    servers: Vec<String>,
    /// An agent's join token
    #[arg(long)]
    token: String,
    /// Agents in this process
    #[arg(long)]
    count: usize,
    /// Number of its first agent: names and addresses follow from it
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// How long a container takes to start, in milliseconds
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// Cores of each node
    #[arg(long, default_value_t = 12)]
    cores: u64,
    /// Memory of each node, in MiB
    #[arg(long, default_value_t = 16_384)]
    memory: u64,
    /// Arrivals in this namespace are noted one by one
    #[arg(long, default_value = "one")]
    watch: String,
    /// Threads
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
}

/// Plays until standard input ends.
///
/// # Errors
/// When an agent cannot join, or a command is not one.
pub async fn play(options: Options) -> Result<()> {
    let ledger = Arc::new(Ledger::default());
    let (sender, mut joined) = mpsc::channel(STARTS);
    let joining = tokio::spawn(join_all(options, ledger.clone(), sender));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut alive: Vec<JoinHandle<()>> = Vec::new();
    loop {
        tokio::select! {
            Some(agent) = joined.recv() => alive.push(tokio::spawn(Agent::run(agent))),
            line = lines.next_line() => {
                let Some(line) = line? else { break };
                println!("{}", obey(&line, &ledger, &mut alive).await?);
            }
        }
    }
    joining.abort();
    Ok(())
}

async fn obey(line: &str, ledger: &Ledger, alive: &mut Vec<JoinHandle<()>>) -> Result<Value> {
    Ok(match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["counts"] => ledger.counts(),
        ["arrivals"] => json!(ledger.take_arrivals()),
        ["vanish", count] => {
            let count: usize = count.parse()?;
            let at = crate::clock::micros();
            let rest = alive.len().saturating_sub(count);
            let gone = alive.split_off(rest);
            gone.iter().for_each(JoinHandle::abort);
            for agent in gone {
                // Cut off, which is what was asked for.
                let _ = agent.await;
            }
            json!({ "at": at, "left": alive.len() })
        }
        _ => bail!("not a command: {line}"),
    })
}

async fn join_all(options: Options, ledger: Arc<Ledger>, joined: mpsc::Sender<Agent>) {
    let numbers = options.first..options.first + options.count;
    let joins = futures::stream::iter(numbers).map(|number| join(&options, number, ledger.clone()));
    let mut joins = joins.buffer_unordered(JOINS);
    while let Some(agent) = joins.next().await {
        match agent {
            Ok(agent) => {
                if joined.send(agent).await.is_err() {
                    return;
                }
            }
            Err(error) => eprintln!("an agent could not join: {error:#}"),
        }
    }
}

async fn join(options: &Options, number: usize, ledger: Arc<Ledger>) -> Result<Agent> {
    let name = format!("n{number:05}");
    // The first server leads as long as nobody kills it; newcomers ask any.
    let servers = options.servers.iter().cycle().skip(number).take(options.servers.len());
    let servers: Vec<String> = servers.cloned().collect();
    let Enrolled { identity, .. } = gantry_rpc::enroll(&servers, &options.token, &name, patience())
        .await
        .with_context(|| format!("node {name}"))?;
    add(&ledger.enrolled, 1);
    let node = Node::new(ledger.clone(), options.delay * 1000, options.watch.clone());
    let size = Size {
        cores: options.cores,
        memory: ByteSize::mib(options.memory),
    };
    let (block, host) = (number / ADDRESSES_PER_BLOCK, number % ADDRESSES_PER_BLOCK);
    let address = format!("10.200.{block}.{}:7601", host + 1);
    Agent::new(name, address, size, (identity, options.servers.clone()), node, ledger)
}

fn patience() -> Patience {
    Patience {
        limit: gantry_model::DurationMs(u64::try_from(Duration::from_secs(120).as_millis()).unwrap_or(u64::MAX)),
        tell: |problem: &Problem| eprintln!("not yet: {problem}"),
    }
}
