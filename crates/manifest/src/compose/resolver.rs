//! Names inside the container: `dns`, `dns_search`, `dns_opt`, `extra_hosts`.

use std::net::IpAddr;

use gantry_model::spec::ContainerSpec;

use super::scalar::{parsed, some_text, texts};
use crate::yaml::cursor::Cursor;

/// The address of the node itself, in `extra_hosts`.
const HOST_GATEWAY: &str = "host-gateway";

/// Fills in the fields of the resolver.
pub(crate) fn resolver(service: &Cursor<'_>, container: &mut ContainerSpec) {
    if let Some(servers) = service.get("dns") {
        let addresses = servers.items_or_one();
        let addresses = addresses.iter().filter_map(parsed::<IpAddr>);
        container.dns = addresses.map(|address| address.to_string()).collect();
    }
    container.dns_search = service.read("dns_search", texts).unwrap_or_default();
    container.dns_opt = service.read("dns_opt", texts).unwrap_or_default();
    container.extra_hosts = service
        .read("extra_hosts", |at| Some(extra_hosts(at)))
        .unwrap_or_default();
}

/// `- NAME:ADDRESS`, `- NAME=ADDRESS` or `NAME: ADDRESS`, where a map may give several addresses.
pub(crate) fn extra_hosts(at: &Cursor<'_>) -> Vec<(String, String)> {
    let mut hosts = Vec::new();
    if at.is_list() {
        for item in at.items() {
            let Some(text) = some_text(&item) else { continue };
            match text.split_once('=').or_else(|| text.split_once(':')) {
                Some((name, address)) => hosts.extend(host(&item, name, address)),
                None => item.error_with(
                    format!("'{text}' is not a host"),
                    "write NAME:ADDRESS, such as db:10.0.0.5",
                ),
            }
        }
        return hosts;
    }
    for entry in at.all_entries() {
        for address in entry.items_or_one() {
            if let Some(text) = some_text(&address) {
                hosts.extend(host(&address, entry.key(), &text));
            }
        }
    }
    hosts
}

fn host(at: &Cursor<'_>, name: &str, address: &str) -> Option<(String, String)> {
    let (name, address) = (name.trim(), address.trim());
    let bare = address
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(address);
    if name.is_empty() || name.contains(char::is_whitespace) {
        at.error(format!("'{name}' is not a host name"));
        return None;
    }
    if bare != HOST_GATEWAY && bare.parse::<IpAddr>().is_err() {
        at.error(format!("'{address}' is neither an IP address nor '{HOST_GATEWAY}'"));
        return None;
    }
    Some((name.to_string(), bare.to_string()))
}
