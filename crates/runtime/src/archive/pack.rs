//! From a container's root to a tar stream.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gantry_sys::path::open_in_root;
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::libc::stat as Status;
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, major, minor};
use tar::{Builder, EntryType, Header};

use super::view::View;
use super::{CopyError, Found};

pub(super) fn examine(view: &View, path: &Path) -> Result<Found, CopyError> {
    let failed = |errno| CopyError::kernel("examine", path, errno);
    let found = open_in_root(&view.root, path, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty()).map_err(failed)?;
    let status = fstat(&found).map_err(failed)?;
    let is_link = kind_of(&status) == SFlag::S_IFLNK;
    Ok(Found {
        name: name_of(path).to_string_lossy().into_owned(),
        size: u64::try_from(status.st_size).unwrap_or(0),
        mode: status.st_mode,
        modified_s: status.st_mtime,
        link: if is_link {
            Some(PathBuf::from(readlinkat(&found, c"").map_err(failed)?))
        } else {
            None
        },
    })
}

/// The last part; the root has none but itself.
fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or(OsStr::new("."))
}

fn kind_of(status: &Status) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT
}

pub(super) fn pack(view: &View, path: &Path, stream: impl Write) -> Result<(), CopyError> {
    let failed = |errno| CopyError::kernel("open", path, errno);
    let mut packer = Packer {
        view,
        builder: Builder::new(stream),
        links: BTreeMap::new(),
    };
    let name = PathBuf::from(name_of(path));
    let outcome = match (path.parent(), path.file_name()) {
        (Some(parent), Some(last)) => {
            let folder = open_in_root(&view.root, parent, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty());
            let folder = folder.map_err(failed)?;
            let last = CString::new(last.as_bytes()).map_err(|_| failed(gantry_sys::Errno::EINVAL))?;
            if fstatat(&folder, last.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW).is_err() {
                return Err(failed(gantry_sys::Errno::ENOENT));
            }
            packer.entry(folder.as_fd(), &last, &name)
        }
        // The root, or a path that ends in `..`.
        _ => {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            let folder = open_in_root(&view.root, path, flags, Mode::empty()).map_err(failed)?;
            packer.folder(&folder, &name)
        }
    };
    outcome
        .and_then(|()| packer.builder.into_inner()?.flush())
        .map_err(CopyError::io("read", path))
}

struct Packer<'a, W: Write> {
    view: &'a View,
    builder: Builder<W>,
    /// Device and inode of files with several names, and the first that was packed.
    links: BTreeMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<'_, W> {
    fn entry(&mut self, folder: BorrowedFd<'_>, name: &CStr, shown: &Path) -> io::Result<()> {
        let status = match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            // Removed since it was listed.
            Err(gantry_sys::Errno::ENOENT) => return Ok(()),
            outcome => outcome?,
        };
        let kind = kind_of(&status);
        if kind == SFlag::S_IFDIR {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            return self.folder(&openat(folder, name, flags, Mode::empty())?, shown);
        }
        if self.is_packed(&status, shown)? {
            return Ok(());
        }
        let mut header = self.header(&status);
        if kind == SFlag::S_IFREG {
            // A fifo put in its place meanwhile must not make us wait.
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            let file = File::from(openat(folder, name, flags, Mode::empty())?);
            let length = u64::try_from(status.st_size).unwrap_or(0);
            header.set_entry_type(EntryType::Regular);
            header.set_size(length);
            // The length stands in the stream already, so a file that shrinks meanwhile is filled up.
            return self
                .builder
                .append_data(&mut header, shown, file.chain(io::repeat(0)).take(length));
        }
        header.set_size(0);
        if kind == SFlag::S_IFLNK {
            header.set_entry_type(EntryType::Symlink);
            return self.builder.append_link(&mut header, shown, readlinkat(folder, name)?);
        }
        header.set_entry_type(match kind {
            SFlag::S_IFCHR => EntryType::Char,
            SFlag::S_IFBLK => EntryType::Block,
            SFlag::S_IFIFO => EntryType::Fifo,
            // A socket means nothing without its process.
            _ => return Ok(()),
        });
        if kind != SFlag::S_IFIFO {
            header.set_device_major(major(status.st_rdev) as u32)?;
            header.set_device_minor(minor(status.st_rdev) as u32)?;
        }
        self.builder.append_data(&mut header, shown, io::empty())
    }

    fn folder(&mut self, folder: &OwnedFd, shown: &Path) -> io::Result<()> {
        let mut header = self.header(&fstat(folder)?);
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        self.builder.append_data(&mut header, shown, io::empty())?;
        for name in names(folder)? {
            let shown = shown.join(OsStr::from_bytes(name.to_bytes()));
            self.entry(folder.as_fd(), &name, &shown)?;
        }
        Ok(())
    }

    /// A further name of a file that is in the stream already.
    fn is_packed(&mut self, status: &Status, shown: &Path) -> io::Result<bool> {
        if status.st_nlink < 2 {
            return Ok(false);
        }
        let key = (status.st_dev, status.st_ino);
        let Some(first) = self.links.get(&key).cloned() else {
            self.links.insert(key, shown.to_path_buf());
            return Ok(false);
        };
        let mut header = self.header(status);
        header.set_entry_type(EntryType::Link);
        header.set_size(0);
        self.builder.append_link(&mut header, shown, first)?;
        Ok(true)
    }

    fn header(&self, status: &Status) -> Header {
        let mut header = Header::new_gnu();
        let (uid, gid) = self.view.inside(status.st_uid, status.st_gid);
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mode(status.st_mode & 0o7777);
        header.set_mtime(u64::try_from(status.st_mtime).unwrap_or(0));
        header
    }
}

/// Sorted, so that the same tree gives the same stream.
fn names(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listing = Dir::openat(folder, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
