//! `environment`, `env_file`, `label_file`: variables from the manifest and from files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::scalar::{boolean, choice, pairs, some_text};
use super::{Context, keys};
use crate::env_file::{env_file, raw_env_file};
use crate::yaml::cursor::Cursor;

type Variables = BTreeMap<String, Option<String>>;

/// A service's variables: those of its env files in order, then its own.
pub(crate) fn environment(service: &Cursor<'_>, context: &Context<'_>) -> Variables {
    let mut variables = Variables::new();
    if let Some(files) = service.get("env_file") {
        for item in files.items_or_one() {
            variables.extend(env_file_item(&item, context));
        }
    }
    if let Some(own) = service.get("environment") {
        for (name, value) in pairs(&own) {
            if name.is_empty() || name.contains(['=', '\0']) {
                own.error(format!("'{name}' is not a name of a variable"));
                continue;
            }
            let value = value.or_else(|| context.environment.get(&name).cloned());
            variables.insert(name, value);
        }
    }
    variables
}

/// Labels of `label_file`, which `labels` override.
pub(crate) fn label_files(service: &Cursor<'_>, context: &Context<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    if let Some(files) = service.get("label_file") {
        for item in files.items_or_one() {
            let variables = some_text(&item).map(|path| read_env(&item, &path, Format::Compose, true, context));
            let variables = variables.unwrap_or_default().into_iter();
            labels.extend(variables.map(|(key, value)| (key, value.unwrap_or_default())));
        }
    }
    labels
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Compose,
    Raw,
}

fn env_file_item(at: &Cursor<'_>, context: &Context<'_>) -> Variables {
    if !at.is_map() {
        let path = some_text(at);
        return path
            .map(|path| read_env(at, &path, Format::Compose, true, context))
            .unwrap_or_default();
    }
    at.check_keys(keys::ENV_FILE);
    let required = at.read("required", boolean).unwrap_or(true);
    let format = at
        .read("format", |at| choice(at, &[("raw", Format::Raw)]))
        .unwrap_or(Format::Compose);
    let Some(path) = at.get("path") else {
        at.error("'path' is missing");
        return Variables::new();
    };
    let text = some_text(&path);
    text.map(|text| read_env(&path, &text, format, required, context))
        .unwrap_or_default()
}

fn read_env(at: &Cursor<'_>, path: &str, format: Format, required: bool, context: &Context<'_>) -> Variables {
    let path = resolve(path, &context.options.base_dir);
    let bytes = match context.files.read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => return Variables::new(),
        Err(error) => {
            at.error(format!("cannot read '{}': {error}", path.display()));
            return Variables::new();
        }
    };
    let Ok(text) = String::from_utf8(bytes) else {
        at.error(format!("'{}' is not UTF-8 text", path.display()));
        return Variables::new();
    };
    let variables = match format {
        Format::Raw => Ok(raw_env_file(&text, context.environment)),
        Format::Compose => env_file(&text, context.environment),
    };
    variables.unwrap_or_else(|error| {
        at.error(format!("'{}', {error}", path.display()));
        Variables::new()
    })
}

/// A path of the manifest against the project's folder, without `.` and `..`.
pub(crate) fn resolve(path: &str, base: &Path) -> PathBuf {
    use std::path::Component;
    let mut resolved = PathBuf::new();
    for component in base.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                resolved.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => resolved.push(component),
        }
    }
    resolved
}
