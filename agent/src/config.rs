//! What an agent is told when it is started.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use gantry_model::net::Ipv4Net;
use gantry_model::spec::GenericResource;
use gantry_model::{ByteSize, Class, MilliCpu, Problem};

use crate::limits::{LOCAL_POOL_SIZE_MIN, RESERVE_MEMORY_DEFAULT};

/// Port of an agent.
pub const AGENT_PORT: u16 = 7601;

/// Configuration of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// What outlives a restart of the machine: identity, images, volumes, logs, records of replicas.
    pub data_dir: PathBuf,
    /// What need not: network namespaces, secrets. On a file system in memory.
    pub run_dir: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where servers and other nodes reach it, `address:port`. Empty: the address that this machine uses towards the first
    /// server, with the port of `listen`.
    pub advertise: String,
    /// Name of the node; the host's name when absent.
    pub name: Option<String>,
    /// Labels, `engine.labels.*` in constraints.
    pub labels: BTreeMap<String, String>,
    /// Further things the machine has.
    pub generic: Vec<GenericResource>,
    /// How to join; needed only while there is no identity in `data_dir`.
    pub join: Option<Join>,
    /// Parent of all control groups made here; another one for each agent on a machine.
    pub cgroup_parent: String,
    /// Name of the link that holds the gateway's address, and of the table of packet rules; another one for each agent in a
    /// network namespace.
    pub bridge: String,
    /// Addresses of containers run by hand on this node; a pool that clashes with no route is chosen when absent.
    pub local_pool: Option<Ipv4Net>,
    /// The machine also runs a server.
    pub runs_server: bool,
    /// Processor time that replicas may not reserve.
    pub reserve_cpu: MilliCpu,
    /// Memory that replicas may not reserve.
    pub reserve_memory: ByteSize,
    /// Where HTTP from outside comes in, once a service has a rule for it.
    pub ingress: gantry_ingress::Config,
}

/// How to become a member.
#[derive(Clone, PartialEq, Eq)]
pub struct Join {
    /// Addresses of servers, `host:port`.
    pub servers: Vec<String>,
    /// The join token.
    pub token: String,
}

impl std::fmt::Debug for Join {
    /// Without the token: it is a secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Join({})", self.servers.join(", "))
    }
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/gantry/agent"),
            run_dir: PathBuf::from("/run/gantry"),
            listen: SocketAddr::from(([0, 0, 0, 0], AGENT_PORT)),
            advertise: String::new(),
            name: None,
            labels: BTreeMap::new(),
            generic: Vec::new(),
            join: None,
            cgroup_parent: "gantry".to_string(),
            bridge: "gantry0".to_string(),
            local_pool: None,
            runs_server: false,
            reserve_cpu: MilliCpu::ZERO,
            reserve_memory: RESERVE_MEMORY_DEFAULT,
            ingress: gantry_ingress::Config::default(),
        }
    }
}

impl AgentConfig {
    /// Checks what can be checked without touching the machine.
    ///
    /// # Errors
    /// All that is wrong at once, as one problem.
    pub fn check(&self) -> Result<(), Problem> {
        let mut wrong = Vec::new();
        for (what, path) in [("data folder", &self.data_dir), ("run folder", &self.run_dir)] {
            if !path.is_absolute() {
                wrong.push(format!("the {what} '{}' is not an absolute path", path.display()));
            }
        }
        if self.advertise.is_empty() {
            if self.listen.port() == 0 {
                wrong.push("a port chosen by the system needs an advertised address".to_string());
            }
        } else if self.advertise.parse::<SocketAddr>().is_err() {
            wrong.push(format!(
                "the advertised address '{}' is not ADDRESS:PORT",
                self.advertise
            ));
        }
        let plain = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if !plain(&self.cgroup_parent) {
            wrong.push(format!("'{}' cannot name a control group", self.cgroup_parent));
        }
        if let Some(name) = self.name.as_ref().filter(|name| name.trim().is_empty()) {
            wrong.push(format!("'{name}' cannot name a node"));
        }
        if let Some(pool) = self.local_pool.filter(|pool| pool.size() < LOCAL_POOL_SIZE_MIN) {
            wrong.push(format!("the pool {pool} has no room for containers"));
        }
        if self.join.as_ref().is_some_and(|join| join.servers.is_empty()) {
            wrong.push("joining needs the address of a server".to_string());
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Problem::new(Class::Invalid, "agent configuration", wrong.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_all_mistakes_are_named_at_once() {
        assert_eq!(AgentConfig::default().check(), Ok(()));
        let wrong = AgentConfig {
            data_dir: "data".into(),
            advertise: "alpha".into(),
            cgroup_parent: "../up".into(),
            ..AgentConfig::default()
        };
        let problem = wrong.check().expect_err("three mistakes");
        for word in ["data folder", "'alpha'", "'../up'"] {
            assert!(problem.reason.contains(word), "{problem}");
        }
    }

    #[test]
    fn a_token_is_not_printed() {
        let join = Join {
            servers: vec!["10.0.0.1:7600".into()],
            token: "GNTRY-secret".into(),
        };
        assert!(!format!("{join:?}").contains("secret"));
    }
}
