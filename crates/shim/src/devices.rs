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
use crate::namespaces::UserSpace;
use crate::plan::{DeviceKindPlan, DevicePlan, LaunchPlan};

/// Link and target, as in Docker.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

pub(crate) fn make_all(root: &OwnedFd, plan: &LaunchPlan, space: Option<&UserSpace>) -> Result<(), Failure> {
    for device in &plan.devices {
        make(root, device, space)?;
    }
    if !plan.device_links {
        return Ok(());
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

fn make(root: &OwnedFd, plan: &DevicePlan, space: Option<&UserSpace>) -> Result<(), Failure> {
    let shown = plan.path.display();
    let (Some(parent), Some(name)) = (plan.path.parent(), plan.path.file_name()) else {
        return Err(Failure::found("make device", shown, "not a path of a file"));
    };
    let folder = ensure_in_root(root, parent, Kind::Folder).during("make folder of device", &shown)?;
    let number = makedev(u64::from(plan.major), u64::from(plan.minor));
    let (kind, number) = match plan.kind {
        DeviceKindPlan::Block => (SFlag::S_IFBLK, number),
        DeviceKindPlan::Character => (SFlag::S_IFCHR, number),
        DeviceKindPlan::Fifo => (SFlag::S_IFIFO, 0),
    };
    match mknodat(&folder, name, kind, Mode::from_bits_truncate(plan.mode), number) {
        Ok(()) => {}
        Err(Errno::EEXIST) => return Ok(()),
        outcome => outcome.during("make device", &shown)?,
    }
    // An owner that the container does not know stays unknown to it.
    let owner = |space: &UserSpace| {
        let (uid, gid) = (space.ranges.uid_outside(plan.uid), space.ranges.gid_outside(plan.gid));
        (uid.unwrap_or(plan.uid), gid.unwrap_or(plan.gid))
    };
    let (uid, gid) = space.map_or((plan.uid, plan.gid), owner);
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    fchownat(&folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).during("change owner of device", shown)
}
