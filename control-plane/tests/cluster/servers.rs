//! Servers to test with: each listens on a loopback port of its own and keeps its folder until the test ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures::future::join_all;
use gantry_api::v1::cluster_client::ClusterClient;
use gantry_api::v1::{ClusterStatusReply, Documents, Empty, ReadRequest};
use gantry_control_plane::{InitConfig, InitReport, JoinConfig, ServerConfig};
use gantry_env::System;
use gantry_model::object::ClusterConfig;
use gantry_model::{DurationMs, Problem};
use gantry_rpc::{Credentials, Repeat, ServerPool, WithLimits};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest that anything here may take.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// One server.
pub struct Server {
    pub address: SocketAddr,
    folder: TempDir,
    running: Option<(JoinHandle<Result<(), Problem>>, CancellationToken)>,
}

/// A cluster under test.
pub struct Cluster {
    pub servers: Vec<Server>,
    pub report: InitReport,
    pub pool: ServerPool,
}

/// A loopback address that no other server of this machine's tests has. A port that was free a moment ago on an address shared
/// with everybody may be taken by the time the server listens, most likely by a connection that another test makes.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    // 127.128.0.0/9: half of the loopback network, with nobody's usual address in it.
    let address = Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed));
    SocketAddr::from((address, gantry_control_plane::SERVER_PORT))
}

impl Server {
    fn new() -> Self {
        Self {
            address: own_address(),
            folder: TempDir::new().expect("a temporary folder"),
            running: None,
        }
    }

    pub fn start(&mut self, join: Option<JoinConfig>) {
        let shutdown = CancellationToken::new();
        let config = ServerConfig {
            names: Vec::new(),
            data_dir: self.folder.path().to_path_buf(),
            listen: self.address,
            advertise: self.address.to_string(),
            join,
        };
        let task = tokio::spawn(gantry_control_plane::run(config, shutdown.clone()));
        self.running = Some((task, shutdown));
    }

    pub async fn stop(&mut self) {
        assert!(self.running.is_some(), "the server runs");
        self.stopped().await.expect("it stops cleanly");
    }

    /// Stops it if it runs.
    async fn stopped(&mut self) -> Result<(), String> {
        let Some((task, shutdown)) = self.running.take() else {
            return Ok(());
        };
        shutdown.cancel();
        match tokio::time::timeout(DEADLINE, task).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(problem))) => Err(format!("server {} stopped with {problem}", self.address)),
            Ok(Err(error)) => Err(format!("server {} panicked: {error}", self.address)),
            Err(_) => Err(format!("server {} did not stop within {DEADLINE:?}", self.address)),
        }
    }
}

/// Stops every server, also when the test failed: a process that exits while a database is open is aborted.
impl Drop for Cluster {
    fn drop(&mut self) {
        let stopping = join_all(self.servers.iter_mut().map(Server::stopped));
        let outcomes = tokio::task::block_in_place(|| Handle::current().block_on(stopping));
        if !std::thread::panicking() {
            assert_eq!(outcomes.into_iter().find_map(Result::err), None);
        }
    }
}

impl Cluster {
    /// A cluster of `count` servers, all of them members.
    pub async fn start(count: usize) -> Self {
        // Shown for a test that fails; `RUST_LOG` chooses how much.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer()
            .try_init();
        let mut first = Server::new();
        let config = InitConfig {
            data_dir: first.folder.path().to_path_buf(),
            advertise: first.address.to_string(),
            name: "test".into(),
            config: ClusterConfig {
                lease: DurationMs::secs(2),
                ..ClusterConfig::default()
            },
        };
        let report = gantry_control_plane::init(&config, &System).expect("a new cluster");
        first.start(None);
        let credentials = Credentials::new(report.admin.clone()).expect("usable credentials");
        let pool = ServerPool::new(vec![first.address.to_string()], credentials);
        let mut cluster = Self {
            servers: vec![first],
            report,
            pool,
        };
        cluster.until(|status| !status.name.is_empty()).await;
        for _ in 1..count {
            cluster.add().await;
        }
        let addresses = cluster
            .servers
            .iter()
            .map(|server| server.address.to_string())
            .collect();
        cluster.pool.set_addresses(addresses);
        cluster
    }

    /// Adds a server and waits until it votes.
    pub async fn add(&mut self) {
        let mut server = Server::new();
        server.start(Some(JoinConfig {
            servers: vec![self.servers[0].address.to_string()],
            token: self.report.server_token.clone(),
        }));
        self.servers.push(server);
        let count = self.servers.len();
        self.until(|status| status.servers.iter().filter(|server| server.voter).count() == count)
            .await;
    }

    pub async fn status(&self) -> Result<ClusterStatusReply, Problem> {
        self.pool
            .call(Repeat::Harmless, |channel| async move {
                ClusterClient::new(channel).with_limits().cluster_status(Empty {}).await
            })
            .await
    }

    /// Waits for a status.
    pub async fn until(&self, wanted: impl Fn(&ClusterStatusReply) -> bool) -> ClusterStatusReply {
        let mut last = None;
        let waited = tokio::time::timeout(DEADLINE, async {
            loop {
                match self.status().await {
                    Ok(status) if wanted(&status) => return status,
                    other => last = Some(other),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        match waited.await {
            Ok(status) => status,
            Err(_) => panic!("the cluster did not come to the wanted status, last: {last:?}"),
        }
    }

    /// All documents of a kind.
    pub async fn read(&self, kind: &str) -> Result<Documents, Problem> {
        let request = ReadRequest {
            kind: kind.into(),
            ..ReadRequest::default()
        };
        self.pool
            .call(Repeat::Harmless, |channel| {
                let request = request.clone();
                async move { ClusterClient::new(channel).with_limits().read(request).await }
            })
            .await
    }

    /// The server that leads, as an index.
    pub async fn leader(&self) -> usize {
        let status = self
            .until(|status| status.servers.iter().any(|server| server.leader))
            .await;
        let address = status
            .servers
            .iter()
            .find(|server| server.leader)
            .map(|server| server.address.clone());
        let position = self
            .servers
            .iter()
            .position(|server| Some(server.address.to_string()) == address);
        position.expect("the leader is one of ours")
    }
}
