//! A folder as a list of entries with digests.
//!
//! **Invariant:** parents come before what is in them, and names in their order, so the same folder gives the same list.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use gantry_dockerfile::IgnoreRules;
use gantry_model::build::{ContextEntry, ContextEntryKind};
use gantry_model::{Class, Digest, Problem};
use sha2::{Digest as _, Sha256};

use crate::failure::file_problem;

/// Permissions, set-id and sticky bits.
const MODE_BITS: u32 = 0o7777;

/// Read at once while finding a digest: a few pages of the cache, small against the stack of nothing.
const READ_BYTES: usize = 256 * 1024;

/// Where the content of a digest is.
pub type Files = HashMap<String, PathBuf>;

/// Lists a folder.
///
/// # Errors
/// When something cannot be read, or is no file, folder or link.
pub fn walk(root: &Path, rules: &IgnoreRules, files: &mut Files) -> Result<Vec<ContextEntry>, Problem> {
    let mut walker = Walker {
        root,
        rules,
        pending: Vec::new(),
    };
    let mut entries = walker.folder("")?;
    let digests = digests(&walker.pending)?;
    let mut found = walker.pending.into_iter().zip(digests);
    for entry in &mut entries {
        if let ContextEntryKind::File { digest, .. } = &mut entry.kind {
            let (path, content) = found.next().expect("one digest for each file");
            *digest = content.to_string();
            files.insert(digest.clone(), path);
        }
    }
    Ok(entries)
}

struct Walker<'w> {
    root: &'w Path,
    rules: &'w IgnoreRules,
    /// Files whose digest is still to be found, in the order of their entries.
    pending: Vec<PathBuf>,
}

impl Walker<'_> {
    fn folder(&mut self, path: &str) -> Result<Vec<ContextEntry>, Problem> {
        let place = self.root.join(path);
        let problem = |error: std::io::Error| file_problem("be read", &place, &error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&place).map_err(problem)? {
            let name = entry.map_err(problem)?.file_name();
            let name = name.into_string().map_err(|name| {
                Problem::new(
                    Class::Invalid,
                    place.join(&name).display().to_string(),
                    "has a name that is no UTF-8",
                )
                .remedy("rename it, or leave it out with .dockerignore")
            });
            names.push(name);
        }
        // A name that is no text matters only where nothing leaves it out, which needs text to say.
        let mut names = names.into_iter().collect::<Result<Vec<_>, _>>()?;
        names.sort_unstable();
        let mut entries = Vec::new();
        for name in names {
            let child = if path.is_empty() {
                name
            } else {
                format!("{path}/{name}")
            };
            self.child(child, &mut entries)?;
        }
        Ok(entries)
    }

    fn child(&mut self, path: String, entries: &mut Vec<ContextEntry>) -> Result<(), Problem> {
        let ignored = self.rules.is_ignored(&path);
        if ignored && !self.rules.has_exceptions() {
            return Ok(());
        }
        let place = self.root.join(&path);
        let metadata = match fs::symlink_metadata(&place) {
            Ok(metadata) => metadata,
            // It went away meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(file_problem("be read", &place, &error)),
        };
        if metadata.is_dir() {
            let inside = self.folder(&path)?;
            if !ignored || !inside.is_empty() {
                entries.push(entry(path, &metadata, ContextEntryKind::Folder));
                entries.extend(inside);
            }
            return Ok(());
        }
        if ignored || metadata.file_type().is_socket() {
            return Ok(());
        }
        let kind = self.kind(&place, &metadata)?;
        entries.push(entry(path, &metadata, kind));
        Ok(())
    }

    fn kind(&mut self, place: &Path, metadata: &Metadata) -> Result<ContextEntryKind, Problem> {
        if metadata.is_symlink() {
            let target = fs::read_link(place).map_err(|error| file_problem("be read", place, &error))?;
            let target = target.to_str().map(ToString::to_string);
            let target = target.ok_or_else(|| {
                Problem::new(
                    Class::Invalid,
                    place.display().to_string(),
                    "points to a name that is no UTF-8",
                )
            })?;
            return Ok(ContextEntryKind::Link { target });
        }
        if metadata.is_file() {
            self.pending.push(place.to_path_buf());
            return Ok(ContextEntryKind::File {
                digest: String::new(),
                size: metadata.len(),
            });
        }
        Err(Problem::new(
            Class::Invalid,
            place.display().to_string(),
            "is a device or a pipe, which no context can hold",
        )
        .remedy("leave it out with .dockerignore"))
    }
}

fn entry(path: String, metadata: &Metadata, kind: ContextEntryKind) -> ContextEntry {
    ContextEntry {
        path,
        mode: metadata.mode() & MODE_BITS,
        uid: 0,
        gid: 0,
        mtime_ns: metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec()),
        kind,
    }
}

/// Digests of files, in their order, on all processors.
fn digests(paths: &[PathBuf]) -> Result<Vec<Digest>, Problem> {
    let next = AtomicUsize::new(0);
    let found: Mutex<Vec<(usize, Result<Digest, Problem>)>> = Mutex::new(Vec::with_capacity(paths.len()));
    let workers = std::thread::available_parallelism()
        .map_or(1, |count| count.get())
        .min(paths.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut own = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(path) = paths.get(index) else { break };
                    own.push((index, digest(path)));
                }
                found.lock().expect("no worker panics").append(&mut own);
            });
        }
    });
    let mut found = found.into_inner().expect("no worker panics");
    found.sort_unstable_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, digest)| digest).collect()
}

/// The digest of a file's content.
///
/// # Errors
/// When it cannot be read.
pub fn digest(path: &Path) -> Result<Digest, Problem> {
    let problem = |error: std::io::Error| file_problem("be read", path, &error);
    let mut file = File::open(path).map_err(problem)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer).map_err(problem)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(rules: &str, make: impl Fn(&Path)) -> Result<Vec<String>, Problem> {
        let place = tempfile::tempdir().expect("a folder");
        make(place.path());
        let rules = IgnoreRules::parse(rules).expect("rules");
        let mut files = Files::new();
        let entries = walk(place.path(), &rules, &mut files)?;
        for entry in &entries {
            if let ContextEntryKind::File { digest, .. } = &entry.kind {
                assert_eq!(self::digest(&files[digest]).expect("read").to_string(), *digest);
            }
        }
        Ok(entries.into_iter().map(|entry| entry.path).collect())
    }

    fn tree(root: &Path) {
        for folder in ["a/deep", "node_modules/x", "empty"] {
            fs::create_dir_all(root.join(folder)).expect("made");
        }
        for file in [
            "a/deep/one",
            "a/two",
            "node_modules/x/y",
            "node_modules/keep",
            "Dockerfile",
            "z.log",
        ] {
            fs::write(root.join(file), file).expect("written");
        }
        std::os::unix::fs::symlink("a/two", root.join("link")).expect("linked");
    }

    #[test]
    fn parents_come_first_and_rules_leave_out() {
        let all = listed("", tree).expect("walked");
        assert_eq!(
            all,
            [
                "Dockerfile",
                "a",
                "a/deep",
                "a/deep/one",
                "a/two",
                "empty",
                "link",
                "node_modules",
                "node_modules/keep",
                "node_modules/x",
                "node_modules/x/y",
                "z.log"
            ]
        );
        let some = listed("node_modules\n*.log\n**/deep", tree).expect("walked");
        assert_eq!(some, ["Dockerfile", "a", "a/two", "empty", "link"]);
        let exception = listed("*\n!node_modules/keep\n!Dockerfile", tree).expect("walked");
        assert_eq!(exception, ["Dockerfile", "node_modules", "node_modules/keep"]);
    }

    #[test]
    fn pipes_are_refused_and_sockets_left_out() {
        let socket = |root: &Path| {
            std::os::unix::net::UnixListener::bind(root.join("s")).expect("bound");
        };
        assert_eq!(listed("", socket).expect("walked"), Vec::<String>::new());
        let pipe = |root: &Path| {
            let path = root.join("p");
            let made = std::process::Command::new("mkfifo").arg(path).status();
            assert!(made.is_ok_and(|status| status.success()));
        };
        assert!(listed("", pipe).expect_err("refused").reason.contains("pipe"));
        assert_eq!(listed("p", pipe).expect("left out"), Vec::<String>::new());
    }
}
