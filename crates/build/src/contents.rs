//! Files of contexts by digest, kept between builds so that a context that has not changed is not sent again.
//!
//! **Invariant:** a file under its digest is complete and has that digest: it is written aside, verified, and renamed.
//! Losing one costs a transfer, so nothing is synced; a torn one after a power loss is found when it is used, since the size
//! must fit, and its digest is checked on the way into a layer.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use gantry_env::Env;
use gantry_model::{Digest, DurationMs};
use sha2::{Digest as _, Sha256};

use crate::error::{BuildError, Result};

/// Used so recently, a content may be part of a build that goes on.
const AT_WORK: DurationMs = DurationMs::secs(3600);

/// See the module.
#[derive(Debug)]
pub struct Contents {
    dir: PathBuf,
}

/// A file that arrives.
#[derive(Debug)]
pub struct Incoming {
    digest: Digest,
    file: File,
    tmp: PathBuf,
    path: PathBuf,
    hasher: Sha256,
}

impl Contents {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(BuildError::io("make folder", dir))?;
        let contents = Self { dir: dir.to_path_buf() };
        // What was arriving when the node went down.
        for entry in fs::read_dir(dir).map_err(BuildError::io("list", dir))? {
            let path = entry.map_err(BuildError::io("list", dir))?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(&path).map_err(BuildError::io("remove", &path))?;
            }
        }
        Ok(contents)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Whether the content is here, with that many bytes.
    #[must_use]
    pub fn has(&self, digest: Digest, size: u64) -> bool {
        fs::metadata(self.path(digest)).is_ok_and(|found| found.len() == size)
    }

    /// Begins to take in a file.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn receive(&self, digest: Digest, env: &dyn Env) -> Result<Incoming> {
        let path = self.path(digest);
        let tmp = self.dir.join(format!("{}-{:016x}.new", digest.hex(), env.random_u64()));
        let file = File::create_new(&tmp).map_err(BuildError::io("make", &tmp))?;
        Ok(Incoming {
            digest,
            file,
            tmp,
            path,
            hasher: Sha256::new(),
        })
    }

    /// Begins to take in a file whose digest nobody knows yet.
    pub(crate) fn receive_unknown(&self, env: &dyn Env) -> Result<Incoming> {
        let nothing = Digest::from_bytes([0; 32]);
        self.receive(nothing, env)
    }

    /// Opens a content and marks it as used.
    pub(crate) fn open_content(&self, digest: Digest) -> Result<File> {
        let path = self.path(digest);
        let file = File::open(&path).map_err(BuildError::io("open", &path))?;
        // The time of use only steers what is removed first.
        let _ = nix::sys::stat::futimens(
            &file,
            &nix::sys::time::TimeSpec::UTIME_NOW,
            &nix::sys::time::TimeSpec::UTIME_OMIT,
        );
        Ok(file)
    }

    /// Bytes of all contents.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn size(&self) -> Result<u64> {
        Ok(self.list()?.iter().map(|(_, metadata)| metadata.len()).sum())
    }

    fn list(&self) -> Result<Vec<(PathBuf, fs::Metadata)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(BuildError::io("list", &self.dir))? {
            let entry = entry.map_err(BuildError::io("list", &self.dir))?;
            // One removed meanwhile is left out.
            if let Ok(metadata) = entry.metadata() {
                found.push((entry.path(), metadata));
            }
        }
        Ok(found)
    }

    /// Removes the least recently used until no more than this many bytes are left, except what was used within the last
    /// [`AT_WORK`]: a build may be about to open it. Returns the bytes freed.
    pub(crate) fn shrink(&self, most: u64, env: &dyn Env) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        let mut found = self.list()?;
        let mut size: u64 = found.iter().map(|(_, metadata)| metadata.len()).sum();
        if size <= most {
            return Ok(0);
        }
        let at_work_since = env.now().0.saturating_sub(AT_WORK.0) / 1000;
        found.retain(|(path, metadata)| {
            let is_arriving = path.extension().is_some();
            !is_arriving && u64::try_from(metadata.atime()).unwrap_or(0) < at_work_since
        });
        found.sort_by_key(|(_, metadata)| (metadata.atime(), metadata.atime_nsec()));
        let before = size;
        for (path, metadata) in found {
            if size <= most {
                break;
            }
            remove(&path)?;
            size -= metadata.len();
        }
        Ok(before - size)
    }

    /// Removes what was not used for so long, and returns the bytes freed. A build that still wants one of them asks again.
    pub(crate) fn prune(&self, unused_for: DurationMs, env: &dyn Env, dry_run: bool) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        let limit = env.now().0.saturating_sub(unused_for.0);
        let mut freed = 0;
        for (path, metadata) in self.list()? {
            let used_ms = u64::try_from(metadata.atime()).unwrap_or(0).saturating_mul(1000);
            let is_arriving = path.extension().is_some();
            if is_arriving || (used_ms > limit && unused_for.0 > 0) {
                continue;
            }
            if !dry_run {
                remove(&path)?;
            }
            freed += metadata.len();
        }
        Ok(freed)
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BuildError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

impl Incoming {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(BuildError::io("write", &self.tmp))
    }

    /// Puts it in its place, now that its digest is known.
    pub(crate) fn finish_as(mut self, digest: Digest) -> Result<()> {
        self.digest = digest;
        self.path = self.path.with_file_name(digest.hex());
        self.finish()
    }

    /// Puts it in its place, if it is what its digest says.
    ///
    /// # Errors
    /// When it is not, or the disk refuses.
    pub fn finish(self) -> Result<()> {
        let found = Digest::from_bytes(self.hasher.clone().finalize().into());
        if found != self.digest {
            return Err(BuildError::WrongDigest {
                what: "a file of the context".to_string(),
                expected: self.digest.to_string(),
                found,
            });
        }
        fs::rename(&self.tmp, &self.path).map_err(BuildError::io("move to", &self.path))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Gone when it was renamed; a leftover is removed at the next start.
        let _ = fs::remove_file(&self.tmp);
    }
}

/// Digest of everything that a reader gives.
pub(crate) fn digest_of(mut source: impl Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(hasher.finalize().into())),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_env::System;

    fn receive(contents: &Contents, digest: Digest, bytes: &[u8]) -> Result<()> {
        let mut incoming = contents.receive(digest, &System)?;
        incoming.write(bytes)?;
        incoming.finish()
    }

    #[test]
    fn room_is_made_of_what_was_not_used_for_longest() {
        use std::time::{Duration, UNIX_EPOCH};
        let folder = tempfile::tempdir().expect("temporary folder");
        let contents = Contents::open(folder.path()).expect("opens");
        let put = |text: &[u8], used: Option<u64>| {
            let digest = digest_of(text).expect("digest");
            receive(&contents, digest, text).expect("taken");
            let file = File::options().write(true).open(contents.path(digest)).expect("it");
            if let Some(used) = used {
                let times = fs::FileTimes::new().set_accessed(UNIX_EPOCH + Duration::from_secs(used));
                file.set_times(times).expect("times");
            }
            digest
        };
        let (new, old, fresh) = (
            put(b"newer", Some(2000)),
            put(b"older", Some(1000)),
            put(b"fresh", None),
        );
        let shrink = |most| contents.shrink(most, &System).expect("shrinks");
        assert_eq!(shrink(15), 0, "there is room");
        assert_eq!(shrink(14), 5);
        assert!(contents.has(new, 5) && !contents.has(old, 5));
        assert_eq!(shrink(0), 5, "what a build may need stays");
        assert!(!contents.has(new, 5) && contents.has(fresh, 5));
    }

    #[test]
    fn only_what_its_digest_says_is_kept() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let contents = Contents::open(folder.path()).expect("opens");
        let digest = digest_of(&b"hello"[..]).expect("digest");
        let lie = receive(&contents, digest, b"hullo").expect_err("a lie");
        assert!(matches!(lie, BuildError::WrongDigest { .. }), "{lie}");
        assert!(!contents.has(digest, 5));
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 0);
        receive(&contents, digest, b"hello").expect("the truth");
        assert!(contents.has(digest, 5) && !contents.has(digest, 4));
        assert_eq!(contents.size().expect("size"), 5);
        assert_eq!(contents.prune(DurationMs::secs(60), &System, false).expect("prunes"), 0);
        assert_eq!(contents.prune(DurationMs(0), &System, false).expect("prunes"), 5);
        assert!(!contents.has(digest, 5));
    }
}
