//! Relative paths of a manifest in another folder, made absolute before it becomes part of this one.

use std::path::Path;

use super::build::is_remote;
use super::environment::resolve;
use crate::yaml::tree::{Node, Value};

/// Makes the paths of a whole manifest absolute.
pub(crate) fn rebase(root: &mut Node, folder: &Path) {
    for section in ["configs", "secrets"] {
        for declared in values(root, section) {
            field(declared, "file", |at| text(at, |path| absolute(path, folder)));
        }
    }
    for service in values(root, "services") {
        rebase_service(service, folder);
    }
}

/// Makes the paths of one service absolute.
pub(crate) fn rebase_service(service: &mut Node, folder: &Path) {
    let whole = |path: &str| absolute(path, folder);
    field(service, "build", |build| {
        let has_context = build.get("context").is_some();
        text(build, whole);
        if let (Value::Map(entries), false) = (&mut build.value, has_context) {
            let place = build.place;
            let folder = Value::Scalar(crate::yaml::tree::Scalar {
                text: folder.to_string_lossy().into_owned(),
                plain: false,
            });
            entries.push(crate::yaml::tree::Entry {
                key: "context".to_string(),
                key_place: place,
                value: Node::new(folder, place),
            });
        } else {
            field(build, "context", |at| text(at, whole));
        }
        field(build, "additional_contexts", |at| {
            each(at, |item| text(item, |path| after(path, '=', whole)));
        });
    });
    for key in ["env_file", "label_file"] {
        field(service, key, |files| {
            text(files, whole);
            each(files, |item| {
                text(item, whole);
                field(item, "path", |at| text(at, whole));
            });
        });
    }
    field(service, "volumes", |volumes| {
        each(volumes, |item| {
            text(item, |volume| before_colon(volume, folder));
            let is_bind =
                matches!(item.get("type"), Some(Node { value: Value::Scalar(kind), .. }) if kind.text == "bind");
            if is_bind {
                field(item, "source", |at| text(at, whole));
            }
        });
    });
    field(service, "extends", |extends| {
        field(extends, "file", |at| text(at, whole))
    });
    field(service, "security_opt", |options| {
        each(options, |item| {
            text(item, |option| {
                let profile = option
                    .strip_prefix("seccomp")
                    .and_then(|rest| rest.strip_prefix([':', '=']));
                match profile {
                    Some(file) if file != "unconfined" => Some(format!("seccomp:{}", absolute(file, folder)?)),
                    Some(_) | None => None,
                }
            });
        });
    });
}

/// Nothing for what is no path of this folder.
fn absolute(path: &str, folder: &Path) -> Option<String> {
    if path.is_empty() || path.starts_with(['/', '~']) || is_remote(path) {
        return None;
    }
    Some(resolve(path, folder).to_string_lossy().into_owned())
}

/// The source of a short volume, if it is a path.
fn before_colon(volume: &str, folder: &Path) -> Option<String> {
    let (source, rest) = volume.split_once(':')?;
    let source = source.starts_with('.').then(|| absolute(source, folder)).flatten()?;
    Some(format!("{source}:{rest}"))
}

/// `NAME=PATH`, or a path alone, which is what a mapping has.
fn after(text: &str, separator: char, whole: impl Fn(&str) -> Option<String>) -> Option<String> {
    match text.split_once(separator) {
        Some((name, path)) => whole(path).map(|path| format!("{name}{separator}{path}")),
        None => whole(text),
    }
}

fn text(node: &mut Node, change: impl Fn(&str) -> Option<String>) {
    if let Value::Scalar(scalar) = &mut node.value
        && let Some(changed) = change(&scalar.text)
    {
        scalar.text = changed;
    }
}

fn field(node: &mut Node, key: &str, change: impl FnOnce(&mut Node)) {
    if let Value::Map(entries) = &mut node.value
        && let Some(entry) = entries.iter_mut().find(|entry| entry.key == key)
    {
        change(&mut entry.value);
    }
}

/// The items of a list, or the values of a mapping.
fn each(node: &mut Node, change: impl FnMut(&mut Node)) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(change),
        Value::Map(entries) => entries.iter_mut().map(|entry| &mut entry.value).for_each(change),
        Value::Null | Value::Scalar(_) => {}
    }
}

fn values<'n>(root: &'n mut Node, section: &str) -> Vec<&'n mut Node> {
    let Value::Map(entries) = &mut root.value else {
        return Vec::new();
    };
    match entries
        .iter_mut()
        .find(|entry| entry.key == section)
        .map(|entry| &mut entry.value.value)
    {
        Some(Value::Map(declared)) => declared.iter_mut().map(|entry| &mut entry.value).collect(),
        Some(Value::Null | Value::Scalar(_) | Value::List(_)) | None => Vec::new(),
    }
}
