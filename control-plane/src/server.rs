//! One server process: identity, log, listener, leadership.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use gantry_api::v1::cluster_server::ClusterServer;
use gantry_api::v1::enrollment_server::EnrollmentServer;
use gantry_api::v1::raft_server::RaftServer;
use gantry_api::v1::session_server::SessionServer;
use gantry_env::{Env, System};
use gantry_model::{Class, Problem, ServerId};
use gantry_pki::Identity;
use gantry_raft::{Options, Replicated};
use gantry_rpc::{Channels, Credentials, WithLimits};
use gantry_state::{Key, Object, Op, Precondition, Transaction};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::api::{ClusterService, EngineRelay, NodeAgentRelay};
use crate::config::ServerConfig;
use crate::context::Context;
use crate::enrollment::EnrollmentService;
use crate::init::{forget_bootstrap, identity_dir, read_bootstrap};
use crate::peer::{FRAME_BYTES_MAX, GrpcTransport, RaftService};
use crate::registry::Registry;
use crate::session::SessionService;
use crate::{join, leadership, renewal};

/// Runs a server until `shutdown`; it then hands leadership on, if it leads.
///
/// # Errors
/// When it has no identity and no way to get one, its folder cannot be used, or its address is taken.
pub async fn run(config: ServerConfig, shutdown: CancellationToken) -> Result<(), Problem> {
    let env: Arc<dyn Env> = Arc::new(System);
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        Problem::new(
            Class::Unavailable,
            format!("address {}", config.listen),
            format!("cannot listen: {error}"),
        )
        .remedy("is another server running? choose another --listen")
    })?;
    // A cluster to join may not be there for minutes.
    let Some(identity) = shutdown.run_until_cancelled(identity(&config)).await else {
        return Ok(());
    };
    let identity = identity?;
    let server = server_id(&identity)?;
    let credentials = Credentials::new(identity)?;
    let channels = Channels::new(credentials.clone());
    let options = Options::new(server, config.advertise.clone(), config.data_dir.join("raft"));
    let raft = Replicated::open(options, Arc::new(GrpcTransport::new(channels.clone()))).await?;
    let context = Arc::new(Context {
        server,
        raft,
        env,
        channels,
        term: ArcSwapOption::empty(),
    });

    let stop = CancellationToken::new();
    let serving = tokio::spawn(gantry_rpc::serve(
        listener,
        credentials.clone(),
        routes(&context),
        stop.clone(),
    ));
    let leading = tokio::spawn(leadership::follow(context.clone(), stop.clone()));
    let renewing = tokio::spawn(renewal::renew_server(
        context.clone(),
        credentials,
        renewal::Own {
            folder: identity_dir(&config.data_dir),
            hosts: config.hosts(),
        },
        stop.clone(),
    ));
    tracing::info!(server = %server, listen = %config.listen, advertise = config.advertise, "server started");

    let entered = tokio::select! {
        entered = enter(&context, &config) => entered,
        () = shutdown.cancelled() => Ok(()),
    };
    if entered.is_ok() {
        shutdown.cancelled().await;
    }
    tracing::info!("stopping");
    context.raft.clone().shutdown().await;
    stop.cancel();
    let _ = tokio::join!(serving, leading, renewing);
    entered
}

fn routes(context: &Arc<Context>) -> Routes {
    let services = Routes::new(EnrollmentServer::new(EnrollmentService::new(context.clone())))
        .add_service(ClusterServer::new(ClusterService::new(context.clone())).with_limits())
        .add_service(EngineRelay::new(context.clone()))
        .add_service(NodeAgentRelay::new(context.clone()))
        .add_service(SessionServer::new(SessionService::new(context.clone())).with_limits())
        .add_service(
            RaftServer::new(RaftService::new(context.clone()))
                .max_decoding_message_size(FRAME_BYTES_MAX)
                .max_encoding_message_size(FRAME_BYTES_MAX),
        );
    let registry = gantry_registry::router(Registry::new(context.clone()));
    Routes::from(services.into_axum_router().merge(registry))
}

/// The identity on disk, or a new one by token.
async fn identity(config: &ServerConfig) -> Result<Identity, Problem> {
    let folder = identity_dir(&config.data_dir);
    if Identity::exists(&folder) {
        return Ok(Identity::load(&folder)?);
    }
    let join = config.join.as_ref().ok_or_else(|| {
        let object = config.data_dir.display().to_string();
        Problem::new(Class::NotFound, object, "holds no server identity").remedy(
            "start a new cluster with `gantry cluster init`, or join one with `gantry server --join ADDRESS --token TOKEN`",
        )
    })?;
    let identity = join::enroll(join, &config.advertise).await?;
    identity.save(&folder)?;
    Ok(identity)
}

fn server_id(identity: &Identity) -> Result<ServerId, Problem> {
    let peer = identity.peer()?;
    peer.id.parse().map_err(|_| {
        Problem::new(
            Class::Internal,
            format!("certificate of {}", peer.id),
            "does not hold the id of a server",
        )
    })
}

/// Makes sure that this server is a member of a cluster that knows itself.
async fn enter(context: &Arc<Context>, config: &ServerConfig) -> Result<(), Problem> {
    if let Some(bootstrap) = read_bootstrap(&config.data_dir)? {
        context.raft.bootstrap().await.map_err(Problem::from)?;
        let mut ops = vec![Op::Put(Box::new(Object::Cluster(bootstrap.cluster)))];
        ops.extend(
            bootstrap
                .tokens
                .into_iter()
                .map(|token| Op::Put(Box::new(Object::Token(token)))),
        );
        let transaction = Transaction::new(context.env.now(), ops).requiring(Precondition::Absent(Key::Cluster));
        context.raft.propose(transaction).await.map_err(Problem::from)?;
        return forget_bootstrap(&config.data_dir);
    }
    match &config.join {
        Some(join) => join::become_member(context, &join.servers, &config.advertise).await,
        None => Ok(()),
    }
}
