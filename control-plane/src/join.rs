//! A server becomes a member of an existing cluster.

use std::sync::Arc;
use std::time::Duration;

use gantry_api::v1::ChangeServerRequest;
use gantry_api::v1::change_server_request::Action;
use gantry_api::v1::cluster_client::ClusterClient;
use gantry_model::{Class, Problem};
use gantry_pki::Identity;
use gantry_rpc::{Repeat, ServerPool, WithLimits};

use crate::config::JoinConfig;
use crate::context::Context;

/// First pause between two attempts: servers that are started together are ready within a fraction of a second.
const RETRY_PAUSE_MIN_MS: u64 = 50;

/// Longest pause between two attempts, reached by doubling.
const RETRY_PAUSE_MAX_MS: u64 = 500;

/// Attempts before giving up: about a minute of a cluster that is not there yet, or has no leader.
const ATTEMPTS_MAX: u32 = 120;

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
    for attempt in 1..ATTEMPTS_MAX {
        match gantry_rpc::enroll(&join.servers, &join.token, name).await {
            Ok(enrolled) => return Ok(enrolled.identity),
            Err(problem) if problem.class == Class::Unavailable => {
                tracing::warn!(%problem, "not enrolled yet");
                tokio::time::sleep(pause_after(attempt)).await;
            }
            Err(problem) => return Err(problem),
        }
    }
    gantry_rpc::enroll(&join.servers, &join.token, name)
        .await
        .map(|enrolled| enrolled.identity)
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
    let mut last = None;
    for attempt in 1..=ATTEMPTS_MAX {
        let ask = |channel| {
            let request = request.clone();
            async move { ClusterClient::new(channel).with_limits().change_server(request).await }
        };
        // Adding a member that is one already changes nothing.
        match pool.call(Repeat::Harmless, ask).await {
            Ok(_) => return Ok(()),
            Err(problem) if matches!(problem.class, Class::Unavailable | Class::Timeout | Class::Conflict) => {
                tracing::warn!(%problem, "not a member yet");
                last = Some(problem);
                tokio::time::sleep(pause_after(attempt)).await;
            }
            Err(problem) => return Err(problem),
        }
    }
    Err(last.unwrap_or_else(|| Problem::new(Class::Unavailable, "cluster", "does not answer")))
}

fn pause_after(attempt: u32) -> Duration {
    let doubled = RETRY_PAUSE_MIN_MS.saturating_mul(2u64.saturating_pow(attempt.saturating_sub(1)));
    Duration::from_millis(doubled.min(RETRY_PAUSE_MAX_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<u128> = [1, 2, 3, 4, 5, ATTEMPTS_MAX]
            .map(|attempt| pause_after(attempt).as_millis())
            .to_vec();
        assert_eq!(pauses, [50, 100, 200, 400, 500, 500]);
    }
}
