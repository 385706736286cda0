//! The container's root: layers below a writable one, files with content, hidden and read-only paths, and the way into it.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_sys::Errno;
use gantry_sys::mount::{Change, Context, attach, attribute, change, clone_tree};
use gantry_sys::path::{Kind, ensure_in_root, kind_of, open_in_root};
use nix::fcntl::{AT_FDCWD, OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, chdir, fchdir, fchown, pivot_root};

use crate::failure::During;
use crate::namespaces::UserSpace;
use crate::plan::{FilePlan, IdmapPlan, LaunchPlan, PropagationPlan, RootPlan, RootSource};
use crate::{Failure, mounts};

const NOTHING: Option<&str> = None;

/// From here on, mounts made in this namespace stay in it. The node's unmounts still arrive (slave), so that it can let go
/// of its devices; a bind that wants sharing was cloned before.
pub(crate) fn stop_propagation() -> Result<(), Failure> {
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_SLAVE, NOTHING).during("stop propagation of", "/")
}

/// Mounts the root: its layers, or a copy of its folder.
pub(crate) fn mount_root(plan: &RootPlan, space: Option<&UserSpace>) -> Result<OwnedFd, Failure> {
    let space = space.filter(|_| plan.idmap);
    match &plan.source {
        RootSource::Layers { lower, writable } => mount_layers(lower, writable, &plan.mount_point, space)?,
        RootSource::Folder(folder) => mount_folder(folder, &plan.mount_point, space)?,
    }
    // Opened after the mount, the path leads into it.
    open_folder(&plan.mount_point)
}

fn open_folder(folder: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(folder, flags, Mode::empty()).during("open folder", folder.display())
}

/// Layers are named by descriptor: short enough for one page of options, and no character in their paths can be taken for a
/// separator.
fn mount_layers(lower: &[PathBuf], writable: &Path, point: &Path, space: Option<&UserSpace>) -> Result<(), Failure> {
    let open_layer = |folder: &PathBuf| match space {
        Some(space) => open_mapped(folder, point, space),
        None => open_folder(folder),
    };
    let lower = lower.iter().map(open_layer).collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = match space {
        // Both of one mount, as overlayfs wants them.
        Some(space) => {
            let mapped = open_mapped(writable, point, space)?;
            (
                open_below(&mapped, writable, "upper")?,
                open_below(&mapped, writable, "work")?,
            )
        }
        None => (
            open_folder(&writable.join("upper"))?,
            open_folder(&writable.join("work"))?,
        ),
    };
    let by_fd = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let layers = lower.iter().map(by_fd).collect::<Vec<_>>().join(":");
    let options = format!("lowerdir={layers},upperdir={},workdir={}", by_fd(&upper), by_fd(&work));
    mount(
        Some("overlay"),
        point,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .during(
        "mount root",
        format!("of {} layers on {}", lower.len(), point.display()),
    )
}

fn open_below(folder: &OwnedFd, shown: &Path, name: &str) -> Result<OwnedFd, Failure> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(folder, name, flags, Mode::empty()).during("open folder", shown.join(name).display())
}

/// The folder as a mount with the container's ids. It is attached where the root comes later: kernels before 6.15 only take
/// layers from what is attached. It goes together with the node's root.
fn open_mapped(folder: &Path, point: &Path, space: &UserSpace) -> Result<OwnedFd, Failure> {
    let shown = folder.display();
    let copy = clone_tree(AT_FDCWD, folder, false).during("clone", &shown)?;
    mounts::map(&copy, &IdmapPlan::CONTAINER, Some(space), &shown.to_string())?;
    attach(&copy, open_folder(point)?).during("mount", shown)?;
    Ok(copy)
}

/// A mount of its own, which pivot_root needs, with what is mounted below.
fn mount_folder(folder: &Path, point: &Path, space: Option<&UserSpace>) -> Result<(), Failure> {
    let shown = folder.display();
    let copy = clone_tree(AT_FDCWD, folder, true).during("clone", &shown)?;
    if space.is_some() {
        mounts::map(&copy, &IdmapPlan::CONTAINER, space, &shown.to_string())?;
    }
    attach(&copy, open_folder(point)?).during("mount root", shown)
}

/// Writes the files onto a tmpfs of their own and detaches each as a mount. The tmpfs is attached for a moment where the root
/// comes later: kernels before 6.15 only clone from what is attached.
pub(crate) fn stage_files(
    files: &[FilePlan],
    point: &Path,
    space: Option<&UserSpace>,
) -> Result<Vec<OwnedFd>, Failure> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let context = Context::open("tmpfs").during("prepare", "a tmpfs for files")?;
    context.set("source", "tmpfs").during("prepare", "a tmpfs for files")?;
    context.set("mode", "0700").during("prepare", "a tmpfs for files")?;
    let attributes = attribute::NO_SUID | attribute::NO_DEV | attribute::NO_EXEC;
    let staging = context.mount(attributes).during("mount", "a tmpfs for files")?;
    let target = open(point, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).during("open", point.display())?;
    attach(&staging, &target).during("mount", "a tmpfs for files")?;
    let mounts = files
        .iter()
        .enumerate()
        .map(|(index, file)| stage_file(&staging, &index.to_string(), file, space))
        .collect::<Result<Vec<_>, _>>()?;
    umount2(point, MntFlags::MNT_DETACH).during("detach", "the tmpfs for files")?;
    Ok(mounts)
}

fn stage_file(staging: &OwnedFd, name: &str, plan: &FilePlan, space: Option<&UserSpace>) -> Result<OwnedFd, Failure> {
    let shown = plan.target.display();
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(staging, name, flags, Mode::empty()).during("create", &shown)?);
    let content =
        decode_hex(&plan.content_hex).ok_or_else(|| Failure::found("read", &shown, "content is not hexadecimal"))?;
    file.write_all(&content).during("write", &shown)?;
    let (uid, gid) = match space {
        Some(space) => (space.uid(plan.uid)?, space.gid(plan.gid)?),
        None => (plan.uid, plan.gid),
    };
    fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).during("change owner of", &shown)?;
    fchmod(&file, Mode::from_bits_truncate(plan.mode)).during("change mode of", &shown)?;
    let mount = clone_tree(staging, name, false).during("clone", &shown)?;
    let read_only = Change {
        set: attribute::READ_ONLY,
        ..Change::default()
    };
    change(&mount, read_only).during("make read-only", shown)?;
    Ok(mount)
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
            _ => None,
        })
        .collect()
}

pub(crate) fn attach_files(root: &OwnedFd, files: &[FilePlan], mounts: Vec<OwnedFd>) -> Result<(), Failure> {
    for (plan, mount) in files.iter().zip(mounts) {
        let target = ensure_in_root(root, &plan.target, Kind::File).during("make", plan.target.display())?;
        attach(&mount, &target).during("mount", plan.target.display())?;
    }
    Ok(())
}

/// Hides the masked paths and makes the others read-only; those that do not exist need neither.
pub(crate) fn restrict_paths(root: &OwnedFd, plan: &LaunchPlan) -> Result<(), Failure> {
    for path in &plan.masked_paths {
        if let Some(target) = find(root, path)? {
            hide(root, path, &target)?;
        }
    }
    let read_only = Change {
        set: attribute::READ_ONLY,
        recursive: true,
        ..Change::default()
    };
    for path in &plan.read_only_paths {
        if let Some(target) = find(root, path)? {
            if change(&target, read_only).is_ok() {
                // It is a mount of its own already.
                continue;
            }
            let copy = clone_tree(&target, "", true).during("clone", path.display())?;
            change(&copy, read_only).during("make read-only", path.display())?;
            attach(&copy, &target).during("mount", path.display())?;
        }
    }
    Ok(())
}

fn find(root: &OwnedFd, path: &Path) -> Result<Option<OwnedFd>, Failure> {
    match open_in_root(root, path, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty()) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        outcome => outcome.map(Some).during("open", path.display()),
    }
}

fn hide(root: &OwnedFd, path: &Path, target: &OwnedFd) -> Result<(), Failure> {
    let shown = path.display();
    let cover = match kind_of(target).during("examine", &shown)? {
        Kind::Folder => {
            let context = Context::open("tmpfs").during("hide", &shown)?;
            context.set("source", "tmpfs").during("hide", &shown)?;
            context.set("nr_inodes", "1").during("hide", &shown)?;
            context.mount(attribute::READ_ONLY).during("hide", &shown)?
        }
        Kind::File => {
            let null =
                open_in_root(root, Path::new("/dev/null"), OFlag::O_PATH, Mode::empty()).during("open", "/dev/null")?;
            clone_tree(&null, "", false).during("clone", "/dev/null")?
        }
    };
    attach(&cover, target).during("hide", shown)
}

/// Makes the root `/` and lets go of the node's.
pub(crate) fn enter_root(root: &OwnedFd, plan: &RootPlan) -> Result<(), Failure> {
    if plan.read_only {
        let read_only = Change {
            set: attribute::READ_ONLY,
            ..Change::default()
        };
        change(root.as_fd(), read_only).during("make read-only", "/")?;
    }
    fchdir(root).during("enter", "the root")?;
    // The old root ends up on top of the new one, with no folder of its own (`pivot_root(2)`).
    pivot_root(".", ".").during("pivot to", "the root")?;
    umount2(".", MntFlags::MNT_DETACH).during("detach", "the node's root")?;
    chdir("/").during("enter", "the root")?;
    if let Some(PropagationPlan { sharing, recursive }) = plan.propagation {
        let wanted = Change {
            sharing: Some(mounts::sharing_of(sharing)),
            recursive,
            ..Change::default()
        };
        // By a descriptor of now: the one from before may not be the topmost mount any more.
        change(open_folder(Path::new("/"))?, wanted).during("set propagation of", "/")?;
    }
    Ok(())
}
