//! `build`: what makes a service's image. Paths come out absolute, on the client's machine.

use std::collections::BTreeMap;
use std::path::Path;

use gantry_model::spec::{BuildSecret, BuildSpec};

use super::environment::resolve;
use super::scalar::{boolean, labels, name, pairs, parsed, scalar, some_text, text, texts};
use super::{Context, container, keys, resolver};
use crate::yaml::cursor::Cursor;

/// What a build may be allowed to do, beyond the usual.
const ENTITLEMENT_INSECURE: &str = "security.insecure";
const ENTITLEMENT_NETWORK: &str = "network.host";

/// A folder or repository, or all about it.
pub(crate) fn build(at: &Cursor<'_>, context: &Context<'_>) -> Option<BuildSpec> {
    if !at.is_map() {
        return Some(BuildSpec {
            context: place(&some_text(at)?, &context.options.base_dir),
            ..BuildSpec::default()
        });
    }
    at.check_keys(keys::BUILD);
    let folder = at.read("context", some_text).unwrap_or_else(|| ".".to_string());
    let folder = place(&folder, &context.options.base_dir);
    let list = |key: &str| at.read(key, texts).unwrap_or_default();
    let flag = |key: &str| at.read(key, boolean).unwrap_or(false);
    let dockerfile = at.read("dockerfile", some_text);
    let inline = at.read("dockerfile_inline", text);
    if dockerfile.is_some() && inline.is_some() {
        at.error_key("'dockerfile' and 'dockerfile_inline' exclude each other", None);
    }
    check_attestations(at);
    Some(BuildSpec {
        dockerfile: dockerfile.map(|file| {
            if is_remote(&folder) {
                file
            } else {
                place(&file, Path::new(&folder))
            }
        }),
        dockerfile_inline: inline,
        target: at.read("target", some_text),
        args: at.read("args", |at| Some(arguments(at, context))).unwrap_or_default(),
        labels: at.read("labels", labels).unwrap_or_default(),
        tags: list("tags"),
        platforms: list("platforms"),
        network: at.read("network", network),
        pull: flag("pull"),
        no_cache: flag("no_cache"),
        cache_from: list("cache_from"),
        cache_to: list("cache_to"),
        additional_contexts: at
            .read("additional_contexts", |at| Some(further(at, context)))
            .unwrap_or_default(),
        secrets: at.read("secrets", |at| Some(secrets(at, context))).unwrap_or_default(),
        ssh: at.read("ssh", |at| Some(ssh(at))).unwrap_or_default(),
        extra_hosts: at
            .read("extra_hosts", |at| Some(resolver::extra_hosts(at)))
            .unwrap_or_default(),
        shm_size: at.read("shm_size", parsed),
        ulimits: at
            .read("ulimits", |at| Some(container::ulimits(at)))
            .unwrap_or_default(),
        privileged: flag("privileged") | is_insecure(at),
        context: folder,
    })
}

/// Whether it is no folder of this machine.
pub(crate) fn is_remote(place: &str) -> bool {
    place.contains("://")
        || ["git@", "github.com/", "service:"]
            .iter()
            .any(|start| place.starts_with(start))
}

/// A folder made absolute; a repository or another image as it is.
fn place(text: &str, base: &Path) -> String {
    if is_remote(text) {
        return text.to_string();
    }
    resolve(text, base).to_string_lossy().into_owned()
}

/// A name alone takes the value of the environment.
fn arguments(at: &Cursor<'_>, context: &Context<'_>) -> BTreeMap<String, Option<String>> {
    let known = |name: &str| context.environment.get(name).cloned();
    let pairs = pairs(at).into_iter();
    pairs
        .map(|(name, value)| {
            let value = value.or_else(|| known(&name));
            (name, value)
        })
        .collect()
}

fn further(at: &Cursor<'_>, context: &Context<'_>) -> BTreeMap<String, String> {
    let mut contexts = BTreeMap::new();
    for (name, value) in pairs(at) {
        match value.filter(|value| !value.is_empty()) {
            Some(value) => {
                contexts.insert(name, place(&value, &context.options.base_dir));
            }
            None => at.error_with(
                format!("the context '{name}' has no value"),
                "write NAME=FOLDER, NAME=docker-image://IMAGE or NAME=service:SERVICE",
            ),
        }
    }
    contexts
}

fn network(at: &Cursor<'_>) -> Option<String> {
    let word = some_text(at)?;
    if !["default", "host", "none"].contains(&word.as_str()) {
        at.error_with(
            format!("builds cannot join the network '{word}'"),
            "use default, host or none: networks of the cluster exist only for its services",
        );
    }
    Some(word)
}

/// `ID`, `ID=PATH`, or `ID: PATH`.
fn ssh(at: &Cursor<'_>) -> Vec<String> {
    if !at.is_map() {
        return texts(at).unwrap_or_default();
    }
    let pairs = pairs(at).into_iter();
    pairs
        .map(|(id, path)| match path.filter(|path| !path.is_empty()) {
            Some(path) => format!("{id}={path}"),
            None => id,
        })
        .collect()
}

fn is_insecure(at: &Cursor<'_>) -> bool {
    let Some(list) = at.get("entitlements") else {
        return false;
    };
    let mut insecure = false;
    for item in list.items_or_one() {
        match some_text(&item).as_deref() {
            Some(ENTITLEMENT_INSECURE) => insecure = true,
            Some(ENTITLEMENT_NETWORK) | None => {}
            Some(other) => item.error_with(
                format!("'{other}' is not an entitlement"),
                format!("use {ENTITLEMENT_INSECURE} or {ENTITLEMENT_NETWORK}"),
            ),
        }
    }
    insecure
}

/// Attestations are not made: asking for none is fine.
fn check_attestations(at: &Cursor<'_>) {
    for key in ["provenance", "sbom"] {
        if let Some(wanted) = at.get(key)
            && let Some(scalar) = scalar(&wanted)
            && !["false", "no", "off"].contains(&scalar.text.as_str())
        {
            wanted.warn(format!(
                "'{key}' has no effect: no attestation is attached to the image"
            ));
        }
    }
}

/// Secrets of the top level, by name, or with the id that the Dockerfile has for them.
fn secrets(at: &Cursor<'_>, context: &Context<'_>) -> Vec<BuildSecret> {
    let secret = |item: &Cursor<'_>| {
        let mut target = None;
        if item.is_map() {
            item.check_keys(keys::DATA_MOUNT);
            target = item.read("target", some_text);
            if item.get("source").is_none() {
                item.error("'source' is missing");
                return None;
            }
        }
        let shown = item.get("source").unwrap_or(*item);
        let name = name(&shown)?;
        let is_known = context.secrets.contains(&name);
        if !Context::declared(&shown, "secret", &name, is_known, context.secrets.iter()) {
            return None;
        }
        let Some((file, environment)) = context.secret_sources.get(&name) else {
            shown.error_with(
                format!("secret '{name}' has neither a file nor a variable that a build could read"),
                "declare it with file: or environment:",
            );
            return None;
        };
        Some(BuildSecret {
            id: target.unwrap_or_else(|| name.to_string()),
            file: file.clone(),
            environment: environment.clone(),
        })
    };
    at.items().iter().filter_map(secret).collect()
}

/// Where this machine has the secrets of the top level.
pub(crate) fn secret_sources(at: &Cursor<'_>, base: &Path) -> super::SecretSources {
    let source = |entry: &Cursor<'_>| {
        let text_of = |key: &str| {
            entry
                .get(key)
                .filter(|at| !at.is_map() && !at.is_list())
                .as_ref()
                .and_then(text)
        };
        let file = text_of("file").map(|file| resolve(&file, base).to_string_lossy().into_owned());
        let environment = text_of("environment");
        let name = gantry_model::Name::new(entry.key()).ok()?;
        (file.is_some() || environment.is_some()).then_some((name, (file, environment)))
    };
    at.all_entries().iter().filter_map(source).collect()
}
