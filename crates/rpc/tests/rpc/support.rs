//! A small cluster's worth of certificates, and a server that answers with who its caller is.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use gantry_api::v1::enrollment_client::EnrollmentClient;
use gantry_api::v1::enrollment_server::{Enrollment, EnrollmentServer};
use gantry_api::v1::{EnrollReply, EnrollRequest, RenewRequest};
use gantry_env::{Env, System};
use gantry_model::object::Role;
use gantry_model::{Class, DurationMs, Problem, Timestamp};
use gantry_pki::{Authority, Identity, Subject, Token, Validity};
use gantry_rpc::{Channels, Credentials, Patience, Remote, WithLimits, require, serve, status};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

pub const ID: &str = "0123456789abc";

pub fn authority() -> Authority {
    Authority::generate("test", &System).expect("an authority")
}

pub fn subject(role: Role) -> Subject {
    Subject {
        role,
        id: ID.to_string(),
    }
}

pub fn identity(authority: &Authority, role: Role) -> Identity {
    let validity = Validity::starting(System.now(), DurationMs::secs(3600));
    authority.issue(&subject(role), validity, &System).expect("an identity")
}

/// Valid until a minute ago.
pub fn expired(authority: &Authority, role: Role) -> Identity {
    let now = System.now();
    let validity = Validity {
        not_before: Timestamp(now.0 - 7_200_000),
        not_after: Timestamp(now.0 - 60_000),
    };
    authority.issue(&subject(role), validity, &System).expect("an identity")
}

pub fn credentials(authority: &Authority, role: Role) -> Credentials {
    Credentials::new(identity(authority, role)).expect("usable credentials")
}

/// Longer than anything here may take.
pub const PATIENCE: Patience = Patience {
    limit: DurationMs::secs(30),
    tell: |_| (),
};

/// `Enroll` lets everybody in and signs, after having been asked too early for a while; `Renew` is for agents alone and answers with the caller's id.
pub struct Gate {
    pub authority: Authority,
    pub too_early: AtomicU32,
}

#[tonic::async_trait]
impl Enrollment for Gate {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollReply>, Status> {
        let asked = self
            .too_early
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if asked.is_ok() {
            let problem = Problem::new(Class::Unavailable, "cluster", "is being initialised");
            return Err(status::from_problem(&problem));
        }
        let request = request.into_inner();
        let token: Token = request
            .token
            .parse()
            .map_err(|error| status::from_problem(&Problem::from(error)))?;
        let validity = Validity::starting(System.now(), DurationMs::secs(3600));
        let certificate = self
            .authority
            .sign(&request.csr_der, &subject(token.role), validity, &System);
        let certificate_pem = certificate.map_err(|error| status::from_problem(&error.into()))?;
        Ok(Response::new(EnrollReply {
            id: ID.to_string(),
            role: token.role.to_string(),
            certificate_pem,
            authority_pem: self.authority.certificate_pem().to_string(),
            servers: vec!["10.0.0.1:7600".to_string()],
            cluster_name: request.name,
        }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<EnrollReply>, Status> {
        let peer = require(&request, &[Role::Agent])?;
        Ok(Response::new(EnrollReply {
            id: peer.id,
            ..EnrollReply::default()
        }))
    }
}

pub struct Running {
    pub address: String,
    pub credentials: Credentials,
    _stop: DropGuard,
}

/// Serves with a certificate of `authority` until dropped.
pub async fn server(authority: &Authority) -> Running {
    server_with(authority, identity(authority, Role::Server)).await
}

pub async fn server_with(authority: &Authority, identity: Identity) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    server_on(listener, authority, identity, 0)
}

/// Serves on `listener`; the first `too_early` newcomers are told to come again.
pub fn server_on(listener: TcpListener, authority: &Authority, identity: Identity, too_early: u32) -> Running {
    let address = listener.local_addr().expect("bound").to_string();
    let credentials = Credentials::new(identity).expect("usable credentials");
    let gate = Gate {
        authority: Authority::load(&authority.to_root()).expect("the same authority"),
        too_early: AtomicU32::new(too_early),
    };
    let routes = Routes::new(EnrollmentServer::new(gate).with_limits());
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, credentials.clone(), routes, stop.clone()));
    Running {
        address,
        credentials,
        _stop: stop.drop_guard(),
    }
}

pub fn client(address: &str, credentials: &Credentials) -> EnrollmentClient<Channel> {
    let channel = Channels::new(credentials.clone()).channel(address, Remote::AnyServer);
    EnrollmentClient::new(channel).with_limits()
}

/// Who the server says we are, or the problem as a person would read it.
pub async fn whoami(client: &mut EnrollmentClient<Channel>) -> Result<String, Problem> {
    client
        .renew(RenewRequest::default())
        .await
        .map(|reply| reply.into_inner().id)
        .map_err(|status| status::to_problem(&status, "server"))
}

pub fn file_of(folder: &Path) -> Identity {
    Identity::load(folder).expect("a saved identity")
}
