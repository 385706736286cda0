//! A server renews its own certificate while it runs: it holds the authority.
//!
//! It also sees to it that the certificate is valid for the names by which registry clients reach it: one made at the join, by an
//! earlier version, or before the server moved is replaced at the start.

use std::path::PathBuf;
use std::sync::Arc;

use gantry_api::v1::EnrollReply;
use gantry_model::Problem;
use gantry_model::object::Role;
use gantry_pki::Subject;
use gantry_rpc::Credentials;
use gantry_rpc::renewal::{RETRY_PAUSE, renew_once};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::enrollment::EnrollmentService;

/// First pause before another try: a cluster that is just being made cannot certify for a moment.
const FIRST_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// A server's own certificate.
pub struct Own {
    /// Where it is kept.
    pub folder: PathBuf,
    /// Names and addresses that it is to be valid for.
    pub hosts: Vec<String>,
}

/// Renews until `stop`.
pub async fn renew_server(context: Arc<Context>, credentials: Credentials, own: Own, stop: CancellationToken) {
    let env = context.env.clone();
    let hosts = own.hosts.clone();
    let renew = move |csr_der: Vec<u8>| {
        let service = EnrollmentService::new(context.clone());
        let subject = Subject {
            role: Role::Server,
            id: context.server.to_string(),
        };
        let hosts = hosts.clone();
        async move { service.certify(subject, &hosts, &csr_der).await as Result<EnrollReply, Problem> }
    };
    let mut pause = FIRST_PAUSE;
    while !names_all(&credentials, &own.hosts) {
        match stop
            .run_until_cancelled(renew_once(&credentials, &own.folder, &renew))
            .await
        {
            None => return,
            Some(Ok(())) => {
                tracing::info!(
                    hosts = own.hosts.join(", "),
                    "the certificate names this server as clients do"
                );
                break;
            }
            Some(Err(problem)) => tracing::debug!(%problem, "the certificate does not name this server as clients do"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(RETRY_PAUSE);
    }
    gantry_rpc::renewal::run(credentials, &own.folder, renew, env.as_ref(), stop).await;
}

fn names_all(credentials: &Credentials, hosts: &[String]) -> bool {
    let names = credentials.identity().names().unwrap_or_default();
    hosts.iter().all(|host| names.contains(host))
}
