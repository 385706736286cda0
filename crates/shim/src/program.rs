//! The program that a process is to become: finding it as `execvp(3)` does, and saying exactly why it cannot be executed.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execve};

use crate::Failure;
use crate::plan::ProcessPlan;
use crate::process::PATH_DEFAULT;

/// Bytes of a script's first line that the kernel looks at (`BINPRM_BUF_SIZE`).
const FIRST_LINE_MAX: usize = 256;

/// Finds the program without executing it.
pub(crate) fn find(plan: &ProcessPlan, environment: &[String]) -> Result<(), Failure> {
    let program = name_of(plan)?;
    let mut refused = Refusal::default();
    for candidate in candidates(program, environment) {
        let outcome = match fs::metadata(&candidate) {
            Ok(found) if found.is_dir() => Err(Errno::EACCES),
            Ok(_) => access(&candidate, AccessFlags::X_OK),
            Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(0))),
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(errno) => refused.add(candidate, errno),
        }
    }
    Err(refused.into_failure(program))
}

/// Executes it; returns only when that failed.
pub(crate) fn execute(
    plan: &ProcessPlan,
    args: &[CString],
    variables: &[CString],
    environment: &[String],
) -> Result<Infallible, Failure> {
    let program = name_of(plan)?;
    let mut refused = Refusal::default();
    for candidate in candidates(program, environment) {
        let path =
            CString::new(candidate.as_os_str().as_bytes()).map_err(|_| Failure::new("exec", program, Errno::EINVAL))?;
        let Err(errno) = execve(&path, args, variables);
        refused.add(candidate, errno);
        if !matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) {
            break;
        }
    }
    Err(refused.into_failure(program))
}

fn name_of(plan: &ProcessPlan) -> Result<&str, Failure> {
    plan.args
        .first()
        .map(String::as_str)
        .ok_or_else(|| Failure::found("exec", "", "no command: neither the image nor the spec has one"))
}

/// The paths that a program may mean, as `execvp(3)` tries them.
fn candidates(program: &str, environment: &[String]) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![PathBuf::from(program)];
    }
    let path = environment.iter().find_map(|variable| variable.strip_prefix("PATH="));
    path.unwrap_or(PATH_DEFAULT)
        .split(':')
        .map(|folder| Path::new(if folder.is_empty() { "." } else { folder }).join(program))
        .collect()
}

/// What the candidates were refused for: the last answer that is more than "not here".
#[derive(Debug, Default)]
struct Refusal(Option<(PathBuf, Errno)>);

impl Refusal {
    fn add(&mut self, candidate: PathBuf, errno: Errno) {
        let is_absent = matches!(errno, Errno::ENOENT | Errno::ENOTDIR) && fs::symlink_metadata(&candidate).is_err();
        if !is_absent {
            self.0 = Some((candidate, errno));
        }
    }

    fn into_failure(self, program: &str) -> Failure {
        match self.0 {
            None if program.contains('/') => Failure::new("exec", program, Errno::ENOENT),
            None => Failure {
                reason: "not found in PATH".to_string(),
                ..Failure::new("exec", program, Errno::ENOENT)
            },
            Some((path, errno)) => {
                let plain = Failure::new("exec", path.display(), errno);
                let reason = explain(&path, errno).unwrap_or_else(|| plain.reason.clone());
                Failure { reason, ..plain }
            }
        }
    }
}

/// What the kernel's answer means for this file.
fn explain(path: &Path, errno: Errno) -> Option<String> {
    let found = fs::metadata(path).ok();
    match (errno, found) {
        (Errno::EACCES, Some(found)) if found.is_dir() => Some("is a directory".to_string()),
        (Errno::EACCES, Some(found)) if found.permissions().mode() & 0o111 == 0 => {
            let mode = found.permissions().mode() & 0o7777;
            Some(format!(
                "permission denied: the file is not executable (its mode is {mode:04o})"
            ))
        }
        (Errno::ENOENT, Some(_)) => {
            let interpreter = interpreter_of(path).unwrap_or_else(|| "its interpreter or loader".to_string());
            Some(format!("the file is there, but {interpreter} is not"))
        }
        (Errno::ENOENT, None) => Some("the symbolic link leads nowhere".to_string()),
        (Errno::ENOEXEC, _) => {
            Some("exec format error: neither built for this processor nor a script with #!".to_string())
        }
        _ => None,
    }
}

/// What the first line of a script names.
fn interpreter_of(path: &Path) -> Option<String> {
    let mut start = [0; FIRST_LINE_MAX];
    let opened = File::options()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path);
    let length = opened.ok()?.read(&mut start).ok()?;
    let line = start[..length]
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let name = line.trim_ascii().split(|byte| *byte == b' ').next()?;
    Some(
        OsStr::from_bytes(name)
            .to_string_lossy()
            .trim_end_matches('\r')
            .to_string(),
    )
}
