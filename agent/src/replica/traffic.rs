//! The two ends of a replica's traffic: when it may begin, and when its clients are done.
//!
//! A replica that is told to stop is no endpoint any more on any node, since the leader waits for their acknowledgements; what
//! its clients began before goes on, and the stop signal waits for it, as long as the grace period is. The leader's wish is
//! held back here, not stored: an agent that is started anew is told again, and waits again.

use std::collections::BTreeSet;

use gantry_model::assignment::ReplicaItem;
use gantry_model::spec::Protocol;
use gantry_model::{DurationMs, ReplicaId, Timestamp};
use gantry_network::Connections;

use crate::limits::{CONNECTIONS_LOOK, CONNECTIONS_SETTLE, CONNECTIONS_TELL, LINGER_MAX, LISTEN_LOOK, LISTEN_MAX};
use crate::shared::Shared;

/// How far the clients of a replica are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clients {
    /// Nothing is under way any more.
    Done,
    /// Time is up.
    Late(Connections),
    /// So much is, news to tell.
    Busy(Connections),
}

/// TCP ports that the replica's service publishes, or where the ingress sends requests: it serves when it accepts connections
/// there.
pub(super) fn ports(item: &ReplicaItem) -> BTreeSet<u16> {
    let ports = item.spec.ports.iter();
    let tcp = ports.filter(|port| port.protocol == Protocol::Tcp);
    let ingress = item.spec.ingress.iter().filter_map(|rule| rule.port);
    tcp.map(|port| port.target).chain(ingress).collect()
}

/// Waits until it accepts connections on all of `ports`; what never does is taken for one that serves otherwise.
pub(super) async fn accepts(shared: &Shared, id: ReplicaId, ports: &BTreeSet<u16>) {
    let until = shared.clock.now().after(LISTEN_MAX);
    while shared.clock.now() < until {
        match shared.drivers.network.listening(id).await {
            Ok(Some(listening)) if !ports.is_subset(&listening) => {}
            Ok(_) => return,
            Err(problem) => return tracing::warn!(%problem, replica = %id, "its open ports are unknown"),
        }
        tokio::time::sleep(LISTEN_LOOK.to_std()).await;
    }
    tracing::info!(replica = %id, ?ports, "it does not accept connections on its published ports");
}

/// Waits until the clients are done, time is up, or there is something else to tell than `told`.
pub(super) async fn clients(shared: &Shared, id: ReplicaId, told: Option<Connections>, until: Timestamp) -> Clients {
    let tell_at = shared.clock.now().after(CONNECTIONS_TELL);
    let mut quiet_from = None;
    loop {
        let now = shared.clock.now();
        match shared.drivers.network.connections(id).await {
            Ok(Some(count)) if count.busy() > 0 => {
                quiet_from = None;
                if now >= until {
                    return Clients::Late(count);
                }
                if now >= tell_at && told.map(Connections::busy) != Some(count.busy()) {
                    return Clients::Busy(count);
                }
            }
            Ok(Some(_)) if now < until => {
                let is_first_look = quiet_from.is_none();
                let settled = quiet_from.get_or_insert(now).after(CONNECTIONS_SETTLE);
                if now >= settled || (is_first_look && !serves(shared, id).await) {
                    return Clients::Done;
                }
            }
            Ok(_) => return Clients::Done,
            Err(problem) => {
                tracing::warn!(%problem, replica = %id, "its connections are unknown");
                return Clients::Done;
            }
        }
        tokio::time::sleep(CONNECTIONS_LOOK.to_std()).await;
    }
}

/// Whether a connection can still come: only to what accepts some.
async fn serves(shared: &Shared, id: ReplicaId) -> bool {
    matches!(shared.drivers.network.listening(id).await, Ok(Some(ports)) if !ports.is_empty())
}

/// Waits, briefly, until the last bytes of a container that has ended have reached its clients: they go with its network.
pub(super) async fn last_bytes(shared: &Shared, id: ReplicaId) {
    let until = shared.clock.now().after(LINGER_MAX);
    while shared.clock.now() < until {
        match shared.drivers.network.connections(id).await {
            Ok(Some(count)) if count.sending > 0 => tokio::time::sleep(CONNECTIONS_LOOK.to_std()).await,
            Ok(_) | Err(_) => return,
        }
    }
}

/// For people.
pub(super) fn describe(count: Connections, limit: DurationMs) -> String {
    let idle = match count.idle {
        0 => String::new(),
        idle => format!(" ({idle} idle ones are not waited for)"),
    };
    format!(
        "stops when its clients are done: {} connection(s) in use{idle}, at most {limit}",
        count.busy()
    )
}
