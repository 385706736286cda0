//! `/dev`: nodes and the links that every program expects.

use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_sys::path::{Kind, ensure_in_root};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use crate::Failure;
use crate::failure::During;
use crate::plan::DevicePlan;

/// Link and target, as in Docker.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

pub(crate) fn make_all(root: &OwnedFd, plans: &[DevicePlan]) -> Result<(), Failure> {
    for plan in plans {
        make(root, plan)?;
    }
    let folder = ensure_in_root(root, Path::new("/dev"), Kind::Folder).during("open", "/dev")?;
    for (link, target) in LINKS {
        match symlinkat(target, &folder, link) {
            Ok(()) | Err(Errno::EEXIST) => {}
            outcome => outcome.during("link", format!("/dev/{link}"))?,
        }
    }
    Ok(())
}

fn make(root: &OwnedFd, plan: &DevicePlan) -> Result<(), Failure> {
    let shown = plan.path.display();
    let (Some(parent), Some(name)) = (plan.path.parent(), plan.path.file_name()) else {
        return Err(Failure::found("make device", shown, "not a path of a file"));
    };
    let folder = ensure_in_root(root, parent, Kind::Folder).during("make folder of device", &shown)?;
    let kind = if plan.is_block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
    let number = makedev(u64::from(plan.major), u64::from(plan.minor));
    match mknodat(&folder, name, kind, Mode::from_bits_truncate(plan.mode), number) {
        Ok(()) => {}
        Err(Errno::EEXIST) => return Ok(()),
        outcome => outcome.during("make device", &shown)?,
    }
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    fchownat(&folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).during("change owner of device", shown)
}
