//! A server renews its own certificate while it runs: it holds the authority.

use std::path::PathBuf;
use std::sync::Arc;

use gantry_api::v1::EnrollReply;
use gantry_model::Problem;
use gantry_model::object::Role;
use gantry_pki::Subject;
use gantry_rpc::Credentials;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::enrollment::EnrollmentService;

/// Renews until `stop`.
pub async fn renew_server(context: Arc<Context>, credentials: Credentials, folder: PathBuf, stop: CancellationToken) {
    let env = context.env.clone();
    let renew = move |csr_der: Vec<u8>| {
        let service = EnrollmentService::new(context.clone());
        let subject = Subject {
            role: Role::Server,
            id: context.server.to_string(),
        };
        async move { service.certify(subject, &csr_der).await as Result<EnrollReply, Problem> }
    };
    gantry_rpc::renewal::run(credentials, &folder, renew, env.as_ref(), stop).await;
}
