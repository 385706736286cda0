//! The API as commands use it: calls that find a server by themselves, and documents as model types.

use gantry_api::v1::cluster_client::ClusterClient;
use gantry_api::v1::enrollment_client::EnrollmentClient;
use gantry_api::v1::{Document, Empty, ReadRequest, RenewRequest};
use gantry_env::{Env, System};
use gantry_model::object::{Node, Replica, Service};
use gantry_model::{Class, NodeId, Problem, Timestamp};
use gantry_pki::{KeyRequest, Peer};
use gantry_rpc::{Credentials, Repeat, ServerPool, WithLimits, status};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::args::Global;
use crate::context::{self, Context};

/// Renewal delays no command for longer.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Looking for further servers delays no command for longer.
const SERVERS_TIMEOUT: Duration = Duration::from_secs(1);

/// A cluster to talk to.
pub struct Client {
    pool: ServerPool,
}

/// An object together with its JSON as the server sent it, which may have fields that this version does not know.
pub struct Read<T> {
    pub object: T,
    pub json: Value,
}

impl Client {
    /// With the identity and servers of the context.
    ///
    /// # Errors
    /// When there is no usable context.
    pub async fn open(global: &Global) -> Result<Self, Problem> {
        let (identity, servers) = Context::load(global)?;
        let due = identity.peer().is_ok_and(|peer| is_due(&peer, System.now()));
        let credentials = Credentials::new(identity)?;
        let pool = ServerPool::new(servers, credentials.clone());
        if due {
            // The old certificate still works: nothing is said of a failure, and the next command tries again.
            let _ = tokio::time::timeout(RENEWAL_TIMEOUT, renew(global, &credentials, &pool)).await;
        }
        if Context::is_stale(global, System.now()) {
            let _ = tokio::time::timeout(SERVERS_TIMEOUT, learn_servers(global, &pool)).await;
        }
        Ok(Self { pool })
    }

    /// One call to whichever server answers.
    ///
    /// # Errors
    /// What the server says, or why none can be reached.
    pub async fn call<T, F, Fut>(&self, repeat: Repeat, call: F) -> Result<T, Problem>
    where
        F: Fn(ClusterClient<Channel>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.pool
            .call(repeat, |channel| call(ClusterClient::new(channel).with_limits()))
            .await
    }

    /// A client of one server that can be reached now, for calls whose input can be sent only once.
    ///
    /// # Errors
    /// When no server can be reached.
    pub async fn reach(&self) -> Result<ClusterClient<Channel>, Problem> {
        Ok(ClusterClient::new(self.pool.reach().await?).with_limits())
    }

    /// A channel to one server that can be reached now.
    ///
    /// # Errors
    /// When no server can be reached.
    pub async fn channel(&self) -> Result<Channel, Problem> {
        self.pool.reach().await
    }

    /// Objects of a kind as documents, with the revision they were read at.
    ///
    /// # Errors
    /// As [`Client::call`]; with a name, also when nothing has it.
    pub async fn documents(&self, kind: &str, namespace: &str, name: &str) -> Result<(Vec<Document>, u64), Problem> {
        let request = ReadRequest {
            kind: kind.to_string(),
            namespace: namespace.to_string(),
            name: name.to_string(),
            stale: false,
        };
        let documents = self
            .call(Repeat::Harmless, |mut cluster| {
                let request = request.clone();
                async move { cluster.read(request).await }
            })
            .await?;
        Ok((documents.items, documents.revision))
    }

    /// Objects of a kind.
    ///
    /// # Errors
    /// As [`Client::documents`], and when an object cannot be understood.
    pub async fn read<T: DeserializeOwned>(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<Read<T>>, Problem> {
        let (documents, _) = self.documents(kind, namespace, name).await?;
        documents.iter().map(|document| parse(document, kind)).collect()
    }

    /// All services of a namespace, or of all.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn services(&self, namespace: &str) -> Result<Vec<Read<Service>>, Problem> {
        self.read(gantry_api::kind::SERVICE, namespace, "").await
    }

    /// The one service of that name.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn service(&self, namespace: &str, name: &str) -> Result<Read<Service>, Problem> {
        let mut found = self.read(gantry_api::kind::SERVICE, namespace, name).await?;
        found
            .pop()
            .ok_or_else(|| Problem::new(Class::NotFound, format!("service {name}"), "does not exist"))
    }

    /// Replicas of a namespace, or those that a name fits.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn replicas(&self, namespace: &str, name: &str) -> Result<Vec<Read<Replica>>, Problem> {
        self.read(gantry_api::kind::REPLICA, namespace, name).await
    }

    /// Names of all nodes by id.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn node_names(&self) -> Result<BTreeMap<NodeId, String>, Problem> {
        let nodes: Vec<Read<Node>> = self.read(gantry_api::kind::NODE, "", "").await?;
        Ok(nodes
            .into_iter()
            .map(|node| (node.object.id, node.object.name))
            .collect())
    }
}

/// Past half of its life, and still usable to ask for the next.
fn is_due(peer: &Peer, now: Timestamp) -> bool {
    let half = Timestamp(peer.not_before.0 + peer.not_after.since(peer.not_before).0 / 2);
    now >= half && now < peer.not_after
}

/// A person's certificate is renewed when it is used, and the servers' addresses with it.
async fn renew(global: &Global, credentials: &Credentials, pool: &ServerPool) -> Result<(), Problem> {
    let request = KeyRequest::generate()?;
    let renewal = RenewRequest {
        csr_der: request.csr_der.clone().into(),
    };
    let reply = pool
        .call(Repeat::Harmless, |channel| {
            let renewal = renewal.clone();
            async move { EnrollmentClient::new(channel).with_limits().renew(renewal).await }
        })
        .await?;
    let identity = request.into_identity(&reply.certificate_pem, &reply.authority_pem)?;
    let context = Context {
        cluster: reply.cluster_name,
        servers: reply.servers,
    };
    context.save_in(&context::reading_folder(global), &identity)?;
    credentials.replace(identity)?;
    Ok(())
}

/// The servers of the cluster change without this machine being told.
async fn learn_servers(global: &Global, pool: &ServerPool) -> Result<(), Problem> {
    let status = |channel| async move { ClusterClient::new(channel).with_limits().cluster_status(Empty {}).await };
    let reply = pool.call(Repeat::Harmless, status).await?;
    Context::of(&reply).learn(global);
    Ok(())
}

/// A document as the type it should be.
///
/// # Errors
/// When it is not.
pub fn parse<T: DeserializeOwned>(document: &Document, kind: &str) -> Result<Read<T>, Problem> {
    Ok(Read {
        object: gantry_api::decode(document, kind)?,
        json: json(document),
    })
}

/// A document's JSON.
pub fn json(document: &Document) -> Value {
    serde_json::from_slice(&document.json).unwrap_or(Value::Null)
}

/// The problem in the status of a stream that broke or was refused.
pub fn stream_problem(status: &Status) -> Problem {
    status::to_problem(status, "server")
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::object::Role;

    #[test]
    fn a_certificate_is_renewed_in_the_second_half_of_its_life() {
        let peer = Peer {
            role: Role::Admin,
            id: "0123456789abc".to_string(),
            not_before: Timestamp(1000),
            not_after: Timestamp(3000),
        };
        let due: Vec<bool> = [1000, 1999, 2000, 2999, 3000]
            .map(|now| is_due(&peer, Timestamp(now)))
            .to_vec();
        assert_eq!(due, [false, false, true, true, false]);
    }
}
