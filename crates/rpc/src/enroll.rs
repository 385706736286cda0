//! The first contact: a newcomer with a join token becomes a member.

use gantry_api::v1::EnrollRequest;
use gantry_api::v1::enrollment_client::EnrollmentClient;
use gantry_model::{Class, Problem};
use gantry_pki::{AuthorityDigest, Identity, KeyRequest, Token};
use tonic::Status;
use tonic::transport::Channel;

use crate::limits::{CALL_TIMEOUT, WithLimits};
use crate::{Patience, Remote, connect, status};

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

/// Joins with a token at the first of the servers that can be reached; `name` is the host's, or one that a person chose. While
/// none can be reached, or their cluster has no leader or no record of itself yet, all are asked again.
///
/// # Errors
/// When the token has a typo or is refused, the servers are not of its cluster, or patience ends.
pub async fn enroll(servers: &[String], token: &str, name: &str, patience: Patience) -> Result<Enrolled, Problem> {
    let token: Token = token.parse().map_err(Problem::from)?;
    patience
        .until(
            |problem| problem.class == Class::Unavailable,
            || enroll_once(servers, &token, name),
        )
        .await
}

/// Asks each server once. The answer is final unless it is [`Class::Unavailable`].
async fn enroll_once(servers: &[String], token: &Token, name: &str) -> Result<Enrolled, Problem> {
    let mut last = Problem::new(Class::Invalid, "join", "no server address is given")
        .remedy("name the address of any server, HOST:PORT");
    for address in servers {
        match enroll_at(address, token, name).await {
            Err(Refusal::NotYet(problem)) => last = problem,
            Err(Refusal::OtherCluster(problem)) if last.class != Class::Unavailable => last = problem,
            Err(Refusal::OtherCluster(_)) => {}
            Err(Refusal::Final(problem)) => return Err(problem),
            Ok(enrolled) => return Ok(enrolled),
        }
    }
    Err(last)
}

/// Why one server did not let a newcomer in.
enum Refusal {
    /// It cannot be reached, or its cluster cannot answer yet.
    NotYet(Problem),
    /// It is of another cluster than the token. Waiting does not help; another address may.
    OtherCluster(Problem),
    /// It is of the cluster, and this is its answer.
    Final(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        match problem.class {
            Class::Unavailable => Self::NotYet(problem),
            Class::Invalid
            | Class::NotFound
            | Class::Conflict
            | Class::Denied
            | Class::Exhausted
            | Class::Timeout
            | Class::Internal => Self::Final(problem),
        }
    }
}

fn refusal(status: &Status, whom: &str) -> Refusal {
    let problem = status::to_problem(status, whom);
    if !status::is_of_another_cluster(status) {
        return Refusal::from(problem);
    }
    let problem = Problem::new(Class::Denied, problem.object, problem.reason)
        .remedy("check the address; if it is right, the token is of another cluster: make one there with `gantry cluster token create`");
    Refusal::OtherCluster(problem)
}

async fn enroll_at(address: &str, token: &Token, name: &str) -> Result<Enrolled, Refusal> {
    let request = KeyRequest::generate().map_err(Problem::from)?;
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
        .map_err(|status| refusal(&status, &whom))?
        .into_inner();
    let identity = request.into_identity(&reply.certificate_pem, &reply.authority_pem);
    let identity = identity.map_err(Problem::from)?;
    if identity.authority_digest().map_err(Problem::from)? != token.authority {
        let reason = "answered with another authority than the token names";
        return Err(Problem::new(Class::Denied, whom, reason).into());
    }
    Ok(Enrolled {
        identity,
        servers: reply.servers,
        cluster_name: reply.cluster_name,
    })
}
