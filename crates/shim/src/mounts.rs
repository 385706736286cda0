//! Binds and file systems of the container, attached by descriptor to targets that were looked up inside the root.

use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_sys::mount::{Change, Context, Sharing, attach, change, clone_tree};
use gantry_sys::path::{Kind, ensure_in_root, kind_of};
use nix::fcntl::AT_FDCWD;

use crate::failure::During;
use crate::plan::{MountPlan, MountSource, PropagationPlan, SharingPlan};
use crate::{Failure, copy_up};

/// Detached copies of what is bound, in the order of the plans; none for a new file system. Must come before this namespace
/// stops sharing with the node's: a copy made later could not share any more.
pub(crate) fn clone_sources(plans: &[MountPlan]) -> Result<Vec<Option<OwnedFd>>, Failure> {
    plans.iter().map(clone_source).collect()
}

fn clone_source(plan: &MountPlan) -> Result<Option<OwnedFd>, Failure> {
    let MountSource::Bind {
        path,
        recursive,
        propagation,
        ..
    } = &plan.source
    else {
        return Ok(None);
    };
    let what = || format!("{} on {}", path.display(), plan.target.display());
    let copy = clone_tree(AT_FDCWD, path.as_path(), *recursive).during("mount", what())?;
    let PropagationPlan {
        sharing,
        recursive: below,
    } = *propagation;
    let sharing = match sharing {
        SharingPlan::Private => Sharing::Private,
        SharingPlan::Slave => Sharing::Slave,
        SharingPlan::Shared => Sharing::Shared,
    };
    let sharing = Change {
        sharing: Some(sharing),
        recursive: below,
        ..Change::default()
    };
    change(&copy, sharing).during("set propagation of", what())?;
    let attributes = Change {
        set: plan.attributes,
        recursive: *recursive,
        ..Change::default()
    };
    if plan.attributes != 0 {
        change(&copy, attributes).during("set attributes of", what())?;
    }
    Ok(Some(copy))
}

/// Attaches all, in order.
pub(crate) fn attach_all(root: &OwnedFd, plans: &[MountPlan], sources: Vec<Option<OwnedFd>>) -> Result<(), Failure> {
    for (plan, source) in plans.iter().zip(sources) {
        attach_one(root, plan, source)?;
    }
    Ok(())
}

fn attach_one(root: &OwnedFd, plan: &MountPlan, source: Option<OwnedFd>) -> Result<(), Failure> {
    let shown = plan.target.display();
    let (mount, kind) = match (&plan.source, source) {
        (MountSource::FileSystem { kind, options }, _) => (make(kind, options, plan)?, Kind::Folder),
        (MountSource::Bind { .. }, Some(copy)) => {
            let kind = kind_of(&copy).during("examine source of", &shown)?;
            (copy, kind)
        }
        (MountSource::Bind { path, .. }, None) => {
            return Err(Failure::found("mount", path.display(), "was not cloned"));
        }
    };
    let target = ensure_in_root(root, &plan.target, kind).during("make mount point", &shown)?;
    if let MountSource::Bind {
        path, copy_up: true, ..
    } = &plan.source
    {
        copy_up::fill(Path::new(path), root, &plan.target)?;
    }
    attach(&mount, &target).during("mount", shown)
}

fn make(kind: &str, options: &[(String, Option<String>)], plan: &MountPlan) -> Result<OwnedFd, Failure> {
    let what = || format!("{kind} on {}", plan.target.display());
    let context = Context::open(kind).during("mount", what())?;
    context.set("source", kind).during("mount", what())?;
    for (key, value) in options {
        let set = match value {
            Some(value) => context.set(key, value),
            None => context.set_flag(key),
        };
        set.during("mount", format!("{} with option {key}", what()))?;
    }
    context.mount(plan.attributes).during("mount", what())
}
