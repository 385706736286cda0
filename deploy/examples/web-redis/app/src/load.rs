//! The load generator: a fixed number of clients, each sending one request after the other, and an honest count.
//!
//! **Invariant:** every request that was begun is counted once, as answered or as failed; a client told to stop finishes the one
//! it has.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use hyper::{StatusCode, Uri};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::client::{Connection, Target};

/// How often the stop file is looked for.
const STOP_FILE_PERIOD: Duration = Duration::from_millis(100);
/// A client waits this long after a failure, so that a refusing server is not stormed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);
/// Kinds of failures and versions kept in the report; others are counted as one.
const KINDS_MAX: usize = 50;

/// What load to make.
#[derive(clap::Args)]
pub struct Options {
    /// Where to send requests; several are used in turn
    #[arg(long = "url", required = true)]
    urls: Vec<Uri>,
    /// Stop after this many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// Stop when this file exists
    #[arg(long)]
    stop_file: Option<PathBuf>,
    /// Clients that send at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: u32,
    /// Requests per second of all clients together; as many as they can when absent
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Use connections again instead of opening one per request
    #[arg(long)]
    keep_alive: bool,
    /// Seconds after which a request has failed
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

/// What is printed at the end.
#[derive(Default, Serialize)]
struct Report {
    /// All requests begun.
    requests: u64,
    /// Those without an answer of status 200.
    failures: u64,
    /// Answers by the version that gave them.
    versions: BTreeMap<String, u64>,
    /// Answers by the replica that gave them.
    replicas: BTreeMap<String, u64>,
    /// Failures by reason.
    errors: BTreeMap<String, u64>,
}

/// The part of an answer that is counted.
#[derive(Deserialize)]
struct Visit {
    version: String,
    replica: String,
}

struct Client {
    targets: Vec<Target>,
    /// The next target; clients start at different ones.
    turn: usize,
    kept: Vec<Option<Connection>>,
    keep_alive: bool,
    timeout: Duration,
}

/// Sends requests until told to stop and prints the report; false when any failed.
pub async fn run(options: Options) -> Result<bool, String> {
    let targets: Vec<_> = options.urls.iter().map(Target::new).collect::<Result<_, _>>()?;
    let report = Rc::new(RefCell::new(Report::default()));
    let (stop, stopped) = watch::channel(false);
    let period = options
        .rate
        .map(|rate| Duration::from_secs(1) * options.concurrency / rate);
    let local = LocalSet::new();
    for number in 0..options.concurrency as usize {
        let client = Client {
            turn: number % targets.len(),
            kept: targets.iter().map(|_| None).collect(),
            targets: targets.clone(),
            keep_alive: options.keep_alive,
            timeout: Duration::from_secs(options.timeout),
        };
        // Clients with a rate start spread over the first period.
        let delay = period.map(|period| period * number as u32 / options.concurrency);
        local.spawn_local(send_all(client, delay.zip(period), Rc::clone(&report), stopped.clone()));
    }
    local.run_until(told_to_stop(&options)).await?;
    stop.send_replace(true);
    local.await;
    let report = report.borrow();
    println!(
        "{}",
        serde_json::to_string(&*report).map_err(|error| format!("print the report: {error}"))?
    );
    Ok(report.failures == 0)
}

async fn told_to_stop(options: &Options) -> Result<(), String> {
    let handler = |kind| signal(kind).map_err(|error| format!("handle signals: {error}"));
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    let time_is_up = async {
        match options.seconds {
            Some(seconds) => sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    let file_appears = async {
        match &options.stop_file {
            Some(path) => {
                while !path.exists() {
                    sleep(STOP_FILE_PERIOD).await;
                }
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = time_is_up => {}
        () = file_appears => {}
    }
    Ok(())
}

async fn send_all(
    mut client: Client,
    pace: Option<(Duration, Duration)>,
    report: Rc<RefCell<Report>>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut ticks = None;
    if let Some((delay, period)) = pace {
        sleep(delay).await;
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks = Some(interval);
    }
    while !*stopped.borrow() {
        let outcome = client.request().await;
        let failed = outcome.is_err();
        report.borrow_mut().count(outcome);
        let pause = async {
            if let Some(interval) = &mut ticks {
                interval.tick().await;
            }
            if failed {
                sleep(PAUSE_AFTER_FAILURE).await;
            }
        };
        tokio::select! {
            () = pause => {}
            _ = stopped.changed() => {}
        }
    }
}

impl Client {
    async fn request(&mut self) -> Result<Option<Visit>, String> {
        let turn = self.turn;
        self.turn = (turn + 1) % self.targets.len();
        let kept = self.kept[turn].take();
        let (target, keep_alive) = (&self.targets[turn], self.keep_alive);
        let exchange = async {
            let mut connection = match usable(kept).await {
                Some(connection) => connection,
                None => target.connect().await?,
            };
            let (status, body) = connection.get(!keep_alive).await?;
            Ok::<_, String>((connection, status, body))
        };
        let outcome = timeout(self.timeout, exchange).await;
        let (connection, status, body) = outcome.map_err(|_| "no answer in time".to_string())??;
        if self.keep_alive {
            self.kept[turn] = Some(connection);
        }
        if status != StatusCode::OK {
            return Err(format!("status {}", status.as_u16()));
        }
        Ok(serde_json::from_slice(&body).ok())
    }
}

/// The kept connection, unless the server closed it in the meantime.
async fn usable(kept: Option<Connection>) -> Option<Connection> {
    let mut connection = kept?;
    connection.is_usable().await.then_some(connection)
}

impl Report {
    fn count(&mut self, outcome: Result<Option<Visit>, String>) {
        self.requests += 1;
        match outcome {
            Ok(None) => {}
            Ok(Some(visit)) => {
                add(&mut self.versions, visit.version);
                add(&mut self.replicas, visit.replica);
            }
            Err(reason) => {
                self.failures += 1;
                add(&mut self.errors, reason);
            }
        }
    }
}

fn add(counts: &mut BTreeMap<String, u64>, kind: String) {
    let kind = if counts.len() < KINDS_MAX || counts.contains_key(&kind) {
        kind
    } else {
        "others".to_string()
    };
    *counts.entry(kind).or_default() += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_counted_once() {
        let mut report = Report::default();
        let visit = |version: &str| Visit {
            version: version.into(),
            replica: "web.1".into(),
        };
        report.count(Ok(Some(visit("v1"))));
        report.count(Ok(Some(visit("v2"))));
        report.count(Ok(None));
        report.count(Err("status 503".into()));
        let text = serde_json::to_string(&report).expect("JSON");
        assert_eq!(
            text,
            r#"{"requests":4,"failures":1,"versions":{"v1":1,"v2":1},"replicas":{"web.1":2},"errors":{"status 503":1}}"#
        );
        for number in 0..1000 {
            report.count(Err(number.to_string()));
        }
        assert!(report.errors.len() <= KINDS_MAX + 1 && report.errors.values().sum::<u64>() == report.failures);
    }
}
