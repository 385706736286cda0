//! The root of layers, read through a descriptor of it; nothing is looked up outside.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gantry_model::Digest;
use gantry_sys::path::open_in_root;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fstat};
use rustix::fs::{Dir, lgetxattr, llistxattr};
use rustix::io::Errno;

use super::{Node, NodeKind, Tree, is_kept_attribute};
use crate::error::{BuildError, Result};
use crate::overlay::View;

/// See the module.
pub(crate) struct RootTree {
    view: View,
    place: String,
}

impl RootTree {
    pub(crate) const fn new(view: View, place: String) -> Self {
        Self { view, place }
    }

    fn open_with(&self, path: &Path, flags: OFlag) -> Result<OwnedFd> {
        open_in_root(&self.view, path, flags, Mode::empty()).map_err(BuildError::errno("open", path))
    }

    fn proc_path(fd: &OwnedFd) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }
}

impl Tree for RootTree {
    fn node(&self, path: &Path) -> Result<Option<Node>> {
        let found = match open_in_root(&self.view, path, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty()) {
            Ok(found) => found,
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => return Ok(None),
            Err(errno) => return Err(BuildError::errno("look up", path)(errno)),
        };
        let stat = fstat(&found).map_err(BuildError::errno("examine", path))?;
        let format = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        let kind = match format {
            SFlag::S_IFDIR => NodeKind::Folder,
            SFlag::S_IFREG => NodeKind::File {
                size: u64::try_from(stat.st_size).unwrap_or(0),
                digest: None,
            },
            SFlag::S_IFLNK => {
                let target = nix::fcntl::readlinkat(&found, "").map_err(BuildError::errno("read link", path))?;
                NodeKind::Link(PathBuf::from(target))
            }
            SFlag::S_IFSOCK => NodeKind::Socket,
            format => NodeKind::Special {
                format: format.bits(),
                device: stat.st_rdev,
            },
        };
        let has_names = format != SFlag::S_IFDIR && stat.st_nlink > 1;
        Ok(Some(Node {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            link: has_names.then_some((stat.st_dev, stat.st_ino)),
        }))
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        let folder = self.open_with(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
        let entries = Dir::read_from(&folder).map_err(BuildError::os("list", path))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(BuildError::os("list", path))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_os_string());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, path: &Path) -> Result<File> {
        // Never waits for the other end of what has become a pipe.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        self.open_with(path, flags).map(File::from)
    }

    fn attributes(&self, path: &Path) -> Result<Vec<(OsString, Vec<u8>)>> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let folder = self.open_with(parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        let place = Self::proc_path(&folder).join(path.file_name().unwrap_or(OsStr::new(".")));
        let mut found = Vec::new();
        for name in listed(&place).map_err(BuildError::os("list attributes of", path))? {
            if is_kept_attribute(&name) {
                let value = attribute(&place, &name).map_err(BuildError::os("read attributes of", path))?;
                found.push((name, value));
            }
        }
        found.sort();
        Ok(found)
    }

    fn wanted(&self, _path: &Path, _into: &mut Vec<Digest>) -> Result<()> {
        Ok(())
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}

fn listed(place: &Path) -> rustix::io::Result<Vec<OsString>> {
    let mut list = vec![0u8; 1024];
    let length = loop {
        match llistxattr(place, &mut list[..]) {
            Err(Errno::RANGE) => list = vec![0; list.len() * 8],
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            outcome => break outcome?,
        }
    };
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsStr::from_bytes(name).to_os_string()).collect())
}

fn attribute(place: &Path, name: &OsStr) -> rustix::io::Result<Vec<u8>> {
    let mut value = vec![0; 256];
    loop {
        match lgetxattr(place, name, &mut value[..]) {
            Err(Errno::RANGE) => value = vec![0; value.len() * 8],
            Ok(length) => {
                value.truncate(length);
                return Ok(value);
            }
            Err(error) => return Err(error),
        }
    }
}
