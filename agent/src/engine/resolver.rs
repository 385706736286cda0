//! `/etc/resolv.conf` of a container run by hand: the node's, without what only the node itself can reach. Pure.

use std::fmt::Write;
use std::net::IpAddr;

use gantry_model::spec::ContainerSpec;

/// The file's text. `gateway` stands in when the node's only name servers listen on its loopback.
pub(crate) fn resolv_conf(node: &str, container: &ContainerSpec, gateway: Option<IpAddr>) -> String {
    let lines = |word: &'static str| node.lines().filter_map(move |line| line.trim().strip_prefix(word));
    let mut servers: Vec<String> = container.dns.clone();
    if servers.is_empty() {
        let theirs = lines("nameserver").filter_map(|rest| rest.split_whitespace().next());
        let is_reachable = |server: &&str| {
            let address = server.split('%').next().unwrap_or(server).parse::<IpAddr>();
            gateway.is_none() || address.is_ok_and(|address| !address.is_loopback())
        };
        servers = theirs.filter(is_reachable).map(ToString::to_string).collect();
        if servers.is_empty() {
            servers.extend(gateway.map(|gateway| gateway.to_string()));
        }
    }
    let list = |own: &[String], word: &'static str| -> Vec<String> {
        if !own.is_empty() {
            return own.to_vec();
        }
        let theirs = lines(word).flat_map(str::split_whitespace);
        theirs.map(ToString::to_string).collect()
    };
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    // `.` alone means none, as in Docker.
    let search = list(&container.dns_search, "search");
    if !search.is_empty() && search != ["."] {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    let options = list(&container.dns_opt, "options");
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

/// Whether containers need a name server at the gateway: all of the node's are on its loopback.
pub(crate) fn needs_forwarder(node: &str) -> bool {
    let servers = node.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let mut addresses = servers.filter_map(|rest| rest.trim().split('%').next()?.parse::<IpAddr>().ok());
    !addresses.any(|address| !address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const GATEWAY: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(172, 30, 0, 1)));

    #[test]
    fn the_nodes_resolver_is_taken_over_but_for_its_loopback() {
        let node = "# made\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nsearch corp lan\noptions edns0\n";
        let container = ContainerSpec::default();
        let text = resolv_conf(node, &container, GATEWAY);
        assert_eq!(text, "nameserver 10.0.0.2\nsearch corp lan\noptions edns0\n");
        assert!(!needs_forwarder(node));
        let loopback = "nameserver 127.0.0.53\n";
        assert!(needs_forwarder(loopback) && needs_forwarder(""));
        assert_eq!(resolv_conf(loopback, &container, GATEWAY), "nameserver 172.30.0.1\n");
        assert_eq!(
            resolv_conf(loopback, &container, None),
            loopback,
            "on the node's own network"
        );
        let own = ContainerSpec {
            dns: vec!["9.9.9.9".into()],
            dns_search: vec![".".into()],
            ..ContainerSpec::default()
        };
        assert_eq!(resolv_conf(node, &own, GATEWAY), "nameserver 9.9.9.9\noptions edns0\n");
    }
}
