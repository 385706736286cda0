//! Constraints against a node, as Swarm compares them: values without regard to case, a missing label is an empty value.

use std::borrow::Cow;
use std::net::IpAddr;
use std::str::FromStr;

use gantry_model::net::Ipv4Net;
use gantry_model::object::Node;
use gantry_model::spec::{Constraint, ConstraintKey, ConstraintOp, ServiceSpec};

/// The value of a node's attribute; none when the node does not have it.
#[must_use]
pub fn attribute<'a>(node: &'a Node, key: &ConstraintKey) -> Option<Cow<'a, str>> {
    match key {
        ConstraintKey::NodeId => Some(Cow::Owned(node.id.to_string())),
        ConstraintKey::Hostname => Some(Cow::Borrowed(&node.name)),
        ConstraintKey::Ip => Some(Cow::Borrowed(host(&node.address))),
        ConstraintKey::Role => Some(Cow::Borrowed(if node.facts.runs_server { "manager" } else { "worker" })),
        ConstraintKey::Os => Some(Cow::Borrowed(&node.facts.os)),
        ConstraintKey::Arch => Some(Cow::Borrowed(&node.facts.arch)),
        ConstraintKey::NodeLabel(label) => node.labels.get(label).map(|value| Cow::Borrowed(value.as_str())),
        ConstraintKey::EngineLabel(label) => node.facts.labels.get(label).map(|value| Cow::Borrowed(value.as_str())),
    }
}

/// Whether the constraint holds for the node.
pub(crate) fn holds(constraint: &Constraint, node: &Node) -> bool {
    let equal = match (&constraint.key, attribute(node, &constraint.key)) {
        (ConstraintKey::Ip, Some(address)) => ip_matches(&address, &constraint.value),
        (_, Some(value)) => value.eq_ignore_ascii_case(&constraint.value),
        (_, None) => false,
    };
    match constraint.op {
        ConstraintOp::Equal => equal,
        ConstraintOp::NotEqual => !equal,
    }
}

/// Whether the node may ever run replicas of `spec`, whatever is running there: constraints and the image's platform.
/// `platform` is the image's, such as `linux/amd64`, when it is known.
///
/// # Errors
/// The reason in words.
pub fn eligible(node: &Node, spec: &ServiceSpec, platform: Option<&str>) -> Result<(), String> {
    if let Some(broken) = spec.placement.constraints.iter().find(|one| !holds(one, node)) {
        return Err(format!("does not satisfy {broken}"));
    }
    match platform {
        Some(platform) if !runs_platform(node, platform) => Err(format!(
            "image is for {platform}, node is {}/{}",
            node.facts.os, node.facts.arch
        )),
        Some(_) | None => Ok(()),
    }
}

/// A platform is `os/arch` or `os/arch/variant`; what is empty on either side matches.
pub(crate) fn runs_platform(node: &Node, platform: &str) -> bool {
    let mut parts = platform.split('/');
    let same = |wanted: Option<&str>, has: &str| {
        wanted.is_none_or(|wanted| wanted.is_empty() || has.is_empty() || wanted.eq_ignore_ascii_case(has))
    };
    same(parts.next(), &node.facts.os) && same(parts.next(), &node.facts.arch)
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn ip_matches(address: &str, wanted: &str) -> bool {
    let Ok(address) = IpAddr::from_str(address) else {
        return false;
    };
    if let Ok(wanted) = IpAddr::from_str(wanted) {
        return address == wanted;
    }
    let Some((base, prefix)) = wanted.split_once('/') else {
        return false;
    };
    match (address, IpAddr::from_str(base), prefix.parse::<u8>()) {
        (IpAddr::V4(address), Ok(IpAddr::V4(base)), Ok(prefix)) if prefix <= 32 => {
            Ipv4Net::new(base, prefix).contains(address)
        }
        (IpAddr::V6(address), Ok(IpAddr::V6(base)), Ok(prefix)) if prefix <= 128 => {
            let shift = 128 - u32::from(prefix);
            let network = |ip| u128::from(ip).checked_shr(shift).unwrap_or(0);
            network(address) == network(base)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_match_addresses_and_networks() {
        for (address, wanted, matches) in [
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.0/24", true),
            ("10.0.0.7", "10.0.0.9/24", true),
            ("10.0.1.7", "10.0.0.0/24", false),
            ("10.0.0.7", "0.0.0.0/0", true),
            ("fd00::1", "fd00::/8", true),
            ("fd00::1", "fe00::/8", false),
            ("fd00::1", "::/0", true),
            ("10.0.0.7", "fd00::/8", false),
            ("alpha", "10.0.0.0/8", false),
            ("10.0.0.7", "10.0.0.0/33", false),
            ("10.0.0.7", "nonsense", false),
        ] {
            assert_eq!(ip_matches(address, wanted), matches, "{address} {wanted}");
        }
    }

    #[test]
    fn the_port_is_not_part_of_the_host() {
        for (address, expected) in [
            ("10.0.0.1:7420", "10.0.0.1"),
            ("[fd00::1]:7420", "fd00::1"),
            ("alpha:1", "alpha"),
        ] {
            assert_eq!(host(address), expected);
        }
    }
}
