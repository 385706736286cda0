//! A folder as a list of entries with digests.
//!
//! **Invariant:** parents come before what is in them, and names in their order, so the same folder gives the same list.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use gantry_dockerfile::IgnoreRules;
use gantry_model::build::{ContextEntry, ContextEntryKind};
use gantry_model::{Class, Problem};

use super::digests::{Found, Known};
use crate::failure::file_problem;

/// Permissions, set-id and sticky bits.
const MODE_BITS: u32 = 0o7777;

/// Where contents are.
#[derive(Debug, Default)]
pub struct Files {
    places: HashMap<String, PathBuf>,
    /// Where digests of files are remembered.
    remembered: Vec<PathBuf>,
}

impl Files {
    /// A file with that content.
    pub fn get(&self, digest: &str) -> Option<&Path> {
        self.places.get(digest).map(PathBuf::as_path)
    }

    /// A file's content is not what its digest says: no digest is taken on trust next time.
    pub fn doubt(&self) {
        for path in &self.remembered {
            // What is not there is not trusted either.
            let _ = fs::remove_file(path);
        }
    }
}

/// Lists a folder.
///
/// # Errors
/// When something cannot be read, or is no file, folder or link.
pub fn walk(
    root: &Path,
    rules: &IgnoreRules,
    mut known: Known,
    files: &mut Files,
) -> Result<Vec<ContextEntry>, Problem> {
    let mut walker = Walker {
        root,
        rules,
        pending: Vec::new(),
    };
    let mut entries = walker.folder("")?;
    let digests = known.digests(&walker.pending)?;
    files.remembered.extend(known.file().map(Path::to_path_buf));
    let mut found = walker.pending.into_iter().zip(digests);
    for entry in &mut entries {
        if let ContextEntryKind::File { digest, .. } = &mut entry.kind {
            let (file, content) = found.next().expect("one digest for each file");
            files.places.insert(content.clone(), file.place);
            *digest = content;
        }
    }
    Ok(entries)
}

struct Walker<'w> {
    root: &'w Path,
    rules: &'w IgnoreRules,
    /// Files whose digest is still to be found, in the order of their entries.
    pending: Vec<Found>,
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
        let kind = kind(&place, &metadata)?;
        entries.push(entry(path.clone(), &metadata, kind));
        if metadata.is_file() {
            self.pending.push(Found { path, place, metadata });
        }
        Ok(())
    }
}

fn kind(place: &Path, metadata: &Metadata) -> Result<ContextEntryKind, Problem> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(rules: &str, make: impl Fn(&Path)) -> Result<Vec<String>, Problem> {
        let place = tempfile::tempdir().expect("a folder");
        make(place.path());
        let rules = IgnoreRules::parse(rules).expect("rules");
        let mut files = Files::default();
        let entries = walk(place.path(), &rules, Known::default(), &mut files)?;
        for entry in &entries {
            if let ContextEntryKind::File { digest, .. } = &entry.kind {
                let place = files.get(digest).expect("a file of that content");
                assert_eq!(super::super::digests::digest(place).expect("read"), *digest);
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
