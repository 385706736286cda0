//! Places that only exist because something was mounted on them: made by the runtime in the writable layer, and no part of what
//! the command did.
//!
//! As in BuildKit, what was missing before and is empty afterwards goes; a folder that was copied up only to hold it goes too.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use gantry_sys::path::open_in_root;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, fstat};
use rustix::fs::lgetxattr;

use crate::error::{BuildError, Result};
use crate::overlay::View;

/// What is mounted inside them hides what the layer has there.
const HIDDEN: &[&str] = &["/proc", "/sys", "/dev"];

/// See the module.
pub(super) struct Stubs {
    /// Missing before, relative to the root.
    missing: BTreeSet<PathBuf>,
    /// Folders that were there and hold a missing place, as they were.
    parents: Vec<(PathBuf, FileStat)>,
}

impl Stubs {
    /// Looks which of the targets, and of the folders above them, are missing in the tree.
    pub(super) fn before(tree: &View, targets: &[PathBuf]) -> Result<Self> {
        let mut stubs = Self {
            missing: BTreeSet::new(),
            parents: Vec::new(),
        };
        for target in targets {
            let is_hidden = HIDDEN
                .iter()
                .any(|hidden| target.starts_with(hidden) && target != Path::new(hidden));
            if !is_hidden {
                stubs.look(tree, target)?;
            }
        }
        Ok(stubs)
    }

    fn look(&mut self, tree: &View, target: &Path) -> Result<()> {
        let mut here = PathBuf::new();
        for part in target.components() {
            let Component::Normal(name) = part else { continue };
            let parent = here.clone();
            here.push(name);
            match open_in_root(tree, &here, OFlag::O_PATH, Mode::empty()) {
                Ok(_) => {}
                Err(nix::Error::ENOENT) => {
                    if !self.missing.contains(&parent) && !parent.as_os_str().is_empty() {
                        let folder = open_in_root(tree, &parent, OFlag::O_PATH, Mode::empty());
                        let stat = folder.and_then(fstat).map_err(BuildError::errno("examine", &parent))?;
                        self.parents.push((parent, stat));
                    }
                    self.missing.insert(here.clone());
                }
                Err(errno) => return Err(BuildError::errno("look up", &here)(errno)),
            }
        }
        Ok(())
    }

    /// Takes them out of the writable layer.
    pub(super) fn remove_from(&self, upper: &Path) -> Result<()> {
        // What lies deeper comes later in the order of paths.
        for place in self.missing.iter().rev() {
            let path = upper.join(place);
            remove_if_empty(&path).map_err(BuildError::io("remove", &path))?;
        }
        for (place, before) in self.parents.iter().rev() {
            let path = upper.join(place);
            restore(&path, before).map_err(BuildError::io("restore", &path))?;
        }
        Ok(())
    }
}

fn found(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove_if_empty(path: &Path) -> io::Result<()> {
    let Some(metadata) = found(path)? else { return Ok(()) };
    if metadata.is_file() && metadata.len() == 0 {
        return fs::remove_file(path);
    }
    if metadata.is_dir() {
        remove_empty_folder(path)
    } else {
        Ok(())
    }
}

fn remove_empty_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        // The command has put something there.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        outcome => outcome,
    }
}

/// A folder that is in the layer for a stub alone goes; one that is there for more gets its time back, which the stub changed,
/// unless the command changed it later.
fn restore(path: &Path, before: &FileStat) -> io::Result<()> {
    let Some(metadata) = found(path)? else { return Ok(()) };
    let is_same = metadata.is_dir()
        && metadata.mode() == before.st_mode
        && (metadata.uid(), metadata.gid()) == (before.st_uid, before.st_gid);
    let is_opaque = lgetxattr(path, "trusted.overlay.opaque", &mut [0u8; 1][..]).is_ok();
    if is_same && !is_opaque {
        remove_empty_folder(path)
    } else {
        Ok(())
    }
}
