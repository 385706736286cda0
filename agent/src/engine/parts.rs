//! What the actors of containers share: the machine, and who has which name and port.
//!
//! **Invariant:** the table is locked for moments only, and never across an await.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_env::Env;
use gantry_model::container::NetworkMode;
use gantry_model::net::Ipv4Net;
use gantry_model::spec::{PortSpec, Protocol};
use gantry_model::{Class, Problem, ReplicaId};
use tokio::sync::{mpsc, watch};

use super::actor::Command;
use super::launch::namespace_of;
use super::names;
use super::ports::{Ports, cluster_owner};
use super::record::Record;
use super::store::RecordStore;
use crate::drivers::{Bridge, Runtime, Volumes};
use crate::shared::Shared;

/// See the module.
pub(crate) struct Parts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) volumes: Arc<dyn Volumes>,
    pub(crate) bridge: Arc<dyn Bridge>,
    pub(crate) store: RecordStore,
    pub(crate) env: Arc<dyn Env>,
    /// Name of the node in the cluster.
    pub(crate) node: String,
    /// The machine's own host name.
    pub(crate) host_name: String,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    containers: BTreeMap<ReplicaId, Entry>,
    names: BTreeMap<String, ReplicaId>,
    ports: Ports,
}

/// A container as others reach it.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) view: watch::Receiver<View>,
}

/// What others see of a container.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) record: Arc<Record>,
    /// Nothing of it is left.
    pub(crate) is_gone: bool,
}

/// The drivers of containers.
pub(crate) struct Machine {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) volumes: Arc<dyn Volumes>,
    pub(crate) bridge: Arc<dyn Bridge>,
    pub(crate) store: RecordStore,
}

impl Parts {
    pub(super) fn new(
        shared: Arc<Shared>,
        machine: Machine,
        env: Arc<dyn Env>,
        node: String,
        host_name: String,
    ) -> Self {
        Self {
            shared,
            runtime: machine.runtime,
            volumes: machine.volumes,
            bridge: machine.bridge,
            store: machine.store,
            env,
            node,
            host_name,
            table: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name, the given one or one that is made up.
    pub(super) fn take_name(&self, id: ReplicaId, wanted: Option<&str>) -> Result<String, Problem> {
        let mut table = self.table();
        let name = match wanted {
            Some(name) => {
                check_name(name)?;
                name.to_string()
            }
            None => names::made_up(self.env.random_u64(), |name| table.names.contains_key(name)),
        };
        match table.names.get(&name) {
            Some(owner) if *owner != id => {
                let reason = format!("the name is in use by container {owner}");
                Err(Problem::new(Class::Conflict, format!("container {name}"), reason)
                    .remedy(format!("remove it with `gantry rm {name}`, or use another name")))
            }
            Some(_) | None => {
                table.names.insert(name.clone(), id);
                Ok(name)
            }
        }
    }

    /// The container's name is free again.
    pub(super) fn free_name(&self, id: ReplicaId, name: &str) {
        let mut table = self.table();
        if table.names.get(name) == Some(&id) {
            table.names.remove(name);
        }
    }

    pub(super) fn enter(&self, id: ReplicaId, entry: Entry) {
        self.table().containers.insert(id, entry);
    }

    pub(super) fn leave(&self, id: ReplicaId) {
        let mut table = self.table();
        table.containers.remove(&id);
        table.names.retain(|_, owner| *owner != id);
        table.ports.release(id);
    }

    /// All containers, in the order of their ids.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.table().containers.values().cloned().collect()
    }

    /// Ids of all containers.
    pub(super) fn ids(&self) -> Vec<ReplicaId> {
        self.table().containers.keys().copied().collect()
    }

    /// A container by name, id, or the beginning of an id.
    pub(super) fn find(&self, text: &str) -> Result<Option<(ReplicaId, Entry)>, Problem> {
        let table = self.table();
        let plain = text.strip_prefix('/').unwrap_or(text);
        let entry = |id: ReplicaId| table.containers.get(&id).map(|entry| (id, entry.clone()));
        if let Some(id) = table.names.get(plain) {
            return Ok(entry(*id));
        }
        if let Some(found) = plain.parse().ok().and_then(entry) {
            return Ok(Some(found));
        }
        if plain.is_empty() {
            return Ok(None);
        }
        let mut matching = table.containers.keys().filter(|id| id.to_string().starts_with(plain));
        match (matching.next(), matching.next()) {
            (Some(id), None) => Ok(entry(*id)),
            (None, _) => Ok(None),
            (Some(_), Some(_)) => {
                let reason = "several containers have ids that begin so";
                Err(Problem::new(Class::Invalid, format!("container {text}"), reason).remedy("write more of the id"))
            }
        }
    }

    /// The ports that a container publishes, all numbered and its own.
    pub(super) fn claim_ports(&self, record: &Record) -> Result<Vec<PortSpec>, Problem> {
        let services = self.shared.surroundings.load();
        let elsewhere = |protocol: Protocol, number: u16, host_ip| {
            cluster_owner(services.services.values(), protocol, number, host_ip)
                .or_else(|| listener(protocol, number, host_ip))
        };
        self.table()
            .ports
            .claim(record.id, &record.name, &record.spec.ports, &elsewhere)
    }

    pub(super) fn release_ports(&self, id: ReplicaId) {
        self.table().ports.release(id);
    }

    pub(super) fn adopt_ports(&self, record: &Record) {
        self.table().ports.adopt(record.id, &record.name, &record.ports);
    }

    /// Pools of the cluster, which containers by hand stay out of.
    pub(crate) fn cluster_pools(&self) -> Vec<Ipv4Net> {
        let surroundings = self.shared.surroundings.load();
        let node = surroundings.node.as_ref();
        node.map(|node| vec![node.replica_pool, node.service_pool])
            .unwrap_or_default()
    }

    /// The first process of a container or replica that runs.
    pub(super) fn process_of(&self, text: &str) -> Result<u32, Problem> {
        let pid = match self.find(text)? {
            Some((_, entry)) => entry.view.borrow().record.life.state.pid,
            None => self.replica_process(text)?,
        };
        pid.ok_or_else(|| {
            Problem::new(
                Class::Conflict,
                format!("container {text}"),
                "does not run, so its namespaces cannot be shared",
            )
            .remedy("start it first")
        })
    }

    fn replica_process(&self, text: &str) -> Result<Option<u32>, Problem> {
        let records = self.shared.disk.records()?;
        let found = records.into_iter().find(|record| {
            let (id, name) = (record.item.id.to_string(), record.item.name());
            id == text || name == text || format!("{}/{name}", record.item.namespace) == text
        });
        let missing = || {
            Problem::new(
                Class::NotFound,
                format!("container {text}"),
                "there is none on this node",
            )
        };
        Ok(found.ok_or_else(missing)?.machine.observed().pid)
    }

    /// The network namespace of a container that runs, none for the node's own, and the host name seen there.
    pub(super) fn network_of(&self, text: &str) -> Result<(Option<PathBuf>, String), Problem> {
        let pid = self.process_of(text)?;
        let Some((id, entry)) = self.find(text)? else {
            return Ok((Some(namespace_of(pid)), text.to_string()));
        };
        let record = Arc::clone(&entry.view.borrow().record);
        let hostname = record.spec.container.hostname.clone().unwrap_or_else(|| id.to_string());
        match record.spec.network {
            NetworkMode::Host => Ok((None, self.host_name.clone())),
            NetworkMode::Bridge | NetworkMode::None | NetworkMode::Container(_) | NetworkMode::Named(_) => {
                Ok((Some(namespace_of(pid)), hostname))
            }
        }
    }
}

fn check_name(name: &str) -> Result<(), Problem> {
    // At least two characters, as in Docker; an id must not pass for a name.
    let is_valid = name.parse::<gantry_model::Name>().is_ok() && name.len() > 1;
    if is_valid && name.parse::<ReplicaId>().is_err() {
        return Ok(());
    }
    let reason = "is not a valid name: use 2 to 63 of a-z, A-Z, 0-9, '_', '.', '-', starting with a letter or digit";
    Err(Problem::new(Class::Invalid, format!("container '{name}'"), reason))
}

/// A program of the node that listens there.
fn listener(protocol: Protocol, number: u16, host_ip: Option<std::net::IpAddr>) -> Option<String> {
    let address = std::net::SocketAddr::new(host_ip.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()), number);
    let bound = match protocol {
        Protocol::Tcp => std::net::TcpListener::bind(address).map(drop),
        Protocol::Udp => std::net::UdpSocket::bind(address).map(drop),
    };
    match bound {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Some("a program of this node".to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
            Some(format!("nobody, but {} is no address of it", address.ip()))
        }
        Ok(()) | Err(_) => None,
    }
}
