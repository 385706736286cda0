//! Places below an untrusted root, found by the kernel with `openat2(RESOLVE_IN_ROOT)`.
//!
//! **Invariant:** a [`Place`] is an open folder inside the root and one plain name in it; operations on it never follow a link
//! at that name. The root is private to one unpacking thread until it is renamed to where others see it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat,
    chownat, linkat, lsetxattr, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

/// Marks a folder whose lower layers' content is hidden (Linux, Documentation/filesystems/overlayfs.rst).
pub(crate) const XATTR_OPAQUE: &str = "trusted.overlay.opaque";
/// Mode of folders that members imply without listing them.
const IMPLIED_FOLDER_MODE: u32 = 0o755;
/// `openat2` gives EAGAIN when something was renamed anywhere meanwhile; the manual page says to try again.
const RESOLVE_ATTEMPTS: u32 = 64;

/// The parts of a member's path. Absolute paths start at the root; `..` may not climb above it.
pub(crate) fn clean(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or("its path climbs out of the root")?;
            }
            _ => parts.push(part),
        }
    }
    Ok(parts)
}

/// The folder being filled.
pub(super) struct Root {
    folder: Rc<OwnedFd>,
    /// The last parent used: tars list a folder's members together.
    recent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Folders that members implied without listing them.
    folders_made: u64,
}

/// A name in an open folder.
pub(super) struct Place {
    folder: Rc<OwnedFd>,
    name: Vec<u8>,
}

impl Root {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self {
            folder: Rc::new(openat(CWD, path, flags, Mode::empty())?),
            recent: None,
            folders_made: 0,
        })
    }

    /// The root folder itself.
    pub(super) fn itself(&self) -> io::Result<Place> {
        Ok(Place {
            folder: Rc::clone(&self.folder),
            name: b".".to_vec(),
        })
    }

    /// Where `name` is or will be; parents that are missing are made.
    pub(super) fn place(&mut self, parent: &[&[u8]], name: &[u8]) -> io::Result<Place> {
        let path = parent.join(&b'/');
        let folder = match &self.recent {
            Some((recent, folder)) if *recent == path => Rc::clone(folder),
            _ => {
                let folder = Rc::new(self.open_or_make(parent)?);
                self.recent = Some((path, Rc::clone(&folder)));
                folder
            }
        };
        Ok(Place {
            folder,
            name: name.to_vec(),
        })
    }

    /// Where `name` is, without making parents.
    pub(super) fn existing_place(&self, parent: &[&[u8]], name: &[u8]) -> io::Result<Place> {
        Ok(Place {
            folder: Rc::new(self.open_folder(&parent.join(&b'/'))?),
            name: name.to_vec(),
        })
    }

    /// How many folders were made because members implied them.
    pub(super) const fn folders_made(&self) -> u64 {
        self.folders_made
    }

    /// Removes whatever is at the place, so that a member can take it; true when there was something.
    pub(super) fn clear(&mut self, place: &Place) -> io::Result<bool> {
        match place.file_type()? {
            None => return Ok(false),
            Some(FileType::Directory) => fs::remove_dir_all(place.proc_path())?,
            Some(_) => unlinkat(&place.folder, place.name(), AtFlags::empty())?,
        }
        // The cached parent may have been removed, or a link on the way to it.
        self.recent = None;
        Ok(true)
    }

    pub(super) fn set_folder_time(&self, path: &[u8], mtime: (i64, u32)) -> io::Result<()> {
        let folder = self.open_folder(path)?;
        Ok(rustix::fs::futimens(&folder, &timestamps(mtime))?)
    }

    fn open_or_make(&mut self, parts: &[&[u8]]) -> io::Result<OwnedFd> {
        match self.open_folder(&parts.join(&b'/')) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let mut folder = self.open_folder(b".")?;
        for depth in 1..=parts.len() {
            let path = parts[..depth].join(&b'/');
            folder = match self.open_folder(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let name = OsStr::from_bytes(parts[depth - 1]);
                    mkdirat(&folder, name, Mode::from_raw_mode(IMPLIED_FOLDER_MODE))?;
                    chmodat(
                        &folder,
                        name,
                        Mode::from_raw_mode(IMPLIED_FOLDER_MODE),
                        AtFlags::empty(),
                    )?;
                    self.folders_made += 1;
                    self.open_folder(&path)?
                }
                result => result?,
            };
        }
        Ok(folder)
    }

    fn open_folder(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b".".as_slice() } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match openat2(&self.folder, OsStr::from_bytes(path), flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if attempts < RESOLVE_ATTEMPTS => {}
                result => return Ok(result?),
            }
        }
    }
}

impl Place {
    fn name(&self) -> &OsStr {
        OsStr::from_bytes(&self.name)
    }

    /// Another name in the same folder.
    pub(super) fn sibling(&self, name: &[u8]) -> Self {
        Self {
            folder: Rc::clone(&self.folder),
            name: name.to_vec(),
        }
    }

    /// A path for calls that have no `at` form; its last component is this place's name.
    fn proc_path(&self) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.folder.as_raw_fd())).join(self.name())
    }

    fn stat(&self) -> io::Result<Option<Stat>> {
        match statat(&self.folder, self.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn file_type(&self) -> io::Result<Option<FileType>> {
        Ok(self.stat()?.map(|stat| FileType::from_raw_mode(stat.st_mode)))
    }

    pub(super) fn is_whiteout(&self) -> io::Result<bool> {
        Ok(self.stat()?.is_some_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
        }))
    }

    pub(super) fn is_same_file(&self, other: &Self) -> io::Result<bool> {
        let id = |stat: Stat| (stat.st_dev, stat.st_ino);
        let (ours, theirs) = (self.stat()?.map(id), other.stat()?.map(id));
        Ok(ours.is_some() && ours == theirs)
    }

    pub(super) fn make_folder(&self) -> io::Result<()> {
        Ok(mkdirat(
            &self.folder,
            self.name(),
            Mode::from_raw_mode(IMPLIED_FOLDER_MODE),
        )?)
    }

    /// A new regular file, open for writing; only its owner may use it until its mode is set.
    pub(super) fn create_file(&self) -> io::Result<fs::File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(fs::File::from(openat(
            &self.folder,
            self.name(),
            flags,
            Mode::from_raw_mode(0o600),
        )?))
    }

    pub(super) fn make_symlink(&self, target: &[u8]) -> io::Result<()> {
        Ok(symlinkat(OsStr::from_bytes(target), &self.folder, self.name())?)
    }

    pub(super) fn make_node(&self, kind: FileType, major: u32, minor: u32) -> io::Result<()> {
        let device = rustix::fs::makedev(major, minor);
        Ok(mknodat(
            &self.folder,
            self.name(),
            kind,
            Mode::from_raw_mode(0o600),
            device,
        )?)
    }

    pub(super) fn make_whiteout(&self) -> io::Result<()> {
        self.make_node(FileType::CharacterDevice, 0, 0)
    }

    pub(super) fn link_to(&self, target: &Self) -> io::Result<()> {
        Ok(linkat(
            &target.folder,
            target.name(),
            &self.folder,
            self.name(),
            AtFlags::empty(),
        )?)
    }

    pub(super) fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        Ok(chownat(
            &self.folder,
            self.name(),
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Must not be called on a symbolic link: the kernel would follow it.
    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(chmodat(
            &self.folder,
            self.name(),
            Mode::from_raw_mode(mode),
            AtFlags::empty(),
        )?)
    }

    pub(super) fn set_time(&self, mtime: (i64, u32)) -> io::Result<()> {
        Ok(utimensat(
            &self.folder,
            self.name(),
            &timestamps(mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    pub(super) fn set_xattr(&self, name: &[u8], value: &[u8]) -> io::Result<()> {
        Ok(lsetxattr(
            self.proc_path(),
            OsStr::from_bytes(name),
            value,
            XattrFlags::empty(),
        )?)
    }

    pub(super) fn set_opaque(&self) -> io::Result<()> {
        Ok(lsetxattr(self.proc_path(), XATTR_OPAQUE, b"y", XattrFlags::empty())?)
    }

    pub(super) fn parent_set_opaque(&self) -> io::Result<()> {
        self.sibling(b".").set_opaque()
    }
}

/// Access time is set alike: layers are read-only and mounted without it.
pub(super) const fn timestamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos as _,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(clean(b"/a/./b//c/../d/"), Ok(vec![b"a".as_slice(), b"b", b"d"]));
        assert_eq!(clean(b"./"), Ok(vec![]));
        for path in [b"..".as_slice(), b"/..", b"a/../../b", b"../etc/passwd"] {
            assert!(clean(path).is_err(), "{path:?}");
        }
    }
}
