//! `x-gantry: {policy: …}` of a service or a network: who may open connections.

use gantry_model::Name;
use gantry_model::spec::{PolicyPeer, PolicyPorts, PolicyRule};

use super::keys;
use super::scalar::{parsed, some_text};
use crate::yaml::cursor::Cursor;

/// The rules; a service named without its namespace is one of `namespace`. An empty list lets nobody in.
pub(crate) fn policy(at: &Cursor<'_>, namespace: &Name) -> Option<Vec<PolicyRule>> {
    if !at.is_list() {
        at.error_with(
            format!("expected a list of rules, found {}", at.node.kind()),
            "write `policy: [{from: [SERVICE], ports: [PORT]}]`, or `policy: []` to let nobody in",
        );
        return None;
    }
    Some(at.items().iter().filter_map(|item| rule(item, namespace)).collect())
}

fn rule(at: &Cursor<'_>, namespace: &Name) -> Option<PolicyRule> {
    if !at.check_keys(keys::POLICY_RULE) {
        at.error(format!("expected a mapping, found {}", at.node.kind()));
        return None;
    }
    let mut rule = PolicyRule::default();
    if let Some(from) = at.get("from") {
        let items = from.items_or_one();
        rule.from = items.iter().filter_map(|item| peer(item, namespace)).collect();
        refuse_empty(&from, items.is_empty(), "anybody");
    }
    if let Some(ports) = at.get("ports") {
        let items = ports.items_or_one();
        rule.ports = items.iter().filter_map(parsed::<PolicyPorts>).collect();
        refuse_empty(&ports, items.is_empty(), "every port");
    }
    Some(rule)
}

/// An empty list reads like "none" and would mean "all".
fn refuse_empty(at: &Cursor<'_>, is_empty: bool, all: &str) {
    if is_empty {
        at.error_with(
            "the list is empty",
            format!("remove it if {all} is meant, or remove the rule"),
        );
    }
}

fn peer(at: &Cursor<'_>, namespace: &Name) -> Option<PolicyPeer> {
    match PolicyPeer::parse(some_text(at)?.trim(), namespace) {
        Ok(peer) => Some(peer),
        Err(error) => {
            at.error(error.to_string());
            None
        }
    }
}
