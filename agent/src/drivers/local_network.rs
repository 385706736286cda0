//! [`Bridge`] by the node's kernel, with a name server where the node's own cannot be reached from a container.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use gantry_model::net::Ipv4Net;
use gantry_model::{Problem, ReplicaId};
use gantry_network::{DnsServer, LocalAttachment, LocalNetwork, LocalPort, Upstreams};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::service_network::problem;
use super::{Bridge, blocking};

/// Port of DNS (RFC 1035, 4.2).
const DNS_PORT: u16 = 53;

/// See the module.
#[derive(Clone)]
pub(crate) struct LocalBridge {
    network: Arc<LocalNetwork>,
    forwarder: Arc<Mutex<bool>>,
    shutdown: CancellationToken,
}

impl LocalBridge {
    /// A network whose name server, should one be needed, ends at shutdown.
    pub(crate) fn new(network: LocalNetwork, shutdown: CancellationToken) -> Self {
        Self {
            network: Arc::new(network),
            forwarder: Arc::default(),
            shutdown,
        }
    }

    async fn forward(&self, avoid: &[Ipv4Net]) -> Result<Ipv4Addr, Problem> {
        let gateway = self.network.ready(avoid).await.map_err(|error| problem(&error))?;
        let mut runs = self.forwarder.lock().await;
        if !*runs {
            let listen = SocketAddr::from((gateway, DNS_PORT));
            let server = DnsServer::bind(listen, Arc::default(), Upstreams::default()).await;
            let server = server.map_err(|error| problem(&error))?;
            let shutdown = self.shutdown.clone();
            tokio::spawn(async move { server.run(shutdown.cancelled()).await });
            *runs = true;
        }
        Ok(gateway)
    }
}

impl Bridge for LocalBridge {
    fn adopt(&self, container: ReplicaId, address: Ipv4Addr, ports: Vec<LocalPort>) {
        self.network.adopt(container, address, ports);
    }

    fn ready(&self, avoid: Vec<Ipv4Net>) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            let ready = self.network.ready(&avoid).await;
            ready.map(drop).map_err(|error| problem(&error))
        }
        .boxed()
    }

    fn heal(&self) -> BoxFuture<'_, Result<(), Problem>> {
        async move { self.network.heal().await.map_err(|error| problem(&error)) }.boxed()
    }

    fn attach(&self, container: ReplicaId, avoid: Vec<Ipv4Net>) -> BoxFuture<'_, Result<LocalAttachment, Problem>> {
        async move {
            let attached = self.network.attach(container, &avoid).await;
            attached.map_err(|error| problem(&error))
        }
        .boxed()
    }

    fn serve_names(&self, avoid: Vec<Ipv4Net>) -> BoxFuture<'_, Result<(), Problem>> {
        async move { self.forward(&avoid).await.map(drop) }.boxed()
    }

    fn detach(&self, container: ReplicaId) -> BoxFuture<'_, Result<(), Problem>> {
        let network = Arc::clone(&self.network);
        blocking(move || network.detach(container).map_err(|error| problem(&error))).boxed()
    }

    fn publish(&self, ports: Vec<LocalPort>, avoid: Vec<Ipv4Net>) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            let published = self.network.publish(&ports, &avoid).await;
            published.map_err(|error| problem(&error))
        }
        .boxed()
    }

    fn withdraw(&self, ports: Vec<LocalPort>) -> BoxFuture<'_, Result<(), Problem>> {
        async move { self.network.withdraw(&ports).await.map_err(|error| problem(&error)) }.boxed()
    }

    fn attached(&self) -> BoxFuture<'_, Result<Vec<ReplicaId>, Problem>> {
        let network = Arc::clone(&self.network);
        blocking(move || network.list().map_err(|error| problem(&error))).boxed()
    }
}
