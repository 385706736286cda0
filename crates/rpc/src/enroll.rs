//! The first contact: a newcomer with a join token becomes a member.

use gantry_api::v1::EnrollRequest;
use gantry_api::v1::enrollment_client::EnrollmentClient;
use gantry_model::{Class, Problem};
use gantry_pki::{AuthorityDigest, Identity, KeyRequest, Token};
use tonic::transport::Channel;

use crate::limits::{CALL_TIMEOUT, WithLimits};
use crate::{Remote, connect, status};

/// What a newcomer was given.
#[derive(Debug)]
pub struct Enrolled {
    /// Key and certificates; the caller saves them.
    pub identity: Identity,
    /// Addresses of all servers, `host:port`.
    pub servers: Vec<String>,
    /// Name of the cluster.
    pub cluster_name: String,
}

/// A channel to the server at `address` that shows no certificate, and accepts only a server of the pinned authority.
///
/// # Errors
/// When the cryptographic library refuses its own defaults.
pub fn enroll_channel(address: &str, authority: AuthorityDigest) -> Result<Channel, Problem> {
    connect::pinned(address, authority).map_err(|error| {
        let reason = format!("TLS cannot be set up: {error}");
        Problem::new(Class::Internal, "this client", reason)
    })
}

/// Joins with a token at the first of the servers that can be reached; `name` is the host's, or one that a person chose.
///
/// # Errors
/// When the token has a typo or is refused, or no server of its cluster can be reached.
pub async fn enroll(servers: &[String], token: &str, name: &str) -> Result<Enrolled, Problem> {
    let token: Token = token.parse().map_err(Problem::from)?;
    let mut last = Problem::new(Class::Invalid, "join", "no server address is given")
        .remedy("name the address of any server, HOST:PORT");
    for address in servers {
        match enroll_at(address, &token, name).await {
            Err(problem) if problem.class == Class::Unavailable => last = problem,
            answer => return answer,
        }
    }
    Err(last)
}

async fn enroll_at(address: &str, token: &Token, name: &str) -> Result<Enrolled, Problem> {
    let request = KeyRequest::generate()?;
    let mut client = EnrollmentClient::new(enroll_channel(address, token.authority)?).with_limits();
    let whom = Remote::AnyServer.object(address);
    let call = client.enroll(EnrollRequest {
        token: token.to_string(),
        csr_der: request.csr_der.clone().into(),
        name: name.to_string(),
    });
    let reply = tokio::time::timeout(CALL_TIMEOUT, call)
        .await
        .map_err(|_| Problem::new(Class::Unavailable, whom.as_str(), "no answer to the join request"))?
        .map_err(|status| status::to_problem(&status, &whom))?
        .into_inner();
    let identity = request.into_identity(&reply.certificate_pem, &reply.authority_pem)?;
    if identity.authority_digest()? != token.authority {
        let reason = "answered with another authority than the token names";
        return Err(Problem::new(Class::Denied, whom, reason));
    }
    Ok(Enrolled {
        identity,
        servers: reply.servers,
        cluster_name: reply.cluster_name,
    })
}
