//! Requests that go on while something happens to a cluster, and the count of those that failed.

use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::{Cluster, Container, Stopwatch};

/// From where, to where and how.
#[derive(Debug, Clone)]
pub struct Stream<'a> {
    /// For people.
    pub name: String,
    /// The host that asks.
    pub host: &'a str,
    /// A container on that host in whose place it asks, with the program of its image.
    pub inside: Option<&'a Container>,
    /// `HOST:PORT`.
    pub target: String,
    /// Page to ask for.
    pub path: &'a str,
    /// Connections are kept.
    pub keep: bool,
    /// So many at a time.
    pub connections: u32,
}

/// Pause of each connection between two requests: enough of them in sum, and the machine is left room for the cluster.
const PAUSE_MS: &str = "10";

/// A stream of requests under way.
#[derive(Debug)]
pub struct Load {
    name: String,
    child: Child,
}

/// What came of a stream.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Which one.
    pub name: String,
    /// Requests made.
    pub requests: u64,
    /// Those without a complete answer.
    pub failed: u64,
    /// Those for which a kept connection was closed before an answer, and that were answered on a new one.
    pub asked_again: u64,
    /// The longest took so long.
    pub slowest_ms: u64,
    /// When the last of the requests that failed began, by [`machine_ms`](crate::machine_ms); 0 without one.
    pub last_failed_at_ms: u64,
    /// Some failures.
    pub failures: Vec<String>,
}

impl Cluster {
    /// Starts a stream of requests made by `program`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn load(&self, program: &Path, stream: &Stream<'_>) -> Load {
        let mut command = self.lab.command(stream.host);
        match stream.inside {
            Some(container) => {
                let pid = container.pid.to_string();
                command.args(["nsenter", "-t", &pid, "-n", "-m", "--", "/load"]);
            }
            None => {
                command.arg(program);
            }
        }
        let mode = if stream.keep { "keep" } else { "fresh" };
        let connections = stream.connections.to_string();
        command.args([mode, &stream.target, stream.path, &connections, PAUSE_MS]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Load {
            name: stream.name.clone(),
            child: child.expect("the load can be started"),
        }
    }
}

/// Lets `event` happen while all `streams` are under way, prints what came of them as a figure of `test`, and returns it.
pub fn under_load(
    cluster: &Cluster,
    program: &Path,
    streams: &[Stream<'_>],
    (test, what): (&str, &str),
    event: impl FnOnce(),
) -> Vec<Tally> {
    let loads: Vec<Load> = streams.iter().map(|stream| cluster.load(program, stream)).collect();
    let watch = Stopwatch::start();
    event();
    let took = watch.ms();
    let tallies: Vec<Tally> = loads.into_iter().map(Load::end).collect();
    let sum = |count: fn(&Tally) -> u64| tallies.iter().map(count).sum::<u64>();
    println!(
        "FIGURE {test}: {what}: {} of {} requests failed, {} asked again, slowest {} ms, in {took} ms",
        sum(|tally| tally.failed),
        sum(|tally| tally.requests),
        sum(|tally| tally.asked_again),
        tallies.iter().map(|tally| tally.slowest_ms).max().unwrap_or_default(),
    );
    for tally in tallies.iter().filter(|tally| tally.failed > 0) {
        println!(
            "  {}: {} of {}: {:?}",
            tally.name, tally.failed, tally.requests, tally.failures
        );
    }
    tallies
}

impl Load {
    /// Ends it and returns what came of it.
    ///
    /// # Panics
    /// When it did not end in order.
    #[must_use]
    pub fn end(mut self) -> Tally {
        drop(self.child.stdin.take());
        let output = self.child.wait_with_output().expect("the load ends");
        let text = String::from_utf8_lossy(&output.stdout);
        let counts: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}: {text}", self.name));
        let count = |key: &str| counts[key].as_u64().expect("a count");
        let failures = counts["failures"].as_array().into_iter().flatten();
        Tally {
            requests: count("requests"),
            failed: count("failed"),
            asked_again: count("asked_again"),
            slowest_ms: count("slowest_ms"),
            last_failed_at_ms: count("last_failed_at_ms"),
            failures: failures.filter_map(|one| Some(one.as_str()?.to_string())).collect(),
            name: self.name,
        }
    }
}
