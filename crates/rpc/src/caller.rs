//! Who calls, and whether it may.

use std::net::SocketAddr;

use gantry_model::object::Role;
use gantry_model::{Class, Problem};
use gantry_pki::Peer;
use tonic::{Request, Status};

use crate::status;

/// The other end of a connection; part of every request's extensions.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The holder of the certificate it showed, verified against the authority; none without one.
    pub peer: Option<Peer>,
    /// Where it calls from.
    pub remote: SocketAddr,
}

/// The caller, if it holds one of the roles.
///
/// # Errors
/// `UNAUTHENTICATED` without a certificate, `PERMISSION_DENIED` with another role; both say what to do.
pub fn require<T>(request: &Request<T>, roles: &[Role]) -> Result<Peer, Status> {
    let peer = request
        .extensions()
        .get::<Caller>()
        .and_then(|caller| caller.peer.as_ref());
    let Some(peer) = peer else {
        return Err(status::unauthenticated(&no_certificate()));
    };
    if roles.contains(&peer.role) {
        return Ok(peer.clone());
    }
    let allowed: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    let reason = format!(
        "may not do this: it takes a certificate of role {}",
        allowed.join(" or ")
    );
    let remedy = match peer.role {
        Role::Admin => "this call is for members of the cluster only",
        Role::Server | Role::Agent => "use an admin identity: join with a token of `gantry cluster token create admin`",
    };
    Err(status::from_problem(
        &Problem::new(Class::Denied, peer.object(), reason).remedy(remedy),
    ))
}

fn no_certificate() -> Problem {
    Problem::new(Class::Denied, "this client", "showed no certificate of the cluster").remedy(
        "join first: `gantry cluster join --token TOKEN ADDRESS`, with a token of `gantry cluster token create`",
    )
}
