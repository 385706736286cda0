//! Looks at a cluster from beside it: one server's opinion, and the processes on the hosts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{Answer, Cluster, Lab, until};

/// A container that runs, known by what its host shows and not by what the cluster says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    /// Its replica.
    pub replica: String,
    /// Where it runs.
    pub host: String,
    /// Its first process, as the host numbers it.
    pub pid: u32,
}

impl Cluster {
    /// Runs `gantry` against the server of that host alone.
    #[must_use]
    pub fn gantry_by(&self, host: &str, arguments: &[&str]) -> Answer {
        let server = format!("{}:7600", Lab::address(host));
        self.gantry_on(host, &[&["--server", &server], arguments].concat())
    }

    /// Runs `gantry` with further variables in its environment.
    #[must_use]
    pub fn gantry_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Answer {
        let output = self
            .command("h1", arguments)
            .envs(variables.iter().copied())
            .stdin(std::process::Stdio::null())
            .output();
        Answer::of(&output.expect("gantry can be run"))
    }

    /// The JSON that a command prints when only the server of that host is asked.
    ///
    /// # Errors
    /// What the command said, when it failed.
    pub fn json_of(&self, host: &str, arguments: &[&str]) -> Result<Value, String> {
        let answer = self.gantry_by(host, &[arguments, &["-o", "json"]].concat());
        if answer.code != 0 {
            return Err(answer.err);
        }
        serde_json::from_str(&answer.out).map_err(|error| format!("{error}: {}", answer.out))
    }

    /// The leading server's host as the server of `host` sees it, if it knows one.
    ///
    /// # Errors
    /// When that server does not answer.
    pub fn leader_by(&self, host: &str) -> Result<Option<String>, String> {
        let status = self.json_of(host, &["cluster", "status"])?;
        let servers = status["servers"].as_array().cloned().unwrap_or_default();
        let leader = servers.iter().find(|server| server["leader"] == true);
        let address = leader.and_then(|server| server["address"].as_str());
        Ok(address.and_then(|address| address.split(':').next()).map(host_at))
    }

    /// The host whose process list shows a replica.
    ///
    /// # Panics
    /// When none does.
    #[must_use]
    pub fn host_running(&self, replica: &str) -> String {
        self.agents()
            .into_iter()
            .find(|host| self.containers(host).contains_key(replica))
            .expect("the replica runs on one of the hosts")
    }

    /// No rollout of the service is under way, so many of its replicas serve, and those that were replaced have stopped.
    ///
    /// # Panics
    /// When its rollout is paused or was rolled back, or the deadline passes.
    pub fn until_settled(&self, service: &str, replicas: usize) {
        until("the rollout is over", || {
            let seen = self.json(&["service", "inspect", service])?;
            match seen["rollout"]["state"].as_str() {
                None | Some("completed") => Ok(()),
                Some("running") => Err(seen["rollout"].to_string()),
                Some(other) => panic!("the rollout is {other}: {}", seen["rollout"]),
            }
        });
        let _ = self.until_ready(service, replicas);
        until("what was replaced has stopped", || {
            let all = self.json(&["ps", "-a"])?;
            let leaving = all.as_array().into_iter().flatten().filter(|replica| {
                replica["service_name"] == service
                    && replica["desired"] != "run"
                    && replica["observed"]["phase"] == "running"
            });
            match leaving.count() {
                0 => Ok(()),
                count => Err(format!("{count} still run")),
            }
        });
    }

    /// The first process of every container that runs on a host, by replica id, as the host's own process list tells.
    #[must_use]
    pub fn containers(&self, host: &str) -> BTreeMap<String, u32> {
        let list = self.lab.exec(host, &["ps", "-eo", "pid=,ppid=,stat=,args="]).out;
        let rows: Vec<Row<'_>> = list.lines().filter_map(Row::parse).collect();
        let shims = rows.iter().filter_map(|row| Some((row.pid, row.shim_of()?)));
        shims
            .filter_map(|(shim, replica)| {
                let first = rows.iter().find(|row| row.parent == shim && !row.dead)?;
                Some((replica.to_string(), first.pid))
            })
            .collect()
    }

    /// The containers of all hosts.
    #[must_use]
    pub fn containers_everywhere(&self) -> BTreeSet<Container> {
        let on = |host: String| {
            let running = self.containers(&host).into_iter();
            running.map(move |(replica, pid)| Container {
                replica,
                host: host.clone(),
                pid,
            })
        };
        self.agents().into_iter().flat_map(on).collect()
    }

    /// What the published port of a host answers to a page request from the first host.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn fetch(&self, host: &str, port: u16) -> Result<String, String> {
        let url = format!("http://{}:{port}/", Lab::address(host));
        let answer = self.lab.exec("h1", &["curl", "-s", "-S", "-m", "2", &url]);
        if answer.code == 0 {
            Ok(answer.out.trim().to_string())
        } else {
            Err(format!("{host}: {}", answer.err.trim()))
        }
    }
}

/// The host with that address.
fn host_at(address: &str) -> String {
    format!("h{}", address.rsplit('.').next().unwrap_or_default())
}

/// One line of a process list.
struct Row<'a> {
    pid: u32,
    parent: u32,
    dead: bool,
    arguments: Vec<&'a str>,
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_whitespace();
        Some(Self {
            pid: words.next()?.parse().ok()?,
            parent: words.next()?.parse().ok()?,
            dead: words.next()?.starts_with('Z'),
            arguments: words.collect(),
        })
    }

    /// The replica, if this is the process that keeps a container: `…/shim/shim-BUILD REPLICA`.
    fn shim_of(&self) -> Option<&'a str> {
        match self.arguments.as_slice() {
            [program, replica] if program.contains("/shim/shim-") => Some(replica),
            _ => None,
        }
    }
}
