//! The node's own part: names of things, the gateway's link, the node's end of replicas' links, kernel settings.
//!
//! Each replica has a link of its own to the node, and the node routes between them. There is no bridge between replicas:
//! nobody can pose as another, translated answers cannot bypass the node, and a `br_netfilter` that others need changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use gantry_model::ReplicaId;
use gantry_model::net::Ipv4Net;
use gantry_netplan::Plan;

use crate::links::{Link, Links};
use crate::routes::Target;
use crate::{Config, NetworkError, sysctl};

/// Longest name of a link (`IFNAMSIZ` without the final zero, linux/if.h).
const LINK_NAME_LENGTH_MAX: usize = 15;
/// Longest name of a table that we allow; nftables takes 255.
const TABLE_NAME_LENGTH_MAX: usize = 31;
/// MTU where no link to other nodes is known.
const MTU_DEFAULT: u32 = 1500;
/// Lists the links whose `route_localnet` was switched on here, to be switched off by teardown.
const LOCALNET_FILE: &str = "route_localnet";

/// Checked names.
pub(crate) struct Names {
    pub(crate) link: String,
    pub(crate) table: String,
    run_dir: PathBuf,
    underlay: Option<String>,
}

impl Names {
    pub(crate) fn new(config: Config) -> Result<Self, NetworkError> {
        check(&config.link, "link", LINK_NAME_LENGTH_MAX)?;
        check(&config.table, "table", TABLE_NAME_LENGTH_MAX)?;
        let Config {
            link,
            table,
            run_dir,
            underlay,
        } = config;
        Ok(Self {
            link,
            table,
            run_dir,
            underlay,
        })
    }

    /// The folder of namespaces.
    pub(crate) fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The file of a replica's namespace.
    pub(crate) fn namespace(&self, replica: ReplicaId) -> PathBuf {
        self.run_dir.join(replica.to_string())
    }

    /// The node's end of a replica's link: 2 + 13 characters, which is the longest there is.
    pub(crate) fn replica_link(replica: ReplicaId) -> String {
        format!("gv{replica}")
    }

    /// Replicas with a file.
    pub(crate) fn replicas(&self) -> Result<Vec<ReplicaId>, NetworkError> {
        let entries = match fs::read_dir(&self.run_dir) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("reading", &self.run_dir))?,
        };
        let mut replicas = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed("reading", &self.run_dir))?.file_name();
            replicas.extend(name.to_str().and_then(|name| name.parse::<ReplicaId>().ok()));
        }
        replicas.sort_unstable();
        Ok(replicas)
    }
}

fn check(name: &str, what: &'static str, length_max: usize) -> Result<(), NetworkError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if starts_well && name.len() <= length_max && name.bytes().all(allowed) {
        return Ok(());
    }
    let name = name.to_string();
    Err(NetworkError::Name { name, what, length_max })
}

/// Makes the gateway's link, the routes that hang on it and the settings that the plan needs; the MTU for replicas.
pub(crate) async fn ready(links: &Links, names: &Names, plan: &Plan) -> Result<u32, NetworkError> {
    sysctl::set("ipv4/ip_forward", "1")?;
    let gateway = plan.gateway;
    let link = links.ensure_gateway(&names.link, gateway.address).await?;
    sysctl::set_if_present(&format!("ipv6/conf/{}/disable_ipv6", names.link), "1")?;
    let wanted = [
        // Through it the node, as a client of a virtual address, bears an address that replicas everywhere can answer.
        (plan.service_pool, Target::Link(link.index, gateway.address)),
        // A replica that is gone is refused at once, instead of leaving by the default route.
        (gateway.subnet, Target::Nowhere),
    ];
    // Setting again what is there would be a change to whoever watches routes, this node included.
    let present = links.own_routes().await?;
    for (subnet, target) in wanted {
        if present.get(&subnet) != Some(&target) {
            links.set_route(subnet, target).await?;
        }
    }
    if plan.loopback_ports {
        allow_loopback_sources(links, names, plan).await?;
    }
    underlay_mtu(links, names, plan).await
}

/// Readies the node's end of a replica's link.
pub(crate) async fn ready_replica(
    links: &Links,
    link: &Link,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
) -> Result<(), NetworkError> {
    links.set_up(link).await?;
    sysctl::set_if_present(&format!("ipv6/conf/{}/disable_ipv6", link.name), "1")?;
    // For published ports at 127.0.0.1 of the node; a rule drops what replicas send to such addresses.
    sysctl::set(&format!("ipv4/conf/{}/route_localnet", link.name), "1")?;
    links.set_neighbour(link, address).await?;
    links
        .set_route(Ipv4Net::new(address, 32), Target::Link(link.index, gateway))
        .await?;
    Ok(())
}

/// Lets packets from 127.0.0.1 to a published port leave towards replicas of other nodes; they are masqueraded on the way out,
/// and a rule drops strangers' packets to loopback addresses, which this setting would otherwise let in.
pub(crate) async fn allow_loopback_sources(links: &Links, names: &Names, plan: &Plan) -> Result<(), NetworkError> {
    for index in underlays(links, plan).await? {
        let Some(link) = links.by_index(index).await? else {
            continue;
        };
        if link.name != "lo" && sysctl::set(&format!("ipv4/conf/{}/route_localnet", link.name), "1")? {
            remember_localnet(names, &link.name)?;
        }
    }
    Ok(())
}

async fn underlays(links: &Links, plan: &Plan) -> Result<BTreeSet<u32>, NetworkError> {
    let mut underlays = BTreeSet::new();
    for via in plan.routes.values() {
        underlays.extend(links.link_towards(*via).await?);
    }
    Ok(underlays)
}

/// The smallest MTU on the way to the other nodes, or to the world while there are none.
async fn underlay_mtu(links: &Links, names: &Names, plan: &Plan) -> Result<u32, NetworkError> {
    if let Some(name) = &names.underlay {
        let missing = || NetworkError::LinkMissing { name: name.clone() };
        return Ok(links.find(name).await?.ok_or_else(missing)?.mtu);
    }
    let mut indexes = underlays(links, plan).await?;
    indexes.extend(links.default_links().await?);
    let mut smallest = None;
    for index in indexes {
        let link = links.by_index(index).await?;
        let mtu = link.filter(|link| link.name != "lo").map(|link| link.mtu);
        smallest = [smallest, mtu].into_iter().flatten().min();
    }
    Ok(smallest.unwrap_or(MTU_DEFAULT))
}

fn remember_localnet(names: &Names, link: &str) -> Result<(), NetworkError> {
    let path = names.run_dir.join(LOCALNET_FILE);
    fs::create_dir_all(&names.run_dir).map_err(failed("making", &names.run_dir))?;
    let file = fs::OpenOptions::new().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| writeln!(file, "{link}"));
    written.map_err(failed("writing", &path))
}

/// Switches off again what was switched on, and removes the run folder if nothing else is in it.
pub(crate) fn restore(names: &Names) -> Result<(), NetworkError> {
    let path = names.run_dir.join(LOCALNET_FILE);
    for link in fs::read_to_string(&path).unwrap_or_default().lines() {
        sysctl::set_if_present(&format!("ipv4/conf/{link}/route_localnet"), "0")?;
    }
    // Neither file nor folder need exist, and a folder in use by others stays.
    let _ = fs::remove_file(&path);
    let _ = fs::remove_dir(&names.run_dir);
    Ok(())
}

fn failed(act: &'static str, path: &Path) -> impl Fn(io::Error) -> NetworkError + use<> {
    let path = path.to_path_buf();
    move |source| NetworkError::File {
        act,
        path: path.clone(),
        source,
    }
}
