//! Objects by the names that people give: a name, `namespace/name`, an id or the beginning of one.

use gantry_model::object::{Node, Replica, Service};
use gantry_model::{Class, Name, Problem};
use gantry_state::State;

/// Shortest beginning of an id that is accepted.
const ID_PREFIX_MIN: usize = 3;

/// A service by `name`, `namespace/name` or id; without a namespace the name must be unique in the cluster.
///
/// # Errors
/// When there is none, or more than one.
pub fn service<'a>(state: &'a State, namespace: &str, name: &str) -> Result<&'a Service, Problem> {
    let (namespace, name) = name.split_once('/').unwrap_or((namespace, name));
    if let Some(service) = name.parse().ok().and_then(|id| state.service(id)) {
        return Ok(service);
    }
    let matches: Vec<&Service> = state
        .services()
        .filter(|service| {
            service.name.as_str() == name && (namespace.is_empty() || service.namespace.as_str() == namespace)
        })
        .collect();
    let object = if namespace.is_empty() {
        format!("service {name}")
    } else {
        format!("service {namespace}/{name}")
    };
    match matches.as_slice() {
        [one] => Ok(one),
        [] => {
            Err(Problem::new(Class::NotFound, object, "does not exist").remedy("`gantry service ls` lists what does"))
        }
        several => {
            let owners: Vec<&str> = several.iter().map(|service| service.namespace.as_str()).collect();
            let reason = format!("exists in several namespaces: {}", owners.join(", "));
            Err(Problem::new(Class::Invalid, object, reason)
                .remedy("name the namespace with -n, or write NAMESPACE/NAME"))
        }
    }
}

/// A node by name, id or the beginning of its id.
///
/// # Errors
/// When there is none, or the beginning fits several.
pub fn node<'a>(state: &'a State, name: &str) -> Result<&'a Node, Problem> {
    if let Some(node) = state.node_named(name) {
        return Ok(node);
    }
    let object = format!("node {name}");
    let mut matches = state
        .nodes()
        .filter(|node| name.len() >= ID_PREFIX_MIN && node.id.to_string().starts_with(name));
    match (matches.next(), matches.next()) {
        (Some(node), None) => Ok(node),
        (Some(_), Some(_)) => Err(Problem::new(Class::Invalid, object, "fits the ids of several nodes")),
        (None, _) => {
            Err(Problem::new(Class::NotFound, object, "does not exist").remedy("`gantry node ls` lists what does"))
        }
    }
}

/// Replicas by service (all of it), `service.slot`, or id (or its beginning).
///
/// # Errors
/// When nothing fits.
pub fn replicas<'a>(state: &'a State, namespace: &str, name: &str) -> Result<Vec<&'a Replica>, Problem> {
    if let Ok(service) = service(state, namespace, name) {
        return Ok(state.replicas_of(service.id).collect());
    }
    let (namespace, short) = name.split_once('/').unwrap_or((namespace, name));
    let fits = |replica: &Replica| namespace.is_empty() || replica.namespace.as_str() == namespace;
    let by_name: Vec<&Replica> = state
        .replicas()
        .filter(|replica| fits(replica) && replica.name() == short)
        .collect();
    if !by_name.is_empty() {
        return Ok(by_name);
    }
    let by_id: Vec<&Replica> = state
        .replicas()
        .filter(|replica| short.len() >= ID_PREFIX_MIN && replica.id.to_string().starts_with(short))
        .collect();
    if by_id.is_empty() {
        let problem = Problem::new(
            Class::NotFound,
            format!("replica {name}"),
            "there is no such replica or service",
        );
        return Err(problem.remedy("`gantry ps` lists what there is"));
    }
    Ok(by_id)
}

/// The one of `replicas` that a person means when they name a slot or a service: the newest one that runs, else the newest.
#[must_use]
pub fn current<'a>(replicas: &[&'a Replica]) -> Option<&'a Replica> {
    let rank = |replica: &&&Replica| {
        (
            replica.is_endpoint(),
            replica.is_active(),
            replica.created_at,
            replica.id,
        )
    };
    replicas.iter().max_by_key(rank).copied()
}

/// A name as the API receives it.
///
/// # Errors
/// When it is not a valid name.
pub fn name(text: &str, what: &str) -> Result<Name, Problem> {
    Name::new(text).map_err(|error| Problem::new(Class::Invalid, format!("{what} {text}"), error.to_string()))
}
