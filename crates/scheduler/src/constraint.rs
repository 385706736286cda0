//! What of a node's record keeps a service away: constraints, taints, the image's platform.
//!
//! Values are compared as Swarm does it, without regard to case; a missing label equals nothing.

use std::borrow::Cow;
use std::net::IpAddr;
use std::str::FromStr;

use gantry_model::net::Ipv4Net;
use gantry_model::object::Node;
use gantry_model::spec::{
    Constraint, ConstraintKey, ConstraintOp, Placement, ServiceSpec, Taint, TaintEffect, Toleration, version_parts,
};

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
        ConstraintKey::Kernel => Some(Cow::Borrowed(&node.facts.kernel)),
        ConstraintKey::NodeLabel(label) => node.labels.get(label).map(|value| Cow::Borrowed(value.as_str())),
        ConstraintKey::EngineLabel(label) => node.facts.labels.get(label).map(|value| Cow::Borrowed(value.as_str())),
    }
}

/// Whether the constraint holds for the node.
pub(crate) fn holds(constraint: &Constraint, node: &Node) -> bool {
    let value = attribute(node, &constraint.key);
    let is = |wanted: &str| match (&constraint.key, &value) {
        (ConstraintKey::Ip, Some(address)) => ip_matches(address, wanted),
        (_, Some(value)) => value.eq_ignore_ascii_case(wanted),
        (_, None) => false,
    };
    match constraint.op {
        ConstraintOp::Equal => is(&constraint.value),
        ConstraintOp::NotEqual => !is(&constraint.value),
        ConstraintOp::In => constraint.values().any(is),
        ConstraintOp::NotIn => !constraint.values().any(is),
        ConstraintOp::Exists => value.is_some(),
        ConstraintOp::Missing => value.is_none(),
        ConstraintOp::Number(bound) => {
            let number = |text: &str| text.trim().parse::<f64>().ok();
            let order = value
                .and_then(|value| number(&value))
                .zip(number(&constraint.value))
                .and_then(|(has, wanted)| has.partial_cmp(&wanted));
            order.is_some_and(|order| bound.admits(order))
        }
        ConstraintOp::Version(bound) => {
            let has = value.and_then(|value| version_parts(&value));
            let order = has
                .zip(version_parts(&constraint.value))
                .map(|(has, wanted)| has.cmp(&wanted));
            order.is_some_and(|order| bound.admits(order))
        }
    }
}

/// What of a node's record keeps a service away, whatever runs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// The constraint at this place in the spec.
    Constraint(usize),
    /// A taint that the service does not tolerate.
    Taint(Taint),
    /// The image is for another platform.
    Platform,
}

/// The first barrier there is; `least` is the mildest taint that counts.
pub(crate) fn barrier(
    node: &Node,
    placement: &Placement,
    platform: Option<&str>,
    least: TaintEffect,
) -> Option<Barrier> {
    if let Some(broken) = placement.constraints.iter().position(|one| !holds(one, node)) {
        return Some(Barrier::Constraint(broken));
    }
    if let Some(taint) = untolerated(node, &placement.tolerations).find(|taint| taint.effect >= least) {
        return Some(Barrier::Taint(taint));
    }
    platform
        .filter(|platform| !runs_platform(node, platform))
        .map(|_| Barrier::Platform)
}

/// The taints of a node that a service does not tolerate.
pub(crate) fn untolerated(node: &Node, tolerations: &[Toleration]) -> impl Iterator<Item = Taint> {
    let taints = node.taints().into_iter();
    taints.filter(|taint| !tolerations.iter().any(|toleration| toleration.covers(taint)))
}

/// The barrier in words.
pub(crate) fn describe(barrier: &Barrier, node: &Node, placement: &Placement, platform: Option<&str>) -> String {
    match barrier {
        Barrier::Constraint(index) => match placement.constraints.get(*index) {
            Some(constraint) => format!("does not satisfy {constraint}"),
            None => "does not satisfy a constraint".to_string(),
        },
        Barrier::Taint(taint) => format!("has the taint {taint}"),
        Barrier::Platform => format!(
            "image is for {}, node is {}/{}",
            platform.unwrap_or_default(),
            node.facts.os,
            node.facts.arch
        ),
    }
}

/// Whether the node may get new replicas of `spec`, whatever is running there: constraints, taints and the image's platform.
/// `platform` is the image's, such as `linux/amd64`, when it is known.
///
/// # Errors
/// The reason in words.
pub fn eligible(node: &Node, spec: &ServiceSpec, platform: Option<&str>) -> Result<(), String> {
    refuse(node, spec, platform, TaintEffect::NoSchedule)
}

/// Whether a replica of `spec` that runs on the node may stay there: constraints, and taints that drive replicas out. The
/// image's platform does not matter: it runs already.
///
/// # Errors
/// The reason in words.
pub fn may_stay(node: &Node, spec: &ServiceSpec) -> Result<(), String> {
    refuse(node, spec, None, TaintEffect::NoExecute)
}

fn refuse(node: &Node, spec: &ServiceSpec, platform: Option<&str>, least: TaintEffect) -> Result<(), String> {
    match barrier(node, &spec.placement, platform, least) {
        Some(barrier) => Err(describe(&barrier, node, &spec.placement, platform)),
        None => Ok(()),
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
