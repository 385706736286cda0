//! `include`: other projects as parts of this one, each with a folder and variables of its own.

use std::path::{Path, PathBuf};

use super::build::is_remote;
use super::environment::resolve;
use super::rebase::rebase;
use super::scalar::{some_text, texts};
use super::sources::{Environment, Sources};
use super::{inherit, keys};
use crate::env_file::env_file;
use crate::limits::INCLUDE_DEPTH_MAX;
use crate::yaml::cursor::Cursor;
use crate::yaml::merge::{drop_resets, merge};
use crate::yaml::tree::{Entry, Node, Value};

/// What an included project brings in.
const SECTIONS: [&str; 5] = ["services", "networks", "volumes", "configs", "secrets"];

/// One entry of `include`.
struct Included {
    paths: Vec<PathBuf>,
    folder: PathBuf,
    env_files: Option<Vec<PathBuf>>,
}

/// Puts into the tree what it includes. Whatever cannot be read has been reported.
pub(crate) fn include(root: &mut Node, folder: &Path, environment: &Environment, sources: &mut Sources<'_>) {
    below(root, folder, environment, sources, 0);
}

fn below(root: &mut Node, folder: &Path, environment: &Environment, sources: &mut Sources<'_>, depth: usize) {
    let mut brought = Vec::new();
    let at_root = Cursor::root(root, sources.sink);
    if let Some(list) = at_root.get("include") {
        for item in list.items() {
            if depth >= INCLUDE_DEPTH_MAX {
                item.error(format!(
                    "includes itself, or files are included more than {INCLUDE_DEPTH_MAX} deep"
                ));
                break;
            }
            if let Some(included) = included(&item, folder) {
                brought.extend(project(&item, &included, environment, sources, depth));
            }
        }
    }
    let Value::Map(entries) = &mut root.value else { return };
    entries.retain(|entry| entry.key != "include");
    for project in brought {
        import(entries, project, sources);
    }
}

fn included(at: &Cursor<'_>, folder: &Path) -> Option<Included> {
    let (paths, own_folder, env_files) = if at.is_map() {
        at.check_keys(keys::INCLUDE);
        let Some(paths) = at.read("path", texts) else {
            at.error("'path' is missing");
            return None;
        };
        (
            paths,
            at.read("project_directory", some_text),
            at.read("env_file", texts),
        )
    } else {
        (vec![some_text(at)?], None, None)
    };
    if let Some(remote) = paths.iter().find(|path| is_remote(path) || path.starts_with("oci:")) {
        at.error_with(
            format!("'{remote}' is not a file of this machine"),
            "get it first, and include the file",
        );
        return None;
    }
    let paths: Vec<PathBuf> = paths.iter().map(|path| resolve(path, folder)).collect();
    let of_first = || paths.first().and_then(|path| path.parent()).map(Path::to_path_buf);
    let own_folder = own_folder.map(|own| resolve(&own, folder)).or_else(of_first)?;
    let env_files = env_files.map(|files| files.iter().map(|file| resolve(file, folder)).collect());
    Some(Included {
        paths,
        folder: own_folder,
        env_files,
    })
}

/// The tree of an included project, which depends on its folder no more.
fn project(
    at: &Cursor<'_>,
    included: &Included,
    environment: &Environment,
    sources: &mut Sources<'_>,
    depth: usize,
) -> Option<Node> {
    let environment = variables(at, included, environment, sources)?;
    let mut tree: Option<Node> = None;
    for path in &included.paths {
        let root = sources.open(at, path, &environment)?;
        tree = Some(match tree {
            Some(earlier) => merge(earlier, root),
            None => root,
        });
    }
    let mut tree = tree?;
    Cursor::root(&tree, sources.sink).check_keys(keys::TOP);
    below(&mut tree, &included.folder, &environment, sources, depth + 1);
    inherit(&mut tree, &included.folder, &environment, sources)?;
    drop_resets(&mut tree);
    rebase(&mut tree, &included.folder);
    Some(tree)
}

/// Those of its env file, under those of the project around it.
fn variables(at: &Cursor<'_>, included: &Included, around: &Environment, sources: &Sources<'_>) -> Option<Environment> {
    let implied = vec![included.folder.join(".env")];
    let (paths, required) = match &included.env_files {
        Some(paths) => (paths, true),
        None => (&implied, false),
    };
    let mut environment = Environment::new();
    for path in paths {
        let bytes = match sources.files.read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => continue,
            Err(error) => {
                at.error(format!("cannot read '{}': {error}", path.display()));
                return None;
            }
        };
        match env_file(&String::from_utf8_lossy(&bytes), around) {
            Ok(variables) => environment.extend(variables.into_iter().filter_map(|(key, value)| Some((key, value?)))),
            Err(error) => {
                at.error(format!("'{}', {error}", path.display()));
                return None;
            }
        }
    }
    environment.extend(around.iter().map(|(key, value)| (key.clone(), value.clone())));
    Some(environment)
}

/// Adds what the project declares. What both declare must be the same.
fn import(entries: &mut Vec<Entry>, project: Node, sources: &Sources<'_>) {
    let Value::Map(brought) = project.value else { return };
    for section in brought
        .into_iter()
        .filter(|entry| SECTIONS.contains(&entry.key.as_str()))
    {
        let Some(own) = entries.iter_mut().find(|entry| entry.key == section.key) else {
            entries.push(section);
            continue;
        };
        match (&mut own.value.value, section.value.value) {
            (Value::Map(own), Value::Map(declared)) => {
                for entry in declared {
                    import_one(own, entry, &section.key, sources);
                }
            }
            (own @ Value::Null, declared) => *own = declared,
            (_, _) => {}
        }
    }
}

fn import_one(own: &mut Vec<Entry>, entry: Entry, section: &str, sources: &Sources<'_>) {
    let Some(known) = own.iter().find(|known| known.key == entry.key) else {
        own.push(entry);
        return;
    };
    if !same(&known.value, &entry.value) {
        let site = crate::diagnostic::Site {
            place: Some(known.key_place),
            path: format!("{section}.{}", known.key),
        };
        let help = "rename one of them, or change the included one in a further file given with -f";
        let message = format!("'{}' is declared by an included file already", known.key);
        sources.sink.error(&site, message, Some(help.to_string()));
    }
}

/// Whether two values mean the same, wherever they stand.
fn same(left: &Node, right: &Node) -> bool {
    match (&left.value, &right.value) {
        (Value::Null, Value::Null) => true,
        (Value::Scalar(left), Value::Scalar(right)) => left.text == right.text,
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Map(entries), Value::Map(others)) => {
            let found = |entry: &Entry| right.get(&entry.key).is_some_and(|other| same(&entry.value, other));
            entries.len() == others.len() && entries.iter().all(found)
        }
        (Value::Null | Value::Scalar(_) | Value::List(_) | Value::Map(_), _) => false,
    }
}
