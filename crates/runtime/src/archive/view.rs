//! A container's root as a descriptor, seen by a thread of its own.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use gantry_shim::plan::IdRanges;
use gantry_sys::capability::keep_over_change_of_user;
use gantry_sys::mount::{Change, Context, attach, attribute, change, clone_tree};
use gantry_sys::path::{ensure_in_root, kind_of, open_in_root};
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::CopyError;
use crate::handle::read_record;
use crate::prepare::{ROOT_FILE, RootRecord};
use crate::{Handle, HandleError, State};

/// The root, and whose ids its files have.
pub(super) struct View {
    pub(super) root: OwnedFd,
    /// The node's ids for those inside; none when they are the same.
    pub(super) ranges: Option<IdRanges>,
}

impl View {
    /// The ids inside, for a file's on the node. What the container does not know belongs to nobody.
    pub(super) fn inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        /// `overflowuid` and `overflowgid`.
        const NOBODY: u32 = 65_534;
        match &self.ranges {
            Some(ranges) => (
                ranges.uid_inside(uid).unwrap_or(NOBODY),
                ranges.gid_inside(gid).unwrap_or(NOBODY),
            ),
            None => (uid, gid),
        }
    }

    /// The node's ids for those inside; none when the container does not have them.
    pub(super) fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        match &self.ranges {
            Some(ranges) => Some((ranges.uid_outside(uid)?, ranges.gid_outside(gid)?)),
            None => Some((uid, gid)),
        }
    }
}

impl Handle {
    /// Runs `act` with the root, in a thread of its own: mount namespace and file system ids belong to threads.
    pub(super) fn in_root<T: Send>(
        &self,
        act: impl FnOnce(&View) -> Result<T, CopyError> + Send,
    ) -> Result<T, CopyError> {
        let record: RootRecord = read_record(&self.bundle, ROOT_FILE)?.ok_or_else(|| HandleError::NotFound {
            path: self.bundle.clone(),
        })?;
        let pid = match self.state() {
            Ok(State::Created { pid } | State::Running { pid, .. }) => Some(pid),
            // Prepared, but never started.
            Ok(State::Exited(_)) | Err(HandleError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let outcome = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let view = match pid {
                    Some(pid) => live(pid, &record)?,
                    None => assemble(&record)?,
                };
                act(&view)
            });
            thread.join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn open_folder(path: &Path) -> Result<OwnedFd, CopyError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|errno| CopyError::kernel("open", path, errno))
}

fn live(pid: u32, record: &RootRecord) -> Result<View, CopyError> {
    let root = open_folder(Path::new(&format!("/proc/{pid}/root")))?;
    if let Some(ranges) = &record.ranges
        && let (Some(uid), Some(gid)) = (ranges.uid_outside(0), ranges.gid_outside(0))
    {
        // The node's own root has no place in a root with mapped ids: what this thread makes belongs to the container's.
        keep_over_change_of_user().map_err(|errno| CopyError::kernel("keep rights over", Path::new("/"), errno))?;
        setfsgid(Gid::from_raw(gid));
        setfsuid(Uid::from_raw(uid));
    }
    Ok(View {
        root,
        ranges: record.ranges.clone(),
    })
}

/// Mounts the layers and binds as the container has them, where only this thread sees it.
fn assemble(record: &RootRecord) -> Result<View, CopyError> {
    let point = record.mount_point.as_path();
    let failed = |act| move |errno| CopyError::kernel(act, point, errno);
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace for"))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(failed("stop propagation for"))?;
    let lower = record
        .lower
        .iter()
        .map(|layer| open_folder(layer))
        .collect::<Result<Vec<_>, _>>()?;
    let by_fd = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let (upper, work) = (
        open_folder(&record.writable.join("upper"))?,
        open_folder(&record.writable.join("work"))?,
    );
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.iter().map(by_fd).collect::<Vec<_>>().join(":"),
        by_fd(&upper),
        by_fd(&work)
    );
    mount(
        Some("overlay"),
        point,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(failed("mount the root at"))?;
    let root = open_folder(point)?;
    for (source, target, is_read_only) in &record.binds {
        if source.exists() {
            bind(&root, source, target, *is_read_only).map_err(|errno| CopyError::kernel("mount", target, errno))?;
        }
    }
    cover_memory(&root, record)?;
    // On disk the ids are those inside.
    Ok(View { root, ranges: None })
}

fn bind(root: &OwnedFd, source: &Path, target: &Path, is_read_only: bool) -> Result<(), gantry_sys::Errno> {
    let copy = clone_tree(AT_FDCWD, source, true)?;
    if is_read_only {
        let read_only = Change {
            set: attribute::READ_ONLY,
            recursive: true,
            ..Change::default()
        };
        change(&copy, read_only)?;
    }
    attach(&copy, ensure_in_root(root, target, kind_of(&copy)?)?)
}

/// What was memory is gone: nothing is to be written below it, where the container would never see it.
fn cover_memory(root: &OwnedFd, record: &RootRecord) -> Result<(), CopyError> {
    for target in &record.memory {
        let is_covered = |other: &&std::path::PathBuf| *other != target && target.starts_with(other);
        let is_there = open_in_root(root, target, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty());
        let (Ok(place), false) = (is_there, record.memory.iter().any(|other| is_covered(&other))) else {
            continue;
        };
        let cover = Context::open("tmpfs").and_then(|context| context.mount(attribute::READ_ONLY));
        let covered = cover.and_then(|cover| attach(&cover, &place));
        covered.map_err(|errno| CopyError::kernel("cover", target, errno))?;
    }
    Ok(())
}
