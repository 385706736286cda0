//! A context as its list of entries; contents are files of [`Contents`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use gantry_model::build::{ContextEntry, ContextEntryKind};
use gantry_model::{Class, Digest, Problem};

use super::{Node, NodeKind, Tree};
use crate::contents::Contents;
use crate::error::Result;

/// See the module.
pub(crate) struct ContextTree {
    name: String,
    nodes: BTreeMap<PathBuf, Node>,
    names: BTreeMap<PathBuf, BTreeSet<OsString>>,
    contents: Arc<Contents>,
}

impl ContextTree {
    /// Takes the client's list for hostile: paths that lead out, or lie in what is no folder, are refused.
    pub(crate) fn new(name: &str, entries: Vec<ContextEntry>, contents: Arc<Contents>) -> Result<Self> {
        let mut tree = Self {
            name: name.to_string(),
            nodes: BTreeMap::from([(PathBuf::new(), root())]),
            names: BTreeMap::new(),
            contents,
        };
        for entry in entries {
            tree.insert(entry)?;
        }
        Ok(tree)
    }

    fn insert(&mut self, entry: ContextEntry) -> Result<()> {
        let path = PathBuf::from(&entry.path);
        let wrong = |reason: &str| Problem::new(Class::Invalid, format!("context entry {:?}", entry.path), reason);
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        let (Some(name), Some(parent), true) = (path.file_name(), path.parent(), is_plain) else {
            return Err(wrong("is no path below the context").into());
        };
        if !self.nodes.get(parent).is_some_and(Node::is_folder) {
            return Err(wrong("does not come after its folder").into());
        }
        let kind = match &entry.kind {
            ContextEntryKind::Folder => NodeKind::Folder,
            ContextEntryKind::File { digest, size } => NodeKind::File {
                size: *size,
                digest: Some(digest.parse().map_err(|error| wrong(&format!("{error}")))?),
            },
            ContextEntryKind::Link { target } => NodeKind::Link(PathBuf::from(target)),
        };
        self.names
            .entry(parent.to_path_buf())
            .or_default()
            .insert(name.to_os_string());
        let node = Node {
            kind,
            mode: entry.mode & 0o7777,
            uid: entry.uid,
            gid: entry.gid,
            mtime: (
                entry.mtime_ns.div_euclid(1_000_000_000),
                entry.mtime_ns.rem_euclid(1_000_000_000),
            ),
            link: None,
        };
        self.nodes.insert(path, node);
        Ok(())
    }
}

const fn root() -> Node {
    Node {
        kind: NodeKind::Folder,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        link: None,
    }
}

impl Tree for ContextTree {
    fn node(&self, path: &Path) -> Result<Option<Node>> {
        Ok(self.nodes.get(path).cloned())
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        Ok(self
            .names
            .get(path)
            .map(|names| names.iter().cloned().collect())
            .unwrap_or_default())
    }

    fn open(&self, path: &Path) -> Result<File> {
        match self.nodes.get(path).map(|node| &node.kind) {
            Some(NodeKind::File {
                digest: Some(digest), ..
            }) => self.contents.open_content(*digest),
            _ => Err(Problem::new(Class::Internal, path.display().to_string(), "is no file of the context").into()),
        }
    }

    fn attributes(&self, _path: &Path) -> Result<Vec<(OsString, Vec<u8>)>> {
        Ok(Vec::new())
    }

    fn wanted(&self, path: &Path, into: &mut Vec<Digest>) -> Result<()> {
        // Everything below a folder follows it in order of paths, with few others in between.
        for (_, node) in self
            .nodes
            .range(path.to_path_buf()..)
            .take_while(|(found, _)| found.starts_with(path))
        {
            if let NodeKind::File {
                size,
                digest: Some(digest),
            } = node.kind
                && !self.contents.has(digest, size)
            {
                into.push(digest);
            }
        }
        Ok(())
    }

    fn place(&self) -> String {
        match self.name.as_str() {
            "" => "the build context".to_string(),
            name => format!("the build context {name:?}"),
        }
    }
}
