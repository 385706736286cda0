//! The process on a node: a session with the leader, one worker per replica, the node's network, and what people ask of it.
//!
//! ```text
//!   leader ⇄ session ─ incoming → core ─ commands → workers ─ drivers → containers, images, volumes
//!               ↑                   └── wanted → data path ─ drivers → links, rules, names
//!               └──── board (reports), acknowledgements, inventory
//! ```
//!
//! **Invariant:** containers outlive the agent, and the agent outlives the control plane: whatever ends here, replicas go on.
//! **Invariant:** meets the control plane only in `proto/`.
//! Deliberately not here: deciding about a replica's life (`lifecycle`), about addresses and rules (`netplan`), and how containers,
//! images and packets are made to do it (`runtime`, `image`, `network`).

mod board;
mod clock;
mod config;
mod core;
mod datapath;
mod descriptor;
mod disk;
mod drivers;
mod engine;
mod facts;
mod identity;
mod ingress;
mod limits;
mod replica;
mod service;
mod session;
mod shared;
mod signal;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod usage;

use std::net::SocketAddr;
use std::sync::Arc;

use gantry_api::v1::engine_server::EngineServer;
use gantry_api::v1::node_agent_server::NodeAgentServer;
use gantry_cgroup::Layout;
use gantry_env::{Env, System};
use gantry_image::Store;
use gantry_model::{Class, NodeId, Problem};
use gantry_network::{LocalNetwork, NodeDatapath};
use gantry_rpc::{Channels, Credentials, ServerPool, WithLimits};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::clock::Clock;
use crate::core::{Ack, Core};
use crate::datapath::{Datapath, SetNumber, Wanted};
use crate::disk::Disk;
use crate::drivers::Drivers;
use crate::drivers::blocking;
use crate::drivers::containers::Containers;
use crate::drivers::images::NodeImages;
use crate::drivers::local_network::LocalBridge;
use crate::drivers::service_network::ServiceNetwork;
use crate::drivers::volumes::LocalVolumes;
use crate::engine::Engine;
use crate::engine::store::RecordStore;
use crate::identity::Member;
use crate::ingress::NodeIngress;
use crate::limits::{INCOMING, INGRESS_DRAIN, LINK_NAME_MAX};
use crate::service::NodeService;
use crate::service::local::LocalSocket;
use crate::service::registry::Registries;
use crate::session::{Introduction, Session};
use crate::shared::Shared;

pub use config::{AGENT_PORT, AgentConfig, Join};
pub use gantry_ingress::{Config as IngressConfig, Report as IngressReport};

/// Runs an agent until shutdown, which leaves its containers running.
///
/// # Errors
/// When it cannot start (wrong configuration, no identity, folders in use), or a part of it broke.
pub async fn run(config: AgentConfig, shutdown: CancellationToken) -> Result<(), Problem> {
    config.check()?;
    let disk = {
        let (data_dir, run_dir) = (config.data_dir.clone(), config.run_dir.clone());
        blocking(move || Disk::open(&data_dir, &run_dir)).await?
    };
    let listener = listen(config.listen).await?;
    let name = match &config.name {
        Some(name) => name.clone(),
        None => facts::host_name()?,
    };
    let joined = shutdown.run_until_cancelled(identity::establish(&config, &disk, &name));
    let Some(member) = joined.await else { return Ok(()) };
    let agent = Agent::assemble(config, disk, name, member?, shutdown).await?;
    agent.run(listener).await
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Problem> {
    TcpListener::bind(address).await.map_err(|error| {
        Problem::new(
            Class::Unavailable,
            "agent",
            format!("cannot listen on {address}: {error}"),
        )
        .remedy("stop what uses the address, or give the agent another with --listen")
    })
}

/// An agent with all its parts, about to run.
struct Agent {
    shared: Arc<Shared>,
    credentials: Credentials,
    servers: ServerPool,
    introduction: Introduction,
    containers: Containers,
    engine: Engine,
    by_hand: Containers,
    images: NodeImages,
    registries: Registries,
    builder: Arc<gantry_build::Builder>,
    socket: LocalSocket,
    shutdown: CancellationToken,
}

impl Agent {
    async fn assemble(
        config: AgentConfig,
        disk: Disk,
        name: String,
        member: Member,
        shutdown: CancellationToken,
    ) -> Result<Self, Problem> {
        let introduction = Introduction {
            name,
            address: identity::advertised(&config, &member.servers)?,
            facts: facts::gather(&config)?,
        };
        tracing::info!(node = %member.id, name = introduction.name, address = introduction.address, "agent starts");
        let credentials = Credentials::new(member.identity)?;
        let channels = Channels::new(credentials.clone());
        let servers = ServerPool::with_channels(member.servers, channels.clone());
        let containers = containers(&config).await?;
        let store = {
            let folder = config.data_dir.join("images");
            Arc::new(blocking(move || Store::open(folder)).await?)
        };
        let images = NodeImages::new(store, servers.clone(), channels);
        let network = ServiceNetwork::new(datapath(&config)?, shutdown.clone());
        let volumes = LocalVolumes::new(config.data_dir.clone());
        let shared = Arc::new(Shared {
            drivers: Drivers {
                runtime: Arc::new(containers.clone()),
                images: Arc::new(images.clone()),
                network: Arc::new(network),
                volumes: Arc::new(volumes.clone()),
            },
            board: Board::default(),
            disk,
            clock: Clock::new(Arc::new(System)),
            surroundings: arc_swap::ArcSwap::default(),
            ingress: NodeIngress::new(&config)?,
        });
        // Weak: the shared state holds the images.
        let peers = Arc::downgrade(&shared);
        images.find_nodes_by(Box::new(move |address| node_at(peers.upgrade()?.as_ref(), address)));
        containers.adopt_user_ids();
        let by_hand = containers.beside(config.data_dir.join("containers"));
        by_hand.adopt_user_ids();
        let engine = engine(&config, &shared, &by_hand, volumes, &introduction.name, &shutdown).await?;
        let registries = Registries::new(images.clone(), Arc::new(System), introduction.name.clone())?;
        let builder = service::build::builder(service::build::Parts {
            data_dir: &config.data_dir,
            run_dir: &config.run_dir,
            containers: &by_hand,
            images: &images,
            registries: &registries,
            engine: &engine,
        })
        .await?;
        let socket = LocalSocket::bind(&config.run_dir)?;
        Ok(Self {
            shared,
            credentials,
            servers,
            introduction,
            containers,
            engine,
            by_hand,
            images,
            registries,
            builder,
            socket,
            shutdown,
        })
    }

    /// Runs all parts. The first that fails ends the others.
    async fn run(self, listener: TcpListener) -> Result<(), Problem> {
        let scope = self.shutdown.child_token();
        let mut parts: JoinSet<Result<(), Problem>> = JoinSet::new();
        let (core, session, datapath) = self.connect(&scope).await?;
        let sessions = session.opened();
        parts.spawn(core.run());
        parts.spawn(async move {
            datapath.run().await;
            Ok(())
        });
        parts.spawn(async move {
            session.run().await;
            Ok(())
        });
        self.spawn_renewal(&mut parts, &scope);
        let (shared, ends) = (Arc::clone(&self.shared), scope.clone());
        parts.spawn(async move {
            ends.cancelled().await;
            shared.ingress.drain(INGRESS_DRAIN.to_std()).await;
            Ok(())
        });
        let measuring = usage::measure(Arc::clone(&self.shared), self.containers.clone(), scope.clone());
        parts.spawn(async move {
            measuring.await;
            Ok(())
        });
        self.spawn_services(&mut parts, listener, sessions, &scope);
        let mut outcome = Ok(());
        while let Some(ended) = parts.join_next().await {
            let crashed = |_| Err(Problem::new(Class::Internal, "agent", "a part of it crashed"));
            if let Err(problem) = ended.unwrap_or_else(crashed) {
                tracing::error!(%problem, "the agent ends; replicas go on");
                outcome = outcome.and(Err(problem));
            }
            scope.cancel();
        }
        outcome
    }

    async fn connect(&self, scope: &CancellationToken) -> Result<(Core, Session, Datapath), Problem> {
        let (incoming, from_session) = mpsc::channel(INCOMING);
        let (acks, to_session) = watch::channel(Ack::default());
        let (wanted, to_datapath) = watch::channel(Wanted::default());
        let (applied, from_datapath) = watch::channel(SetNumber::default());
        let shared = Arc::clone(&self.shared);
        let (saved, records) = blocking(move || (shared.disk.load_set(), shared.disk.records())).await;
        let ports = core::Ports {
            incoming: from_session,
            acks,
            wanted,
            applied: from_datapath,
        };
        let core = Core::new(Arc::clone(&self.shared), ports, saved, records?, scope.clone());
        let ports = session::Ports {
            incoming,
            acks: to_session,
            inventory: self.images.inventory(),
        };
        let session = Session::new(
            Arc::clone(&self.shared),
            self.servers.clone(),
            self.introduction.clone(),
            ports,
            scope.clone(),
        );
        let datapath = Datapath::new(Arc::clone(&self.shared), to_datapath, applied);
        Ok((core, session, datapath))
    }

    fn spawn_services(
        self,
        parts: &mut JoinSet<Result<(), Problem>>,
        listener: TcpListener,
        sessions: watch::Receiver<u64>,
        scope: &CancellationToken,
    ) {
        let service = NodeService {
            shared: self.shared,
            containers: self.containers,
            engine: self.engine.clone(),
            by_hand: self.by_hand,
            images: self.images,
            registries: self.registries,
            readers: service::Readers::default(),
            builder: self.builder,
            node: self.introduction.name,
            shutdown: scope.clone(),
        };
        let mut routes = tonic::service::Routes::builder();
        routes.add_service(NodeAgentServer::new(service.clone()).with_limits());
        routes.add_service(EngineServer::new(service.clone()).with_limits());
        let (routes, credentials) = (routes.routes(), self.credentials);
        let (own, remote) = (scope.clone(), scope.clone());
        parts.spawn(self.socket.serve(routes.clone(), own));
        parts.spawn(async move {
            gantry_rpc::serve(listener, credentials, routes, remote).await;
            Ok(())
        });
        let (naming, ends) = (service.clone(), scope.clone());
        parts.spawn(async move {
            service::names::settle(&naming, sessions, &ends).await;
            Ok(())
        });
        let (engine, scope) = (self.engine, scope.clone());
        parts.spawn(async move {
            service::tend(&service, &scope).await;
            engine.finished().await;
            Ok(())
        });
    }

    fn spawn_renewal(&self, parts: &mut JoinSet<Result<(), Problem>>, scope: &CancellationToken) {
        let (shared, credentials, servers) = (Arc::clone(&self.shared), self.credentials.clone(), self.servers.clone());
        let scope = scope.clone();
        parts.spawn(async move {
            let env: &dyn Env = &System;
            identity::keep_fresh(credentials, &shared.disk, servers, env, scope.clone()).await;
            // Without renewal the agent works on until its certificate expires.
            scope.cancelled().await;
            Ok(())
        });
    }
}

async fn containers(config: &AgentConfig) -> Result<Containers, Problem> {
    let folder = config.data_dir.join("shim");
    let refused = |error: &dyn std::fmt::Display| Problem::new(Class::Internal, "agent", error.to_string());
    let shim = blocking(move || gantry_runtime::install_shim(&folder))
        .await
        .map_err(|error| refused(&error))?;
    let layout = blocking(Layout::detect).await.map_err(|error| refused(&error))?;
    let replicas = config.data_dir.join("replicas");
    Ok(Containers::new(replicas, shim, layout, config.cgroup_parent.clone()))
}

/// Containers run by hand, with a network of their own.
async fn engine(
    config: &AgentConfig,
    shared: &Arc<Shared>,
    by_hand: &Containers,
    volumes: LocalVolumes,
    node: &str,
    shutdown: &CancellationToken,
) -> Result<Engine, Problem> {
    let network = gantry_network::LocalConfig {
        link: local_link(&config.bridge),
        table: format!("{}_local", table_of(&config.bridge)),
        run_dir: config.run_dir.join("netns-local"),
        pool: config.local_pool,
    };
    let network = LocalNetwork::new(network).map_err(|error| drivers::service_network::problem(&error))?;
    let machine = engine::Machine {
        runtime: Arc::new(by_hand.clone()),
        volumes: Arc::new(volumes.of_containers()),
        bridge: Arc::new(LocalBridge::new(network, shutdown.clone())),
        store: RecordStore::open(&config.data_dir)?,
    };
    let (shared, env) = (Arc::clone(shared), Arc::new(System));
    Engine::open(
        shared,
        machine,
        env,
        node.to_string(),
        facts::host_name()?,
        shutdown.clone(),
    )
    .await
}

fn datapath(config: &AgentConfig) -> Result<NodeDatapath, Problem> {
    let config = gantry_network::Config {
        link: config.bridge.clone(),
        table: table_of(&config.bridge),
        run_dir: config.run_dir.join("netns"),
        underlay: None,
    };
    NodeDatapath::new(config).map_err(|error| drivers::service_network::problem(&error))
}

/// The table of packet rules is named after the link: `gantry` for `gantry0`.
fn table_of(bridge: &str) -> String {
    match bridge {
        "gantry0" => "gantry".to_string(),
        other => other.to_string(),
    }
}

/// The link of the local network is named after the other one, within the 15 characters that a link's name has.
fn local_link(bridge: &str) -> String {
    let stem: String = bridge.chars().take(LINK_NAME_MAX - 1).collect();
    let ending = if bridge.ends_with('l') { 'm' } else { 'l' };
    format!("{stem}{ending}")
}

fn node_at(shared: &Shared, address: SocketAddr) -> Option<NodeId> {
    shared.surroundings.load().peers.get(&address).copied()
}
