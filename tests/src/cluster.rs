//! Servers and agents on the hosts of a lab.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;

use crate::{Answer, Lab, Process, busybox_rootfs, until};

/// No command of a test takes longer; one that hangs fails its test instead of stopping the suite.
const COMMAND_SECONDS_MAX: &str = "120";

/// How many of what.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Servers, on `h1`…
    pub servers: usize,
    /// Agents, on the hosts after those of the servers.
    pub agents: usize,
    /// Seconds without heartbeat after which a node is down.
    pub lease_s: u32,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its hosts.
    pub lab: Lab,
    /// Its shape.
    pub shape: Shape,
    folder: TempDir,
    processes: RefCell<BTreeMap<String, Process>>,
    tokens: RefCell<BTreeMap<&'static str, String>>,
}

/// The binary under test.
///
/// # Panics
/// When the environment names none.
#[must_use]
pub fn binary() -> String {
    std::env::var("GANTRY_BIN").expect("GANTRY_BIN names the gantry binary; run the tests by tests/run")
}

impl Cluster {
    /// Starts a cluster and waits until all of it is ready.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(shape: Shape) -> Self {
        let cluster = Self {
            lab: Lab::up(shape.servers + shape.agents),
            shape,
            folder: TempDir::new().expect("a temporary folder"),
            processes: RefCell::default(),
            tokens: RefCell::default(),
        };
        cluster.initialise();
        for index in 1..=shape.servers {
            cluster.start_server(&format!("h{index}"));
            cluster.until_servers(index);
        }
        for host in cluster.agents() {
            cluster.start_agent(&host);
        }
        cluster.until_nodes_ready(shape.agents);
        cluster
    }

    /// The hosts of the servers.
    #[must_use]
    pub fn servers(&self) -> Vec<String> {
        (1..=self.shape.servers).map(|index| format!("h{index}")).collect()
    }

    /// The hosts of the agents.
    #[must_use]
    pub fn agents(&self) -> Vec<String> {
        (1..=self.shape.agents)
            .map(|index| format!("h{}", self.shape.servers + index))
            .collect()
    }

    /// A folder for the test's files, gone with the cluster.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn initialise(&self) {
        let lease = format!("{}s", self.shape.lease_s);
        let report = self.gantry(&[
            "cluster",
            "init",
            "--advertise",
            "10.77.0.1:7600",
            "--heartbeat",
            "500ms",
            "--lease",
            &lease,
            "-o",
            "json",
        ]);
        let report: Value = serde_json::from_str(&report.ok()).expect("cluster init prints JSON");
        for (role, field) in [("server", "server_token"), ("agent", "agent_token")] {
            let token = report[field]
                .as_str()
                .expect("cluster init prints its tokens")
                .to_string();
            self.tokens.borrow_mut().insert(role, token);
        }
        let servers: Vec<String> = self
            .servers()
            .iter()
            .map(|host| format!("{}:7600", Lab::address(host)))
            .collect();
        self.tokens.borrow_mut().insert("servers", servers.join(","));
    }

    /// The token for a role, as `cluster init` printed it.
    #[must_use]
    pub fn token(&self, role: &'static str) -> String {
        self.tokens.borrow()[role].clone()
    }

    /// Starts, or starts again, the server of a host.
    pub fn start_server(&self, host: &str) {
        let address = format!("{}:7600", Lab::address(host));
        let token = self.token("server");
        let binary = binary();
        let mut command = vec![
            binary.as_str(),
            "server",
            "--listen",
            "0.0.0.0:7600",
            "--advertise",
            &address,
        ];
        if host != "h1" {
            command.extend(["--join", "10.77.0.1:7600", "--token", &token]);
        }
        let process = self.lab.spawn(host, "server.log", &command);
        self.processes.borrow_mut().insert(format!("server {host}"), process);
    }

    /// Starts, or starts again, the agent of a host.
    pub fn start_agent(&self, host: &str) {
        self.start_agent_of(host, &binary());
    }

    /// Starts the agent of a host from another build.
    pub fn start_agent_of(&self, host: &str, binary: &str) {
        let address = format!("{}:7601", Lab::address(host));
        let token = self.token("agent");
        let parent = format!("gantry-{}-{host}", self.lab.name());
        let servers = self.token("servers");
        let command = [
            binary,
            "agent",
            "--join",
            &servers,
            "--token",
            &token,
            "--advertise",
            &address,
            "--name",
            host,
            "--cgroup-parent",
            &parent,
        ];
        let process = self.lab.spawn(host, "agent.log", &command);
        self.processes.borrow_mut().insert(format!("agent {host}"), process);
    }

    /// The process of `server` or `agent` on a host.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn process(&self, what: &str, host: &str) -> Process {
        self.processes.borrow()[&format!("{what} {host}")]
    }

    /// Runs `gantry` as a person on the first host would.
    #[must_use]
    pub fn gantry(&self, arguments: &[&str]) -> Answer {
        self.gantry_on("h1", arguments)
    }

    /// Runs `gantry` on a host.
    #[must_use]
    pub fn gantry_on(&self, host: &str, arguments: &[&str]) -> Answer {
        let output = self
            .command(host, arguments)
            .stdin(Stdio::null())
            .output()
            .expect("gantry can be run");
        Answer::of(&output)
    }

    /// A `gantry` command on a host, to be configured further. It uses the admin identity of the test.
    #[must_use]
    pub fn command(&self, host: &str, arguments: &[&str]) -> std::process::Command {
        let mut command = self.lab.command(host);
        let context = format!("GANTRY_CONTEXT={}", self.context().display());
        command
            .args([
                "timeout",
                "--foreground",
                "-k",
                "1",
                COMMAND_SECONDS_MAX,
                "env",
                "-u",
                "GANTRY_SERVER",
                &context,
            ])
            .arg(binary())
            .args(arguments);
        command
    }

    /// The folder with the admin identity.
    #[must_use]
    pub fn context(&self) -> PathBuf {
        self.folder.path().join("context")
    }

    /// The JSON that a command prints.
    ///
    /// # Errors
    /// What the command said, when it failed.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let answer = self.gantry(&[arguments, &["-o", "json"]].concat());
        if answer.code != 0 {
            return Err(answer.err);
        }
        serde_json::from_str(&answer.out).map_err(|error| format!("{error}: {}", answer.out))
    }

    /// Waits until so many servers vote.
    pub fn until_servers(&self, count: usize) {
        until(&format!("{count} servers vote"), || {
            let status = self.json(&["cluster", "status"])?;
            let voters = status["servers"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|server| server["voter"] == true)
                .count();
            if voters == count && status["leader"].as_str().is_some_and(|leader| !leader.is_empty()) {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    }

    /// Waits until so many nodes are ready.
    pub fn until_nodes_ready(&self, count: usize) {
        until(&format!("{count} nodes are ready"), || {
            let nodes = self.json(&["node", "ls"])?;
            let ready = nodes
                .as_array()
                .into_iter()
                .flatten()
                .filter(|node| node["status"] == "ready")
                .count();
            if ready == count { Ok(()) } else { Err(nodes.to_string()) }
        });
    }

    /// The host of the leading server.
    #[must_use]
    pub fn leader(&self) -> String {
        until("there is a leader", || {
            let seen = self.servers().into_iter().map(|host| self.leader_by(&host));
            let (known, unknown): (Vec<_>, Vec<_>) = seen.partition(|leader| matches!(leader, Ok(Some(_))));
            known
                .into_iter()
                .flatten()
                .flatten()
                .next()
                .ok_or_else(|| format!("{unknown:?}"))
        })
    }

    /// Brings the BusyBox image in under the given names.
    pub fn import_busybox(&self, references: &[&str]) {
        let tar = busybox_rootfs(self.folder.path());
        for reference in references {
            let _ = self
                .gantry(&[
                    "image",
                    "import",
                    &tar.to_string_lossy(),
                    reference,
                    "--change",
                    "CMD [\"sh\"]",
                ])
                .ok();
        }
    }

    /// Writes a manifest and returns its path.
    #[must_use]
    pub fn manifest(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("the manifest can be written");
        path.to_string_lossy().into_owned()
    }

    /// The replicas of a service that are wanted and not at an end.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub fn replicas(&self, service: &str) -> Result<Vec<Value>, String> {
        let all = self.json(&["ps", "-a"])?;
        let wanted = all
            .as_array()
            .into_iter()
            .flatten()
            .filter(|replica| replica["service_name"] == service && replica["desired"] == "run" && !ended(replica));
        Ok(wanted.cloned().collect())
    }

    /// Waits until a service has exactly so many replicas, all ready, and returns them.
    #[must_use]
    pub fn until_ready(&self, service: &str, count: usize) -> Vec<Value> {
        until(&format!("{service} has {count} ready replicas"), || {
            let replicas = self.replicas(service)?;
            let ready = replicas
                .iter()
                .filter(|replica| replica["observed"]["ready"] == true)
                .count();
            if ready == count && replicas.len() == count {
                Ok(replicas)
            } else {
                let shown: Vec<String> = replicas
                    .iter()
                    .map(|replica| format!("{} {} {}", replica["slot"], replica["observed"], replica["explanation"]))
                    .collect();
                Err(format!("{ready} of {} ready: {}", replicas.len(), shown.join("; ")))
            }
        })
    }

    /// The host on which a replica runs.
    ///
    /// # Panics
    /// When its node is not one of the agents.
    #[must_use]
    pub fn host_of(&self, replica: &Value) -> String {
        let nodes = self.json(&["node", "ls"]).expect("nodes can be listed");
        let node = nodes
            .as_array()
            .into_iter()
            .flatten()
            .find(|node| node["id"] == replica["node"]);
        node.and_then(|node| node["name"].as_str())
            .expect("the replica is on a known node")
            .to_string()
    }
}

fn ended(replica: &Value) -> bool {
    let phase = replica["observed"]["phase"].as_str().unwrap_or_default();
    ["completed", "stopped", "failed", "rejected", "lost"].contains(&phase)
}
