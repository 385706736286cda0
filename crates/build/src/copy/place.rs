//! Making one thing in a folder that is held by descriptor, replacing what was there.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use gantry_sys::path::{Kind, ensure_in_root, open_in_root};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use rustix::fs::{XattrFlags, lsetxattr};

use super::Owner;
use crate::error::{BuildError, Result};
use crate::overlay::View;

/// What is set on a thing once it is made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meta {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    pub(crate) mtime: (i64, i64),
    pub(crate) attributes: Vec<(OsString, Vec<u8>)>,
}

impl Meta {
    fn times(&self) -> (TimeSpec, TimeSpec) {
        let time = TimeSpec::new(self.mtime.0, self.mtime.1);
        (time, time)
    }

    pub(crate) fn apply_to_folder(&self, folder: &OwnedFd, shown: &Path) -> Result<()> {
        let spot = Spot {
            folder: Rc::new(folder.try_clone().map_err(BuildError::io("hold", shown))?),
            name: OsString::from("."),
            path: shown.to_path_buf(),
        };
        spot.apply(self, true)
    }
}

/// A name in a folder of the destination.
#[derive(Debug, Clone)]
pub(crate) struct Spot {
    pub(crate) folder: Rc<OwnedFd>,
    pub(crate) name: OsString,
    /// Absolute in the destination, for messages and for further names of the same file.
    pub(crate) path: PathBuf,
}

impl Spot {
    fn in_the_way(&self, reason: &'static str) -> BuildError {
        BuildError::Destination {
            path: self.path.display().to_string(),
            reason,
        }
    }

    /// Makes the folder, or takes the one that is there.
    pub(crate) fn make_folder(&self) -> Result<OwnedFd> {
        match mkdirat(&*self.folder, self.name.as_os_str(), Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(BuildError::errno("make folder", &self.path)(errno)),
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&*self.folder, self.name.as_os_str(), flags, Mode::empty()) {
            Err(Errno::ENOTDIR | Errno::ELOOP) => Err(self.in_the_way("it is no folder, and a folder is copied")),
            outcome => outcome.map_err(BuildError::errno("open folder", &self.path)),
        }
    }

    /// Takes away what was there, unless it is a folder.
    fn make_room(&self) -> Result<()> {
        match unlinkat(&*self.folder, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EISDIR | Errno::EPERM) => Err(self.in_the_way("it is a folder, and a file is copied")),
            Err(errno) => Err(BuildError::errno("replace", &self.path)(errno)),
        }
    }

    pub(crate) fn write_file(&self, mut content: impl Read, meta: &Meta) -> Result<()> {
        self.make_room()?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(
            &*self.folder,
            self.name.as_os_str(),
            flags,
            Mode::from_bits_truncate(0o600),
        );
        let mut file = File::from(file.map_err(BuildError::errno("make", &self.path))?);
        io::copy(&mut content, &mut file).map_err(BuildError::io("write", &self.path))?;
        self.apply(meta, false)?;
        // Last: a change of owner takes set-user-id bits away.
        fchmod(&file, Mode::from_bits_truncate(meta.mode)).map_err(BuildError::errno("set mode of", &self.path))?;
        Ok(())
    }

    pub(crate) fn make_link(&self, target: &Path, meta: &Meta) -> Result<()> {
        self.make_room()?;
        symlinkat(target, &*self.folder, self.name.as_os_str()).map_err(BuildError::errno("link", &self.path))?;
        self.apply(meta, false)
    }

    pub(crate) fn make_special(&self, format: u32, device: u64, meta: &Meta) -> Result<()> {
        self.make_room()?;
        let kind = SFlag::from_bits_truncate(format);
        let made = mknodat(
            &*self.folder,
            self.name.as_os_str(),
            kind,
            Mode::from_bits_truncate(0o600),
            device,
        );
        made.map_err(BuildError::errno("make device", &self.path))?;
        self.apply(meta, true)
    }

    /// One more name of a file of the destination.
    pub(crate) fn link_to(&self, root: &View, first: &Path) -> Result<()> {
        let (parent, name) = (first.parent().unwrap_or(Path::new("/")), first.file_name());
        let folder = open_in_root(root, parent, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty());
        let folder = folder.map_err(BuildError::errno("open", parent))?;
        let name = name.ok_or_else(|| self.in_the_way("it cannot be another name of a folder"))?;
        if self.is_same(&folder, name) {
            return Ok(());
        }
        self.make_room()?;
        linkat(&folder, name, &*self.folder, self.name.as_os_str(), AtFlags::empty())
            .map_err(BuildError::errno("link", &self.path))
    }

    fn is_same(&self, folder: &OwnedFd, name: &OsStr) -> bool {
        let of = |folder: &OwnedFd, name: &OsStr| nix::sys::stat::fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        match (of(folder, name), of(&self.folder, &self.name)) {
            (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
            _ => false,
        }
    }

    /// Owner, attributes, mode if asked, and time, in the order in which one does not undo another.
    pub(crate) fn apply(&self, meta: &Meta, sets_mode: bool) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        let name = self.name.as_os_str();
        fchownat(&*self.folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(BuildError::errno("set owner of", &self.path))?;
        let place = PathBuf::from(format!("/proc/self/fd/{}", self.folder.as_raw_fd())).join(name);
        for (attribute, value) in &meta.attributes {
            lsetxattr(&place, attribute.as_os_str(), value, XattrFlags::empty())
                .map_err(BuildError::os("set attributes of", &self.path))?;
        }
        if sets_mode {
            fchmodat(
                &*self.folder,
                name,
                Mode::from_bits_truncate(meta.mode),
                FchmodatFlags::FollowSymlink,
            )
            .map_err(BuildError::errno("set mode of", &self.path))?;
        }
        let (accessed, modified) = meta.times();
        utimensat(
            &*self.folder,
            name,
            &accessed,
            &modified,
            UtimensatFlags::NoFollowSymlink,
        )
        .map_err(BuildError::errno("set time of", &self.path))
    }
}

/// Opens a folder below `root`, links followed inside it; what is missing is made with mode 0755 and given to `owner`.
pub(crate) fn ensure_folder(root: &View, path: &Path, owner: Option<Owner>) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let mut here = PathBuf::from("/");
    let mut folder = open_in_root(root, &here, flags, Mode::empty()).map_err(BuildError::errno("open", &here))?;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        here.push(name);
        folder = match open_in_root(root, &here, flags, Mode::empty()) {
            Ok(found) => found,
            Err(Errno::ENOENT) => make_folder(root, &folder, name, &here, owner)?,
            Err(Errno::ENOTDIR) => {
                return Err(BuildError::Destination {
                    path: here.display().to_string(),
                    reason: "it is no folder",
                });
            }
            Err(errno) => return Err(BuildError::errno("open", &here)(errno)),
        };
    }
    Ok(folder)
}

fn make_folder(root: &View, parent: &OwnedFd, name: &OsStr, here: &Path, owner: Option<Owner>) -> Result<OwnedFd> {
    match mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) => {}
        // A link that leads nowhere: its target is made.
        Err(Errno::EEXIST) => return ensure_in_root(root, here, Kind::Folder).map_err(BuildError::errno("make", here)),
        Err(errno) => return Err(BuildError::errno("make folder", here)(errno)),
    }
    // Whatever this process's umask; below a set-group-id folder the kernel has given it that bit too.
    let made = nix::sys::stat::fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    let inherited = made.map_err(BuildError::errno("examine", here))?.st_mode & nix::libc::S_ISGID;
    let mode = Mode::from_bits_truncate(0o755 | inherited);
    fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink).map_err(BuildError::errno("set mode of", here))?;
    if let Some(owner) = owner {
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(BuildError::errno("set owner of", here))?;
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    open_in_root(root.as_fd(), here, flags, Mode::empty()).map_err(BuildError::errno("open", here))
}
