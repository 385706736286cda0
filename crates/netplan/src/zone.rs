//! Names of services, per network, as the name server of a node answers them.
//!
//! On each of its networks a service answers to its name, its aliases and `<service>.<namespace>`, and all of its ready replicas
//! to `tasks.<service>`. A client sees the names of the networks its own service is attached to; who is no replica of this node
//! sees none.
//!
//! **Invariant:** names are stored in lower case and without a final dot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_model::Name;
use gantry_model::assignment::ServiceItem;
use gantry_model::net::Ipv4Net;
use gantry_model::object::ServiceNetwork;
use gantry_model::spec::EndpointMode;

use crate::NodeNetwork;

/// All names, and who may see which.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    /// Replicas of this node by address.
    pub clients: BTreeMap<Ipv4Addr, Client>,
    /// Names by network.
    pub networks: BTreeMap<String, BTreeMap<String, Vec<Answer>>>,
    /// Pools of the cluster: names of addresses inside are nobody else's business.
    pub pools: Vec<Ipv4Net>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its namespace.
    pub namespace: Name,
    /// Networks whose names it sees.
    pub networks: BTreeSet<String>,
}

/// What one service answers to one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Namespace of the service.
    pub namespace: Name,
    /// Addresses, sorted; empty while no replica is ready.
    pub addresses: Arc<[Ipv4Addr]>,
}

impl Zone {
    pub(crate) fn build(network: &NodeNetwork) -> Self {
        let mut zone = Self {
            pools: vec![network.replica_pool, network.service_pool],
            ..Self::default()
        };
        for replica in network.replicas.values() {
            let client = Client {
                namespace: replica.namespace.clone(),
                networks: replica.networks.clone(),
            };
            zone.clients.insert(replica.address, client);
        }
        for service in network.services.values() {
            for (name, attached) in &service.networks {
                zone.add_service(name, service, attached);
            }
        }
        zone
    }

    fn add_service(&mut self, network: &str, service: &ServiceItem, attached: &ServiceNetwork) {
        let endpoints: BTreeSet<Ipv4Addr> = service.endpoints.iter().map(|endpoint| endpoint.address).collect();
        let endpoints: Arc<[Ipv4Addr]> = endpoints.into_iter().collect();
        let reached = match (service.endpoint_mode, attached.vip) {
            (EndpointMode::Vip, Some(vip)) => Arc::from([vip]),
            (EndpointMode::Vip, None) | (EndpointMode::Dnsrr, _) => Arc::clone(&endpoints),
        };
        let qualified = format!("{}.{}", service.name, service.namespace);
        let own = [service.name.to_string(), qualified.clone()];
        let names: BTreeSet<String> = attached.names.iter().cloned().chain(own).map(fold).collect();
        let tasks = [format!("tasks.{}", service.name), format!("tasks.{qualified}")];
        let entries = names.into_iter().map(|name| (name, Arc::clone(&reached)));
        let entries = entries.chain(tasks.map(|name| (fold(name), Arc::clone(&endpoints))));
        let table = self.networks.entry(network.to_string()).or_default();
        for (name, addresses) in entries {
            let namespace = service.namespace.clone();
            table.entry(name).or_default().push(Answer { namespace, addresses });
        }
    }

    /// Addresses behind a name for the client at `source`; none when the client cannot see such a name.
    ///
    /// On the first of the client's networks that knows the name, a service of the client's namespace wins; otherwise all
    /// services of that name answer together.
    #[must_use]
    pub fn lookup(&self, source: Ipv4Addr, name: &str) -> Option<Vec<Ipv4Addr>> {
        let client = self.clients.get(&source)?;
        let name = fold(name.trim_end_matches('.').to_string());
        let mut tables = client.networks.iter().filter_map(|network| self.networks.get(network));
        let answers = tables.find_map(|table| table.get(&name))?;
        let mut own = answers
            .iter()
            .filter(|answer| answer.namespace == client.namespace)
            .peekable();
        let addresses: BTreeSet<Ipv4Addr> = if own.peek().is_some() {
            own.flat_map(|answer| answer.addresses.iter().copied()).collect()
        } else {
            answers
                .iter()
                .flat_map(|answer| answer.addresses.iter().copied())
                .collect()
        };
        Some(addresses.into_iter().collect())
    }

    /// Whether the address is one of the cluster's.
    #[must_use]
    pub fn owns(&self, address: Ipv4Addr) -> bool {
        self.pools.iter().any(|pool| pool.contains(address))
    }
}

fn fold(name: String) -> String {
    name.to_ascii_lowercase()
}
