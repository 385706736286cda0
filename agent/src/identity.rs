//! Who this agent is: loaded from its folder, or given by the cluster to a newcomer with a join token.

use std::net::{SocketAddr, UdpSocket};

use gantry_api::v1::RenewRequest;
use gantry_api::v1::enrollment_client::EnrollmentClient;
use gantry_env::Env;
use gantry_model::object::Role;
use gantry_model::{Class, NodeId, Problem};
use gantry_pki::Identity;
use gantry_rpc::{Credentials, Patience, Repeat, ServerPool, WithLimits, enroll, renewal};
use tokio_util::sync::CancellationToken;

use crate::config::AgentConfig;
use crate::disk::Disk;
use crate::drivers::blocking;

/// A member of the cluster.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: NodeId,
    pub(crate) identity: Identity,
    /// Where servers are.
    pub(crate) servers: Vec<String>,
}

/// The identity in the data folder, or a new one.
pub(crate) async fn establish(config: &AgentConfig, disk: &Disk, name: &str) -> Result<Member, Problem> {
    let folder = disk.identity();
    if !Identity::exists(&folder) {
        return join(config, disk, name).await;
    }
    let identity = blocking(move || Identity::load(&folder)).await?;
    let mut servers = disk.load_servers();
    let configured = config.join.iter().flat_map(|join| join.servers.iter());
    for server in configured {
        if !servers.contains(server) {
            servers.push(server.clone());
        }
    }
    member(identity, servers)
}

async fn join(config: &AgentConfig, disk: &Disk, name: &str) -> Result<Member, Problem> {
    let Some(join) = &config.join else {
        return Err(
            Problem::new(Class::Invalid, "agent", "has no identity and no join token")
                .remedy("start it with --join HOST:PORT --token TOKEN; `gantry cluster token create agent` makes one"),
        );
    };
    let enrolled = enroll(&join.servers, &join.token, name, Patience::DAEMON).await?;
    let (identity, folder) = (enrolled.identity.clone(), disk.identity());
    let mut servers = enrolled.servers;
    if servers.is_empty() {
        servers.clone_from(&join.servers);
    }
    disk.save_servers(&servers)?;
    blocking(move || identity.save(&folder)).await?;
    tracing::info!(
        cluster = enrolled.cluster_name,
        node = enrolled.identity.id,
        "joined the cluster"
    );
    member(enrolled.identity, servers)
}

fn member(identity: Identity, servers: Vec<String>) -> Result<Member, Problem> {
    if identity.role != Role::Agent {
        let reason = format!("its identity is of role {}", identity.role);
        return Err(Problem::new(Class::Invalid, "agent", reason)
            .remedy("join with a token of `gantry cluster token create agent`"));
    }
    let id = gantry_api::parse_id("node id", &identity.id)?;
    Ok(Member { id, identity, servers })
}

/// Keeps the certificate fresh until shutdown.
pub(crate) async fn keep_fresh(
    credentials: Credentials,
    disk: &Disk,
    servers: ServerPool,
    env: &dyn Env,
    shutdown: CancellationToken,
) {
    let renew = |csr_der: Vec<u8>| {
        let servers = servers.clone();
        async move {
            let request = RenewRequest {
                csr_der: csr_der.into(),
            };
            let renew = servers.call(Repeat::Harmless, |channel| {
                let request = request.clone();
                async move { EnrollmentClient::new(channel).with_limits().renew(request).await }
            });
            renew.await
        }
    };
    renewal::run(credentials, &disk.identity(), renew, env, shutdown).await;
}

/// The address that others reach this agent at: the configured one, or the one this machine uses towards the first server.
pub(crate) fn advertised(config: &AgentConfig, servers: &[String]) -> Result<String, Problem> {
    if !config.advertise.is_empty() {
        return Ok(config.advertise.clone());
    }
    if !config.listen.ip().is_unspecified() {
        return Ok(config.listen.to_string());
    }
    let unknown = |reason: String| {
        Problem::new(Class::Invalid, "agent", reason).remedy("say with --advertise where other nodes reach this one")
    };
    let server = servers
        .first()
        .ok_or_else(|| unknown("its own address is not known".to_string()))?;
    // Connecting a datagram socket sends nothing; it only makes the kernel choose a route.
    let towards = UdpSocket::bind(("0.0.0.0", 0)).and_then(|socket| {
        socket.connect(server)?;
        socket.local_addr()
    });
    let towards =
        towards.map_err(|error| unknown(format!("its own address towards {server} is not known: {error}")))?;
    Ok(SocketAddr::new(towards.ip(), config.listen.port()).to_string())
}
