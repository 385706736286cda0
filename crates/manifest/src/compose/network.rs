//! Networks of the top level, and how a service is attached to them.

use std::collections::BTreeMap;

use gantry_model::Name;
use gantry_model::spec::{NetworkAttachment, NetworkSpec};

use super::scalar::{boolean, key_name, labels, name, some_text, texts};
use super::{Context, NETWORK_DEFAULT, keys, policy};
use crate::yaml::cursor::Cursor;

/// Drivers of Docker that mean "a network of the application", which is what every network here is.
const DRIVERS: &[&str] = &["bridge", "overlay", "default"];

/// The top level's `networks`.
pub(crate) fn networks(at: &Cursor<'_>, namespace: &Name) -> BTreeMap<Name, NetworkSpec> {
    let network = |entry: &Cursor<'_>| {
        let key = key_name(entry)?;
        entry.check_keys(keys::NETWORK);
        check_driver(entry);
        let (_, shared_name) = shared(entry, &key);
        let spec = NetworkSpec {
            shared_name,
            internal: entry.read("internal", boolean).unwrap_or(false),
            policy: entry.read("x-gantry", |extension| {
                extension.check_keys(keys::X_GANTRY_NETWORK);
                extension.read("policy", |at| policy::policy(at, namespace))
            }),
            labels: entry.read("labels", labels).unwrap_or_default(),
        };
        Some((key, spec))
    };
    at.all_entries().iter().filter_map(network).collect()
}

fn check_driver(at: &Cursor<'_>) {
    if let Some(driver) = at.get("driver")
        && let Some(text) = some_text(&driver)
        && !DRIVERS.contains(&text.as_str())
    {
        driver.error_with(
            format!("network driver '{text}' is not supported yet"),
            "remove it: every network spans the nodes",
        );
    }
    if let Some(options) = at.get("driver_opts") {
        for option in options.all_entries() {
            if option.key() == "encrypted" {
                option.error_key(
                    "encryption of a network is not supported yet",
                    Some("remove it".to_string()),
                );
            } else {
                option.warn_key(format!(
                    "'{}' has no effect: networks have one driver, the cluster's own",
                    option.key()
                ));
            }
        }
    }
    if let Some(attachable) = at.get("attachable")
        && boolean(&attachable) == Some(true)
    {
        attachable.warn("has no effect: containers run by hand are on a network of their node");
    }
    if let Some(ipv4) = at.get("enable_ipv4")
        && boolean(&ipv4) == Some(false)
    {
        ipv4.error_with("networks without IPv4 are not supported yet", "remove it");
    }
}

/// `external` and `name`: whether the object exists already, and what it is called in the cluster.
pub(crate) fn shared(at: &Cursor<'_>, key: &Name) -> (bool, Option<Name>) {
    let given = at.read("name", name);
    let Some(external) = at.get("external") else {
        return (false, given);
    };
    if external.is_map() {
        external.check_keys(keys::EXTERNAL);
        let old_style = external.read("name", name);
        return (true, given.or(old_style).or_else(|| Some(key.clone())));
    }
    let is_external = boolean(&external).unwrap_or(false);
    (is_external, given.or_else(|| is_external.then(|| key.clone())))
}

/// What a service is attached to: its `networks`, `default` when there are none, nothing with `network_mode: none`.
pub(crate) fn attachments(service: &Cursor<'_>, context: &Context<'_>) -> BTreeMap<Name, NetworkAttachment> {
    let list = service.get("networks");
    if let Some(mode) = service.get("network_mode") {
        if let (Some(list), Some(word)) = (&list, some_text(&mode)) {
            list.error_key(
                format!("'networks' and 'network_mode: {word}' exclude each other"),
                None,
            );
        }
        if !joins_default(&mode) {
            return BTreeMap::new();
        }
    }
    let Some(list) = list else { return default_only(context) };
    let mut attachments = BTreeMap::new();
    let mut attach = |at: &Cursor<'_>, name: Option<Name>, aliases: Vec<String>| {
        let Some(name) = name else { return };
        let is_known = context.networks.contains_key(&name);
        if Context::declared(at, "network", &name, is_known, context.networks.keys()) {
            let attached = attachment(&name, context.networks.get(&name), aliases, context);
            attachments.insert(name, attached);
        }
    };
    if list.is_list() {
        for item in list.items() {
            attach(&item, name(&item), Vec::new());
        }
    } else {
        for entry in list.all_entries() {
            attach(&entry, key_name(&entry), aliases(&entry));
        }
    }
    if attachments.is_empty() {
        default_only(context)
    } else {
        attachments
    }
}

fn aliases(at: &Cursor<'_>) -> Vec<String> {
    if at.is_null() {
        return Vec::new();
    }
    if !at.check_keys(keys::ATTACHMENT) {
        at.error(format!("expected a mapping, found {}", at.node.kind()));
    }
    let Some(list) = at.get("aliases") else {
        return Vec::new();
    };
    for item in list.items_or_one() {
        if let Some(alias) = some_text(&item)
            && let Err(error) = Name::new(alias)
        {
            item.error(error.to_string());
        }
    }
    texts(&list).unwrap_or_default()
}

fn default_only(context: &Context<'_>) -> BTreeMap<Name, NetworkAttachment> {
    let Some((name, spec)) = context
        .networks
        .iter()
        .find(|(name, _)| name.as_str() == NETWORK_DEFAULT)
    else {
        return BTreeMap::new();
    };
    BTreeMap::from([(name.clone(), attachment(name, Some(spec), Vec::new(), context))])
}

/// What the top level says of the network goes with every service on it.
fn attachment(
    key: &Name,
    spec: Option<&NetworkSpec>,
    aliases: Vec<String>,
    context: &Context<'_>,
) -> NetworkAttachment {
    let shared = spec.and_then(|network| network.shared_name.as_ref());
    NetworkAttachment {
        aliases,
        network: context.cluster_name(key, shared),
        internal: spec.is_some_and(|network| network.internal),
        policy: spec.and_then(|network| network.policy.clone()),
    }
}

/// Whether the mode leaves the service on the application's network; modes that share a foreign one are refused.
fn joins_default(mode: &Cursor<'_>) -> bool {
    let Some(word) = some_text(mode) else { return true };
    match word.as_str() {
        "none" => false,
        "bridge" | "default" => {
            mode.warn(format!(
                "'{word}' has no effect: the service joins the application's default network"
            ));
            true
        }
        _ => {
            mode.error_with(
                format!("network_mode '{word}' is not supported yet"),
                "remove it: services reach each other by name; for a port of the node itself use ports with mode: host",
            );
            true
        }
    }
}
