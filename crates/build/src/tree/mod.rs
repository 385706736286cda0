//! Where `COPY`, `ADD` and mounts take from: a context by its list of entries, or the root of layers.
//!
//! Paths are relative to the tree's root, `""` is the root itself, and every component but the last is a folder, never a link:
//! [`resolve`] makes such paths.

mod context;
mod digest;
mod glob;
mod root;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use gantry_model::Digest;

use crate::error::Result;

pub(crate) use context::ContextTree;
pub(crate) use digest::{digest_picked, digest_subtree};
pub(crate) use glob::{Picked, pick};
pub(crate) use root::RootTree;

/// Most symbolic links that are followed on the way to one place, as in the kernel (`path_resolution(7)`).
const LINKS_MAX: u32 = 40;

/// Something in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: NodeKind,
    /// Without the kind.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) mtime: (i64, i64),
    /// Names the file among those of its tree, when it has several names.
    pub(crate) link: Option<(u64, u64)>,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeKind {
    Folder,
    File {
        size: u64,
        /// Where it is known without reading.
        digest: Option<Digest>,
    },
    Link(PathBuf),
    /// A device or a pipe, as `mknod(2)` takes it.
    Special {
        format: u32,
        device: u64,
    },
    /// Never copied.
    Socket,
}

impl Node {
    pub(crate) const fn is_folder(&self) -> bool {
        matches!(self.kind, NodeKind::Folder)
    }
}

/// A tree to read from.
pub(crate) trait Tree: Send + Sync {
    /// What is at the path; links are not followed.
    fn node(&self, path: &Path) -> Result<Option<Node>>;

    /// Names in a folder, sorted.
    fn names(&self, path: &Path) -> Result<Vec<OsString>>;

    /// Opens a file.
    fn open(&self, path: &Path) -> Result<File>;

    /// Extended attributes that images keep, sorted.
    fn attributes(&self, path: &Path) -> Result<Vec<(OsString, Vec<u8>)>>;

    /// Contents that must come before the files can be opened.
    fn wanted(&self, path: &Path, into: &mut Vec<Digest>) -> Result<()>;

    /// What it is called in messages.
    fn place(&self) -> String;
}

/// Follows the links on the way to a path, and at its end if asked. None when it leads nowhere.
pub(crate) fn resolve(tree: &dyn Tree, path: &Path, follow_last: bool) -> Result<Option<PathBuf>> {
    let mut found = PathBuf::new();
    let mut pending: Vec<OsString> = reversed(path);
    let mut links = 0;
    while let Some(part) = pending.pop() {
        if part == ".." {
            found.pop();
            continue;
        }
        let here = found.join(&part);
        let Some(node) = tree.node(&here)? else { return Ok(None) };
        let is_last = pending.is_empty();
        match node.kind {
            NodeKind::Link(target) if !is_last || follow_last => {
                links += 1;
                if links > LINKS_MAX {
                    return Ok(None);
                }
                if target.is_absolute() {
                    found = PathBuf::new();
                }
                pending.extend(reversed(&target));
            }
            NodeKind::Folder => found = here,
            _ if is_last => found = here,
            _ => return Ok(None),
        }
    }
    Ok(Some(found))
}

fn reversed(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_os_string()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts
}

/// Attributes that belong to the file, not to where it lies.
fn is_kept_attribute(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}
