//! What this node keeps for the cluster, whether it needs it itself or not: a list on disk, and roots in the store.
//!
//! **Invariant:** what is on the list is a root of the store, so that no collection takes it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_image::{Node, Store};
use gantry_model::{Class, Digest, Problem};

/// Name of the roots in the store.
const OWNER: &str = "registry";

/// See the module. Clones are the same list.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    path: Arc<PathBuf>,
    digests: Arc<Mutex<BTreeSet<Digest>>>,
}

impl Kept {
    /// The list beside the store. One that cannot be read is as good as none: the cluster asks for what it lacks.
    pub(crate) fn open(store: &Store) -> Self {
        let path = store.dir().with_file_name("kept.json");
        let digests = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, path = %path.display(), "what this node keeps for the cluster cannot be read");
                BTreeSet::new()
            }),
            Err(_) => BTreeSet::new(),
        };
        Self {
            path: Arc::new(path),
            digests: Arc::new(Mutex::new(digests)),
        }
    }

    pub(crate) fn contains(&self, digest: Digest) -> bool {
        self.digests().contains(&digest)
    }

    pub(crate) fn all(&self) -> BTreeSet<Digest> {
        self.digests().clone()
    }

    /// Puts a manifest on the list, or takes it off. Blocks on the disk.
    pub(crate) fn set(&self, store: &Store, digest: Digest, keeps: bool) -> Result<(), Problem> {
        let mut digests = self.digests();
        let mut changed = digests.clone();
        let differs = if keeps {
            changed.insert(digest)
        } else {
            changed.remove(&digest)
        };
        if !differs {
            return Ok(());
        }
        let roots = changed.iter().copied().map(Node::Manifest).collect();
        store.set_roots(OWNER, roots).map_err(Problem::from)?;
        save(&self.path, &changed).map_err(|error| {
            let reason = format!("cannot be written: {error}");
            Problem::new(Class::Internal, self.path.display().to_string(), reason)
        })?;
        *digests = changed;
        Ok(())
    }

    fn digests(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        // Replaced as a whole, so a panicking holder leaves it whole.
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn save(path: &Path, digests: &BTreeSet<Digest>) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = fs::File::create(&new)?;
    file.write_all(&serde_json::to_vec(digests)?)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_survives_and_forgets_what_is_taken_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let digest = Digest::from_bytes([7; 32]);
        let open = || Store::open(folder.path().join("images")).expect("a store");
        {
            let store = open();
            let kept = Kept::open(&store);
            kept.set(&store, digest, true).expect("kept");
            assert!(kept.contains(digest));
        }
        let store = open();
        let kept = Kept::open(&store);
        assert_eq!(kept.all(), [digest].into());
        kept.set(&store, digest, false).expect("dropped");
        assert_eq!(Kept::open(&store).all(), BTreeSet::new());
    }
}
