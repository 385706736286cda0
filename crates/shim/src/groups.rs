//! How a process of a container gets into its control groups: cloned into that of version 2, and by its own hand into the others.
//!
//! To move a process that is there already, the kernel stops every fork and exit of the machine, which takes it a grace period
//! of its own. A clone into a group needs no such thing, and neither does a single thread that moves itself in version 1.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use gantry_sys::process::{Cloned, clone_process, clone_process_into};
use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;

use crate::Failure;
use crate::failure::During;

/// The file of version 2, whose folder a process can be cloned into. Version 1 is joined by another.
const PROCS_FILE: &str = "cgroup.procs";
/// What a single thread joins a group of version 1 by.
const TASKS_FILE: &str = "tasks";

/// What a new process still has to do.
#[derive(Debug)]
#[must_use]
pub(crate) struct Joining(Vec<PathBuf>);

impl Joining {
    /// Writing 0 moves the writer, whatever its id is in which namespace. Must come before it has a second thread.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        join(&self.0)
    }
}

/// Clones a process that belongs to the groups of these files once it has finished the [`Joining`].
pub(crate) fn clone_into(flags: CloneFlags, files: &[PathBuf]) -> nix::Result<(Cloned, Joining)> {
    if let Some((folder, rest)) = unified(files)
        && let Ok(cloned) = clone_process_into(flags, folder)
    {
        return Ok((cloned, Joining(rest)));
    }
    // An old kernel, or a group that takes nobody: joining by hand says which it was, or works.
    Ok((clone_process(flags)?, Joining(files.to_vec())))
}

/// The folder of the group in version 2, and the files of the others.
fn unified(files: &[PathBuf]) -> Option<(OwnedFd, Vec<PathBuf>)> {
    let (index, folder) = files.iter().enumerate().find_map(|(index, file)| {
        let is_unified = file.file_name().is_some_and(|name| name == PROCS_FILE);
        Some((index, file.parent().filter(|_| is_unified)?))
    })?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = open(folder, flags, Mode::empty()).ok()?;
    let mut rest = files.to_vec();
    rest.remove(index);
    Some((folder, rest))
}

fn join(files: &[PathBuf]) -> Result<(), Failure> {
    files
        .iter()
        .try_for_each(|file| fs::write(file, "0").during("join", file.display()))
}

/// What a process joins a group by, as in the plans, that was made below one of theirs.
pub(crate) fn join_file(group: &Path) -> PathBuf {
    let tasks = group.join(TASKS_FILE);
    if tasks.exists() { tasks } else { group.join(PROCS_FILE) }
}
