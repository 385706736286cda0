//! Openraft's own test suite over these stores.

use gantry_model::ServerId;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt as _;
use std::sync::Arc;
use tempfile::TempDir;

use crate::feed::Feed;
use crate::log_store::{Closing, LogStore};
use crate::machine::Machine;
use crate::snapshot::{Loaded, Snapshots};
use crate::types::TypeConfig;

struct Builder;

/// The folder of the stores, dropped after them.
struct Folder {
    closing: Option<Closing>,
    _dir: TempDir,
}

impl Drop for Folder {
    fn drop(&mut self) {
        let closing = self.closing.take().expect("taken here only");
        // On a thread that may block. The suite drops the stores before their folder, or this would wait for ever.
        let waited = std::thread::spawn(|| closing.wait_blocking()).join();
        waited.expect("waiting does not panic");
    }
}

impl StoreBuilder<TypeConfig, LogStore, Machine, Folder> for Builder {
    async fn build(&self) -> Result<(Folder, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = TempDir::new().expect("a temporary folder");
        let log = LogStore::open(&dir.path().join("log"), ServerId(1)).expect("a new log");
        let snapshots_dir = dir.path().join("snapshots");
        std::fs::create_dir_all(&snapshots_dir).expect("a new folder");
        let (snapshots, _) = Snapshots::open(&snapshots_dir).expect("a new folder");
        let loaded = Loaded::default();
        let feed = Arc::new(Feed::new(loaded.state.clone()));
        let folder = log.store.hold();
        let dir = Folder {
            closing: Some(log.closing),
            _dir: dir,
        };
        Ok((dir, log.store, Machine::new(loaded, Arc::new(snapshots), feed, folder)))
    }
}

#[test]
fn the_stores_keep_the_promises_that_openraft_relies_on() {
    TypeConfig::run(async {
        Suite::<TypeConfig, LogStore, Machine, Builder, Folder>::test_all(Builder)
            .await
            .expect("the suite passes");
    });
}
