//! The network of containers that a person runs by hand: a pool of this node alone, outbound by masquerade, inbound by ports
//! published on this node.
//!
//! Made as the service network is: every container has a link of its own, and the node routes between them. The cluster knows
//! nothing of it, so it works while no server answers.
//!
//! **Invariant:** what is made here has names, a route protocol and a table of its own; neither network touches the other's.
//! **Invariant:** what is applied outlives the agent: a new one adopts containers with their addresses and ports.
//! Deliberately not here: which port or name belongs to whom (the agent).

mod addresses;
mod rules;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_model::ReplicaId;
use gantry_model::net::Ipv4Net;
use gantry_netplan::Gateway;
use tokio::runtime::Handle;
use tokio::sync::Mutex as AsyncMutex;

use crate::endpoint::{self, Endpoint};
use crate::links::Links;
use crate::node::{self, Names};
use crate::routes::{LOCAL_PROTOCOL, Target};
use crate::{Config, NetworkError, conntrack, firewall, namespace, nft, sysctl};
use addresses::Addresses;

pub use rules::LocalPort;

/// Pools that are tried in this order when none is configured. None of them is among the cluster's defaults.
const POOLS: [(Ipv4Addr, u8); 6] = [
    (Ipv4Addr::new(172, 30, 0, 0), 16),
    (Ipv4Addr::new(172, 29, 0, 0), 16),
    (Ipv4Addr::new(172, 28, 0, 0), 16),
    (Ipv4Addr::new(172, 27, 0, 0), 16),
    (Ipv4Addr::new(192, 168, 224, 0), 20),
    (Ipv4Addr::new(192, 168, 208, 0), 20),
];
/// Holds the pool in use, so that the next agent uses the same.
const POOL_FILE: &str = "pool";
/// MTU where no way to the world is known.
const MTU_DEFAULT: u32 = 1500;

/// What a local network calls its things; two on one machine need different ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalConfig {
    /// The link that holds the gateway's address, at most 15 characters.
    pub link: String,
    /// The nftables table.
    pub table: String,
    /// Folder of the containers' network namespaces; made when missing, on a file system that does not outlive the machine's run.
    pub run_dir: PathBuf,
    /// Addresses of containers; one that clashes with nothing is chosen when absent.
    pub pool: Option<Ipv4Net>,
}

/// A container on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalAttachment {
    /// File of its network namespace.
    pub namespace: PathBuf,
    /// Its address.
    pub address: Ipv4Addr,
    /// The node as it sees it.
    pub gateway: Ipv4Addr,
}

/// See the module. All methods may be called at once.
pub struct LocalNetwork {
    names: Names,
    configured: Option<Ipv4Net>,
    links: Links,
    /// What the kernel was made to hold; none before the first use.
    base: AsyncMutex<Option<Base>>,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct Base {
    gateway: Gateway,
    mtu: u32,
}

#[derive(Default)]
struct State {
    addresses: Addresses,
    ports: BTreeSet<LocalPort>,
}

impl LocalNetwork {
    /// Opens the network of the network namespace that the calling thread is in. Changes nothing yet.
    ///
    /// # Errors
    /// When a configured name is impossible or there is no netlink socket. Must run inside a tokio runtime.
    pub fn new(config: LocalConfig) -> Result<Self, NetworkError> {
        let names = Config {
            link: config.link,
            table: config.table,
            run_dir: config.run_dir,
            underlay: None,
        };
        Ok(Self {
            names: Names::new(names)?,
            configured: config.pool,
            links: Links::with_protocol(&Handle::current(), LOCAL_PROTOCOL)?,
            base: AsyncMutex::new(None),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a container of a former agent, before anything else is done.
    pub fn adopt(&self, container: ReplicaId, address: Ipv4Addr, ports: impl IntoIterator<Item = LocalPort>) {
        let mut state = self.state();
        state.addresses.take(container, address);
        state.ports.extend(ports);
    }

    /// Makes the gateway, routes and rules, unless they were made already; the gateway's address. `avoid` are pools that routes
    /// of this node do not show.
    ///
    /// # Errors
    /// When the configured pool clashes with a route of the node, every pool does, or the kernel refuses something.
    pub async fn ready(&self, avoid: &[Ipv4Net]) -> Result<Ipv4Addr, NetworkError> {
        Ok(self.base(avoid).await?.gateway.address)
    }

    async fn base(&self, avoid: &[Ipv4Net]) -> Result<Base, NetworkError> {
        let mut base = self.base.lock().await;
        if let Some(base) = *base {
            return Ok(base);
        }
        let made = self.make(self.choose(avoid).await?).await?;
        *base = Some(made);
        Ok(made)
    }

    /// Makes everything anew, whatever others did to it meanwhile. Nothing before the first use.
    ///
    /// # Errors
    /// When the kernel refuses something.
    pub async fn heal(&self) -> Result<(), NetworkError> {
        let mut base = self.base.lock().await;
        if let Some(known) = *base {
            *base = Some(self.make(known.gateway.subnet).await?);
        }
        Ok(())
    }

    async fn make(&self, pool: Ipv4Net) -> Result<Base, NetworkError> {
        sysctl::set("ipv4/ip_forward", "1")?;
        let address = pool.address(1).unwrap_or_else(|| pool.base());
        firewall::accept_pool(pool, &self.names.table).await?;
        self.links.ensure_gateway(&self.names.link, address).await?;
        sysctl::set_if_present(&format!("ipv6/conf/{}/disable_ipv6", self.names.link), "1")?;
        // A container that is gone is refused at once, instead of leaving by the default route.
        self.links.set_route(pool, Target::Nowhere).await?;
        let text = rules::render(&self.names.table, pool, &self.state().ports);
        nft::commit(&self.names.table, &text).await?;
        let gateway = Gateway { address, subnet: pool };
        Ok(Base {
            gateway,
            mtu: self.mtu().await?,
        })
    }

    async fn mtu(&self) -> Result<u32, NetworkError> {
        let mut smallest = None;
        for index in self.links.default_links().await? {
            let mtu = self.links.by_index(index).await?.map(|link| link.mtu);
            smallest = [smallest, mtu].into_iter().flatten().min();
        }
        Ok(smallest.unwrap_or(MTU_DEFAULT))
    }

    /// The pool in use before, the configured one, or the first that clashes with nothing.
    async fn choose(&self, avoid: &[Ipv4Net]) -> Result<Ipv4Net, NetworkError> {
        let path = self.names.run_dir().join(POOL_FILE);
        let before: Option<Ipv4Net> = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        let wanted = self.configured.or(before);
        if let (Some(before), Some(wanted)) = (before, wanted)
            && before == wanted
        {
            return Ok(wanted);
        }
        let mut taken = self.links.foreign_routes().await?;
        taken.extend(avoid);
        let clash = |pool: Ipv4Net| taken.iter().copied().find(|route| overlap(*route, pool));
        let chosen = match wanted {
            Some(pool) => match clash(pool) {
                Some(route) => return Err(NetworkError::PoolTaken { pool, route }),
                None => pool,
            },
            None => {
                let pools = POOLS.map(|(base, prefix)| Ipv4Net::new(base, prefix));
                let free = pools.into_iter().find(|pool| clash(*pool).is_none());
                free.ok_or(NetworkError::NoPool)?
            }
        };
        let failed = |act| {
            let path = path.clone();
            move |source| NetworkError::File { act, path, source }
        };
        fs::create_dir_all(self.names.run_dir()).map_err(failed("making the folder of"))?;
        fs::write(&path, format!("{chosen}\n")).map_err(failed("writing"))?;
        Ok(chosen)
    }

    /// Gives the container a network namespace and an address. One that has them keeps them.
    ///
    /// # Errors
    /// When no address is free or the kernel refuses something; attaching again goes on where it stopped.
    pub async fn attach(&self, container: ReplicaId, avoid: &[Ipv4Net]) -> Result<LocalAttachment, NetworkError> {
        let base = self.base(avoid).await?;
        let pool = base.gateway.subnet;
        let address = self.state().addresses.give(container, pool);
        let address = address.ok_or(NetworkError::AddressesUsedUp { pool })?;
        let namespace = self.names.namespace(container);
        let endpoint = Endpoint {
            name: &Names::replica_link(container),
            address,
            gateway: base.gateway,
            mtu: base.mtu,
        };
        endpoint::attach(&self.links, &namespace, &endpoint).await?;
        Ok(LocalAttachment {
            namespace,
            address,
            gateway: base.gateway.address,
        })
    }

    /// Lets the container's namespace and address go. None there is fine.
    ///
    /// # Errors
    /// When it cannot be unmounted; the address stays taken then.
    pub fn detach(&self, container: ReplicaId) -> Result<(), NetworkError> {
        namespace::release(&self.names.namespace(container))?;
        self.state().addresses.release(container);
        Ok(())
    }

    /// Makes ports of the node lead to containers.
    ///
    /// # Errors
    /// When the kernel refuses; none of them is published then.
    pub async fn publish(&self, ports: &[LocalPort], avoid: &[Ipv4Net]) -> Result<(), NetworkError> {
        if ports.is_empty() {
            return Ok(());
        }
        let base = self.base(avoid).await?;
        let table = &self.names.table;
        let fresh: Vec<LocalPort> = {
            let mut state = self.state();
            ports
                .iter()
                .filter(|port| state.ports.insert(**port))
                .copied()
                .collect()
        };
        if fresh.is_empty() {
            return Ok(());
        }
        if nft::commit(table, &rules::add(table, &fresh)).await.is_ok() {
            return Ok(());
        }
        // Somebody changed the table since: only the whole of it is sure to fit.
        let text = rules::render(table, base.gateway.subnet, &self.state().ports);
        let replaced = nft::commit(table, &text).await;
        if replaced.is_err() {
            let mut state = self.state();
            state.ports.retain(|port| !fresh.contains(port));
        }
        replaced
    }

    /// Takes published ports back; connections that are open go on as long as their container.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn withdraw(&self, ports: &[LocalPort]) -> Result<(), NetworkError> {
        let gone: Vec<LocalPort> = {
            let mut state = self.state();
            ports.iter().filter(|port| state.ports.remove(port)).copied().collect()
        };
        if gone.is_empty() {
            return Ok(());
        }
        let Some(base) = *self.base.lock().await else {
            return Ok(());
        };
        let table = &self.names.table;
        if nft::commit(table, &rules::delete(table, &gone)).await.is_err() {
            let text = rules::render(table, base.gateway.subnet, &self.state().ports);
            nft::commit(table, &text).await?;
        }
        if gone.iter().any(LocalPort::is_datagram) {
            let to: BTreeSet<Ipv4Addr> = gone.iter().map(|port| port.to).collect();
            conntrack::forget_udp(move |address| to.contains(&address)).await?;
        }
        Ok(())
    }

    /// Containers that have a namespace here, wanted or left over.
    ///
    /// # Errors
    /// When the run folder cannot be read.
    pub fn list(&self) -> Result<Vec<ReplicaId>, NetworkError> {
        self.names.replicas()
    }

    /// Removes everything this network ever made.
    ///
    /// # Errors
    /// When something cannot be removed; what follows it stays too.
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        let mut base = self.base.lock().await;
        *base = None;
        nft::delete_table(&self.names.table).await?;
        firewall::forget_pool(&self.names.table).await?;
        for subnet in self.links.own_routes().await?.into_keys() {
            self.links.delete_route(subnet).await?;
        }
        for container in self.names.replicas()? {
            self.detach(container)?;
            self.links.delete(&Names::replica_link(container)).await?;
        }
        self.links.delete(&self.names.link).await?;
        *self.state() = State::default();
        match fs::remove_file(self.names.run_dir().join(POOL_FILE)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                let path = self.names.run_dir().join(POOL_FILE);
                return Err(NetworkError::File {
                    act: "removing",
                    path,
                    source,
                });
            }
            Ok(()) | Err(_) => {}
        }
        node::restore(&self.names)
    }
}

fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(other.base()) || other.contains(one.base())
}
