//! Objects of a kind, filtered by namespace and name, as documents.

use std::collections::BTreeMap;

use gantry_api::encode;
use gantry_api::v1::Document;
use gantry_model::object::DataRecord;
use gantry_model::spec::DataKind;
use gantry_model::{Bytes64, Class, Problem};
use gantry_state::{Object, State, Table};
use serde::Serialize;

use super::{find, removal};

/// Which kinds can be read, in the order that help shows them.
pub const KINDS: &[&str] = &[
    "node",
    "service",
    "replica",
    "revision",
    "namespace",
    "image",
    "tag",
    "config",
    "secret",
    "token",
    "registry_token",
    "event",
    "cluster",
];

/// What a read asks for.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    /// One of [`KINDS`].
    pub kind: &'a str,
    /// Empty is all namespaces.
    pub namespace: &'a str,
    /// Empty is all objects.
    pub name: &'a str,
}

/// The documents that a filter lets through.
///
/// # Errors
/// An unknown kind; with a name, that nothing has it.
pub fn documents(state: &State, filter: &Filter<'_>) -> Result<Vec<Document>, Problem> {
    match filter.kind {
        "node" => nodes(state, filter),
        "service" => services(state, filter),
        "replica" => replicas(state, filter),
        "revision" => {
            let service = find::service(state, filter.namespace, filter.name)?;
            all("revision", state.revisions_of(service.id))
        }
        "namespace" => namespaces(state),
        "image" => all("image", state.images().filter(|image| removal::is_shown(state, image))),
        "tag" => all("tag", state.tags()),
        "config" => data(state, DataKind::Config, filter),
        "secret" => data(state, DataKind::Secret, filter),
        "token" => all(
            "token",
            state.tokens().map(|token| {
                let mut token = token.clone();
                token.secret_sha256.clear();
                token
            }),
        ),
        "registry_token" => all(
            "registry_token",
            state.registry_tokens().map(|token| {
                let mut token = token.clone();
                token.secret_sha256.clear();
                token
            }),
        ),
        "event" => all(
            "event",
            state.events().filter(|event| {
                filter.namespace.is_empty() || event.object.contains(&format!(" {}/", filter.namespace))
            }),
        ),
        "cluster" => all("cluster", state.cluster().map(|cluster| &cluster.config)),
        unknown => Err(Problem::new(Class::Invalid, format!("kind {unknown}"), "is unknown")
            .remedy(format!("use one of {}", KINDS.join(", ")))),
    }
}

/// The table whose changes concern a kind.
#[must_use]
pub fn table(kind: &str) -> Option<Table> {
    match kind {
        "node" => Some(Table::Node),
        "service" | "namespace" => Some(Table::Service),
        "replica" => Some(Table::Replica),
        "revision" => Some(Table::Revision),
        "image" => Some(Table::Image),
        "tag" => Some(Table::Tag),
        _ => None,
    }
}

/// A changed object as a document of its kind; none for what is not watched.
#[must_use]
pub fn document_of(object: &Object, namespace: &str) -> Option<Document> {
    let within = |own: &gantry_model::Name| namespace.is_empty() || own.as_str() == namespace;
    match object {
        Object::Node(node) => Some(encode("node", node)),
        Object::Service(service) if within(&service.namespace) => Some(encode("service", service)),
        Object::Replica(replica) if within(&replica.namespace) => Some(encode("replica", replica)),
        Object::Revision(revision) => Some(encode("revision", revision)),
        Object::Image(image) => Some(encode("image", image)),
        Object::Tag(tag) => Some(encode("tag", tag)),
        Object::Cluster(_) | Object::Data(_) | Object::Token(_) | Object::Registry(_) => None,
        Object::Service(_) | Object::Replica(_) => None,
    }
}

fn all<T: Serialize>(kind: &str, values: impl IntoIterator<Item = T>) -> Result<Vec<Document>, Problem> {
    Ok(values.into_iter().map(|value| encode(kind, &value)).collect())
}

fn nodes(state: &State, filter: &Filter<'_>) -> Result<Vec<Document>, Problem> {
    if filter.name.is_empty() {
        return all("node", state.nodes());
    }
    all("node", [find::node(state, filter.name)?])
}

fn services(state: &State, filter: &Filter<'_>) -> Result<Vec<Document>, Problem> {
    if filter.name.is_empty() {
        let within = |namespace: &str| filter.namespace.is_empty() || namespace == filter.namespace;
        return all(
            "service",
            state.services().filter(|service| within(service.namespace.as_str())),
        );
    }
    all("service", [find::service(state, filter.namespace, filter.name)?])
}

fn replicas(state: &State, filter: &Filter<'_>) -> Result<Vec<Document>, Problem> {
    if filter.name.is_empty() {
        let within = |namespace: &str| filter.namespace.is_empty() || namespace == filter.namespace;
        return all(
            "replica",
            state.replicas().filter(|replica| within(replica.namespace.as_str())),
        );
    }
    all("replica", find::replicas(state, filter.namespace, filter.name)?)
}

#[derive(Serialize)]
struct NamespaceSummary {
    name: String,
    services: usize,
    replicas: usize,
    ready: usize,
}

fn namespaces(state: &State) -> Result<Vec<Document>, Problem> {
    let mut summaries: BTreeMap<String, NamespaceSummary> = BTreeMap::new();
    for service in state.services() {
        let name = service.namespace.to_string();
        let summary = summaries.entry(name.clone()).or_insert(NamespaceSummary {
            name,
            services: 0,
            replicas: 0,
            ready: 0,
        });
        summary.services += 1;
        for replica in state.replicas_of(service.id) {
            summary.replicas += usize::from(replica.is_active());
            summary.ready += usize::from(replica.is_endpoint());
        }
    }
    all("namespace", summaries.values())
}

/// Configs with, secrets without their content.
fn data(state: &State, kind: DataKind, filter: &Filter<'_>) -> Result<Vec<Document>, Problem> {
    let word = match kind {
        DataKind::Config => "config",
        DataKind::Secret => "secret",
    };
    let wanted = |record: &&DataRecord| {
        record.kind == kind
            && (filter.namespace.is_empty() || record.namespace.as_str() == filter.namespace)
            && (filter.name.is_empty() || record.name.as_str() == filter.name)
    };
    let shown = state.all_data().filter(wanted).map(|record| match kind {
        DataKind::Config => record.clone(),
        DataKind::Secret => DataRecord {
            content: Bytes64::default(),
            ..record.clone()
        },
    });
    all(word, shown)
}
