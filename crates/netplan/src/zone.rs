//! Names of services, per network, as the name server of a node answers them.
//!
//! On each of its networks a service answers to its name, its aliases and `<service>.<namespace>`; all of its ready replicas there
//! to `tasks.<service>`, one of them to `<service>.<slot>`. `_<port>._tcp.<service>` tells where a published port is, by its name
//! or number. Addresses of services and replicas have names in turn. A client sees the names of the networks its own service is
//! attached to; who is no replica of this node sees none.
//!
//! **Invariant:** names are stored in lower case and without a final dot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_model::Name;
use gantry_model::assignment::ServiceItem;
use gantry_model::net::Ipv4Net;
use gantry_model::object::{ServiceNetwork, Slot};
use gantry_model::spec::{EndpointMode, PortSpec, Protocol};

use crate::{NodeNetwork, isolation};

/// All names, and who may see which.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    /// Replicas of this node by address.
    pub clients: BTreeMap<Ipv4Addr, Client>,
    /// Names by network.
    pub networks: BTreeMap<String, BTreeMap<String, Vec<Answer>>>,
    /// Whose the cluster's addresses are.
    pub owners: BTreeMap<Ipv4Addr, Owner>,
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
    /// None of them leads outside: names from there are not for it either.
    pub confined: bool,
}

/// What one service answers to one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The service.
    pub service: Arc<Named>,
    /// Addresses, sorted; empty while no replica is ready.
    pub addresses: Arc<[Ipv4Addr]>,
}

/// A service on one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its namespace.
    pub namespace: Name,
    /// Its name.
    pub name: Name,
    /// The network.
    pub network: String,
    /// Its ready replicas there.
    pub replicas: Vec<(Ipv4Addr, Slot)>,
    /// Its published ports.
    pub ports: Vec<PortSpec>,
}

/// Whose an address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The service, on each network where the address belongs to it.
    pub services: Vec<Arc<Named>>,
    /// The position of the replica; none for a virtual address.
    pub slot: Option<Slot>,
}

/// Where a port of a service is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Name of the replica.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The port there.
    pub port: u16,
}

impl Named {
    /// `web.3.shop`
    fn replica_name(&self, slot: Slot) -> String {
        fold(format!("{}.{slot}.{}", self.name, self.namespace))
    }
}

impl Owner {
    fn name(&self) -> Option<String> {
        let service = self.services.first()?;
        Some(match self.slot {
            Some(slot) => service.replica_name(slot),
            None => fold(format!("{}.{}", service.name, service.namespace)),
        })
    }
}

impl Zone {
    pub(crate) fn build(network: &NodeNetwork) -> Self {
        let mut zone = Self {
            pools: vec![network.replica_pool, network.service_pool],
            ..Self::default()
        };
        let internal = isolation::internal_networks(network);
        for replica in network.replicas.values() {
            let confined = replica.networks.iter().all(|name| internal.contains(name.as_str()));
            let client = Client {
                namespace: replica.namespace.clone(),
                networks: replica.networks.clone(),
                confined,
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
        let members: BTreeSet<Ipv4Addr> = isolation::members(service, network).collect();
        let ready = service.endpoints.iter().filter(|one| members.contains(&one.address));
        let replicas: BTreeMap<Ipv4Addr, Slot> = ready.map(|one| (one.address, one.slot)).collect();
        let endpoints: Arc<[Ipv4Addr]> = replicas.keys().copied().collect();
        let reached = match (service.endpoint_mode, attached.vip) {
            (EndpointMode::Vip, Some(vip)) => Arc::from([vip]),
            (EndpointMode::Vip, None) | (EndpointMode::Dnsrr, _) => Arc::clone(&endpoints),
        };
        let named = Arc::new(Named {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            network: network.to_string(),
            replicas: replicas.into_iter().collect(),
            ports: service.ports.clone(),
        });
        self.add_owners(&named, attached.vip);
        let qualified = format!("{}.{}", service.name, service.namespace);
        let own = [service.name.to_string(), qualified.clone()];
        let names: BTreeSet<String> = attached.names.iter().cloned().chain(own).map(fold).collect();
        let tasks = [format!("tasks.{}", service.name), format!("tasks.{qualified}")];
        let entries = names.into_iter().map(|name| (name, Arc::clone(&reached)));
        let entries = entries.chain(tasks.map(|name| (fold(name), Arc::clone(&endpoints))));
        let table = self.networks.entry(network.to_string()).or_default();
        for (name, addresses) in entries {
            let service = Arc::clone(&named);
            table.entry(name).or_default().push(Answer { service, addresses });
        }
    }

    fn add_owners(&mut self, named: &Arc<Named>, vip: Option<Ipv4Addr>) {
        let replicas = named.replicas.iter().map(|(address, slot)| (*address, Some(*slot)));
        for (address, slot) in replicas.chain(vip.map(|vip| (vip, None))) {
            let services = Vec::new();
            let owner = self.owners.entry(address).or_insert(Owner { services, slot });
            owner.services.push(Arc::clone(named));
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
        let addresses: BTreeSet<Ipv4Addr> = match self.answers(client, &name) {
            Some(answers) => answers
                .iter()
                .flat_map(|answer| answer.addresses.iter().copied())
                .collect(),
            None => self.slot(client, &name)?,
        };
        Some(addresses.into_iter().collect())
    }

    fn answers(&self, client: &Client, name: &str) -> Option<Vec<&Answer>> {
        let mut tables = client.networks.iter().filter_map(|network| self.networks.get(network));
        let answers = tables.find_map(|table| table.get(name))?;
        let is_own = |answer: &&Answer| answer.service.namespace == client.namespace;
        let own: Vec<&Answer> = answers.iter().filter(is_own).collect();
        Some(if own.is_empty() { answers.iter().collect() } else { own })
    }

    /// The replica behind `web.3` or `web.3.shop`; none when there is no such service, nobody when the slot is not ready.
    fn slot(&self, client: &Client, name: &str) -> Option<BTreeSet<Ipv4Addr>> {
        let (rest, last) = name.rsplit_once('.')?;
        let short = (rest.to_string(), last);
        let long = rest
            .rsplit_once('.')
            .map(|(service, slot)| (format!("{service}.{last}"), slot));
        let known = [Some(short), long].into_iter().flatten();
        // A name such as `www.example.org` is none of ours, though a service may be called `www.org`.
        let mut known = known.filter(|(_, slot)| is_slot(slot));
        let (answers, slot) = known.find_map(|(service, slot)| Some((self.answers(client, &service)?, slot)))?;
        let replicas = answers.iter().flat_map(|answer| &answer.service.replicas);
        let fitting = replicas.filter(|(_, one)| fold(one.to_string()) == slot);
        Some(fitting.map(|(address, _)| *address).collect())
    }

    /// Where a port is that a client asks for as `_http._tcp.web` or `_80._tcp.web`; none when it cannot see such a service.
    #[must_use]
    pub fn places(&self, source: Ipv4Addr, name: &str) -> Option<Vec<Place>> {
        let client = self.clients.get(&source)?;
        let name = fold(name.trim_end_matches('.').to_string());
        let mut labels = name.splitn(3, '.');
        let port = labels.next()?.strip_prefix('_')?;
        let protocol = match labels.next()? {
            "_tcp" => Protocol::Tcp,
            "_udp" => Protocol::Udp,
            _ => return None,
        };
        let fits = |one: &&PortSpec| {
            let named = one.name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(port));
            one.protocol == protocol && (named || one.target.to_string() == port)
        };
        let mut places = BTreeSet::new();
        for answer in self.answers(client, labels.next()?)? {
            let service = &answer.service;
            let targets: BTreeSet<u16> = service.ports.iter().filter(fits).map(|port| port.target).collect();
            let pairs = targets
                .iter()
                .flat_map(|port| service.replicas.iter().map(move |replica| (*port, replica)));
            places.extend(pairs.map(|(port, (address, slot))| Place {
                name: service.replica_name(*slot),
                address: *address,
                port,
            }));
        }
        Some(places.into_iter().collect())
    }

    /// The name of an address, if the client at `source` sees it.
    #[must_use]
    pub fn name_of(&self, source: Ipv4Addr, address: Ipv4Addr) -> Option<String> {
        let client = self.clients.get(&source)?;
        let owner = self.owners.get(&address)?;
        let mut services = owner.services.iter();
        services
            .any(|service| client.networks.contains(&service.network))
            .then(|| owner.name())?
    }

    /// Whether the client at `source` may ask for names from outside.
    #[must_use]
    pub fn leads_outside(&self, source: Ipv4Addr) -> bool {
        self.clients.get(&source).is_none_or(|client| !client.confined)
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

/// Positions are counted, or bear a node's id.
fn is_slot(label: &str) -> bool {
    label.parse::<u32>().is_ok() || label.parse::<gantry_model::NodeId>().is_ok()
}
