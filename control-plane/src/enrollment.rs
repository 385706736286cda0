//! `gantry.v1.Enrollment`: certificates for those who show a token, or a certificate that is still valid.

use std::sync::Arc;

use gantry_api::v1::enrollment_server::Enrollment;
use gantry_api::v1::{EnrollReply, EnrollRequest, RenewRequest};
use gantry_env::FreshIds;
use gantry_model::object::{ClusterRecord, Role};
use gantry_model::{Class, Problem};
use gantry_pki::{Authority, Subject, Token, Validity};
use gantry_rpc::require;
use gantry_rpc::status::from_problem;
use tonic::{Request, Response, Status};

use crate::context::Context;

/// Enrolment as served by one server.
#[derive(Clone)]
pub struct EnrollmentService {
    context: Arc<Context>,
}

impl EnrollmentService {
    /// Serves from the given context.
    #[must_use]
    pub const fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    async fn enroll(&self, request: &EnrollRequest) -> Result<EnrollReply, Problem> {
        let state = self.context.raft.linearizable().await?;
        let cluster = self.context.cluster(&state)?;
        let token: Token = request.token.parse()?;
        let record = state.token(token.id).ok_or_else(|| {
            Problem::new(
                Class::Denied,
                format!("token {}", token.id),
                "is not known to this cluster, or was revoked",
            )
            .remedy(format!(
                "make a new one with `gantry cluster token create {}`",
                token.role
            ))
        })?;
        token.verify(record, self.context.env.now())?;
        let id = self.fresh_id(record.role);
        tracing::info!(role = %record.role, id, name = request.name, token = %token.id, "enrolled");
        self.sign(cluster, Subject { role: record.role, id }, &[], &request.csr_der)
    }

    /// Certifies the public key of a signing request for a member, and the hosts as which it is reached.
    ///
    /// # Errors
    /// When the member was removed from the cluster, or the request is not usable.
    pub async fn certify(&self, subject: Subject, hosts: &[String], csr_der: &[u8]) -> Result<EnrollReply, Problem> {
        let state = self.context.raft.linearizable().await?;
        let cluster = self.context.cluster(&state)?;
        if subject.role == Role::Agent {
            let known = subject.id.parse().ok().and_then(|id| state.node(id));
            known.ok_or_else(|| {
                Problem::new(
                    Class::Denied,
                    format!("node {}", subject.id),
                    "was removed from the cluster",
                )
                .remedy("join it again with a token")
            })?;
        }
        self.sign(cluster, subject, hosts, csr_der)
    }

    fn fresh_id(&self, role: Role) -> String {
        match role {
            Role::Server => self.context.env.server_id().to_string(),
            Role::Agent | Role::Admin => self.context.env.node_id().to_string(),
        }
    }

    fn sign(
        &self,
        cluster: &ClusterRecord,
        subject: Subject,
        hosts: &[String],
        csr_der: &[u8],
    ) -> Result<EnrollReply, Problem> {
        let authority = Authority::load(&cluster.root)?;
        let validity = Validity::starting(self.context.env.now(), cluster.config.certificate_lifetime);
        let certificate_pem =
            authority.sign_for_hosts(csr_der, &subject, hosts, validity, self.context.env.as_ref())?;
        let members = self.context.raft.members();
        Ok(EnrollReply {
            id: subject.id,
            role: subject.role.to_string(),
            certificate_pem,
            authority_pem: cluster.root.certificate_pem.clone(),
            servers: members.servers.iter().map(|server| server.address.clone()).collect(),
            cluster_name: cluster.name.clone(),
        })
    }
}

#[tonic::async_trait]
impl Enrollment for EnrollmentService {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollReply>, Status> {
        Self::enroll(self, request.get_ref())
            .await
            .map(Response::new)
            .map_err(|problem| from_problem(&problem))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<EnrollReply>, Status> {
        let peer = require(&request, &Role::ALL)?;
        let subject = Subject {
            role: peer.role,
            id: peer.id.clone(),
        };
        self.certify(subject, &[], &request.get_ref().csr_der)
            .await
            .map(Response::new)
            .map_err(|problem| from_problem(&problem))
    }
}
