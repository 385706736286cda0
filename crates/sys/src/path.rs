//! Paths inside a root that nobody trusts: every look-up stays below it, whatever symbolic links it holds.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use crate::{Errno, Result};

/// `openat2(2)` with `RESOLVE_IN_ROOT`: `root` is `/` for the look-up, for absolute links and for `..`.
///
/// # Errors
/// The kernel's; `EAGAIN` of a racing rename is tried again.
pub fn open_in_root(root: impl AsFd, path: &Path, flags: OFlag, mode: Mode) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(if flags.contains(OFlag::O_CREAT) {
            mode
        } else {
            Mode::empty()
        })
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    loop {
        match nix::fcntl::openat2(root.as_fd(), path, how) {
            Err(Errno::EAGAIN) => {}
            outcome => return outcome,
        }
    }
}

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file.
    File,
}

/// Most links that lead nowhere and are followed on the way, as the kernel's own limit (`path_resolution(7)`).
const LINKS_MAX: u32 = 40;

/// Opens `path` below `root` (`O_PATH`), making what is missing of it: folders with mode 0755, and at its end a folder or an
/// empty file. A link that leads nowhere has its target made, below `root` like everything else.
///
/// # Errors
/// The kernel's, such as `ENOTDIR` when a file is in the way, `EROFS`, `ELOOP`.
pub fn ensure_in_root(root: impl AsFd, path: &Path, kind: Kind) -> Result<OwnedFd> {
    ensure(root.as_fd(), path, kind, LINKS_MAX)
}

fn ensure(root: BorrowedFd<'_>, path: &Path, kind: Kind, links_left: u32) -> Result<OwnedFd> {
    match open_in_root(root, path, OFlag::O_PATH, Mode::empty()) {
        Ok(found) => return Ok(found),
        Err(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    let is_part = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    let parts: Vec<Component<'_>> = path.components().filter(is_part).collect();
    let mut walked = PathBuf::from("/");
    let mut folder = open_in_root(root, &walked, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
    for (index, part) in parts.iter().enumerate() {
        let parent = walked.clone();
        walked.push(part);
        let kind_here = if index + 1 == parts.len() { kind } else { Kind::Folder };
        folder = match open_in_root(root, &walked, OFlag::O_PATH, Mode::empty()) {
            Ok(found) => found,
            Err(Errno::ENOENT) => match readlinkat(&folder, part.as_os_str()) {
                Ok(_) if links_left == 0 => return Err(Errno::ELOOP),
                Ok(link) => ensure(root, &parent.join(link), kind_here, links_left - 1)?,
                Err(Errno::ENOENT) => make(root, &folder, &walked, part.as_os_str(), kind_here)?,
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        };
    }
    Ok(folder)
}

fn make(root: BorrowedFd<'_>, folder: &OwnedFd, walked: &Path, name: &OsStr, kind: Kind) -> Result<OwnedFd> {
    let made = match kind {
        Kind::File => {
            let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            openat(folder, name, flags, Mode::from_bits_truncate(0o644)).map(drop)
        }
        Kind::Folder => mkdirat(folder, name, Mode::from_bits_truncate(0o755)),
    };
    match made {
        Ok(()) | Err(Errno::EEXIST) => open_in_root(root, walked, OFlag::O_PATH, Mode::empty()),
        Err(error) => Err(error),
    }
}

/// Whether an extended attribute has this value; a file system without attributes has none.
#[must_use]
pub fn attribute_is(path: &Path, name: &str, value: &[u8]) -> bool {
    let (Ok(path), Ok(name)) = (CString::new(path.as_os_str().as_bytes()), CString::new(name)) else {
        return false;
    };
    let mut buffer = vec![0_u8; value.len() + 1];
    let place = buffer.as_mut_ptr().cast();
    // SAFETY: both names are C strings that outlive the call, the buffer is as long as said.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), place, buffer.len()) };
    usize::try_from(length).is_ok_and(|length| buffer[..length] == *value)
}

/// Whether the descriptor refers to a folder.
///
/// # Errors
/// The kernel's.
pub fn kind_of(fd: impl AsFd) -> Result<Kind> {
    let format = SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT;
    Ok(if format == SFlag::S_IFDIR {
        Kind::Folder
    } else {
        Kind::File
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root_of(folder: &Path) -> OwnedFd {
        nix::fcntl::open(folder, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
            .expect("the test's own folder opens")
    }

    #[test]
    fn links_never_lead_out_of_the_root() {
        let outer = tempfile::tempdir().expect("temporary folder");
        let inner = outer.path().join("root");
        fs::create_dir_all(inner.join("etc")).expect("folder");
        fs::create_dir(outer.path().join("victim")).expect("folder");
        symlink("../../victim", inner.join("up")).expect("link");
        symlink(outer.path().join("victim"), inner.join("absolute")).expect("link");
        symlink("/etc", inner.join("inside")).expect("link");
        symlink("../run/systemd/stub.conf", inner.join("etc/resolv.conf")).expect("link");
        symlink("loop", inner.join("loop")).expect("link");
        let root = root_of(&inner);
        for (path, kind) in [
            ("/up/made", Kind::Folder),
            ("/absolute/made", Kind::File),
            ("/../../made", Kind::Folder),
            ("/inside/made", Kind::File),
            ("/etc/resolv.conf", Kind::File),
        ] {
            let made = ensure_in_root(&root, Path::new(path), kind).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(kind_of(&made), Ok(kind), "{path}");
        }
        assert!(inner.join("victim/made").is_dir() && inner.join("made").is_dir() && inner.join("etc/made").is_file());
        assert!(inner.join("run/systemd/stub.conf").is_file());
        assert_eq!(
            ensure_in_root(&root, Path::new("/loop/x"), Kind::Folder).err(),
            Some(Errno::ELOOP)
        );
        assert_eq!(fs::read_dir(outer.path().join("victim")).expect("folder").count(), 0);
    }

    #[test]
    fn what_is_missing_is_made() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let root = root_of(folder.path());
        let file = ensure_in_root(&root, Path::new("/a/b/c"), Kind::File).expect("makes a file");
        assert_eq!(kind_of(&file), Ok(Kind::File));
        let made = ensure_in_root(&root, Path::new("/a/b/d"), Kind::Folder).expect("makes a folder");
        assert_eq!(kind_of(&made), Ok(Kind::Folder));
        assert_eq!(
            ensure_in_root(&root, Path::new("/a/b/c/d"), Kind::Folder).err(),
            Some(Errno::ENOTDIR)
        );
    }
}
