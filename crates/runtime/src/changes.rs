//! What a container has changed in its root: its writable layer, compared with the layers below.
//!
//! Overlayfs marks in the upper layer what is gone: a character device 0/0 for a file, an attribute of a folder for everything
//! that the folder had below (`Documentation/filesystems/overlayfs.rst`).

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use gantry_sys::path::{attribute_is, open_in_root};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::handle::read_record;
use crate::prepare::{ROOT_FILE, RootRecord};
use crate::{Handle, HandleError};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Absolute path inside the container.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// The image has it not.
    Added,
    /// The image has another.
    Changed,
    /// Only the image has it.
    Deleted,
}

impl Handle {
    /// What it has changed in its root, sorted by path; mounts and what was made for them do not count. Whether it runs or not.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn changes(&self) -> Result<Vec<FileChange>, HandleError> {
        let record: RootRecord = read_record(&self.bundle, ROOT_FILE)?.ok_or_else(|| HandleError::NotFound {
            path: self.bundle.clone(),
        })?;
        let upper = record.writable.join("upper");
        let mut walk = Walk {
            upper: &upper,
            record: &record,
            found: Vec::new(),
        };
        walk.folder(Path::new("/")).map_err(|source| HandleError::Io {
            act: "compare",
            path: upper.clone(),
            source,
        })?;
        let mut found = walk.found;
        found.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(found)
    }
}

struct Walk<'a> {
    upper: &'a Path,
    record: &'a RootRecord,
    found: Vec<FileChange>,
}

/// The same path below another root.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// What a folder below a root holds; no link leads out of that root, however it changes meanwhile.
fn list(root: &Path, folder: &Path) -> io::Result<fs::ReadDir> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(root, flags, Mode::empty())?;
    let folder = open_in_root(&root, folder, flags | OFlag::O_NOFOLLOW, Mode::empty())?;
    fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn is_opaque(folder: &Path) -> bool {
    attribute_is(folder, "trusted.overlay.opaque", b"y")
}

impl Walk<'_> {
    /// Everything in a folder of the upper layer.
    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        let place = below(self.upper, folder);
        let mut seen = BTreeSet::new();
        for entry in list(self.upper, folder)? {
            let entry = entry?;
            seen.insert(entry.file_name());
            self.entry(&folder.join(entry.file_name()), &entry.metadata()?)?;
        }
        if is_opaque(&place) {
            for name in self.names_in_image(folder)? {
                if !seen.contains(&name) {
                    self.add(&folder.join(name), ChangeKind::Deleted);
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        if is_whiteout(metadata) {
            self.add(path, ChangeKind::Deleted);
            return Ok(());
        }
        let in_image = self.in_image(path);
        if self.is_mount_point(path, metadata, in_image.is_some()) {
            return Ok(());
        }
        let before = self.found.len();
        let is_folder = metadata.is_dir();
        if is_folder {
            self.folder(path)?;
        }
        let has_changes_below = self.found.len() > before;
        match in_image {
            None if is_folder && !has_changes_below && self.leads_to_mount(path) => {}
            None => self.add(path, ChangeKind::Added),
            // Made on the way to a mount point below: nothing that a person would call a change.
            Some(image) if is_folder && image.is_dir() && !has_changes_below && self.leads_to_mount(path) => {
                let same = |one: &Metadata, other: &Metadata| {
                    (one.mode(), one.uid(), one.gid()) == (other.mode(), other.uid(), other.gid())
                };
                if !same(metadata, &image) {
                    self.add(path, ChangeKind::Changed);
                }
            }
            Some(_) => self.add(path, ChangeKind::Changed),
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, kind: ChangeKind) {
        self.found.push(FileChange {
            path: path.to_path_buf(),
            kind,
        });
    }

    /// What the layers below show at a path, the topmost first.
    fn in_image(&self, path: &Path) -> Option<Metadata> {
        'layers: for layer in &self.record.lower {
            let mut place = layer.clone();
            let mut is_opaque_above = false;
            let mut found = fs::symlink_metadata(&place).ok();
            // Only folders are gone into: a link of the image must not lead to a folder of the node.
            for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
                if found.as_ref().is_some_and(|metadata| !metadata.is_dir()) {
                    return None;
                }
                is_opaque_above |= is_opaque(&place);
                place.push(part);
                found = fs::symlink_metadata(&place).ok();
                match &found {
                    Some(metadata) if is_whiteout(metadata) => return None,
                    Some(_) => {}
                    None if is_opaque_above => return None,
                    None => continue 'layers,
                }
            }
            return found;
        }
        None
    }

    fn names_in_image(&self, folder: &Path) -> io::Result<BTreeSet<std::ffi::OsString>> {
        let mut names = BTreeSet::new();
        for layer in &self.record.lower {
            match list(layer, folder) {
                Ok(entries) => {
                    for entry in entries {
                        names.insert(entry?.file_name());
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(error) => return Err(error),
            }
        }
        names.retain(|name| self.in_image(&folder.join(name)).is_some());
        Ok(names)
    }

    /// An empty file or folder that was only made to be mounted on.
    fn is_mount_point(&self, path: &Path, metadata: &Metadata, is_in_image: bool) -> bool {
        let is_empty = if metadata.is_dir() {
            fs::read_dir(below(self.upper, path)).is_ok_and(|mut entries| entries.next().is_none())
        } else {
            metadata.is_file() && metadata.len() == 0
        };
        is_empty && !is_in_image && self.record.targets.iter().any(|target| target == path)
    }

    fn leads_to_mount(&self, path: &Path) -> bool {
        self.record.targets.iter().any(|target| target.starts_with(path))
    }
}
