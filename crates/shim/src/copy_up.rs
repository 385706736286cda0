//! Fills a new volume with what the image has at its target, so that the first start finds the image's own data there.
//!
//! Two containers that start with the same new volume take turns: the volume's folder is locked meanwhile.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use gantry_sys::path::open_in_root;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, readlinkat};
use nix::libc::stat as Status;
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};

use crate::Failure;
use crate::failure::During;

/// Folders nested deeper than this are refused rather than risking the stack.
const DEPTH_MAX: u32 = 200;
/// Copied at once.
const CHUNK_LENGTH: usize = 64 * 1024;

/// Copies the folder at `target` in the root into the folder behind `volume` if that is empty. It is opened through the mount,
/// so that owners are those that the container sees.
pub(crate) fn fill(volume: &OwnedFd, root: &OwnedFd, target: &Path) -> Result<(), Failure> {
    let shown = format!("mounted on {}", target.display());
    let folder = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let lock = openat(volume, ".", folder, Mode::empty()).during("open volume", &shown)?;
    let lock = Flock::lock(File::from(lock), FlockArg::LockExclusive)
        .map_err(|(_, errno)| Failure::new("lock volume", &shown, errno))?;
    let source = match open_in_root(root, target, folder, Mode::empty()) {
        // The image has a file there, or nothing.
        Err(Errno::ENOTDIR | Errno::ENOENT) => return Ok(()),
        outcome => outcome.during("open", target.display())?,
    };
    if !names(lock.as_fd()).during("list volume", &shown)?.is_empty() {
        return Ok(());
    }
    let mut copy = Copy { links: Vec::new() };
    copy.folder(source.as_fd(), lock.as_fd(), 0)
        .during("fill volume", shown)
}

fn names(folder: BorrowedFd<'_>) -> Result<Vec<std::ffi::CString>, Errno> {
    let mut listing = Dir::openat(
        folder,
        ".",
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let mut found = Vec::new();
    for entry in listing.iter() {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            found.push(name);
        }
    }
    Ok(found)
}

struct Copy {
    /// Device and inode of files with several names, and the copy's first.
    links: Vec<((u64, u64), OwnedFd, std::ffi::CString)>,
}

impl Copy {
    fn folder(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> Result<(), Errno> {
        if depth > DEPTH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        for name in names(from)? {
            self.entry(from, to, &name, depth)?;
        }
        let status = nix::sys::stat::fstat(from)?;
        fchown(
            to,
            Some(Uid::from_raw(status.st_uid)),
            Some(Gid::from_raw(status.st_gid)),
        )?;
        fchmod(to, mode_of(&status))?;
        nix::sys::stat::futimens(to, &accessed(&status), &modified(&status))
    }

    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<(), Errno> {
        let status = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFDIR {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            mkdirat(to, name, Mode::from_bits_truncate(0o700))?;
            let (below, copy) = (
                openat(from, name, flags, Mode::empty())?,
                openat(to, name, flags, Mode::empty())?,
            );
            return self.folder(below.as_fd(), copy.as_fd(), depth + 1);
        }
        if self.link_known(to, name, &status)? {
            return Ok(());
        }
        if kind == SFlag::S_IFLNK {
            let target = readlinkat(from, name)?;
            symlinkat(target.as_os_str(), to, name)?;
        } else if kind == SFlag::S_IFREG {
            copy_content(
                &openat(
                    from,
                    name,
                    OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
                    Mode::empty(),
                )?,
                to,
                name,
            )?;
        } else {
            mknodat(to, name, kind, mode_of(&status), status.st_rdev)?;
        }
        apply_status(to, name, &status, kind)?;
        if status.st_nlink > 1 {
            self.links.push((
                (status.st_dev, status.st_ino),
                to.try_clone_to_owned().map_err(|_| Errno::EMFILE)?,
                name.to_owned(),
            ));
        }
        Ok(())
    }

    /// A further name of a file that was copied under another: linked, not copied again.
    fn link_known(&self, to: BorrowedFd<'_>, name: &CStr, status: &Status) -> Result<bool, Errno> {
        let key = (status.st_dev, status.st_ino);
        let known = self
            .links
            .iter()
            .find(|(known, ..)| *known == key && status.st_nlink > 1);
        let Some((_, folder, first)) = known else {
            return Ok(false);
        };
        linkat(folder, first.as_c_str(), to, name, AtFlags::empty())?;
        Ok(true)
    }
}

fn copy_content(source: &OwnedFd, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let copy = openat(to, name, flags, Mode::from_bits_truncate(0o600))?;
    let mut chunk = vec![0; CHUNK_LENGTH];
    loop {
        let length = nix::unistd::read(source, &mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &chunk[..length];
        while !rest.is_empty() {
            let written = nix::unistd::write(&copy, rest)?;
            rest = &rest[written..];
        }
    }
}

fn apply_status(to: BorrowedFd<'_>, name: &CStr, status: &Status, kind: SFlag) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    fchownat(to, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind != SFlag::S_IFLNK {
        // After the owner: a change of owner clears the set-user-id bit.
        fchmodat(
            to,
            OsStr::from_bytes(name.to_bytes()),
            mode_of(status),
            FchmodatFlags::FollowSymlink,
        )?;
    }
    utimensat(
        to,
        name,
        &accessed(status),
        &modified(status),
        UtimensatFlags::NoFollowSymlink,
    )
}

fn mode_of(status: &Status) -> Mode {
    Mode::from_bits_truncate(status.st_mode & 0o7777)
}

fn accessed(status: &Status) -> TimeSpec {
    TimeSpec::new(status.st_atime, status.st_atime_nsec)
}

fn modified(status: &Status) -> TimeSpec {
    TimeSpec::new(status.st_mtime, status.st_mtime_nsec)
}
