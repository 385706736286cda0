//! The API as commands use it: calls that find a server by themselves, and documents as model types.

use gantry_api::v1::cluster_client::ClusterClient;
use gantry_api::v1::{Document, ReadRequest};
use gantry_model::object::{Node, Replica, Service};
use gantry_model::{Class, NodeId, Problem};
use gantry_rpc::{Credentials, Repeat, ServerPool, WithLimits, status};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::args::Global;
use crate::context::Context;

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
    pub fn open(global: &Global) -> Result<Self, Problem> {
        let (identity, servers) = Context::load(global)?;
        let credentials = Credentials::new(identity)?;
        Ok(Self {
            pool: ServerPool::new(servers, credentials),
        })
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
