//! Which names of images the cluster has acknowledged to this node: a list on disk.
//!
//! Names are the cluster's. One on the list that the cluster does not have any more was taken away while this node could not be told,
//! and goes here too; one that is not on the list was made here while no server could be told, and is told as soon as one can.
//! Blocks on the disk.
//!
//! **Invariant:** an entry holds for one meaning: a name that is made anew here is off the list until it is acknowledged again.
//! Deliberately not here: a name that the cluster moved to another image goes on meaning the old one here until it comes anew.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_image::Store;
use gantry_model::{Digest, ImageReference};

/// See the module. Clones are the same list.
#[derive(Debug, Clone)]
pub(super) struct Names {
    path: Arc<PathBuf>,
    recorded: Arc<Mutex<BTreeMap<String, Digest>>>,
}

impl Names {
    /// The list beside the store. Without one, every name is told anew, and the cluster takes those that it lacks.
    pub(super) fn open(store: &Store) -> Self {
        let path = store.dir().with_file_name("names.json");
        let recorded = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, path = %path.display(), "which names the cluster knows cannot be read");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self {
            path: Arc::new(path),
            recorded: Arc::new(Mutex::new(recorded)),
        }
    }

    /// Names that the cluster has acknowledged.
    pub(super) fn recorded(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Whether it has acknowledged this one.
    pub(super) fn contains(&self, reference: &str) -> bool {
        self.lock().contains_key(reference)
    }

    /// The cluster has these names for these images. One that means something else here by now is not meant.
    pub(super) fn record(&self, store: &Store, told: impl IntoIterator<Item = (String, Digest)>) {
        let meant = told.into_iter().filter_map(|(reference, digest)| {
            let parsed: ImageReference = reference.parse().ok()?;
            let target = store.target(&parsed)?;
            let is_meant = target == digest || store.resolve(&parsed) == Some(digest);
            is_meant.then_some((reference, target))
        });
        let meant: Vec<(String, Digest)> = meant.collect();
        self.change(|recorded| recorded.extend(meant));
    }

    /// Takes off the list what means nothing, or something else, by now.
    pub(super) fn retain(&self, store: &Store) {
        self.change(|recorded| recorded.retain(|reference, digest| target(store, reference) == Some(*digest)));
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Digest>)) {
        let mut recorded = self.lock();
        let mut changed = recorded.clone();
        change(&mut changed);
        if changed == *recorded {
            return;
        }
        // A list that is not written makes the next agent tell names again that the cluster knows.
        if let Err(error) = save(&self.path, &changed) {
            tracing::warn!(%error, path = %self.path.display(), "which names the cluster knows cannot be written");
        }
        *recorded = changed;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Digest>> {
        // Replaced as a whole, so a panicking holder leaves it whole.
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn target(store: &Store, reference: &str) -> Option<Digest> {
    store.target(&reference.parse::<ImageReference>().ok()?)
}

fn save(path: &Path, recorded: &BTreeMap<String, Digest>) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = fs::File::create(&new)?;
    file.write_all(&serde_json::to_vec(recorded)?)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "docker.io/library/web:v1";

    /// A store with an image of no files; its digest.
    fn with_image(store: &Store, content: &str) -> Digest {
        let options = gantry_image::ImportOptions {
            cmd: vec![content.to_string()],
            ..Default::default()
        };
        let reference = WEB.parse().expect("a reference");
        // Two empty blocks end a tar.
        let image = store.import_rootfs(&[0; 1024][..], &reference, &options);
        image.expect("imported").digest
    }

    #[test]
    fn what_the_cluster_acknowledged_survives_until_the_name_means_something_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || Store::open(folder.path().join("images")).expect("a store");
        {
            let store = open();
            let digest = with_image(&store, "one");
            let names = Names::open(&store);
            assert!(!names.contains(WEB));
            names.record(&store, [(WEB.to_string(), digest)]);
        }
        let store = open();
        let names = Names::open(&store);
        names.retain(&store);
        assert_eq!(names.recorded(), [WEB]);
        let _ = with_image(&store, "two");
        names.retain(&store);
        assert!(!names.contains(WEB) && !Names::open(&store).contains(WEB));
    }

    #[test]
    fn an_acknowledgement_that_comes_late_is_not_one_of_the_new_meaning() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path().join("images")).expect("a store");
        let names = Names::open(&store);
        let former = with_image(&store, "one");
        let _ = with_image(&store, "two");
        names.record(&store, [(WEB.to_string(), former), ("gone:v1".to_string(), former)]);
        assert_eq!(names.recorded(), Vec::<String>::new());
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_empty_one() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("names.json"), "{").expect("written");
        let store = Store::open(folder.path().join("images")).expect("a store");
        assert_eq!(Names::open(&store).recorded(), Vec::<String>::new());
    }
}
