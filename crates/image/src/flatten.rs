//! `Store::export`: the file system of an image as one tar, all its layers on top of each other, as `docker export` gives that of
//! a container.
//!
//! The layers are merged here rather than by mounting them, so it needs no mount and leaves none behind.
//! **Invariant:** a name shows what the topmost layer that has it says: a whiteout hides it in all layers below, an opaque folder
//! hides the content of those below.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use gantry_model::Digest;

use crate::diff::write_entries;
use crate::error::{ImageError, Result};
use crate::store::Store;
use crate::unpack::XATTR_OPAQUE;

/// The number of the layer that shows each path.
type Shown = BTreeMap<Vec<u8>, usize>;

impl Store {
    /// Writes the image's files as one plain tar. The same image makes the same bytes.
    ///
    /// # Errors
    /// When the image is not here or cannot be unpacked, or when `sink` fails.
    pub fn export(&self, digest: Digest, sink: impl Write) -> Result<()> {
        let layers: Vec<PathBuf> = self.unpack(digest)?;
        let mut shown = Shown::new();
        // The lowest layer comes last.
        for (number, layer) in layers.iter().enumerate().rev() {
            lay_over(&mut shown, layer, number).map_err(ImageError::io("read", layer))?;
        }
        let entries = shown.iter().map(|(path, number)| (path.as_slice(), *number));
        write_entries(&layers, entries, sink).map(drop)
    }
}

/// Lays a layer over those below it.
fn lay_over(shown: &mut Shown, layer: &Path, number: usize) -> io::Result<()> {
    let mut pending = vec![Vec::new()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(layer.join(std::ffi::OsStr::from_bytes(&folder)))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let mut path = folder.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.file_name().as_bytes());
            if kind.is_dir() {
                if is_opaque(&entry.path())? {
                    hide_below(shown, &path);
                }
                pending.push(path.clone());
            } else {
                hide_below(shown, &path);
            }
            if kind.is_char_device() && entry.metadata()?.rdev() == 0 {
                shown.remove(&path);
            } else {
                shown.insert(path, number);
            }
        }
    }
    Ok(())
}

/// Removes everything in the folder at this path.
fn hide_below(shown: &mut Shown, path: &[u8]) {
    let inside = [path, b"/"].concat();
    let hidden: Vec<_> = shown
        .range(inside.clone()..)
        .take_while(|(path, _)| path.starts_with(&inside))
        .map(|(path, _)| path.clone())
        .collect();
    for path in hidden {
        shown.remove(&path);
    }
}

fn is_opaque(path: &Path) -> io::Result<bool> {
    let mut value = [0; 2];
    match rustix::fs::lgetxattr(path, XATTR_OPAQUE, &mut value[..]) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
