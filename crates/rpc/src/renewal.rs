//! Certificates are renewed long before they expire, while everything runs.

use std::path::Path;
use std::time::Duration;

use gantry_api::v1::EnrollReply;
use gantry_env::Env;
use gantry_model::{DurationMs, Problem, Timestamp};
use gantry_pki::{KeyRequest, renew_at};
use tokio_util::sync::CancellationToken;

use crate::Credentials;

/// Wait after a failed renewal; with half of the life left at the first attempt there is time for thousands.
pub const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// The clock is looked at this often: it may jump, and a sleeping machine's timers stand still.
const CLOCK_CHECK_MAX: Duration = Duration::from_secs(600);

/// Renews the credentials again and again until shutdown: a new key each time, saved to `folder`, then in use at once.
///
/// `renew` has the signing request (DER) certified: an agent asks a server, a server its own authority.
pub async fn run<F, Fut>(credentials: Credentials, folder: &Path, renew: F, env: &dyn Env, shutdown: CancellationToken)
where
    F: Fn(Vec<u8>) -> Fut,
    Fut: Future<Output = Result<EnrollReply, Problem>>,
{
    loop {
        let due = match due(&credentials, env) {
            Ok(due) => due,
            Err(problem) => return tracing::error!(%problem, "certificates cannot be renewed"),
        };
        if shutdown.run_until_cancelled(wait_until(due, env)).await.is_none() {
            return;
        }
        let Some(outcome) = shutdown
            .run_until_cancelled(renew_once(&credentials, folder, &renew))
            .await
        else {
            return;
        };
        let Err(problem) = outcome else {
            tracing::info!(identity = ?credentials.identity(), "certificate renewed");
            continue;
        };
        tracing::warn!(%problem, retry_s = RETRY_PAUSE.as_secs(), "certificate not renewed");
        if shutdown
            .run_until_cancelled(tokio::time::sleep(RETRY_PAUSE))
            .await
            .is_none()
        {
            return;
        }
    }
}

fn due(credentials: &Credentials, env: &dyn Env) -> Result<Timestamp, Problem> {
    let peer = credentials.identity().peer()?;
    Ok(renew_at(peer.not_before, peer.not_after, env.random_u64()))
}

async fn wait_until(due: Timestamp, env: &dyn Env) {
    loop {
        let left = due.since(env.now());
        if left == DurationMs::ZERO {
            return;
        }
        tokio::time::sleep(left.to_std().min(CLOCK_CHECK_MAX)).await;
    }
}

/// One renewal: new key, new certificate, saved, in use.
///
/// # Errors
/// When the certificate is not given, not usable, or cannot be saved; the old one stays in use then.
pub async fn renew_once<F, Fut>(credentials: &Credentials, folder: &Path, renew: &F) -> Result<(), Problem>
where
    F: Fn(Vec<u8>) -> Fut,
    Fut: Future<Output = Result<EnrollReply, Problem>>,
{
    let request = KeyRequest::generate()?;
    let reply = renew(request.csr_der.clone()).await?;
    let identity = request.into_identity(&reply.certificate_pem, &reply.authority_pem)?;
    // Saved first: after a crash in between, the new one is used a moment later instead of the old one for ever.
    let (saved, folder) = (identity.clone(), folder.to_path_buf());
    tokio::task::spawn_blocking(move || saved.save(&folder))
        .await
        .map_err(|error| Problem::new(gantry_model::Class::Internal, "identity", error.to_string()))??;
    credentials.replace(identity)?;
    Ok(())
}
