//! What changes between two plans.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use gantry_model::net::Ipv4Net;

use crate::{Command, Plan};

/// The way from one plan to another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The gateway, the pools or the reach of published ports differ: links and settings have to be looked at.
    pub links: bool,
    /// Routes to add or replace.
    pub routes_set: BTreeMap<Ipv4Net, IpAddr>,
    /// Routes to remove.
    pub routes_gone: BTreeSet<Ipv4Net>,
    /// One transaction on the packet rules.
    pub commands: Vec<Command>,
    /// Addresses that no new connection is sent to any more.
    pub endpoints_gone: BTreeSet<Ipv4Addr>,
    /// Names differ.
    pub zone: bool,
}

impl Change {
    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What turns `old` into `new`.
#[must_use]
pub fn diff(old: &Plan, new: &Plan) -> Change {
    let changed_routes = new
        .routes
        .iter()
        .filter(|(subnet, via)| old.routes.get(*subnet) != Some(*via));
    let gone_routes = old.routes.keys().filter(|subnet| !new.routes.contains_key(*subnet));
    let links = (old.gateway, old.service_pool, old.replica_pool, old.loopback_ports)
        != (new.gateway, new.service_pool, new.replica_pool, new.loopback_ports);
    Change {
        links,
        routes_set: changed_routes.map(|(subnet, via)| (*subnet, *via)).collect(),
        routes_gone: gone_routes.copied().collect(),
        commands: new.ruleset.commands_from(&old.ruleset),
        endpoints_gone: old.endpoints().difference(&new.endpoints()).copied().collect(),
        zone: old.zone != new.zone,
    }
}
