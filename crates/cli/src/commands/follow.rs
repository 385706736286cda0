//! `--wait`: follows services until they are as wanted, with live progress.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use gantry_api::kind;
use gantry_api::v1::{ExplainRequest, WatchReply, WatchRequest};
use gantry_model::object::{Replica, Service};
use gantry_model::{Class, DurationMs, Problem, ReplicaId, ServiceId};
use gantry_rpc::Repeat;
use tonic::Streaming;

use super::standing::{Standing, State, assess};
use crate::client::{Client, parse, stream_problem};
use crate::failure::{Failure, Outcome, render};
use crate::output::{self, style};
use crate::terminal;

/// Wait before a broken watch is taken up again.
const WATCH_PAUSE: Duration = Duration::from_millis(200);

// Arguments of commands that can wait.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Wait until everything is as wanted, with live progress
    #[arg(long)]
    wait: bool,
    /// Give up waiting after this long
    #[arg(long, value_name = "DURATION", default_value = "10m", requires = "wait")]
    timeout: DurationMs,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Services run as wanted.
    Converged,
    /// Services are gone.
    Gone,
}

/// Waits if the arguments say so; all services of the namespace when `names` is empty.
///
/// # Errors
/// When a service fails on its way, or the time is over: both have been explained.
pub async fn wait(client: &Client, args: &WaitArgs, goal: Goal, namespace: &str, names: &[String]) -> Outcome {
    if !args.wait {
        return Ok(());
    }
    let mut follower = Follower::new(goal, namespace, names);
    match tokio::time::timeout(args.timeout.to_std(), follower.run(client)).await {
        Ok(outcome) => outcome,
        Err(_) => follower.give_up(client, args.timeout).await,
    }
}

struct Follower {
    goal: Goal,
    namespace: String,
    names: Vec<String>,
    /// The revision each service had when the waiting began.
    expected: BTreeMap<ServiceId, u32>,
    services: BTreeMap<ServiceId, Service>,
    replicas: BTreeMap<ReplicaId, Replica>,
    progress: Progress,
}

impl Follower {
    fn new(goal: Goal, namespace: &str, names: &[String]) -> Self {
        Self {
            goal,
            namespace: namespace.to_string(),
            names: names.to_vec(),
            expected: BTreeMap::new(),
            services: BTreeMap::new(),
            replicas: BTreeMap::new(),
            progress: Progress::new(),
        }
    }

    async fn run(&mut self, client: &Client) -> Outcome {
        let (documents, mut revision) = client.documents(kind::SERVICE, &self.namespace, "").await?;
        for document in &documents {
            let service: Service = parse(document, kind::SERVICE)?.object;
            self.expected.insert(service.id, service.revision);
        }
        loop {
            match self.watch(client, &mut revision).await {
                Err(Failure::Problem(problem)) if problem.class == Class::Unavailable => {
                    tokio::time::sleep(WATCH_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// One watch, until the goal is reached or the watch breaks. The asked server may be behind the one that took the
    /// change: a present state older than `revision` is not looked at.
    async fn watch(&mut self, client: &Client, revision: &mut u64) -> Outcome {
        let mut stream = self.open(client).await?;
        self.services.clear();
        self.replicas.clear();
        let mut synced = false;
        while let Some(reply) = stream.message().await.map_err(|status| stream_problem(&status))? {
            if reply.synced {
                if synced || reply.revision < *revision {
                    // Either the server started over, or it is behind: begin anew.
                    break;
                }
                synced = true;
            } else {
                self.take(&reply)?;
            }
            if !synced {
                continue;
            }
            *revision = reply.revision.max(*revision);
            if let Some(outcome) = self.judge()? {
                return outcome;
            }
        }
        Err(Problem::new(Class::Unavailable, "watch", "ended").into())
    }

    async fn open(&self, client: &Client) -> Result<Streaming<WatchReply>, Problem> {
        let request = WatchRequest {
            kinds: vec![kind::SERVICE.to_string(), kind::REPLICA.to_string()],
            namespace: self.namespace.clone(),
            only_changes: false,
        };
        client
            .call(Repeat::Harmless, |mut cluster| {
                let request = request.clone();
                async move { cluster.watch(request).await }
            })
            .await
    }

    fn take(&mut self, reply: &WatchReply) -> Result<(), Problem> {
        let Some(document) = &reply.document else {
            return Ok(());
        };
        if document.kind == kind::SERVICE {
            let service: Service = parse(document, kind::SERVICE)?.object;
            if reply.deleted {
                self.services.remove(&service.id);
            } else {
                self.services.insert(service.id, service);
            }
        } else {
            let replica: Replica = parse(document, kind::REPLICA)?.object;
            if reply.deleted {
                self.replicas.remove(&replica.id);
            } else {
                self.replicas.insert(replica.id, replica);
            }
        }
        Ok(())
    }

    fn standings(&self) -> Vec<(&Service, Standing)> {
        let mut followed: Vec<&Service> = self
            .services
            .values()
            .filter(|service| self.is_followed(service))
            .collect();
        followed.sort_by(|left, right| left.name.cmp(&right.name));
        let standing = |service: &Service| {
            let own = self.replicas.values().filter(|replica| replica.service == service.id);
            let expected = self.expected.get(&service.id).copied().unwrap_or(service.revision);
            assess(service, own, expected)
        };
        followed
            .into_iter()
            .map(|service| (service, standing(service)))
            .collect()
    }

    fn is_followed(&self, service: &Service) -> bool {
        let named = self.names.is_empty() || self.names.iter().any(|name| name == service.name.as_str());
        named && (self.goal == Goal::Gone || !service.deleting)
    }

    /// The end, once it is reached.
    fn judge(&mut self) -> Result<Option<Outcome>, Failure> {
        let standings = self.standings();
        let lines: Vec<String> = standings
            .iter()
            .map(|(service, standing)| format!("{}/{}: {}", service.namespace, service.name, standing.text))
            .collect();
        let failed: Vec<Problem> = standings
            .iter()
            .filter_map(|(service, standing)| match &standing.state {
                State::Failed(why) => Some(failure(service, why)),
                State::Converged | State::Going => None,
            })
            .collect();
        let reached = match self.goal {
            Goal::Gone => standings.is_empty(),
            Goal::Converged => standings.iter().all(|(_, standing)| standing.state == State::Converged),
        };
        self.progress.show(&lines);
        if reached {
            return Ok(Some(Ok(())));
        }
        if self.goal == Goal::Converged && !failed.is_empty() {
            for problem in &failed {
                output::note(render(problem, style::on_stderr()).trim_end());
            }
            return Ok(Some(Err(Failure::SAID)));
        }
        Ok(None)
    }

    /// The time is over: says of each unfinished service why it is not as wanted.
    async fn give_up(&self, client: &Client, timeout: DurationMs) -> Outcome {
        for (service, standing) in self.standings() {
            if standing.state == State::Converged && self.goal == Goal::Converged {
                continue;
            }
            let reason = format!("is not as wanted after {timeout}: {}", standing.text);
            let mut problem = Problem::new(Class::Timeout, service.object(), reason);
            let request = ExplainRequest {
                namespace: service.namespace.to_string(),
                object: service.name.to_string(),
                ..ExplainRequest::default()
            };
            let explained = client
                .call(Repeat::Harmless, |mut cluster| {
                    let request = request.clone();
                    async move { cluster.explain(request).await }
                })
                .await;
            if let Ok(explained) = explained {
                problem.reason = format!("{}; {}", problem.reason, explained.summary);
                problem.remedy = explained.remedy;
            }
            output::note(render(&problem, style::on_stderr()).trim_end());
        }
        Err(Failure::SAID)
    }
}

fn failure(service: &Service, why: &str) -> Problem {
    let remedy = format!(
        "see `gantry explain {0}/{1}` and `gantry logs {0}/{1}`",
        service.namespace, service.name
    );
    Problem::new(Class::Conflict, service.object(), why).remedy(remedy)
}

/// Lines that are redrawn in place on a terminal, and printed when they change elsewhere.
struct Progress {
    redraw: bool,
    shown: Vec<String>,
}

impl Progress {
    fn new() -> Self {
        Self {
            redraw: terminal::is_progress(),
            shown: Vec::new(),
        }
    }

    fn show(&mut self, lines: &[String]) {
        if lines == self.shown {
            return;
        }
        if self.redraw {
            let up = match self.shown.len() {
                0 => String::new(),
                count => format!("\x1b[{count}A\x1b[J"),
            };
            // A line that wraps would take two, and the next redraw would miss one.
            let width = terminal::size().map_or(usize::MAX, |size| size.columns.max(20) as usize);
            let cut: Vec<String> = lines.iter().map(|line| line.chars().take(width).collect()).collect();
            output::note(&format!("{up}{}", cut.join("\n")));
        } else {
            for line in lines.iter().filter(|line| !self.shown.contains(line)) {
                output::note(line);
            }
        }
        self.shown = lines.to_vec();
    }
}

#[cfg(test)]
impl WaitArgs {
    pub const fn for_test() -> Self {
        Self {
            wait: false,
            timeout: DurationMs::ZERO,
        }
    }
}
