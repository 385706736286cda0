//! Checks that need all services: dependencies, and ports that two of them publish.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use gantry_model::Name;
use gantry_model::spec::{DependencyCondition, HealthTest, PortMode, PortSpec, Protocol, RestartCondition};

use super::Draft;
use crate::diagnostic::{Sink, Site};
use crate::suggest::nearest;

/// Runs all checks, and settles what follows from how services depend on each other.
pub(crate) fn across_services(drafts: &mut [Draft], inactive: &BTreeSet<Name>, sink: &Sink) {
    known_dependencies(drafts, inactive, sink);
    acyclic(drafts, sink);
    distinct_ports(drafts, sink);
    one_off_services(drafts, sink);
}

fn known_dependencies(drafts: &mut [Draft], inactive: &BTreeSet<Name>, sink: &Sink) {
    let names: BTreeSet<Name> = drafts.iter().map(|draft| draft.name.clone()).collect();
    for draft in drafts.iter_mut() {
        draft.spec.depends_on.retain(|name, dependency| {
            let known = names.contains(name);
            if !known && dependency.required {
                report_unknown(name, &draft.depends_on, &names, inactive, sink);
            }
            known
        });
    }
    let is_unchecked = |draft: &&Draft| {
        let check = draft.spec.container.healthcheck.as_ref();
        check.is_some_and(|check| check.test == HealthTest::Disabled)
    };
    let unchecked: BTreeSet<&Name> = drafts.iter().filter(is_unchecked).map(|draft| &draft.name).collect();
    for draft in drafts.iter() {
        for (name, dependency) in &draft.spec.depends_on {
            if dependency.condition == DependencyCondition::Healthy && unchecked.contains(name) {
                let site = draft.depends_on.get(name).cloned().unwrap_or_default();
                sink.error(
                    &site,
                    format!("service '{name}' never becomes healthy, its health check is disabled"),
                    None,
                );
            }
        }
    }
}

fn report_unknown(
    name: &Name,
    sites: &BTreeMap<Name, Site>,
    names: &BTreeSet<Name>,
    inactive: &BTreeSet<Name>,
    sink: &Sink,
) {
    let site = sites.get(name).cloned().unwrap_or_default();
    if inactive.contains(name) {
        let help = "activate one of its profiles, or write required: false";
        sink.error(
            &site,
            format!("service '{name}' is not in an active profile"),
            Some(help.to_string()),
        );
        return;
    }
    let help = nearest(name.as_str(), names.iter().map(Name::as_str)).map(|other| format!("did you mean '{other}'?"));
    sink.error(&site, format!("there is no service '{name}'"), help);
}

/// Takes away services without (remaining) dependencies, over and over; what is left holds the cycles.
fn acyclic(drafts: &[Draft], sink: &Sink) {
    let mut waits_for: BTreeMap<&Name, BTreeSet<&Name>> = BTreeMap::new();
    let mut needed_by: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
    for draft in drafts {
        waits_for.insert(&draft.name, draft.spec.depends_on.keys().collect());
        for other in draft.spec.depends_on.keys() {
            needed_by.entry(other).or_default().push(&draft.name);
        }
    }
    let mut free: Vec<&Name> = waits_for
        .iter()
        .filter(|(_, others)| others.is_empty())
        .map(|(name, _)| *name)
        .collect();
    while let Some(name) = free.pop() {
        waits_for.remove(name);
        for dependent in needed_by.get(name).into_iter().flatten() {
            if let Some(others) = waits_for.get_mut(*dependent) {
                others.remove(name);
                if others.is_empty() {
                    free.push(dependent);
                }
            }
        }
    }
    let Some((start, _)) = waits_for.first_key_value() else {
        return;
    };
    let cycle = walk_to_cycle(start, &waits_for);
    let (Some(first), Some(second)) = (cycle.first(), cycle.get(1)) else {
        return;
    };
    let draft = drafts.iter().find(|draft| draft.name == **first);
    let site = draft
        .and_then(|draft| draft.depends_on.get(*second))
        .cloned()
        .unwrap_or_default();
    let shown: Vec<&str> = cycle.iter().map(|name| name.as_str()).collect();
    sink.error(
        &site,
        format!("services depend on each other in a cycle: {}", shown.join(" → ")),
        None,
    );
}

/// Every service that is left waits for another one that is left, so walking on must come back to where it was.
fn walk_to_cycle<'n>(start: &'n Name, waits_for: &BTreeMap<&'n Name, BTreeSet<&'n Name>>) -> Vec<&'n Name> {
    let mut walk = vec![start];
    let mut visited = BTreeSet::from([start]);
    loop {
        let Some(next) = walk
            .last()
            .and_then(|last| waits_for.get(*last))
            .and_then(BTreeSet::first)
        else {
            return Vec::new();
        };
        walk.push(next);
        if !visited.insert(*next) {
            let first = walk.iter().position(|name| name == next).unwrap_or(0);
            return walk.split_off(first);
        }
    }
}

/// One port of the nodes goes to one service. Ports of mode host of two services may live on different nodes.
fn distinct_ports(drafts: &[Draft], sink: &Sink) {
    let mut taken: BTreeMap<(u16, Protocol), Vec<(&Draft, &PortSpec)>> = BTreeMap::new();
    for draft in drafts {
        for (port, site) in draft.spec.ports.iter().zip(&draft.ports) {
            let Some(published) = port.published else { continue };
            let others = taken.entry((published, port.protocol)).or_default();
            let conflict = others.iter().find(|(other, other_port)| {
                let both_host = port.mode == PortMode::Host && other_port.mode == PortMode::Host;
                let apart = both_host && other.name != draft.name;
                overlap(port.host_ip, other_port.host_ip) && !apart
            });
            match conflict {
                Some((other, _)) => {
                    let taken_by = format!("is published by service '{}' already", other.name);
                    sink.error(site, format!("port {published}/{} {taken_by}", port.protocol), None);
                }
                None => others.push((draft, port)),
            }
        }
    }
}

fn overlap(left: Option<IpAddr>, right: Option<IpAddr>) -> bool {
    let everywhere = |address: Option<IpAddr>| address.is_none_or(|address| address.is_unspecified());
    everywhere(left) || everywhere(right) || left == right
}

/// A service whose completion another one waits for is meant to end: unless it says otherwise, it is restarted on failure only,
/// or it would never complete.
fn one_off_services(drafts: &mut [Draft], sink: &Sink) {
    let mut awaited: BTreeMap<Name, Site> = BTreeMap::new();
    for draft in drafts.iter() {
        for (name, dependency) in &draft.spec.depends_on {
            if dependency.condition == DependencyCondition::CompletedSuccessfully {
                awaited.insert(name.clone(), draft.depends_on.get(name).cloned().unwrap_or_default());
            }
        }
    }
    for draft in drafts.iter_mut() {
        let Some(site) = awaited.get(&draft.name) else { continue };
        if !draft.has_restart {
            draft.spec.restart.condition = RestartCondition::OnFailure;
        } else if draft.spec.restart.condition == RestartCondition::Any {
            let message = format!("service '{}' is always restarted and so never completes", draft.name);
            sink.error(site, message, Some("use restart: on-failure there".to_string()));
        }
    }
}
