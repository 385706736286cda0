//! Layers as one tree: overlayfs mounts that the executor itself reads and writes, outside any container.
//!
//! A [`View`] is mounted in a mount namespace that only one short-lived thread ever was in; what stays is a descriptor of its
//! root, and the mount goes with the last descriptor. So nothing of it shows in the node's mount table, and a crash leaves none
//! behind. What a container is to bind needs a mount of the node: [`Mounted`], which [`clear`] unmounts after a crash.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use crate::error::{BuildError, Result};

/// What a tree is made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layers {
    /// Folders, topmost first.
    pub(crate) lower: Vec<PathBuf>,
    /// Where changes go: `upper` and `work` on one file system; none for a tree that is only read.
    pub(crate) writable: Option<(PathBuf, PathBuf)>,
}

/// A tree of layers by a descriptor of its root.
#[derive(Debug, Clone)]
pub(crate) struct View {
    root: Arc<OwnedFd>,
}

impl View {
    /// Mounts the layers; `folder` is one that exists and is used for nothing else.
    pub(crate) fn open(layers: &Layers, folder: &Path) -> Result<Self> {
        let opened = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).map_err(BuildError::errno("make a mount namespace for", folder))?;
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
                    .map_err(BuildError::errno("keep mounts private of", "/"))?;
                mount_layers(layers, folder)?;
                open_folder(folder)
            });
            thread.join()
        });
        let root = match opened {
            Ok(root) => root?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        Ok(Self { root: Arc::new(root) })
    }

    /// A plain folder.
    pub(crate) fn folder(path: &Path) -> Result<Self> {
        Ok(Self {
            root: Arc::new(open_folder(path)?),
        })
    }
}

impl AsFd for View {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// A tree of layers in the node's mount table, until it is dropped.
#[derive(Debug)]
pub(crate) struct Mounted {
    point: PathBuf,
}

impl Mounted {
    /// Mounts the layers on `point`, which is made.
    pub(crate) fn new(layers: &Layers, point: PathBuf) -> Result<Self> {
        fs::create_dir_all(&point).map_err(BuildError::io("make folder", &point))?;
        let mounted = Self { point };
        mount_layers(layers, &mounted.point)?;
        Ok(mounted)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.point
    }

    pub(crate) fn view(&self) -> Result<View> {
        View::folder(&self.point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What fails here is tried again at the next start.
        let _ = umount2(&self.point, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.point);
    }
}

/// Unmounts what a crash left below `folder`, and empties it.
pub(crate) fn clear(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(BuildError::io("make folder", folder))?;
    for entry in fs::read_dir(folder).map_err(BuildError::io("list", folder))? {
        let path = entry.map_err(BuildError::io("list", folder))?.path();
        // EINVAL: it is not mounted.
        while umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
        let removed = if path.is_dir() {
            fs::remove_dir(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(BuildError::io("remove", &path))?;
    }
    Ok(())
}

fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).map_err(BuildError::errno("open", path))
}

/// Layers are named by descriptor: short enough for one page of options, and without characters that separate options.
fn mount_layers(layers: &Layers, point: &Path) -> Result<()> {
    let lower = layers
        .lower
        .iter()
        .map(|folder| open_folder(folder))
        .collect::<Result<Vec<_>>>()?;
    let by_fd = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let names = lower.iter().map(by_fd).collect::<Vec<_>>().join(":");
    let failed = BuildError::errno("mount layers on", point);
    let (options, _held) = match &layers.writable {
        Some((upper, work)) => {
            let (upper, work) = (open_folder(upper)?, open_folder(work)?);
            let options = format!("lowerdir={names},upperdir={},workdir={}", by_fd(&upper), by_fd(&work));
            (options, Some((upper, work)))
        }
        None if lower.len() == 1 => return mount_alone(&lower[0], point),
        None => (format!("lowerdir={names}"), None),
    };
    mount(
        Some("overlay"),
        point,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(failed)
}

/// Overlayfs refuses a single layer that is only read.
fn mount_alone(layer: &OwnedFd, point: &Path) -> Result<()> {
    let source = format!("/proc/self/fd/{}", layer.as_raw_fd());
    mount(
        Some(source.as_str()),
        point,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(BuildError::errno("bind a layer on", point))?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, point, None::<&str>, flags, None::<&str>).map_err(BuildError::errno("protect", point))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_sys::path::open_in_root;
    use std::io::Read;

    #[test]
    fn a_view_shows_all_layers_and_leaves_no_mount() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let make = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir(&path).expect("folder");
            path
        };
        let (low, high, upper, work, point) = (make("low"), make("high"), make("upper"), make("work"), make("point"));
        fs::write(low.join("a"), "low").expect("file");
        fs::write(low.join("b"), "low").expect("file");
        fs::write(high.join("b"), "high").expect("file");
        let layers = Layers {
            lower: vec![high, low],
            writable: Some((upper.clone(), work)),
        };
        let view = View::open(&layers, &point).expect("the view opens");
        let read = |name: &str| {
            let fd = open_in_root(&view, Path::new(name), OFlag::O_RDONLY, Mode::empty()).expect("opens");
            let mut text = String::new();
            fs::File::from(fd).read_to_string(&mut text).expect("reads");
            text
        };
        assert_eq!((read("a"), read("b")), ("low".to_string(), "high".to_string()));
        let flags = OFlag::O_CREAT | OFlag::O_WRONLY;
        open_in_root(&view, Path::new("new"), flags, Mode::from_bits_truncate(0o644)).expect("writes");
        assert!(upper.join("new").exists());
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        assert!(!mounts.contains(&point.display().to_string()));
        assert_eq!(fs::read_dir(&point).expect("folder").count(), 0);
    }
}
