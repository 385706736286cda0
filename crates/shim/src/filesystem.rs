//! The container's root: layers below a writable one, files with content, hidden and read-only paths, and the way into it.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use gantry_sys::Errno;
use gantry_sys::mount::{Change, Context, attach, attribute, change, clone_tree};
use gantry_sys::path::{Kind, ensure_in_root, kind_of, open_in_root};
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, chdir, fchdir, fchown, pivot_root};

use crate::Failure;
use crate::failure::During;
use crate::plan::{FilePlan, LaunchPlan, RootPlan};

const NOTHING: Option<&str> = None;

/// From here on, mounts made in this namespace stay in it. The node's unmounts still arrive (slave), so that it can let go
/// of its devices; a bind that wants sharing was cloned before.
pub(crate) fn stop_propagation() -> Result<(), Failure> {
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_SLAVE, NOTHING).during("stop propagation of", "/")
}

/// Mounts the layers. Layers are named by descriptor: short enough for one page of options, and no character in their paths
/// can be taken for a separator.
pub(crate) fn mount_root(plan: &RootPlan) -> Result<OwnedFd, Failure> {
    let open_folder = |folder: &Path| {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(folder, flags, Mode::empty()).during("open layer", folder.display())
    };
    let lower = plan
        .lower
        .iter()
        .map(|folder| open_folder(folder))
        .collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (open_folder(&plan.upper)?, open_folder(&plan.work)?);
    let by_fd = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let layers = lower.iter().map(by_fd).collect::<Vec<_>>().join(":");
    let options = format!("lowerdir={layers},upperdir={},workdir={}", by_fd(&upper), by_fd(&work));
    let point = plan.mount_point.as_path();
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
    )?;
    open_folder(point)
}

/// Writes the files onto a tmpfs of their own and detaches each as a mount. The tmpfs is attached for a moment where the root
/// comes later: kernels before 6.15 only clone from what is attached.
pub(crate) fn stage_files(files: &[FilePlan], point: &Path) -> Result<Vec<OwnedFd>, Failure> {
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
        .map(|(index, file)| stage_file(&staging, &index.to_string(), file))
        .collect::<Result<Vec<_>, _>>()?;
    umount2(point, MntFlags::MNT_DETACH).during("detach", "the tmpfs for files")?;
    Ok(mounts)
}

fn stage_file(staging: &OwnedFd, name: &str, plan: &FilePlan) -> Result<OwnedFd, Failure> {
    let shown = plan.target.display();
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(staging, name, flags, Mode::empty()).during("create", &shown)?);
    let content =
        decode_hex(&plan.content_hex).ok_or_else(|| Failure::found("read", &shown, "content is not hexadecimal"))?;
    file.write_all(&content).during("write", &shown)?;
    fchown(&file, Some(Uid::from_raw(plan.uid)), Some(Gid::from_raw(plan.gid))).during("change owner of", &shown)?;
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
pub(crate) fn enter_root(root: &OwnedFd, read_only: bool) -> Result<(), Failure> {
    if read_only {
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
    chdir("/").during("enter", "the root")
}
