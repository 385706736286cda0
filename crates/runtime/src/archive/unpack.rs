//! From a tar stream into a container's root.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use gantry_sys::Errno;
use gantry_sys::path::{Kind, ensure_in_root, open_in_root};
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use tar::{Archive, Entry, EntryType, Header};

use super::view::View;
use super::{CopyError, CopyIn};

/// Folders nested deeper than this are not removed to make place for a file.
const DEPTH_MAX: u32 = 200;

pub(super) fn unpack(view: &View, folder: &Path, stream: impl Read, how: CopyIn) -> Result<(), CopyError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    open_in_root(&view.root, folder, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::ENOTDIR => CopyError::NotAFolder {
            path: folder.to_path_buf(),
        },
        errno => CopyError::kernel("open", folder, errno),
    })?;
    let mut archive = Archive::new(stream);
    let mut unpacker = Unpacker {
        view,
        folder,
        how,
        folder_times: Vec::new(),
    };
    for entry in archive.entries().map_err(CopyError::io("read archive for", folder))? {
        unpacker.entry(entry.map_err(CopyError::io("read archive for", folder))?)?;
    }
    unpacker.finish()
}

struct Unpacker<'a> {
    view: &'a View,
    folder: &'a Path,
    how: CopyIn,
    /// Set last: what is put into a folder changes its time.
    folder_times: Vec<(PathBuf, i64)>,
}

/// Parts below the folder; none for the folder itself.
fn safe(entry: &Path) -> Result<PathBuf, CopyError> {
    let mut path = PathBuf::new();
    for part in entry.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(CopyError::Escapes {
                    entry: entry.to_path_buf(),
                });
            }
        }
    }
    Ok(path)
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<(), CopyError> {
        let name = entry
            .path()
            .map_err(CopyError::io("read archive for", self.folder))?
            .into_owned();
        let path = safe(&name)?;
        let header = entry.header().clone();
        let kind = header.entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let Some(last) = path.file_name().map(OsStr::to_os_string) else {
            // The folder itself stays as it is.
            return Ok(());
        };
        let shown = self.folder.join(&path);
        let parent = shown.parent().unwrap_or(self.folder);
        let failed = |errno| CopyError::kernel("write", &shown, errno);
        let place = ensure_in_root(&self.view.root, parent, Kind::Folder).map_err(failed)?;
        self.make_place(&place, &last, kind).map_err(failed)?;
        match kind {
            EntryType::Directory => match mkdirat(&place, last.as_os_str(), Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(failed(errno)),
            },
            EntryType::Symlink => {
                let target = self.link_of(&entry, &name)?;
                symlinkat(target.as_path(), &place, last.as_os_str()).map_err(failed)?;
            }
            EntryType::Link => {
                let target = self.folder.join(safe(&self.link_of(&entry, &name)?)?);
                return self.hard_link(&target, &place, &last).map_err(failed);
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                make_node(&header, &place, &last).map_err(CopyError::io("make", &shown))?;
            }
            _ => write_file(&mut entry, &place, &last).map_err(CopyError::io("write", &shown))?,
        }
        self.set_status(&header, &place, &last, &shown)
    }

    fn link_of<R: Read>(&self, entry: &Entry<'_, R>, name: &Path) -> Result<PathBuf, CopyError> {
        let link = entry.link_name().map_err(CopyError::io("read link of", name))?;
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "it has no target");
        link.map(|link| link.into_owned())
            .ok_or_else(|| CopyError::io("read link of", name)(missing()))
    }

    /// Removes what is in the way: anything but a folder for a folder.
    fn make_place(&self, place: &OwnedFd, name: &OsStr, kind: EntryType) -> Result<(), Errno> {
        let status = match fstatat(place, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(()),
            outcome => outcome?,
        };
        let is_folder = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
        match (is_folder, kind == EntryType::Directory) {
            (true, true) => Ok(()),
            (false, false) => unlinkat(place, name, UnlinkatFlags::NoRemoveDir),
            (false, true) if self.how.replaces_kinds => unlinkat(place, name, UnlinkatFlags::NoRemoveDir),
            (true, false) if self.how.replaces_kinds => remove_folder(place, name, 0),
            (false, true) => Err(Errno::ENOTDIR),
            (true, false) => Err(Errno::EISDIR),
        }
    }

    fn hard_link(&self, target: &Path, place: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        let (Some(parent), Some(last)) = (target.parent(), target.file_name()) else {
            return Err(Errno::EINVAL);
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let from = open_in_root(&self.view.root, parent, flags, Mode::empty())?;
        linkat(&from, last, place, name, AtFlags::empty())
    }

    fn set_status(&mut self, header: &Header, place: &OwnedFd, name: &OsStr, shown: &Path) -> Result<(), CopyError> {
        let failed = |errno| CopyError::kernel("set owner and mode of", shown, errno);
        let read = |number: io::Result<u64>| number.map_err(CopyError::io("read archive for", shown));
        let (uid, gid) = match self.how.owner {
            Some(owner) => owner,
            None => {
                let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
                (number(read(header.uid())?), number(read(header.gid())?))
            }
        };
        let (uid, gid) = self.view.outside(uid, gid).ok_or_else(|| failed(Errno::EOVERFLOW))?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchownat(place, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed)?;
        let kind = header.entry_type();
        if kind != EntryType::Symlink {
            // After the owner, whose change clears the set-user-id bit. It was made right here and is no link.
            let mode = header.mode().map_err(CopyError::io("read archive for", shown))?;
            let mode = Mode::from_bits_truncate(mode & 0o7777);
            fchmodat(place, name, mode, FchmodatFlags::NoFollowSymlink).map_err(failed)?;
        }
        let seconds = i64::try_from(read(header.mtime())?).unwrap_or(0);
        if kind == EntryType::Directory {
            self.folder_times.push((shown.to_path_buf(), seconds));
            return Ok(());
        }
        let time = TimeSpec::new(seconds, 0);
        utimensat(place, name, &time, &time, UtimensatFlags::NoFollowSymlink).map_err(failed)
    }

    fn finish(self) -> Result<(), CopyError> {
        for (path, seconds) in self.folder_times.iter().rev() {
            let failed = |errno| CopyError::kernel("set time of", path, errno);
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            let folder = open_in_root(&self.view.root, path, flags, Mode::empty()).map_err(failed)?;
            let time = TimeSpec::new(*seconds, 0);
            nix::sys::stat::futimens(&folder, &time, &time).map_err(failed)?;
        }
        Ok(())
    }
}

fn write_file(source: &mut impl Read, place: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(place, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    io::copy(source, &mut file).map(drop)
}

fn make_node(header: &Header, place: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let number = |number: Option<u32>| u64::from(number.unwrap_or(0));
    let device = makedev(number(header.device_major()?), number(header.device_minor()?));
    let (kind, device) = match header.entry_type() {
        EntryType::Char => (SFlag::S_IFCHR, device),
        EntryType::Block => (SFlag::S_IFBLK, device),
        _ => (SFlag::S_IFIFO, 0),
    };
    Ok(mknodat(place, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, device)?)
}

fn remove_folder(place: &OwnedFd, name: &OsStr, depth: u32) -> Result<(), Errno> {
    use std::os::unix::ffi::OsStrExt;
    if depth > DEPTH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let folder = openat(place, name, flags, Mode::empty())?;
    let mut listing = Dir::openat(&folder, ".", flags, Mode::empty())?;
    for entry in listing.iter() {
        let entry = entry?.file_name().to_owned();
        let entry = OsStr::from_bytes(entry.to_bytes());
        if entry == "." || entry == ".." {
            continue;
        }
        match unlinkat(&folder, entry, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => remove_folder(&folder, entry, depth + 1)?,
            outcome => outcome?,
        }
    }
    unlinkat(place, name, UnlinkatFlags::RemoveDir)
}
