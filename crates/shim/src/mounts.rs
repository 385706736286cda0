//! Binds and file systems of the container, attached by descriptor to targets that were looked up inside the root.

use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_sys::Errno;
use gantry_sys::mount::{Change, Context, Sharing, attach, change, clone_tree, map_ids};
use gantry_sys::path::{Kind, ensure_in_root, kind_of};
use nix::fcntl::AT_FDCWD;
use nix::sched::{CloneFlags, setns};

use crate::failure::During;
use crate::namespaces::{self, UserSpace};
use crate::plan::{AttributePlan, IdmapPlan, MountPlan, MountSource, PropagationPlan, SharingPlan};
use crate::{Failure, copy_up};

/// What `mount_setattr(2)` calls it.
pub(crate) const fn sharing_of(plan: SharingPlan) -> Sharing {
    match plan {
        SharingPlan::Private => Sharing::Private,
        SharingPlan::Slave => Sharing::Slave,
        SharingPlan::Shared => Sharing::Shared,
        SharingPlan::Unbindable => Sharing::Unbindable,
    }
}

/// Detached copies of what is bound, in the order of the plans; none for a new file system. Must come before this namespace
/// stops sharing with the node's: a copy made later could not share any more.
pub(crate) fn clone_sources(plans: &[MountPlan], space: Option<&UserSpace>) -> Result<Vec<Option<OwnedFd>>, Failure> {
    plans.iter().map(|plan| clone_source(plan, space)).collect()
}

fn clone_source(plan: &MountPlan, space: Option<&UserSpace>) -> Result<Option<OwnedFd>, Failure> {
    let MountSource::Bind {
        path,
        namespace,
        recursive,
        ..
    } = &plan.source
    else {
        return Ok(None);
    };
    let what = || format!("{} on {}", path.display(), plan.target.display());
    let copy = match namespace {
        None => clone_tree(AT_FDCWD, path.as_path(), *recursive).during("mount", what())?,
        Some(namespace) => clone_elsewhere(namespace, path, *recursive)?,
    };
    adjust(&copy, plan, plan.attributes, space, &what())?;
    Ok(Some(copy))
}

/// The kernel clones only what is mounted in the cloning process's own namespace, so this one goes there and comes back.
fn clone_elsewhere(namespace: &Path, path: &Path, recursive: bool) -> Result<OwnedFd, Failure> {
    let what = || format!("{} of {}", path.display(), namespace.display());
    let own = namespaces::open_namespace(Path::new("/proc/self/ns/mnt"))?;
    let other = namespaces::open_namespace(namespace)?;
    setns(&other, CloneFlags::CLONE_NEWNS).during("enter mount namespace for", what())?;
    let copy = clone_tree(AT_FDCWD, path, recursive);
    setns(&own, CloneFlags::CLONE_NEWNS).during("return from mount namespace for", what())?;
    copy.during("mount", what())
}

/// Ids, sharing and attributes of a detached mount.
fn adjust(
    mount: &OwnedFd,
    plan: &MountPlan,
    attributes: AttributePlan,
    space: Option<&UserSpace>,
    what: &str,
) -> Result<(), Failure> {
    if let Some(idmap) = &plan.idmap {
        map(mount, idmap, space, what)?;
    }
    if let Some(PropagationPlan { sharing, recursive }) = plan.propagation {
        let sharing = Change {
            sharing: Some(sharing_of(sharing)),
            recursive,
            ..Change::default()
        };
        change(mount, sharing).during("set propagation of", what)?;
    }
    for (attributes, recursive) in [(plan.recursive_attributes, true), (attributes, false)] {
        let AttributePlan { set, clear } = attributes;
        if set | clear != 0 {
            let wanted = Change {
                set,
                clear,
                recursive,
                ..Change::default()
            };
            change(mount, wanted).during("set attributes of", what)?;
        }
    }
    Ok(())
}

/// The user namespace that a mount is mapped by: the container's, or one made for these ids.
pub(crate) fn map(mount: &OwnedFd, idmap: &IdmapPlan, space: Option<&UserSpace>, what: &str) -> Result<(), Failure> {
    let outcome = match (&idmap.ranges, space) {
        (Some(ranges), _) => map_ids(mount, namespaces::mapping(ranges)?, idmap.recursive),
        (None, Some(space)) => map_ids(mount, &space.namespace, idmap.recursive),
        (None, None) => return Ok(()),
    };
    match outcome {
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Err(Failure {
            reason: "its file system cannot map user ids (overlayfs and some network file systems cannot)".to_string(),
            ..Failure::new("map ids of", what, Errno::EINVAL)
        }),
        outcome => outcome.during("map ids of", what),
    }
}

/// Attaches all, in order.
pub(crate) fn attach_all(
    root: &OwnedFd,
    plans: &[MountPlan],
    sources: Vec<Option<OwnedFd>>,
    space: Option<&UserSpace>,
) -> Result<(), Failure> {
    for (plan, source) in plans.iter().zip(sources) {
        attach_one(root, plan, source, space)?;
    }
    Ok(())
}

fn attach_one(
    root: &OwnedFd,
    plan: &MountPlan,
    source: Option<OwnedFd>,
    space: Option<&UserSpace>,
) -> Result<(), Failure> {
    let shown = plan.target.display();
    let (mount, kind, copies_up) = match (&plan.source, source) {
        (MountSource::FileSystem { copy_up, .. }, _) => (make(plan, space)?, Kind::Folder, *copy_up),
        (MountSource::Bind { copy_up, .. }, Some(copy)) => {
            let kind = kind_of(&copy).during("examine source of", &shown)?;
            (copy, kind, *copy_up)
        }
        (MountSource::Bind { path, .. }, None) => {
            return Err(Failure::found("mount", path.display(), "was not cloned"));
        }
    };
    let target = ensure_in_root(root, &plan.target, kind).during("make mount point", &shown)?;
    if copies_up {
        copy_up::fill(&mount, root, &plan.target)?;
    }
    attach(&mount, &target).during("mount", shown)
}

fn make(plan: &MountPlan, space: Option<&UserSpace>) -> Result<OwnedFd, Failure> {
    let MountSource::FileSystem {
        kind, source, options, ..
    } = &plan.source
    else {
        return Err(Failure::found("mount", plan.target.display(), "is not a file system"));
    };
    let what = || format!("{kind} on {}", plan.target.display());
    let context = Context::open(kind).during("mount", what())?;
    let source = if source.is_empty() { kind } else { source };
    context.set("source", source).during("mount", what())?;
    for (key, value) in options {
        let set = match value {
            Some(value) => context.set(key, &owner_outside(key, value, space)?),
            None => context.set_flag(key),
        };
        set.during("mount", format!("{} with option {key}", what()))?;
    }
    let mount = context.mount(plan.attributes.set).during("mount", what())?;
    let rest = AttributePlan {
        set: 0,
        ..plan.attributes
    };
    adjust(&mount, plan, rest, space, &what())?;
    Ok(mount)
}

/// The file system is made outside the container's user namespace, so its owners are told in the node's ids.
fn owner_outside(key: &str, value: &str, space: Option<&UserSpace>) -> Result<String, Failure> {
    let (Some(space), Ok(id)) = (space, value.parse::<u32>()) else {
        return Ok(value.to_string());
    };
    match key {
        "uid" => space.uid(id).map(|id| id.to_string()),
        "gid" => space.gid(id).map(|id| id.to_string()),
        _ => Ok(value.to_string()),
    }
}
