//! Contexts that are no folder yet: Git repositories, and archives from standard input.

use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gantry_dockerfile::GitSource;
use gantry_model::{Class, Problem};

use super::temporary::Temporary;

/// How gzip begins (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Where a tar header says that it is one (POSIX ustar).
const TAR_MAGIC_OFFSET: usize = 257;
const TAR_MAGIC: &[u8] = b"ustar";

/// Gets the commit with git; gives the folder of the context in it.
///
/// # Errors
/// When git is missing, or the repository or what is wanted of it is.
pub fn clone(source: &GitSource, into: &Temporary) -> Result<PathBuf, Problem> {
    let folder = into.path().join("repository");
    let path = folder.display().to_string();
    let reference = source.reference.as_deref().unwrap_or("HEAD");
    if reference.starts_with('-') || source.remote.starts_with('-') {
        let problem = Problem::new(
            Class::Invalid,
            format!("repository {}", source.remote),
            "begins with '-'",
        );
        return Err(problem.remedy("name a branch, a tag or a commit after '#'"));
    }
    git(&source.remote, &["init", "--quiet", &path])?;
    git(
        &source.remote,
        &[
            "-C",
            &path,
            "fetch",
            "--quiet",
            "--depth=1",
            "--",
            &source.remote,
            reference,
        ],
    )
    // Servers may refuse a commit by its id; then all of them are needed.
    .or_else(|_| {
        git(
            &source.remote,
            &["-C", &path, "fetch", "--quiet", "--tags", "--", &source.remote],
        )
    })?;
    let wanted = git(
        &source.remote,
        &["-C", &path, "rev-parse", "--verify", "--quiet", reference],
    );
    let commit = if wanted.is_ok() && reference != "HEAD" {
        reference
    } else {
        "FETCH_HEAD"
    };
    git(
        &source.remote,
        &["-C", &path, "checkout", "--quiet", "--detach", commit],
    )?;
    if source.submodules && folder.join(".gitmodules").exists() {
        git(
            &source.remote,
            &[
                "-C",
                &path,
                "submodule",
                "update",
                "--quiet",
                "--init",
                "--recursive",
                "--depth=1",
            ],
        )?;
    }
    if !source.keep_git_dir {
        let _ = fs::remove_dir_all(folder.join(".git"));
    }
    inner_folder(&folder, source)
}

/// The part of the tree, which must not lead out of it.
fn inner_folder(folder: &Path, source: &GitSource) -> Result<PathBuf, Problem> {
    let Some(inner) = &source.folder else {
        return Ok(folder.to_path_buf());
    };
    let missing = || {
        Problem::new(
            Class::NotFound,
            format!("{} folder {inner}", source.remote),
            "is not in the repository",
        )
    };
    let root = folder.canonicalize().map_err(|_| missing())?;
    let path = root
        .join(inner.trim_start_matches('/'))
        .canonicalize()
        .map_err(|_| missing())?;
    if path.starts_with(&root) && path.is_dir() {
        Ok(path)
    } else {
        Err(missing())
    }
}

fn git(remote: &str, arguments: &[&str]) -> Result<(), Problem> {
    let mut command = Command::new("git");
    command
        .args(["-c", "protocol.file.allow=user", "-c", "advice.detachedHead=false"])
        .args(arguments);
    command
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let output = command.output().map_err(|error| {
        Problem::new(Class::Unavailable, "git", format!("cannot be run: {error}"))
            .remedy("install git, or name a folder")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().lines().last().unwrap_or("git failed").to_string();
    Err(Problem::new(Class::Unavailable, format!("repository {remote}"), said)
        .remedy("look at the address, the name after '#' and your access"))
}

/// Whether standard input holds an archive and not a Dockerfile.
pub fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(&GZIP_MAGIC)
        || bytes
            .get(TAR_MAGIC_OFFSET..)
            .is_some_and(|rest| rest.starts_with(TAR_MAGIC))
}

/// Unpacks an archive; paths that lead out of the folder are left out.
///
/// # Errors
/// When it is damaged, or the disk refuses.
pub fn unpack(bytes: &[u8], into: &Temporary, whence: &str) -> Result<PathBuf, Problem> {
    let folder = into.path().join("archive");
    let problem = |error: std::io::Error| {
        Problem::new(Class::Invalid, whence, format!("cannot be unpacked: {error}"))
            .remedy("send a tar, plain or with gzip, such as by tar -c . | gantry build -")
    };
    let reader: Box<dyn Read + '_> = if bytes.starts_with(&GZIP_MAGIC) {
        Box::new(flate2::read::MultiGzDecoder::new(bytes))
    } else {
        Box::new(Cursor::new(bytes))
    };
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(true);
    fs::create_dir_all(&folder).map_err(problem)?;
    archive.unpack(&folder).map_err(problem)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_from_dockerfiles() {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(6);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, "Dockerfile", &b"FROM a"[..])
            .expect("packed");
        let bytes = archive.into_inner().expect("packed");
        assert!(is_archive(&bytes) && !is_archive(b"FROM a\nRUN x"));
        let place = Temporary::new().expect("a folder");
        let folder = unpack(&bytes, &place, "standard input").expect("unpacked");
        assert_eq!(fs::read(folder.join("Dockerfile")).expect("there"), b"FROM a");
        let path = place.path().to_path_buf();
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn a_repository_becomes_a_folder() {
        let place = Temporary::new().expect("a folder");
        let origin = place.path().join("origin");
        let run = |arguments: &[&str]| {
            let status = Command::new("git")
                .arg("-C")
                .arg(&origin)
                .args(["-c", "user.name=t", "-c", "user.email=t@example.com"])
                .args(arguments)
                .status();
            status.is_ok_and(|status| status.success())
        };
        fs::create_dir_all(origin.join("sub")).expect("made");
        fs::write(origin.join("sub/Dockerfile"), "FROM a").expect("written");
        if !run(&["init", "--quiet"]) {
            eprintln!("skipped: git is not here");
            return;
        }
        assert!(run(&["add", "."]) && run(&["commit", "--quiet", "-m", "one"]) && run(&["tag", "v1"]));
        let mut source = GitSource::parse("https://example.com/x.git#v1:sub")
            .expect("a repository")
            .expect("valid");
        source.remote = format!("file://{}", origin.display());
        let folder = clone(&source, &place).expect("cloned");
        assert_eq!(fs::read(folder.join("Dockerfile")).expect("there"), b"FROM a");
        source.folder = Some("../../origin".into());
        let other = Temporary::new().expect("a folder");
        assert!(clone(&source, &other).is_err());
    }
}
