//! Repositories of `ADD`, by the node's `git`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gantry_dockerfile::GitSource;

use crate::cancel::Cancel;
use crate::error::{BuildError, Result};

/// How often a running `git` is asked whether it has ended; it has no descriptor to wait on together with [`Cancel`].
const POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// The commit that the source means now.
pub(crate) fn commit_of(git: &GitSource, cancel: &Cancel) -> Result<String> {
    if let Some(commit) = git.reference.as_deref().filter(|reference| is_commit(reference)) {
        return checked(git, commit.to_string());
    }
    let wanted = git.reference.as_deref().unwrap_or("HEAD");
    let listed = run(
        None,
        &["ls-remote", "--", &git.remote, wanted, &format!("{wanted}^{{}}")],
        cancel,
    )?;
    // A tag's own line comes first, the commit it stands for last.
    let line = listed
        .lines()
        .rfind(|line| line.ends_with("^{}"))
        .or_else(|| listed.lines().next());
    let commit = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or_else(|| BuildError::NotFound {
            path: wanted.to_string(),
            place: git.remote.clone(),
        })?;
    checked(git, commit.to_string())
}

fn checked(git: &GitSource, commit: String) -> Result<String> {
    match &git.checksum {
        Some(expected) if !commit.starts_with(expected.as_str()) => Err(BuildError::Tool {
            tool: "git",
            what: git.remote.clone(),
            reason: format!("its commit is {commit}, expected {expected}"),
        }),
        _ => Ok(commit),
    }
}

fn is_commit(reference: &str) -> bool {
    reference.len() == 40 && reference.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Checks a commit out below `folder` and returns the part of it that is asked for.
pub(crate) fn check_out(git: &GitSource, commit: &str, folder: &Path, cancel: &Cancel) -> Result<PathBuf> {
    run(Some(folder), &["init", "--quiet"], cancel)?;
    run(Some(folder), &["remote", "add", "origin", &git.remote], cancel)?;
    // Not every server gives away single commits; then the named reference, or everything, is asked for.
    let shallow = run(
        Some(folder),
        &["fetch", "--quiet", "--depth=1", "origin", commit],
        cancel,
    );
    if let Err(error) = shallow {
        cancel.check()?;
        tracing::debug!(%error, remote = git.remote, "the commit alone cannot be fetched");
        run(
            Some(folder),
            &[
                "fetch",
                "--quiet",
                "--tags",
                "origin",
                "+refs/heads/*:refs/remotes/origin/*",
            ],
            cancel,
        )?;
    }
    run(
        Some(folder),
        &["-c", "advice.detachedHead=false", "checkout", "--quiet", commit],
        cancel,
    )?;
    if git.submodules {
        run(
            Some(folder),
            &["submodule", "update", "--quiet", "--init", "--recursive", "--depth=1"],
            cancel,
        )?;
    }
    if !git.keep_git_dir {
        let data = folder.join(".git");
        std::fs::remove_dir_all(&data).map_err(BuildError::io("remove", &data))?;
    }
    Ok(match &git.folder {
        Some(part) => folder.join(part.trim_start_matches('/')),
        None => folder.to_path_buf(),
    })
}

fn run(folder: Option<&Path>, args: &[&str], cancel: &Cancel) -> Result<String> {
    let failed = |reason: String| BuildError::Tool {
        tool: "git",
        what: args.join(" "),
        reason,
    };
    let mut command = Command::new("git");
    // Nobody is there to be asked for a password, and the node's own settings must not matter.
    command
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.args(["-c", "protocol.file.allow=user"]).args(args);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("cannot be started on this node: {error}")))?;
    while child.try_wait().map_err(|error| failed(error.to_string()))?.is_none() {
        if cancel.is_set() {
            // It may have ended by itself meanwhile.
            let _ = child.kill();
            let _ = child.wait();
            return Err(BuildError::Cancelled);
        }
        std::thread::sleep(POLL);
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_string()))
}
