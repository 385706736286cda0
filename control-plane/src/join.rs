//! A server becomes a member of an existing cluster.

use std::sync::Arc;

use gantry_api::v1::ChangeServerRequest;
use gantry_api::v1::change_server_request::Action;
use gantry_api::v1::cluster_client::ClusterClient;
use gantry_model::{Class, Problem};
use gantry_pki::Identity;
use gantry_rpc::{Patience, Repeat, ServerPool, WithLimits};

use crate::config::JoinConfig;
use crate::context::Context;

/// A certificate by token.
///
/// # Errors
/// When the token is refused, is not one for servers, or no server can be reached.
pub async fn enroll(join: &JoinConfig, name: &str) -> Result<Identity, Problem> {
    let token: gantry_pki::Token = join.token.parse().map_err(Problem::from)?;
    if token.role != gantry_model::object::Role::Server {
        let reason = format!("is a token for the role {}", token.role);
        return Err(Problem::new(Class::Invalid, "token", reason)
            .remedy("make one for servers with `gantry cluster token create server`"));
    }
    let enrolled = gantry_rpc::enroll(&join.servers, &join.token, name, Patience::DAEMON).await?;
    Ok(enrolled.identity)
}

/// Asks the cluster to add this server, unless it is a member already.
///
/// # Errors
/// When the cluster refuses, or has no leader for too long.
pub async fn become_member(context: &Arc<Context>, servers: &[String], advertise: &str) -> Result<(), Problem> {
    if context.raft.is_member().await? {
        return Ok(());
    }
    let pool = ServerPool::with_channels(servers.to_vec(), context.channels.clone());
    let request = ChangeServerRequest {
        action: Action::Add.into(),
        server: context.server.to_string(),
        address: advertise.to_string(),
    };
    let ask = || {
        // Adding a member that is one already changes nothing.
        pool.call(Repeat::Harmless, |channel| {
            let request = request.clone();
            async move { ClusterClient::new(channel).with_limits().change_server(request).await }
        })
    };
    // Servers that join at once are added one after the other: until then the change is refused, or not done in time.
    let passes = |problem: &Problem| matches!(problem.class, Class::Unavailable | Class::Timeout | Class::Conflict);
    Patience::DAEMON.until(passes, ask).await.map(|_| ())
}
