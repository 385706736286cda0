//! The files that a container gets: name resolution as in Docker, configs, secrets. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

use gantry_model::DataId;
use gantry_model::object::DataRecord;
use gantry_model::spec::{ContainerSpec, DataMount};

use crate::drivers::{FileKind, PlacedFile};

/// Most name servers a resolver takes (`MAXNS`, resolv.h).
const NAME_SERVERS_MAX: usize = 3;

/// A config or secret that the node does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// The leader has not filled in which version.
    #[error("{kind} '{source_name}' has no version: apply its manifest again")]
    NoVersion {
        /// Config or secret.
        kind: &'static str,
        /// Its name.
        source_name: String,
    },
    /// It has not arrived; it comes with the next complete set.
    #[error("{kind} '{source_name}' has not reached this node yet")]
    NotHere {
        /// Config or secret.
        kind: &'static str,
        /// Its name.
        source_name: String,
    },
}

/// Where a replica is on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Its host name.
    pub hostname: &'a str,
    /// Its address; none without a network.
    pub address: Option<Ipv4Addr>,
    /// The node's address in its subnet: gateway and name server.
    pub gateway: Ipv4Addr,
}

/// Names of one part are names of services, not of a domain to be searched for; Docker's default too.
const NO_SEARCH: &str = "ndots:0";

/// The node's name server answers nothing while its agent is started anew, which takes less than a second: by then glibc has
/// asked again, for which it waits 5 s by default, and musl has not given up (it divides the time by the attempts).
const PATIENCE: [&str; 2] = ["timeout:3", "attempts:4"];

/// `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`.
#[must_use]
pub fn resolution(container: &ContainerSpec, place: Place<'_>) -> Vec<PlacedFile> {
    let file = |target: &str, content: String| PlacedFile {
        target: target.to_string(),
        uid: 0,
        gid: 0,
        mode: 0o644,
        kind: FileKind::Resolution,
        content: content.into_bytes(),
    };
    vec![
        file("/etc/hostname", format!("{}\n", place.hostname)),
        file("/etc/hosts", hosts(container, place)),
        file("/etc/resolv.conf", resolv_conf(container, place)),
    ]
}

/// The text of `/etc/hosts`.
#[must_use]
pub fn hosts(container: &ContainerSpec, place: Place<'_>) -> String {
    // The lines that Docker writes (libnetwork, etchosts.go).
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for (name, address) in &container.extra_hosts {
        let address = match address.as_str() {
            "host-gateway" => place.gateway.to_string(),
            other => other.to_string(),
        };
        let _ = writeln!(text, "{address}\t{name}");
    }
    let address = place.address.unwrap_or(Ipv4Addr::LOCALHOST);
    let short = place.hostname.split('.').next().unwrap_or(place.hostname);
    if short == place.hostname {
        let _ = writeln!(text, "{address}\t{short}");
    } else {
        let _ = writeln!(text, "{address}\t{} {short}", place.hostname);
    }
    text
}

/// The node's name server comes first, since only it knows the cluster's names.
fn resolv_conf(container: &ContainerSpec, place: Place<'_>) -> String {
    let mut text = String::new();
    let own = place.address.map(|_| place.gateway.to_string());
    for server in own
        .into_iter()
        .chain(container.dns.iter().cloned())
        .take(NAME_SERVERS_MAX)
    {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !container.dns_search.is_empty() {
        let _ = writeln!(text, "search {}", container.dns_search.join(" "));
    }
    let mut options = container.dns_opt.clone();
    let own = place.address.map_or(&[][..], |_| &PATIENCE);
    for option in [NO_SEARCH].iter().chain(own) {
        let kind = option.split_inclusive(':').next().unwrap_or(option);
        if !options.iter().any(|given| given.starts_with(kind)) {
            options.push((*option).to_string());
        }
    }
    let _ = writeln!(text, "options {}", options.join(" "));
    text
}

/// Configs and secrets of a container.
///
/// # Errors
/// When one is not on the node.
pub fn data(container: &ContainerSpec, held: &BTreeMap<DataId, DataRecord>) -> Result<Vec<PlacedFile>, DataError> {
    let place = |kind: &'static str, mount: &DataMount| {
        let source_name = mount.source.to_string();
        let Some(id) = mount.id else {
            return Err(DataError::NoVersion { kind, source_name });
        };
        let Some(record) = held.get(&id) else {
            return Err(DataError::NotHere { kind, source_name });
        };
        Ok(PlacedFile {
            target: mount.target.clone(),
            uid: mount.uid,
            gid: mount.gid,
            mode: mount.mode,
            kind: FileKind::Data,
            content: record.content.0.clone(),
        })
    };
    let configs = container.configs.iter().map(|mount| place("config", mount));
    let secrets = container.secrets.iter().map(|mount| place("secret", mount));
    configs.chain(secrets).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(container: &ContainerSpec, address: Option<Ipv4Addr>, target: &str) -> String {
        let place = Place {
            hostname: "db.shop",
            address,
            gateway: Ipv4Addr::new(10, 128, 0, 1),
        };
        let files = resolution(container, place);
        let file = files.iter().find(|file| file.target == target).expect("it is written");
        String::from_utf8(file.content.clone()).expect("text")
    }

    #[test]
    fn hosts_name_the_replica_and_what_the_user_adds() {
        let container = ContainerSpec {
            extra_hosts: vec![
                ("api".into(), "10.0.0.9".into()),
                ("node".into(), "host-gateway".into()),
            ],
            ..ContainerSpec::default()
        };
        let hosts = text(&container, Some(Ipv4Addr::new(10, 128, 0, 7)), "/etc/hosts");
        for line in [
            "127.0.0.1\tlocalhost",
            "10.0.0.9\tapi",
            "10.128.0.1\tnode",
            "10.128.0.7\tdb.shop db",
        ] {
            assert!(hosts.lines().any(|other| other == line), "{line} in {hosts}");
        }
        assert_eq!(text(&container, None, "/etc/hostname"), "db.shop\n");
    }

    #[test]
    fn the_nodes_name_server_comes_first_and_options_that_are_given_stay() {
        let address = Some(Ipv4Addr::new(10, 128, 0, 7));
        let plain = ContainerSpec::default();
        assert_eq!(
            text(&plain, address, "/etc/resolv.conf"),
            "nameserver 10.128.0.1\noptions ndots:0 timeout:3 attempts:4\n"
        );
        let own = ContainerSpec {
            dns: vec!["9.9.9.9".into(), "1.1.1.1".into(), "8.8.8.8".into()],
            dns_search: vec!["corp".into(), "lan".into()],
            dns_opt: vec!["ndots:2".into(), "attempts:1".into()],
            ..ContainerSpec::default()
        };
        assert_eq!(
            text(&own, address, "/etc/resolv.conf"),
            "nameserver 10.128.0.1\nnameserver 9.9.9.9\nnameserver 1.1.1.1\nsearch corp lan\noptions ndots:2 attempts:1 timeout:3\n"
        );
        assert_eq!(text(&plain, None, "/etc/resolv.conf"), "options ndots:0\n");
    }

    #[test]
    fn data_that_is_not_here_is_named() {
        let mount = |id| DataMount {
            source: "cert".parse().expect("a name"),
            id,
            target: "/run/secrets/cert".into(),
            uid: 0,
            gid: 0,
            mode: 0o444,
        };
        let with = |id| ContainerSpec {
            secrets: vec![mount(id)],
            ..ContainerSpec::default()
        };
        let error = data(&with(Some(DataId(1))), &BTreeMap::new()).expect_err("not here");
        assert_eq!(error.to_string(), "secret 'cert' has not reached this node yet");
        assert!(matches!(
            data(&with(None), &BTreeMap::new()),
            Err(DataError::NoVersion { .. })
        ));
    }
}
