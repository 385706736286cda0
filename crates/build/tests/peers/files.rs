//! The files of an image as one tree, and how two of them differ.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use gantry_model::build::BuildOutputKind;
use sha2::{Digest as _, Sha256};

use crate::support::Lab;

/// A file as both engines must have it; times are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    kind: tar::EntryType,
    mode: u32,
    uid: u64,
    gid: u64,
    target: String,
    content: String,
}

pub struct Files(BTreeMap<String, Entry>);

impl Files {
    /// Of an image of the store, all layers in one.
    pub fn of(lab: &Lab, name: &str) -> Self {
        let mut request = lab.request.clone();
        request.output = BuildOutputKind::Tar;
        // As copied files: triggers of the image must not run.
        request.dockerfile = format!("FROM scratch\nCOPY --from={name} / /\n");
        let person = std::sync::Arc::new(lab.person());
        let client = std::sync::Arc::clone(&person) as std::sync::Arc<dyn gantry_build::Client>;
        let cancel = gantry_build::Cancel::new().expect("event");
        let built = lab.builder.build(&request, client, &cancel);
        built.unwrap_or_else(|problem| panic!("the files of {name}: {problem}"));
        let seen = std::mem::take(&mut *person.seen.lock().expect("lock"));
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(&seen.output[..]).entries().expect("tar") {
            let mut entry = entry.expect("entry");
            let path = format!("/{}", entry.path().expect("path").display());
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("reads");
            let header = entry.header();
            let target = entry
                .link_name()
                .expect("link")
                .map(|link| link.display().to_string())
                .unwrap_or_default();
            let found = Entry {
                kind: header.entry_type(),
                mode: header.mode().expect("mode") & 0o7777,
                uid: header.uid().expect("uid"),
                gid: header.gid().expect("gid"),
                target,
                content: Sha256::digest(&content)
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect(),
            };
            files.insert(path.trim_end_matches('/').to_string(), found);
        }
        Self(files)
    }
}

/// What is not the same. Contents of volatile files do not count.
pub fn differences(ours: &Files, theirs: &Files, volatile: &[&str], buildkit: bool) -> Vec<String> {
    let paths: BTreeSet<&String> = ours.0.keys().chain(theirs.0.keys()).collect();
    let mut found = Vec::new();
    for path in paths {
        let is_volatile = volatile.iter().any(|part| path.contains(part));
        match (ours.0.get(path), theirs.0.get(path)) {
            (Some(one), Some(other)) => {
                let mut other = other.clone();
                if is_volatile {
                    other.content.clone_from(&one.content);
                }
                if *one != other {
                    found.push(format!("{path}: {one:?} here, {other:?} there"));
                }
            }
            (Some(_), None) if !is_volatile => found.push(format!("{path}: only here")),
            (None, Some(_)) if !is_volatile && (buildkit || !is_stub(path)) => {
                found.push(format!("{path}: only there"))
            }
            _ => {}
        }
    }
    found
}

/// Docker's first builder leaves mount points behind.
fn is_stub(path: &str) -> bool {
    [
        "/dev",
        "/proc",
        "/sys",
        "/etc",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/etc/hostname",
        "/etc/mtab",
        "/.dockerenv",
    ]
    .contains(&path)
        || path.starts_with("/dev/")
}
