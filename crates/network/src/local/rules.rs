//! The packet rules of the local network, in nft's words. Pure.
//!
//! The chains depend on the pool alone; published ports are elements of two maps, so that publishing one is a transaction of a
//! line.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::Ipv4Addr;

use gantry_model::net::Ipv4Net;
use gantry_model::spec::Protocol;

/// A port of the node that leads to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalPort {
    /// Only at this address of the node.
    pub host_ip: Option<Ipv4Addr>,
    /// The port there.
    pub published: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The container's address.
    pub to: Ipv4Addr,
    /// The port inside.
    pub target: u16,
}

impl LocalPort {
    pub(super) fn is_datagram(&self) -> bool {
        self.protocol == Protocol::Udp
    }

    fn map(&self) -> &'static str {
        match self.host_ip {
            Some(_) => "ports_at",
            None => "ports",
        }
    }

    fn key(&self) -> String {
        match self.host_ip {
            Some(address) => format!("{address} . {} . {}", self.protocol, self.published),
            None => format!("{} . {}", self.protocol, self.published),
        }
    }
}

/// Replaces the whole table in one transaction.
pub(super) fn render(table: &str, pool: Ipv4Net, ports: &BTreeSet<LocalPort>) -> String {
    let mut text = format!(
        r#"add table ip {table}
delete table ip {table}
table ip {table} {{
  map ports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map ports_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  chain published {{
    fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @ports_at
    fib daddr type local dnat ip to meta l4proto . th dport map @ports
  }}
  chain pre_nat {{ type nat hook prerouting priority -99; jump published; }}
  chain out_nat {{ type nat hook output priority -99; jump published; }}
  chain post_nat {{
    type nat hook postrouting priority 100;
    ip saddr 127.0.0.0/8 ip daddr {pool} masquerade
    ip saddr {pool} ip daddr {pool} ct status dnat masquerade
    ip saddr {pool} ip daddr != {pool} masquerade
  }}
  chain martians {{
    type filter hook prerouting priority -300;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
  }}
  chain forward {{
    type filter hook forward priority -10;
    ip daddr {pool} ct state new ct status dnat accept
    iifname != "gv*" ip daddr {pool} ct state new drop
  }}
}}
"#
    );
    text.push_str(&elements("add", table, ports.iter()));
    text
}

pub(super) fn add(table: &str, ports: &[LocalPort]) -> String {
    elements("add", table, ports.iter())
}

pub(super) fn delete(table: &str, ports: &[LocalPort]) -> String {
    let mut text = String::new();
    for port in ports {
        let _ = writeln!(text, "delete element ip {table} {} {{ {} }}", port.map(), port.key());
    }
    text
}

fn elements<'a>(act: &str, table: &str, ports: impl Iterator<Item = &'a LocalPort>) -> String {
    let mut text = String::new();
    for port in ports {
        let (map, key, to, target) = (port.map(), port.key(), port.to, port.target);
        let _ = writeln!(text, "{act} element ip {table} {map} {{ {key} : {to} . {target} }}");
    }
    text
}
