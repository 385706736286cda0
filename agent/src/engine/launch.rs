//! From a record to a running process: image, volumes, network and files side by side, then the runtime.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use gantry_lifecycle::Failure;
use gantry_model::container::NetworkMode;
use gantry_model::spec::{ContainerSpec, HealthCheck, NamespaceMode, PortSpec};
use gantry_model::{Class, Problem};
use gantry_network::LocalPort;
use gantry_runtime::{LaunchOptions, Peers};
use tokio::sync::oneshot;

use super::actor::Folder;
use super::parts::Parts;
use super::record::Record;
use super::resolver;
use crate::drivers::{
    Attached, FileKind, Launch, LaunchFailure, LaunchNetwork, PlacedFile, ReadyImage, Running, VolumeOwner, blocking,
};
use crate::replica::files::{self, Place};

/// Exit status of a container that could not be started for reasons of ours, as Docker's client has it.
const EXIT_OURS: i32 = 125;

/// Somebody who watches from the very first byte.
#[derive(Debug)]
pub(crate) struct Watcher {
    /// Gets the streams before the program runs.
    pub(crate) streams: oneshot::Sender<Attached>,
    /// Also standard input.
    pub(crate) stdin: bool,
    /// Lines and columns of the terminal.
    pub(crate) size: Option<(u16, u16)>,
}

/// A container that runs.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) running: Running,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) ports: Vec<PortSpec>,
    pub(super) check: Option<HealthCheck>,
    /// To be used for the next start.
    pub(super) image: ReadyImage,
}

/// Where the container's network turned out to be.
struct Located {
    network: LaunchNetwork,
    address: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
    ports: Vec<PortSpec>,
    hostname: String,
}

/// Starts the container of a record. What was made for it stays on failure: [`release_network`] takes it back.
pub(super) async fn launch(
    parts: &Parts,
    record: Record,
    ready: Option<ReadyImage>,
    watcher: Option<Watcher>,
    folder: &Folder,
) -> Result<Up, LaunchFailure> {
    let store = parts.store.clone();
    let saved = record.clone();
    let save = async move {
        let _held = folder.lock().await;
        let saved = blocking(move || store.announce(&saved)).await;
        saved.map_err(|problem| ours(&problem))
    };
    let content = content(parts, &record, ready);
    let (image_and_mounts, place, ()) = tokio::try_join!(content, network(parts, &record), save)?;
    let (image, mounts) = image_and_mounts;
    let options = options(parts, &record, watcher.as_ref()).map_err(|problem| ours(&problem))?;
    let check = effective_health(&record.spec.container, image.config.healthcheck.clone());
    let launch = Launch {
        id: record.id,
        name: record.object(),
        container: record.spec.container.clone(),
        resources: record.spec.resources.clone(),
        image: image.clone(),
        hostname: place.hostname.clone(),
        network: place.network.clone(),
        mounts,
        files: placed_files(&record, &place),
        options,
    };
    let mut running = parts.runtime.launch(Arc::new(launch), record.life.attempt).await?;
    if let Some(watcher) = watcher {
        let attached = parts.runtime.attach(record.id, watcher.stdin).await;
        let attached = attached.map_err(|problem| ours(&problem))?;
        // Who has gone meanwhile misses it.
        drop(watcher.streams.send(attached));
        running.started_at = parts.runtime.proceed(record.id).await?;
    }
    Ok(Up {
        running,
        address: place.address,
        ports: place.ports,
        check,
        image,
    })
}

/// What a container that has never been started would be launched as, as far as its root goes: whose namespaces it would share
/// and where its network would be makes no difference to its files.
pub(super) async fn outline(parts: &Parts, mut record: Record) -> Result<Launch, Problem> {
    let container = &mut record.spec.container;
    for mode in [
        &mut container.pid,
        &mut container.ipc,
        &mut container.uts,
        &mut container.cgroup,
    ] {
        if let NamespaceMode::Container(_) = mode {
            *mode = NamespaceMode::Private;
        }
    }
    let (image, mounts) = content(parts, &record, None)
        .await
        .map_err(|failure| Problem::new(Class::Conflict, record.object(), failure.reason))?;
    Ok(Launch {
        id: record.id,
        name: record.object(),
        container: record.spec.container,
        resources: record.spec.resources,
        image,
        hostname: record.id.to_string(),
        network: LaunchNetwork::Empty,
        mounts,
        files: Vec::new(),
        options: LaunchOptions::default(),
    })
}

fn ours(problem: &Problem) -> LaunchFailure {
    let remedy = match problem.remedy.as_str() {
        "" => String::new(),
        remedy => format!(" ({remedy})"),
    };
    LaunchFailure {
        reason: format!("{}{remedy}", problem.reason),
        retryable: false,
        exit_code: EXIT_OURS,
    }
}

fn from_failure(failure: Failure) -> LaunchFailure {
    LaunchFailure {
        reason: failure.reason,
        retryable: failure.retryable,
        exit_code: EXIT_OURS,
    }
}

async fn content(
    parts: &Parts,
    record: &Record,
    ready: Option<ReadyImage>,
) -> Result<(ReadyImage, Vec<crate::drivers::ReadyMount>), LaunchFailure> {
    let container = &record.spec.container;
    let image = match ready {
        Some(image) => image,
        None => {
            let ensured = parts.shared.drivers.images.ensure(container).await;
            ensured.map_err(from_failure)?
        }
    };
    let owner = VolumeOwner {
        id: record.id,
        namespace: None,
    };
    let mounts = parts.volumes.ensure(&owner, &container.mounts, &image.config).await;
    Ok((image, mounts.map_err(from_failure)?))
}

async fn network(parts: &Parts, record: &Record) -> Result<Located, LaunchFailure> {
    let own_name = || {
        record
            .spec
            .container
            .hostname
            .clone()
            .unwrap_or_else(|| record.id.to_string())
    };
    let place = |network, hostname| Located {
        network,
        address: None,
        gateway: None,
        ports: Vec::new(),
        hostname,
    };
    match &record.spec.network {
        NetworkMode::Host => {
            let hostname = record.spec.container.hostname.clone();
            Ok(place(
                LaunchNetwork::Host,
                hostname.unwrap_or_else(|| parts.host_name.clone()),
            ))
        }
        NetworkMode::None => Ok(place(LaunchNetwork::Empty, own_name())),
        NetworkMode::Container(other) => {
            let (path, hostname) = parts.network_of(other).map_err(|problem| ours(&problem))?;
            let network = path.map_or(LaunchNetwork::Host, LaunchNetwork::Path);
            Ok(place(network, hostname))
        }
        NetworkMode::Named(name) => Err(ours(&named(name))),
        NetworkMode::Bridge => bridge(parts, record, own_name())
            .await
            .map_err(|problem| ours(&problem)),
    }
}

/// Networks of the cluster give addresses by its plan, which a container by hand is not part of.
pub(super) fn named(name: &str) -> Problem {
    let reason = "networks of the cluster are for services: a container run by hand has no address in their plan";
    Problem::new(Class::Invalid, format!("network {name}"), reason).remedy(
        "use the default network, `host`, `none` or `container:NAME`, or run it as a service with `gantry apply`",
    )
}

async fn bridge(parts: &Parts, record: &Record, hostname: String) -> Result<Located, Problem> {
    let ports = parts.claim_ports(record)?;
    let avoid = parts.cluster_pools();
    let attached = parts.bridge.attach(record.id, avoid.clone()).await?;
    let local = local_ports(attached.address, &ports);
    parts.bridge.publish(local, avoid.clone()).await?;
    let needs_names = record.spec.container.dns.is_empty() && resolver::needs_forwarder(&node_resolver());
    if needs_names && let Err(problem) = parts.bridge.serve_names(avoid).await {
        tracing::warn!(%problem, "containers have no name server");
    }
    Ok(Located {
        network: LaunchNetwork::Path(attached.namespace),
        address: Some(attached.address),
        gateway: Some(attached.gateway),
        ports,
        hostname,
    })
}

/// Published ports as the data path has them. A port on an address outside IPv4 is not served.
pub(super) fn local_ports(to: Ipv4Addr, ports: &[PortSpec]) -> Vec<LocalPort> {
    let port = |port: &PortSpec| {
        let host_ip = match port.host_ip {
            Some(IpAddr::V4(address)) if !address.is_unspecified() => Some(address),
            Some(IpAddr::V6(address)) if !address.is_unspecified() => return None,
            Some(_) | None => None,
        };
        Some(LocalPort {
            host_ip,
            published: port.published?,
            protocol: port.protocol,
            to,
            target: port.target,
        })
    };
    ports.iter().filter_map(port).collect()
}

/// Gives back what the container has on the network; trying again goes on where it failed.
pub(super) async fn release_network(parts: &Parts, record: &Record) -> Result<(), Problem> {
    if record.spec.network != NetworkMode::Bridge {
        return Ok(());
    }
    if let Some(address) = record.address {
        parts.bridge.withdraw(local_ports(address, &record.ports)).await?;
    }
    parts.bridge.detach(record.id).await?;
    parts.release_ports(record.id);
    Ok(())
}

fn node_resolver() -> String {
    std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

fn placed_files(record: &Record, place: &Located) -> Vec<PlacedFile> {
    let container = &record.spec.container;
    let file = |target: &str, content: String| PlacedFile {
        target: target.to_string(),
        uid: 0,
        gid: 0,
        mode: 0o644,
        kind: FileKind::Resolution,
        content: content.into_bytes(),
    };
    let hosts = match &record.spec.network {
        NetworkMode::Host => std::fs::read_to_string("/etc/hosts").unwrap_or_default() + &extra_hosts(container),
        NetworkMode::Bridge | NetworkMode::None | NetworkMode::Container(_) | NetworkMode::Named(_) => {
            let place = Place {
                hostname: &place.hostname,
                address: place.address,
                gateway: place.gateway.unwrap_or(Ipv4Addr::LOCALHOST),
            };
            files::hosts(container, place)
        }
    };
    let gateway = place.gateway.map(IpAddr::V4);
    vec![
        file("/etc/hostname", format!("{}\n", place.hostname)),
        file("/etc/hosts", hosts),
        file(
            "/etc/resolv.conf",
            resolver::resolv_conf(&node_resolver(), container, gateway),
        ),
    ]
}

fn extra_hosts(container: &ContainerSpec) -> String {
    let line = |(name, address): &(String, String)| match address.as_str() {
        "host-gateway" => format!("127.0.0.1\t{name}\n"),
        address => format!("{address}\t{name}\n"),
    };
    container.extra_hosts.iter().map(line).collect()
}

fn options(parts: &Parts, record: &Record, watcher: Option<&Watcher>) -> Result<LaunchOptions, Problem> {
    let container = &record.spec.container;
    let peer = |mode: &NamespaceMode| match mode {
        NamespaceMode::Container(other) => parts.process_of(other).map(Some),
        NamespaceMode::Private | NamespaceMode::Shareable | NamespaceMode::Host | NamespaceMode::None => Ok(None),
    };
    Ok(LaunchOptions {
        hold: watcher.is_some(),
        peers: Peers {
            pid: peer(&container.pid)?,
            ipc: peer(&container.ipc)?,
            uts: peer(&container.uts)?,
            cgroup: peer(&container.cgroup)?,
        },
        console_size: watcher.and_then(|watcher| watcher.size),
        ..LaunchOptions::default()
    })
}

/// The check to run, Docker's defaults filled in.
fn effective_health(container: &ContainerSpec, image: Option<HealthCheck>) -> Option<HealthCheck> {
    let policy = gantry_lifecycle::Policy {
        is_job: false,
        restart: Default::default(),
        stop_grace: container.stop_grace(),
        health: container.healthcheck.clone(),
    };
    policy.effective_health(image)
}

/// File of a process's network namespace.
pub(super) fn namespace_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}
