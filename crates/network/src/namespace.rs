//! Network namespaces of replicas, kept alive by a file in the run folder.
//!
//! A namespace is entered by a thread made for it, which opens a netlink socket there and ends: the socket stays in the
//! namespace, while the process and its other threads never leave theirs.
//!
//! **Invariant:** a file in the folder that is not a mounted namespace is a leftover and may be mounted over or removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, statfs};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::NetworkError;
use crate::links::Links;
use crate::sysctl;

/// Type of the file system that namespace files live on (`NSFS_MAGIC`, linux/magic.h).
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// An open namespace.
pub(crate) struct Namespace {
    /// Netlink inside.
    pub(crate) links: Links,
    /// The namespace itself, to name it to the kernel.
    pub(crate) file: File,
    /// It was made just now.
    pub(crate) is_fresh: bool,
}

/// Opens the namespace kept at `path`, or makes it.
pub(crate) async fn open_or_create(path: &Path) -> Result<Namespace, NetworkError> {
    let path_owned = path.to_path_buf();
    let runtime = Handle::current();
    on_thread(path, move || enter(&path_owned, &runtime)).await
}

/// Asks something inside the namespace kept at `path`.
pub(crate) async fn inside<T: Send + 'static>(
    path: &Path,
    ask: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, NetworkError> {
    let path_owned = path.to_path_buf();
    let work = move || {
        let file = File::open(&path_owned).map_err(failed("opening", &path_owned))?;
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed("entering", &path_owned)(errno.into()))?;
        ask().map_err(failed("reading the sockets of", &path_owned))
    };
    on_thread(path, work).await
}

/// Runs `work` on a thread of its own, which may go into another namespace and never comes back.
async fn on_thread<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let (sender, receiver) = oneshot::channel();
    let run = move || {
        let _ = sender.send(work());
    };
    let thread = std::thread::Builder::new().name("netns".to_string()).spawn(run);
    thread.map_err(|source| failed("starting a thread for", path)(source))?;
    let done = receiver.await;
    done.map_err(|_| failed("entering", path)(io::Error::other("the thread ended early")))?
}

/// Runs on a thread of its own, which is spoilt for anything else afterwards.
fn enter(path: &Path, runtime: &Handle) -> Result<Namespace, NetworkError> {
    let is_fresh = !exists(path);
    if is_fresh {
        create(path)?;
    } else {
        let file = File::open(path).map_err(failed("opening", path))?;
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed("entering", path)(errno.into()))?;
    }
    let file = File::open(path).map_err(failed("opening", path))?;
    // A redirect would teach the replica to bypass the gateway, where addresses are translated.
    for interface in ["all", "default"] {
        sysctl::set(&format!("ipv4/conf/{interface}/accept_redirects"), "0")?;
    }
    let _runtime = runtime.enter();
    let links = Links::open(runtime)?;
    Ok(Namespace { links, file, is_fresh })
}

fn create(path: &Path) -> Result<(), NetworkError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("making the folder of", path))?;
    }
    File::create(path).map_err(failed("making the file of", path))?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| failed("making", path)(errno.into()))?;
    let none: Option<&str> = None;
    let mounted = mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none);
    mounted.map_err(|errno| failed("mounting", path)(errno.into()))
}

/// Whether a namespace is mounted there.
pub(crate) fn exists(path: &Path) -> bool {
    statfs(path).is_ok_and(|status| status.filesystem_type() == NSFS_MAGIC)
}

/// Lets the namespace go; it ends when no process is in it any more. Nothing there is fine.
pub(crate) fn release(path: &Path) -> Result<(), NetworkError> {
    while exists(path) {
        umount2(path, MntFlags::MNT_DETACH).map_err(|errno| failed("unmounting", path)(errno.into()))?;
    }
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("removing the file of", path)(source)),
        _ => Ok(()),
    }
}

fn failed(act: &'static str, path: &Path) -> impl Fn(io::Error) -> NetworkError + use<> {
    let path: PathBuf = path.to_path_buf();
    move |source| NetworkError::Namespace {
        act,
        path: path.clone(),
        source,
    }
}
