//! [`Network`] by the node's kernel: data path and name server.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::FutureExt;
use futures::future::BoxFuture;
use gantry_model::{Class, Problem, ReplicaId};
use gantry_netplan::{Plan, Zone};
use gantry_network::{Connections, Disturbance, DnsServer, NetworkError, NodeDatapath, Report, Upstreams};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Network, blocking};

/// Port of DNS (RFC 1035, 4.2).
const DNS_PORT: u16 = 53;

/// See the module.
pub(crate) struct ServiceNetwork {
    datapath: Arc<NodeDatapath>,
    zone: Arc<ArcSwap<Zone>>,
    name_server: Mutex<Option<NameServer>>,
    shutdown: CancellationToken,
}

struct NameServer {
    address: Ipv4Addr,
    task: JoinHandle<()>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ServiceNetwork {
    /// A network whose name server ends at shutdown.
    pub(crate) fn new(datapath: NodeDatapath, shutdown: CancellationToken) -> Self {
        Self {
            datapath: Arc::new(datapath),
            zone: Arc::default(),
            name_server: Mutex::default(),
            shutdown,
        }
    }

    /// After the data path: the name server's address is the gateway's.
    async fn serve_names(&self, plan: &Plan) -> Result<(), Problem> {
        self.zone.store(Arc::new(plan.zone.clone()));
        let address = plan.gateway.address;
        let mut name_server = self.name_server.lock().await;
        let is_there = name_server
            .as_ref()
            .is_some_and(|server| server.address == address && !server.task.is_finished());
        if is_there {
            return Ok(());
        }
        *name_server = None;
        let listen = SocketAddr::from((address, DNS_PORT));
        let server = DnsServer::bind(listen, Arc::clone(&self.zone), Upstreams::default())
            .await
            .map_err(|error| problem(&error))?;
        let shutdown = self.shutdown.clone();
        let task = tokio::spawn(async move { server.run(shutdown.cancelled()).await });
        *name_server = Some(NameServer { address, task });
        Ok(())
    }
}

pub(crate) fn problem(error: &NetworkError) -> Problem {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        reason.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    Problem::new(Class::Unavailable, "network of this node", reason)
}

fn log(report: &Report) {
    if !report.changed {
        return;
    }
    for warning in &report.warnings {
        tracing::warn!(%warning, "the network cannot be quite as asked for");
    }
    for (subnet, address) in &report.unreachable {
        tracing::warn!(%subnet, %address, "a node is on no network that this one is on: its replicas are unreachable");
    }
}

impl Network for ServiceNetwork {
    fn apply(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            let report = self.datapath.apply(&plan).await.map_err(|error| problem(&error))?;
            log(&report);
            self.serve_names(&plan).await
        }
        .boxed()
    }

    fn heal(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            self.datapath.reapply(&plan).await.map_err(|error| problem(&error))?;
            self.serve_names(&plan).await
        }
        .boxed()
    }

    fn disturbed(&self) -> BoxFuture<'_, Disturbance> {
        self.datapath.disturbed().boxed()
    }

    fn repair(&self, plan: Arc<Plan>, disturbance: Disturbance) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            let repaired = self.datapath.repair(&plan, disturbance).await;
            repaired.map_err(|error| problem(&error))?;
            self.serve_names(&plan).await
        }
        .boxed()
    }

    fn resume(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            let report = self.datapath.resume(&plan).await.map_err(|error| problem(&error))?;
            log(&report);
            self.serve_names(&plan).await
        }
        .boxed()
    }

    fn connections(&self, replica: ReplicaId) -> BoxFuture<'_, Result<Option<Connections>, Problem>> {
        let counted = self.datapath.connections(replica);
        counted.map(|counted| counted.map_err(|error| problem(&error))).boxed()
    }

    fn listening(&self, replica: ReplicaId) -> BoxFuture<'_, Result<Option<BTreeSet<u16>>, Problem>> {
        let ports = self.datapath.listening(replica);
        ports.map(|ports| ports.map_err(|error| problem(&error))).boxed()
    }

    fn attach(&self, replica: ReplicaId, address: Ipv4Addr) -> BoxFuture<'_, Result<PathBuf, Problem>> {
        async move {
            self.datapath
                .attach(replica, address)
                .await
                .map_err(|error| problem(&error))
        }
        .boxed()
    }

    fn detach(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>> {
        let detached = self.datapath.detach(replica);
        detached
            .map(|detached| detached.map_err(|error| problem(&error)))
            .boxed()
    }

    fn attached(&self) -> BoxFuture<'_, Result<Vec<ReplicaId>, Problem>> {
        let datapath = Arc::clone(&self.datapath);
        blocking(move || datapath.list().map_err(|error| problem(&error))).boxed()
    }
}
