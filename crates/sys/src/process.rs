//! Processes: clone3 with a pidfd, fork, signals through a pidfd, leaving without unwinding.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use nix::sched::CloneFlags;
use nix::unistd::Pid;

use crate::{Errno, Result, owned_fd};

/// Which side of a clone this is.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The process that asked.
    Parent {
        /// The new process's id in this process's pid namespace.
        pid: Pid,
        /// A descriptor of the new process; readable once it has ended.
        pidfd: OwnedFd,
    },
}

/// `CLONE_INTO_CGROUP` of `linux/sched.h`; libc's constant for glibc has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// `clone3(2)` without shared memory: a fork into the new namespaces in `flags`, with a pidfd.
///
/// # Errors
/// `EBUSY` when this process has a second thread: the child would hold that thread's locks for ever. Otherwise the kernel's.
pub fn clone_process(flags: CloneFlags) -> Result<Cloned> {
    clone3(flags, None)
}

/// As [`clone_process`], into a group of control group version 2, given by its folder.
///
/// # Errors
/// As [`clone_process`]; also when the folder is no such group (`EBADF`), the group takes no processes (`EBUSY`,
/// `EOPNOTSUPP`) or no more (`EAGAIN`), or the kernel is older than 5.7 (`EINVAL`).
pub fn clone_process_into(flags: CloneFlags, group: impl AsFd) -> Result<Cloned> {
    clone3(flags, Some(group.as_fd()))
}

fn clone3(flags: CloneFlags, group: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    require_single_thread()?;
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid `clone_args`: no flags, no stack, no parent to tell.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    // The bits above the 32 of the flags must not come from their sign.
    arguments.flags = u64::from((flags.bits() | libc::CLONE_PIDFD).cast_unsigned());
    if let Some(group) = group {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = group.as_raw_fd() as u64;
    }
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    let size = std::mem::size_of::<libc::clone_args>();
    // SAFETY: `arguments` and `pidfd` outlive the call; without CLONE_VM the child has its own copy of the memory, and with a
    // single thread no lock can be held by a thread that the child lacks.
    let outcome = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) };
    match Errno::result(outcome)? {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent {
            pid: Pid::from_raw(libc::pid_t::try_from(pid).map_err(|_| Errno::EOVERFLOW)?),
            // SAFETY: on success the kernel stored a fresh descriptor there, owned by nobody else.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// `fork(2)`: the new process's id, or none in the new process itself. Unlike [`clone_process`] it passes filters that
/// refuse clone3.
///
/// # Errors
/// `EBUSY` when this process has a second thread, otherwise the kernel's.
pub fn fork() -> Result<Option<Pid>> {
    require_single_thread()?;
    // SAFETY: this process has one thread, so the child's memory is consistent and no lock is held by a missing thread.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child)),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// A folder in `/proc/self/task` is a thread; a folder's link count is 2 plus its sub-folders.
fn require_single_thread() -> Result<()> {
    let Ok(tasks) = fs::metadata("/proc/self/task") else {
        // Inside a container's fresh root /proc may not be mounted yet; who got there went through this check before.
        return Ok(());
    };
    if tasks.nlink() == 3 { Ok(()) } else { Err(Errno::EBUSY) }
}

/// `pidfd_open(2)`.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: takes two integers.
    owned_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
}

/// `pidfd_send_signal(2)`: unlike `kill` it cannot hit another process that got the same id.
///
/// # Errors
/// `ESRCH` when the process has ended, `EINVAL` for an unknown signal.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let raw = pidfd.as_fd().as_raw_fd();
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is borrowed for the call; a null siginfo asks the kernel to fill it in.
    let outcome = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, raw, signal, no_info, 0) };
    Errno::result(outcome).map(drop)
}

/// Marks every descriptor from `first` on to be closed at exec (`close_range(2)`, `CLOSE_RANGE_CLOEXEC`).
///
/// # Errors
/// The kernel's.
pub fn close_at_exec_from(first: u32) -> Result<()> {
    // SAFETY: only sets a flag on descriptors, closes none.
    let outcome = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(outcome).map(drop)
}

/// Closes every descriptor from `first` on (`close_range(2)`), for a process that has just begun and inherited them.
///
/// # Errors
/// `EBUSY` when this process has a second thread, otherwise the kernel's.
pub fn close_inherited_from(first: u32) -> Result<()> {
    require_single_thread()?;
    // SAFETY: the caller is a process at its beginning: descriptors from `first` on were inherited and have no owner here.
    // A descriptor that did have one would only yield EBADF later: nothing here maps memory to descriptors.
    let outcome = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    Errno::result(outcome).map(drop)
}

/// Ends the process at once, without destructors or exit handlers: what a forked child must do when it does not exec.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: never returns and touches no memory.
    unsafe { libc::_exit(status) }
}

/// Sets every signal back to its default action (`sigaction(2)`): ignored ones would stay ignored over exec.
pub fn reset_signal_actions() {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: the default action runs no code of ours. SIGKILL, SIGSTOP and libc's own are refused, which is fine.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// The processor time and the like are not asked: which child ended, and its wait status as exit code (128 plus the signal).
///
/// Returns none when no child has ended yet.
///
/// # Errors
/// `ECHILD` when there are no children.
pub fn reap() -> Result<Option<(Pid, i32)>> {
    let mut status: libc::c_int = 0;
    // SAFETY: `status` outlives the call.
    let pid = Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) })?;
    if pid == 0 {
        return Ok(None);
    }
    let code = if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    };
    Ok(Some((Pid::from_raw(pid), code)))
}

/// Sets the NIS domain name of this uts namespace (`setdomainname(2)`).
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN, `EINVAL` when it is longer than 64 bytes.
pub fn set_domain_name(name: &str) -> Result<()> {
    // SAFETY: the pointer and the length are those of one string that outlives the call.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Sets the execution domain of this process (`personality(2)`).
///
/// # Errors
/// The kernel's.
pub fn set_personality(persona: u32) -> Result<()> {
    // SAFETY: takes an integer.
    Errno::result(unsafe { libc::personality(libc::c_ulong::from(persona)) }).map(drop)
}
