//! `services`: which ones are active, and how one is put together.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::Name;
use gantry_model::spec::{Dependency, DependencyCondition, PortMode, ServiceSpec, UpdateOrder};

use super::scalar::{boolean, choice, key_name, labels, name, some_text, texts};
use super::{Context, Draft, container, deploy, extension, image, ingress, keys, network, ports, resources, restart};
use crate::diagnostic::Site;
use crate::limits::{PORTS_MAX, SERVICES_MAX};
use crate::yaml::cursor::Cursor;

const CONDITIONS: &[(&str, DependencyCondition)] = &[
    ("service_started", DependencyCondition::Started),
    ("service_healthy", DependencyCondition::Healthy),
    (
        "service_completed_successfully",
        DependencyCondition::CompletedSuccessfully,
    ),
];

/// All active services, and the names of those whose profiles are not active.
pub(crate) fn services(root: &Cursor<'_>, context: &Context<'_>) -> (Vec<Draft>, BTreeSet<Name>) {
    let (mut drafts, mut inactive, mut ports) = (Vec::new(), BTreeSet::new(), 0);
    let Some(services) = root.get("services") else {
        root.error_with("there are no services", "a manifest has at least one under 'services:'");
        return (drafts, inactive);
    };
    let count = services.node.entries().len();
    if count > SERVICES_MAX {
        services.error_key(
            format!("there are {count} services, at most {SERVICES_MAX} are read"),
            None,
        );
        return (drafts, inactive);
    }
    for entry in services.all_entries() {
        let Some(name) = key_name(&entry) else { continue };
        if !entry.is_map() {
            entry.error_key(format!("expected a mapping, found {}", entry.node.kind()), None);
        } else if is_active(&entry, context) {
            let draft = service(&entry, name, context);
            ports += draft.ports.len();
            if ports > PORTS_MAX {
                entry.error_key(format!("the services publish more than {PORTS_MAX} ports"), None);
                break;
            }
            drafts.push(draft);
        } else {
            inactive.insert(name);
        }
    }
    let has_none = drafts.is_empty() && services.is_map();
    if has_none && count == inactive.len() {
        services.error_key(
            "no service is active",
            (!inactive.is_empty()).then(|| "all services have profiles, activate one of them".to_string()),
        );
    }
    (drafts, inactive)
}

/// A service without profiles is always active; `*` activates all.
fn is_active(service: &Cursor<'_>, context: &Context<'_>) -> bool {
    let profiles = service.read("profiles", texts).unwrap_or_default();
    let wanted = &context.options.profiles;
    profiles.is_empty()
        || wanted
            .iter()
            .any(|profile| profile == "*" || profiles.contains(profile))
}

fn service(at: &Cursor<'_>, name: Name, context: &Context<'_>) -> Draft {
    at.check_keys(keys::SERVICE);
    if let Some(deploy) = at.get("deploy") {
        deploy.check_keys(keys::DEPLOY);
    }
    let mode = deploy::mode(at);
    let (port_specs, port_sites): (Vec<_>, Vec<_>) = ports::ports(at).into_iter().unzip();
    let (depends_on, dependency_sites) = dependencies(at);
    let restart = restart::restart(at, mode);
    let has_restart = restart.is_some();
    let from_deploy = |read: fn(&Cursor<'_>) -> _| at.read("deploy", |deploy| Some(read(deploy))).unwrap_or_default();
    let mut spec = ServiceSpec {
        mode,
        container: container::container(at, &name, context),
        resources: resources::resources(at),
        placement: deploy::placement(at, mode),
        restart: restart.unwrap_or_default(),
        update: from_deploy(deploy::update),
        rollback: from_deploy(deploy::rollback),
        endpoint_mode: at
            .read("deploy", |deploy| Some(deploy::endpoint_mode(deploy)))
            .unwrap_or_default(),
        ports: port_specs,
        expose: ports::expose(at),
        networks: network::attachments(at, context),
        depends_on,
        labels: at
            .read("deploy", |deploy| deploy.read("labels", labels))
            .unwrap_or_default(),
        ..ServiceSpec::default()
    };
    extension::extend(at, &name, &mut spec, context);
    ingress::extend(at, &name, &mut spec, context);
    check_order(at, &spec);
    Draft {
        image: image::source(at, context),
        name,
        spec,
        ports: port_sites,
        depends_on: dependency_sites,
        has_restart,
    }
}

/// Two replicas cannot hold one port of a node at a time.
fn check_order(at: &Cursor<'_>, spec: &ServiceSpec) {
    let has_host_port = spec
        .ports
        .iter()
        .any(|port| port.mode == PortMode::Host && port.published.is_some());
    if has_host_port && spec.update.order == UpdateOrder::StartFirst {
        let warn = |order: &Cursor<'_>| {
            order.warn("a port with mode: host is taken only once per node, so the new replica needs another node");
            Some(())
        };
        at.read("deploy", |deploy| {
            deploy.read("update_config", |config| config.read("order", warn))
        });
    }
}

/// `depends_on` and what `links` imply.
fn dependencies(service: &Cursor<'_>) -> (BTreeMap<Name, Dependency>, BTreeMap<Name, Site>) {
    let (mut dependencies, mut sites) = (BTreeMap::new(), BTreeMap::new());
    let mut add = |name: Name, dependency: Dependency, site: Site| {
        sites.entry(name.clone()).or_insert(site);
        dependencies.entry(name).or_insert(dependency);
    };
    if let Some(list) = service.get("depends_on") {
        if list.is_map() {
            for entry in list.entries() {
                if let (Some(name), Some(dependency)) = (key_name(&entry), dependency(&entry)) {
                    add(name, dependency, entry.site());
                }
            }
        } else {
            for item in list.items() {
                if let Some(name) = name(&item) {
                    add(name, started(), item.site());
                }
            }
        }
    }
    if let Some(links) = service.get("links") {
        for link in links.items() {
            if let Some(name) = link_target(&link) {
                add(name, started(), link.site());
            }
        }
    }
    (dependencies, sites)
}

const fn started() -> Dependency {
    Dependency {
        condition: DependencyCondition::Started,
        restart: false,
        required: true,
    }
}

fn dependency(at: &Cursor<'_>) -> Option<Dependency> {
    if at.is_null() {
        return Some(started());
    }
    if !at.check_keys(keys::DEPENDENCY) {
        at.error(format!("expected a mapping, found {}", at.node.kind()));
        return None;
    }
    Some(Dependency {
        condition: at
            .read("condition", |at| choice(at, CONDITIONS))
            .unwrap_or(DependencyCondition::Started),
        restart: at.read("restart", dependency_restart).unwrap_or(false),
        required: at.read("required", boolean).unwrap_or(true),
    })
}

/// Kept in the spec; nothing restarts for it yet.
fn dependency_restart(at: &Cursor<'_>) -> Option<bool> {
    let wanted = boolean(at)?;
    if wanted {
        at.warn("has no effect yet: an update of the other service restarts nothing here");
    }
    Some(wanted)
}

/// `SERVICE[:ALIAS]`: services of one network reach each other by name anyway, so only the order remains of a link.
fn link_target(at: &Cursor<'_>) -> Option<Name> {
    let text = some_text(at)?;
    let (target, alias) = text.split_once(':').unwrap_or((&text, &text));
    if target != alias {
        at.warn_with(
            format!("the name '{alias}' has no effect: a link only means that '{target}' starts first"),
            format!("give '{target}' the alias '{alias}' in its 'networks'"),
        );
    }
    match Name::new(target) {
        Ok(name) => Some(name),
        Err(error) => {
            at.error(error.to_string());
            None
        }
    }
}
