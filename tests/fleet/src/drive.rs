//! A person's calls: applications applied in bulk, single ones timed beside them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use futures::StreamExt;
use gantry_api::v1::cluster_client::ClusterClient;
use gantry_api::v1::{ApplyReply, Empty};
use gantry_model::Problem;
use gantry_pki::Identity;
use gantry_rpc::{Credentials, Repeat, ServerPool, WithLimits};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::application::{application, sizes};
use crate::clock::micros;

#[derive(Args)]
pub struct Options {
    /// Addresses of servers
    #[arg(long, value_delimiter = ',', required = true)]
    servers: Vec<String>,
    /// Folder with the identity of an administrator
    #[arg(long)]
    context: PathBuf,
}

struct Driver {
    pool: ServerPool,
    /// The probe's task, and what stops it.
    probe: Option<(watch::Sender<bool>, JoinHandle<Value>)>,
    /// Replicas of the service that gets one more at a time.
    ones: u32,
}

/// Calls until standard input ends.
///
/// # Errors
/// When a command is not one.
pub async fn drive(options: Options) -> Result<()> {
    let credentials = Credentials::new(Identity::load(&options.context)?)?;
    let mut driver = Driver {
        pool: ServerPool::new(options.servers, credentials),
        probe: None,
        ones: 0,
    };
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        println!("{}", driver.obey(&line).await?);
    }
    Ok(())
}

impl Driver {
    async fn obey(&mut self, line: &str) -> Result<Value> {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["apply", prefix, count, text, workers] => {
                Ok(apply_many(&self.pool, prefix, count.parse()?, &sizes(text)?, workers.parse()?).await)
            }
            ["probe", pause] => {
                let (stop, stopped) = watch::channel(false);
                let task = tokio::spawn(probe(self.pool.clone(), Duration::from_millis(pause.parse()?), stopped));
                self.probe = Some((stop, task));
                Ok(json!({ "at": micros() }))
            }
            ["stop"] => {
                let Some((stop, task)) = self.probe.take() else {
                    bail!("no probe runs");
                };
                stop.send_replace(true);
                Ok(task.await?)
            }
            ["more", count, pause] => self.more(count.parse()?, Duration::from_millis(pause.parse()?)).await,
            ["status"] => Ok(status(&self.pool).await),
            _ => bail!("not a command: {line}"),
        }
    }

    /// One replica more in namespace `one`, so many times.
    async fn more(&mut self, count: u32, pause: Duration) -> Result<Value> {
        let mut asked = Vec::new();
        for _ in 0..count {
            self.ones += 1;
            let from = micros();
            let result = apply(&self.pool, "one", &[self.ones]).await;
            let problem = result.err().map(|problem| problem.to_string());
            asked.push(
                json!({ "replica": format!("s0.{}", self.ones), "from": from, "to": micros(), "problem": problem }),
            );
            tokio::time::sleep(pause).await;
        }
        Ok(json!(asked))
    }
}

async fn apply(pool: &ServerPool, namespace: &str, sizes: &[u32]) -> Result<ApplyReply, Problem> {
    let request = Arc::new(application(namespace, sizes));
    pool.call(Repeat::Harmless, |channel| {
        let request = request.clone();
        async move {
            ClusterClient::new(channel)
                .with_limits()
                .apply((*request).clone())
                .await
        }
    })
    .await
}

/// Applies namespaces `PREFIX0`…, several at a time.
async fn apply_many(pool: &ServerPool, prefix: &str, count: usize, sizes: &[u32], workers: usize) -> Value {
    let from = micros();
    let applies = futures::stream::iter(0..count).map(|number| async move {
        let started = micros();
        let result = apply(pool, &format!("{prefix}{number}"), sizes).await;
        result.map(|_| micros() - started)
    });
    let results: Vec<Result<u64, Problem>> = applies.buffer_unordered(workers).collect().await;
    let to = micros();
    let problem = results.iter().find_map(|result| result.as_ref().err());
    let problem = problem.map(ToString::to_string);
    let took = results.into_iter().flatten().collect();
    json!({ "from": from, "to": to, "took": distribution(took), "problem": problem })
}

/// Applies an application of one service with one replica or two in turn, with a pause after each answer.
async fn probe(pool: ServerPool, pause: Duration, stopped: watch::Receiver<bool>) -> Value {
    let mut took = Vec::new();
    let mut problems = 0;
    let mut replicas = 1;
    while !*stopped.borrow() {
        replicas = 3 - replicas;
        let from = micros();
        match apply(&pool, "probe", &[replicas]).await {
            Ok(_) => took.push(micros() - from),
            Err(problem) => {
                problems += 1;
                eprintln!("a probe failed: {problem}");
            }
        }
        tokio::time::sleep(pause).await;
    }
    json!({ "took": distribution(took), "problems": problems })
}

async fn status(pool: &ServerPool) -> Value {
    let call = |channel| async move { ClusterClient::new(channel).with_limits().cluster_status(Empty {}).await };
    match pool.call(Repeat::Harmless, call).await {
        Ok(status) => {
            let leader = status.servers.iter().find(|server| server.leader);
            json!({
                "at": micros(), "leader": leader.map(|leader| leader.address.clone()), "ready": status.nodes_ready,
                "down": status.nodes_down, "running": status.replicas_running, "wanted": status.replicas_wanted,
                "applied": status.applied, "voters": status.servers.iter().filter(|server| server.voter).count(),
            })
        }
        Err(problem) => json!({ "at": micros(), "problem": problem.to_string() }),
    }
}

/// Microseconds in order, as the figures that people read.
fn distribution(mut took: Vec<u64>) -> Value {
    took.sort_unstable();
    let at = |permille: usize| {
        took.get((took.len() * permille / 1000).min(took.len().saturating_sub(1)))
            .copied()
    };
    json!({ "count": took.len(), "p50": at(500), "p90": at(900), "p99": at(990), "max": took.last() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_names_its_ranks() {
        let figures = distribution((1..=1000).rev().collect());
        assert_eq!(
            figures,
            json!({ "count": 1000, "p50": 501, "p90": 901, "p99": 991, "max": 1000 })
        );
        assert_eq!(distribution(vec![])["p99"], Value::Null);
    }
}
