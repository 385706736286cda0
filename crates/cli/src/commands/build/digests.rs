//! Digests of files, remembered between builds by what `stat(2)` says, so that a context that has not changed is not read again.
//!
//! **Invariant:** a remembered digest counts only while device, inode, size and both times of the file are the same, and only if
//! the file had been at rest when it was read: one that changed within [`RACY`] of its reading might change once more without a
//! new time (the rule of git's index).
//! Losing what is remembered costs reading the files again, so nothing of it is synced and no failure of it is told.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use gantry_env::{Env, System};
use gantry_model::{Digest, DurationMs, Problem, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::failure::file_problem;

/// The coarsest times that file systems keep (FAT).
const RACY: DurationMs = DurationMs::secs(2);

/// Read at once while finding a digest: a few pages of the cache, small against the stack of nothing.
const READ_BYTES: usize = 256 * 1024;

/// Fewer files than this are read faster than threads start.
const FILES_PER_THREAD: usize = 16;

/// Folders whose files are remembered; those not built from for longest are forgotten beyond that.
const FOLDERS_MAX: usize = 64;

/// What tells a file from what it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State(u64, u64, u64, i64, i64);

impl State {
    fn of(metadata: &Metadata) -> Self {
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self(
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            nanos(metadata.mtime(), metadata.mtime_nsec()),
            nanos(metadata.ctime(), metadata.ctime_nsec()),
        )
    }

    /// Whether a change after the moment would have left another time.
    fn is_at_rest(&self, at: Timestamp) -> bool {
        let at_rest_before = i128::from(at.0.saturating_sub(RACY.0)) * 1_000_000;
        i128::from(self.3.max(self.4)) < at_rest_before
    }
}

/// Digests of one folder's files, by path below it.
#[derive(Debug, Default)]
pub struct Known {
    /// Where they are kept; nowhere for folders that will be gone.
    file: Option<PathBuf>,
    digests: HashMap<String, (State, String)>,
}

impl Known {
    /// What is known of the folder.
    pub fn of(folder: &Path) -> Self {
        Self::kept_in(cache_folder(), folder)
    }

    fn kept_in(cache: Option<PathBuf>, folder: &Path) -> Self {
        let file = cache.zip(folder.canonicalize().ok()).map(|(cache, folder)| {
            let name = Digest::from_bytes(Sha256::digest(folder.as_os_str().as_bytes()).into());
            cache.join(format!("{}.json", name.hex()))
        });
        let read = |path: &PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
        let digests = file.as_ref().and_then(read).unwrap_or_default();
        Self { file, digests }
    }

    /// The digests of files, in their order: those that are not known are read, on all processors.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn digests(&mut self, files: &[Found]) -> Result<Vec<String>, Problem> {
        // Before anything is read: what changes from now on is not at rest.
        let now = System.now();
        let states: Vec<State> = files.iter().map(|file| State::of(&file.metadata)).collect();
        let known = |(file, state): (&Found, &State)| {
            let (at, digest) = self.digests.get(&file.path)?;
            (at == state).then(|| digest.clone())
        };
        let mut digests: Vec<Option<String>> = files.iter().zip(&states).map(known).collect();
        let unknown: Vec<usize> = (0..files.len()).filter(|index| digests[*index].is_none()).collect();
        let places: Vec<&Path> = unknown.iter().map(|index| files[*index].place.as_path()).collect();
        for (index, digest) in unknown.iter().zip(read_all(&places)?) {
            digests[*index] = Some(digest.to_string());
        }
        let digests: Vec<String> = digests.into_iter().flatten().collect();
        if !unknown.is_empty() || self.digests.len() > files.len() {
            let at_rest = files.iter().zip(states).zip(&digests);
            self.digests = at_rest
                .filter(|((_, state), _)| state.is_at_rest(now))
                .map(|((file, state), digest)| (file.path.clone(), (state, digest.clone())))
                .collect();
            // It is known anew next time.
            let _ = self.save();
        }
        Ok(digests)
    }

    fn save(&self) -> io::Result<()> {
        let Some((file, folder)) = self.file.as_ref().and_then(|file| Some((file, file.parent()?))) else {
            return Ok(());
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let new = file.with_extension(format!("{:016x}", System.random_u64()));
        let sorted: BTreeMap<_, _> = self.digests.iter().collect();
        let written = File::options().write(true).create_new(true).mode(0o600).open(&new);
        let renamed = written
            .and_then(|mut new| io::Write::write_all(&mut new, &serde_json::to_vec(&sorted)?))
            .and_then(|()| fs::rename(&new, file));
        if renamed.is_err() {
            let _ = fs::remove_file(&new);
        }
        forget_oldest(folder)?;
        renamed
    }

    /// Where they are kept, for whoever finds that they are wrong.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

fn forget_oldest(folder: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        found.push((entry.metadata()?.modified()?, entry.path()));
    }
    found.sort_unstable();
    for (_, path) in found.iter().take(found.len().saturating_sub(FOLDERS_MAX)) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// As the XDG base directory specification has it.
fn cache_folder() -> Option<PathBuf> {
    let given = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let cache = given("XDG_CACHE_HOME").or_else(|| Some(given("HOME")?.join(".cache")))?;
    Some(cache.join("gantry/contexts"))
}

/// A file of a folder.
#[derive(Debug)]
pub struct Found {
    /// Below the folder.
    pub path: String,
    /// Where it is.
    pub place: PathBuf,
    /// What is known of it without opening it.
    pub metadata: Metadata,
}

fn read_all(paths: &[&Path]) -> Result<Vec<Digest>, Problem> {
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get());
    let workers = workers.min(paths.len().div_ceil(FILES_PER_THREAD));
    if workers < 2 {
        let mut buffer = vec![0; READ_BYTES];
        return paths.iter().map(|path| read(path, &mut buffer)).collect();
    }
    let next = AtomicUsize::new(0);
    let found: Mutex<Vec<(usize, Result<Digest, Problem>)>> = Mutex::new(Vec::with_capacity(paths.len()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let (mut own, mut buffer) = (Vec::new(), vec![0; READ_BYTES]);
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(path) = paths.get(index) else { break };
                    own.push((index, read(path, &mut buffer)));
                }
                found.lock().expect("no worker panics").append(&mut own);
            });
        }
    });
    let mut found = found.into_inner().expect("no worker panics");
    found.sort_unstable_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, digest)| digest).collect()
}

fn read(path: &Path, buffer: &mut [u8]) -> Result<Digest, Problem> {
    let problem = |error: io::Error| file_problem("be read", path, &error);
    let mut file = File::open(path).map_err(problem)?;
    let mut hasher = Sha256::new();
    loop {
        match file.read(buffer).map_err(problem)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// The digest of a file's content.
#[cfg(test)]
pub fn digest(path: &Path) -> Result<String, Problem> {
    read(path, &mut vec![0; READ_BYTES]).map(|digest| digest.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder {
        root: tempfile::TempDir,
        cache: tempfile::TempDir,
    }

    impl Folder {
        fn new() -> Self {
            Self {
                root: tempfile::tempdir().expect("a folder"),
                cache: tempfile::tempdir().expect("a folder"),
            }
        }

        /// Writes a file that was last changed long ago, as far as `mtime` says.
        fn write(&self, name: &str, content: &str) -> PathBuf {
            let path = self.root.path().join(name);
            fs::write(&path, content).expect("written");
            path
        }

        fn known(&self) -> Known {
            Known::kept_in(Some(self.cache.path().to_path_buf()), self.root.path())
        }

        fn found(&self, name: &str) -> Found {
            let place = self.root.path().join(name);
            Found {
                path: name.to_string(),
                metadata: fs::symlink_metadata(&place).expect("there"),
                place,
            }
        }

        fn digest(&self, name: &str) -> String {
            let digests = self.known().digests(&[self.found(name)]).expect("read");
            digests.into_iter().next().expect("one for each file")
        }
    }

    #[test]
    fn digests_are_those_of_the_content_whatever_is_remembered() {
        let folder = Folder::new();
        for number in 0..100 {
            folder.write(&number.to_string(), &format!("content {number}"));
        }
        let files: Vec<Found> = (0..100).map(|number| folder.found(&number.to_string())).collect();
        let fresh = folder.known().digests(&files).expect("read");
        let again = folder.known().digests(&files).expect("read");
        let expected: Vec<String> = files.iter().map(|file| digest(&file.place).expect("read")).collect();
        assert_eq!((&fresh, &again), (&expected, &expected));
    }

    #[test]
    fn a_file_that_just_changed_is_not_remembered() {
        let folder = Folder::new();
        let path = folder.write("a", "one");
        let before = folder.digest("a");
        assert!(folder.known().digests.is_empty());
        fs::write(path, "two").expect("written");
        assert_ne!(folder.digest("a"), before);
    }

    #[test]
    fn a_remembered_digest_counts_as_long_as_the_file_is_the_same() {
        let folder = Folder::new();
        folder.write("a", "one");
        let state = State::of(&folder.found("a").metadata);
        let mut known = folder.known();
        known
            .digests
            .insert("a".to_string(), (state.clone(), "remembered".to_string()));
        known.save().expect("saved");
        assert_eq!(folder.digest("a"), "remembered");
        for other in [
            State(state.0 + 1, state.1, state.2, state.3, state.4),
            State(state.0, state.1 + 1, state.2, state.3, state.4),
            State(state.0, state.1, state.2 + 1, state.3, state.4),
            State(state.0, state.1, state.2, state.3 - 1, state.4),
            State(state.0, state.1, state.2, state.3, state.4 - 1),
        ] {
            let mut known = folder.known();
            known.digests.insert("a".to_string(), (other, "remembered".to_string()));
            known.save().expect("saved");
            assert_eq!(folder.digest("a"), digest(&folder.found("a").place).expect("read"));
        }
    }

    #[test]
    fn what_is_remembered_had_been_at_rest() {
        let at = |seconds: u64| Timestamp(seconds * 1000);
        let state = |mtime: i64, ctime: i64| State(0, 0, 0, mtime * 1_000_000_000, ctime * 1_000_000_000);
        assert!(state(10, 10).is_at_rest(at(13)));
        assert!(!state(10, 10).is_at_rest(at(12)));
        assert!(!state(1, 12).is_at_rest(at(13)), "only its contents' time was set back");
        assert!(!state(99, 1).is_at_rest(at(13)), "from the future");
    }

    #[test]
    fn a_damaged_list_is_as_good_as_none_and_old_ones_go() {
        let folder = Folder::new();
        folder.write("a", "one");
        let file = folder.known().file().expect("a file").to_path_buf();
        fs::write(&file, "{").expect("written");
        assert_eq!(folder.digest("a"), digest(&folder.found("a").place).expect("read"));
        for number in 0..FOLDERS_MAX + 5 {
            fs::write(folder.cache.path().join(format!("{number}.json")), "{}").expect("written");
        }
        folder.known().save().expect("saved");
        assert_eq!(fs::read_dir(folder.cache.path()).expect("listed").count(), FOLDERS_MAX);
        assert!(file.exists(), "the newest stays");
    }
}
