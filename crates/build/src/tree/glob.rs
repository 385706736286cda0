//! Sources of `COPY` as patterns: which places of a tree they name.
//!
//! Matching is Go's `filepath.Match`, component by component, as BuildKit does it; `**` stands for any number of folders.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Tree, resolve};
use crate::error::{BuildError, Result};

/// A place that a source names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picked {
    /// Where it is, links followed.
    pub(crate) path: PathBuf,
    /// As it was named, from the tree's root on: the last component is its name at the destination.
    pub(crate) name: PathBuf,
    /// How much of `name` is kept with `--parents`: everything from this component on.
    pub(crate) kept_from: usize,
}

impl Picked {
    /// The part of its name that `--parents` keeps.
    pub(crate) fn kept(&self) -> PathBuf {
        self.name.components().skip(self.kept_from).collect()
    }
}

/// What a source names, in order of names. A name without wildcards must be there; a pattern may name nothing.
pub(crate) fn pick(tree: &dyn Tree, source: &str) -> Result<Vec<Picked>> {
    let kept_from = source.find("/./").map_or(0, |at| parts(&source[..at]).len());
    let parts = parts(source);
    let mut found = vec![PathBuf::new()];
    for part in &parts {
        let mut next = Vec::new();
        for place in found {
            expand(tree, &place, part, &mut next)?;
        }
        next.sort();
        next.dedup();
        found = next;
    }
    let has_wildcards = parts.iter().any(|part| is_pattern(part));
    let mut picked = Vec::new();
    for name in found {
        match resolve(tree, &name, true)? {
            Some(path) => picked.push(Picked { path, name, kept_from }),
            None if has_wildcards => {}
            None => return Err(not_found(tree, source)),
        }
    }
    Ok(picked)
}

fn not_found(tree: &dyn Tree, source: &str) -> BuildError {
    BuildError::NotFound {
        path: format!("/{source}"),
        place: tree.place(),
    }
}

fn parts(source: &str) -> Vec<&str> {
    source
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect()
}

fn is_pattern(part: &str) -> bool {
    part.contains(['*', '?', '[', '\\'])
}

fn expand(tree: &dyn Tree, place: &Path, part: &str, next: &mut Vec<PathBuf>) -> Result<()> {
    if part == "**" {
        next.push(place.to_path_buf());
        return descend(tree, place, next);
    }
    if part == ".." {
        next.push(place.parent().unwrap_or(Path::new("")).to_path_buf());
        return Ok(());
    }
    if !is_pattern(part) {
        next.push(place.join(part));
        return Ok(());
    }
    for name in names(tree, place)? {
        if matches(part.as_bytes(), name.as_bytes()) {
            next.push(place.join(name));
        }
    }
    Ok(())
}

fn names(tree: &dyn Tree, place: &Path) -> Result<Vec<OsString>> {
    let Some(folder) = resolve(tree, place, true)? else {
        return Ok(Vec::new());
    };
    match tree.node(&folder)? {
        Some(node) if node.is_folder() => tree.names(&folder),
        _ => Ok(Vec::new()),
    }
}

/// All folders below, links not followed: they may lead back.
fn descend(tree: &dyn Tree, place: &Path, next: &mut Vec<PathBuf>) -> Result<()> {
    for name in names(tree, place)? {
        let below = place.join(name);
        if tree.node(&below)?.is_some_and(|node| node.is_folder()) {
            next.push(below.clone());
            descend(tree, &below, next)?;
        }
    }
    Ok(())
}

/// Go's `filepath.Match` of one component.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.first() {
        None => name.is_empty(),
        Some(b'*') => (0..=name.len()).any(|skipped| matches(&pattern[1..], &name[skipped..])),
        Some(b'?') => first_char(name).is_some_and(|length| matches(&pattern[1..], &name[length..])),
        Some(b'[') => match_class(pattern, name),
        Some(b'\\') if pattern.len() > 1 => name.first() == Some(&pattern[1]) && matches(&pattern[2..], &name[1..]),
        Some(byte) => name.first() == Some(byte) && matches(&pattern[1..], &name[1..]),
    }
}

fn first_char(name: &[u8]) -> Option<usize> {
    let first = *name.first()?;
    let length = match first {
        0xC0..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF7 => 4,
        _ => 1,
    };
    Some(length.min(name.len()))
}

/// `[a-z]`, `[^a-z]`; one that does not end matches nothing.
fn match_class(pattern: &[u8], name: &[u8]) -> bool {
    let Some(byte) = name.first() else { return false };
    let is_negated = pattern.get(1) == Some(&b'^');
    let mut at = if is_negated { 2 } else { 1 };
    let (mut is_in, mut count) = (false, 0);
    loop {
        match pattern.get(at) {
            None => return false,
            Some(b']') if count > 0 => break,
            Some(_) => {}
        }
        let Some((low, after)) = class_member(pattern, at) else {
            return false;
        };
        at = after;
        let mut high = low;
        if pattern.get(at) == Some(&b'-') {
            let Some((end, after)) = class_member(pattern, at + 1) else {
                return false;
            };
            (high, at) = (end, after);
        }
        is_in |= (low..=high).contains(byte);
        count += 1;
    }
    is_in != is_negated && matches(&pattern[at + 1..], &name[1..])
}

fn class_member(pattern: &[u8], at: usize) -> Option<(u8, usize)> {
    match pattern.get(at)? {
        b'\\' => Some((*pattern.get(at + 1)?, at + 2)),
        byte => Some((*byte, at + 1)),
    }
}

/// The name that something gets at its destination.
pub(crate) fn base_name(name: &Path) -> Option<&OsStr> {
    name.file_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_go() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("a?c", "abc", true),
            ("a?c", "aäc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[]a]", "]", true),
            ("[a", "a", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }
}
