//! The mount interface of Linux 5.2 and later: mounts as descriptors, attached to a place that was looked up safely before.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::NixPath;

use crate::{Errno, Result, owned_fd};

const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// `MOUNT_ATTR_*` of `mount_setattr(2)`.
pub mod attribute {
    /// No writes.
    pub const READ_ONLY: u64 = 0x01;
    /// Set-user-id bits are ignored.
    pub const NO_SUID: u64 = 0x02;
    /// Device nodes do not work.
    pub const NO_DEV: u64 = 0x04;
    /// Nothing can be executed.
    pub const NO_EXEC: u64 = 0x08;
    /// Access times are never written.
    pub const NO_ATIME: u64 = 0x10;
    /// Access times are always written.
    pub const STRICT_ATIME: u64 = 0x20;
    /// The bits that choose how access times are written; none of them is the kernel's default, `relatime`.
    pub const ATIME: u64 = 0x70;
    /// Access times of folders are never written.
    pub const NO_DIR_ATIME: u64 = 0x80;
    /// Symbolic links are not followed.
    pub const NO_SYMLINK_FOLLOW: u64 = 0x20_0000;
}

/// How a mount shares later mounts with its peers; the values are those of `mount(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Sharing {
    /// `MS_PRIVATE`
    Private = libc::MS_PRIVATE,
    /// `MS_SLAVE`
    Slave = libc::MS_SLAVE,
    /// `MS_SHARED`
    Shared = libc::MS_SHARED,
    /// `MS_UNBINDABLE`
    Unbindable = libc::MS_UNBINDABLE,
}

/// A file system's configuration before it is mounted.
#[derive(Debug)]
pub struct Context(OwnedFd);

impl Context {
    /// `fsopen(2)` for a file system by name.
    ///
    /// # Errors
    /// `ENODEV` when the kernel does not know it.
    pub fn open(file_system: &str) -> Result<Self> {
        let name = CString::new(file_system).map_err(|_| Errno::EINVAL)?;
        // SAFETY: `name` is a C string that outlives the call.
        owned_fd(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) }).map(Self)
    }

    /// `fsconfig(2)` of a key with a value.
    ///
    /// # Errors
    /// `EINVAL` for an unknown key or value.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        let value = CString::new(value).map_err(|_| Errno::EINVAL)?;
        self.configure(FSCONFIG_SET_STRING, Some(key), value.as_ptr())
    }

    /// `fsconfig(2)` of a key that has no value.
    ///
    /// # Errors
    /// `EINVAL` for an unknown key.
    pub fn set_flag(&self, key: &str) -> Result<()> {
        self.configure(FSCONFIG_SET_FLAG, Some(key), std::ptr::null())
    }

    /// Makes the file system and a detached mount of it with [`attribute`]s (`fsmount(2)`).
    ///
    /// # Errors
    /// The file system's own.
    pub fn mount(&self, attributes: u64) -> Result<OwnedFd> {
        self.configure(FSCONFIG_CMD_CREATE, None, std::ptr::null())?;
        // SAFETY: takes a borrowed descriptor and integers.
        owned_fd(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
    }

    fn configure(&self, command: u32, key: Option<&str>, value: *const libc::c_char) -> Result<()> {
        let key = key.map(CString::new).transpose().map_err(|_| Errno::EINVAL)?;
        let key = key.as_ref().map_or(std::ptr::null(), |key| key.as_ptr());
        // SAFETY: key and value are null or C strings that outlive the call.
        let outcome = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0) };
        Errno::result(outcome).map(drop)
    }
}

/// `open_tree(2)` with `OPEN_TREE_CLONE`: a detached copy of the mount at `path`, and of those below it when `recursive`.
///
/// # Errors
/// `ENOENT` when the path does not exist.
pub fn clone_tree<P: ?Sized + NixPath>(folder: impl AsFd, path: &P, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    let folder = folder.as_fd().as_raw_fd();
    let outcome = path.with_nix_path(|path| {
        // SAFETY: `path` is a C string that outlives the call.
        unsafe { libc::syscall(libc::SYS_open_tree, folder, path.as_ptr(), flags) }
    })?;
    owned_fd(outcome)
}

/// Attaches a detached mount onto what `target` refers to (`move_mount(2)`): no path is walked, so none can be redirected.
///
/// # Errors
/// `ENOTDIR` when one is a folder and the other a file.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to) = (mount.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    // SAFETY: both descriptors are borrowed for the call, both paths are empty C strings.
    let outcome = unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) };
    Errno::result(outcome).map(drop)
}

/// What `mount_setattr(2)` changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change {
    /// [`attribute`]s to set.
    pub set: u64,
    /// [`attribute`]s to clear.
    pub clear: u64,
    /// Sharing to change to.
    pub sharing: Option<Sharing>,
    /// Also every mount below.
    pub recursive: bool,
}

/// `struct mount_attr` of `linux/mount.h`, first version (32 bytes).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// `MOUNT_ATTR_IDMAP`
const IDMAP: u64 = 0x10_0000;

/// `mount_setattr(2)` on what `mount` refers to. Whoever sets one way of writing access times clears the others.
///
/// # Errors
/// The kernel's; nothing is changed then, not even below.
pub fn change(mount: impl AsFd, change: Change) -> Result<()> {
    let clear_atime = if change.set & attribute::ATIME == 0 {
        0
    } else {
        attribute::ATIME
    };
    let attributes = MountAttr {
        set: change.set,
        clear: change.clear | clear_atime,
        propagation: change.sharing.map_or(0, |sharing| sharing as u64),
        user_namespace: 0,
    };
    set_attributes(mount.as_fd(), &attributes, change.recursive)
}

/// Files of a detached mount seem to have the ids that `user_namespace` maps theirs to (`MOUNT_ATTR_IDMAP`).
///
/// # Errors
/// `EINVAL` when the file system cannot (overlayfs, some network file systems) or the mount is mapped already, `EPERM` when
/// the namespace is the node's own or has no mapping yet.
pub fn map_ids(mount: impl AsFd, user_namespace: impl AsFd, recursive: bool) -> Result<()> {
    let attributes = MountAttr {
        set: IDMAP,
        clear: 0,
        propagation: 0,
        user_namespace: user_namespace.as_fd().as_raw_fd() as u64,
    };
    set_attributes(mount.as_fd(), &attributes, recursive)
}

fn set_attributes(mount: BorrowedFd<'_>, attributes: &MountAttr, recursive: bool) -> Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    let (fd, size) = (mount.as_raw_fd(), std::mem::size_of::<MountAttr>());
    let attributes = std::ptr::from_ref(attributes);
    // SAFETY: `attributes` has the kernel's layout and outlives the call, `size` is its size.
    let outcome = unsafe { libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, attributes, size) };
    Errno::result(outcome).map(drop)
}
