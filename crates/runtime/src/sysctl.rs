//! Kernel parameters: only those of the container's own namespaces, and two that Docker sets by itself.

use std::collections::BTreeMap;

use gantry_model::spec::{ContainerSpec, NamespaceMode};
use gantry_model::{Class, Problem};

use crate::Network;

/// Of the ipc namespace (`namespaces(7)`).
const IPC: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Ports below 1024 and ping need no privilege in a network of one's own (moby#41030).
const DEFAULTS: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

/// The parameters to set.
pub(crate) fn plan(container: &ContainerSpec, network: &Network) -> Result<BTreeMap<String, String>, Problem> {
    let wanted = &container.sysctls;
    let has_own_network = *network != Network::Host;
    let has_own_ipc = container.ipc != NamespaceMode::Host;
    for name in wanted.keys() {
        let is_of_network = name.starts_with("net.");
        let is_of_ipc = IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.");
        let is_safe = !name.contains("..") && !name.contains('/');
        if !is_safe || !(is_of_ipc && has_own_ipc || is_of_network && has_own_network) {
            let problem = Problem::new(
                Class::Invalid,
                "",
                format!("kernel parameter '{name}' belongs to the whole node"),
            );
            return Err(problem.remedy(
                "only net.*, fs.mqueue.* and the kernel.shm*, kernel.msg*, kernel.sem of System V can be set",
            ));
        }
    }
    let defaults = DEFAULTS.iter().filter(|_| has_own_network);
    let mut all: BTreeMap<String, String> = defaults
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    all.extend(wanted.clone());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_node_are_refused() {
        let set = |name: &str, network| {
            let container = ContainerSpec {
                sysctls: BTreeMap::from([(name.to_string(), "1".to_string())]),
                ..ContainerSpec::default()
            };
            plan(&container, &network)
        };
        assert!(set("net.core.somaxconn", Network::Empty).is_ok_and(|all| all.len() == 3));
        assert!(set("net.core.somaxconn", Network::Host).is_err());
        assert!(set("kernel.shmmax", Network::Host).is_ok_and(|all| all.len() == 1));
        for name in ["kernel.panic", "vm.swappiness", "net.../kernel.panic", "net..x"] {
            assert!(set(name, Network::Empty).is_err(), "{name}");
        }
    }
}
