//! What stays and what goes by itself: leases, root sets, pins, ages and watermarks.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_env::{Env, System};
use gantry_image::{DiskUse, GcPolicy, Node, PruneOptions, Store, UpperLayer};
use gantry_model::{ByteSize, Digest, DurationMs, Timestamp};
use tempfile::TempDir;

use crate::fixtures::{TarMaker, names, reference};

/// The machine's clock, and how far the test is ahead of it.
#[derive(Default)]
struct Ahead(AtomicU64);

impl Env for Ahead {
    fn now(&self) -> Timestamp {
        System.now().after(DurationMs(self.0.load(Ordering::Relaxed)))
    }

    fn monotonic(&self) -> DurationMs {
        System.monotonic()
    }

    fn fill_random(&self, buffer: &mut [u8]) {
        System.fill_random(buffer);
    }
}

const HOUR: DurationMs = DurationMs::secs(3600);
const NONE: BTreeSet<Digest> = BTreeSet::new();

struct Stage {
    folder: TempDir,
    clock: Arc<Ahead>,
    store: Store,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = Arc::<Ahead>::default();
        let store = Store::open_with(folder.path(), Arc::clone(&clock) as Arc<dyn Env>).expect("opens");
        Self { folder, clock, store }
    }

    fn later(&self, by: DurationMs) {
        self.clock.0.fetch_add(by.0, Ordering::Relaxed);
    }

    fn reopened(self) -> Self {
        let Self { folder, clock, store } = self;
        drop(store);
        let store = Store::open_with(folder.path(), Arc::clone(&clock) as Arc<dyn Env>).expect("opens again");
        Self { folder, clock, store }
    }

    fn image(&self, name: &str) -> Digest {
        let tar = TarMaker::default().file(name, &name.repeat(1000)).end();
        let imported = self
            .store
            .import_rootfs(tar.as_slice(), &reference(name), &Default::default());
        imported.expect("imported").digest
    }

    fn layer(&self, lease: &gantry_image::Lease, content: &str) -> Digest {
        let workspace = self.store.workspace();
        let upper = workspace.folder("upper").expect("a folder");
        fs::write(upper.join("file"), content).expect("a file");
        let layer = UpperLayer {
            upper: &upper,
            parent: None,
            epoch: None,
        };
        self.store.commit_layer(lease, &layer).expect("committed").chain
    }

    fn collect(&self, used_percent: u64) -> Vec<Digest> {
        let usage = DiskUse {
            total: ByteSize(100_000),
            used: ByteSize(used_percent * 1000),
        };
        self.store
            .collect(&GcPolicy::default(), usage, &NONE)
            .expect("collected")
            .deleted
    }
}

#[test]
fn a_lease_keeps_until_it_is_dropped_or_over() {
    let stage = Stage::new();
    let lease = stage.store.lease(HOUR).expect("a lease");
    let layer = stage.layer(&lease, "one");
    stage.store.prune(&NONE).expect("pruned");
    assert!(stage.store.has_chain(layer));
    drop(lease);
    stage.store.prune(&NONE).expect("pruned");
    assert!(!stage.store.has_chain(layer));
    let lease = stage.store.lease(HOUR).expect("a lease");
    let layer = stage.layer(&lease, "two");
    stage.later(HOUR);
    stage.store.prune(&NONE).expect("pruned");
    assert!(!stage.store.has_chain(layer), "its time is over");
    assert!(lease.keep(Node::Layer(layer)).is_err());
}

#[test]
fn a_lease_outlives_the_process_that_took_it() {
    let stage = Stage::new();
    let lease = stage.store.lease(HOUR).expect("a lease");
    let layer = stage.layer(&lease, "one");
    let id = lease.detach();
    let stage = stage.reopened();
    stage.store.prune(&NONE).expect("pruned");
    assert!(stage.store.has_chain(layer), "as after a crash");
    drop(stage.store.adopt_lease(id).expect("it is still there"));
    assert!(stage.store.adopt_lease(id).is_none());
    stage.store.prune(&NONE).expect("pruned");
    assert!(!stage.store.has_chain(layer));
    assert_eq!(names(&stage.folder.path().join("leases")), [""; 0]);
}

#[test]
fn what_is_held_in_memory_stays_as_long_and_ends_with_the_process() {
    let stage = Stage::new();
    let held = stage.store.hold(HOUR);
    let layer = stage.layer(&held, "one");
    stage.store.prune(&NONE).expect("pruned");
    assert!(stage.store.has_chain(layer) && stage.store.has_layer_on(layer, None));
    assert!(!stage.store.has_layer_on(layer, Some(layer)), "it lies on nothing");
    assert_eq!(names(&stage.folder.path().join("leases")), [""; 0]);
    // A crash runs no destructor.
    std::mem::forget(held);
    let stage = stage.reopened();
    stage.store.prune(&NONE).expect("pruned");
    assert!(!stage.store.has_chain(layer));
    let held = stage.store.hold(HOUR);
    let layer = stage.layer(&held, "two");
    let id = held.detach();
    let stage = stage.reopened();
    stage.store.prune(&NONE).expect("pruned");
    assert!(stage.store.has_chain(layer), "somebody may go on with it");
    assert!(stage.store.adopt_lease(id).is_some());
}

#[test]
fn root_sets_keep_what_their_owners_need() {
    let stage = Stage::new();
    let lease = stage.store.lease(HOUR).expect("a lease");
    let layer = stage.layer(&lease, "one");
    let roots = BTreeSet::from([Node::Layer(layer)]);
    stage.store.set_roots("build", roots).expect("noted");
    drop(lease);
    let stage = stage.reopened();
    stage.store.prune(&NONE).expect("pruned");
    assert!(stage.store.has_chain(layer));
    stage.store.set_roots("build", BTreeSet::new()).expect("noted");
    stage.store.prune(&NONE).expect("pruned");
    assert!(!stage.store.has_chain(layer));
    assert!(stage.store.set_roots("../x", BTreeSet::new()).is_err());
}

#[test]
fn what_is_young_stays_and_what_is_pinned_too() {
    let stage = Stage::new();
    let (kept, gone) = (stage.image("kept"), stage.image("gone"));
    stage.store.pin(kept).expect("pinned");
    for image in [kept, gone] {
        let name = stage.store.info(image).expect("it").references[0].clone();
        stage.store.tag(&reference("other"), image).expect("tagged");
        let _ = stage.store.remove(&name.into(), &NONE).expect("untagged");
    }
    // `other` moved on from one to the other.
    let orphan = stage.store.lease(HOUR).expect("a lease");
    let layer = stage.layer(&orphan, "young");
    drop(orphan);
    assert_eq!(stage.collect(10), []);
    assert!(stage.store.has_chain(layer), "somebody may be about to use it");
    stage.later(HOUR);
    assert_eq!(stage.collect(10), []);
    assert!(!stage.store.has_chain(layer));
    assert_eq!(stage.collect(99), [], "one has a name, the other a pin");
    stage.store.unpin(kept).expect("unpinned");
    assert_eq!(stage.collect(99), [kept]);
}

#[test]
fn the_least_recently_used_goes_first_and_no_more_than_needed() {
    let stage = Stage::new();
    let images = ["a", "b", "c", "d"].map(|name| {
        let image = stage.image(name);
        stage.later(DurationMs::secs(1));
        image
    });
    for image in images {
        stage.store.unpack(image).expect("unpacked");
        stage.later(DurationMs::secs(1));
    }
    stage.store.unpack(images[0]).expect("used again");
    assert_eq!(stage.collect(99), [], "they have names");
    for name in ["a", "b", "c", "d"] {
        stage
            .store
            .tag(&reference("now"), stage.store.resolve(&reference(name)).expect("it"))
            .expect("tagged");
    }
    for (name, image) in ["a", "b", "c", "d"].iter().zip(images) {
        let in_use = BTreeSet::from([image]);
        stage.store.remove(&reference(name).into(), &in_use).expect("untagged");
    }
    stage
        .store
        .remove(&reference("now").into(), &BTreeSet::from(images))
        .expect("untagged");
    assert_eq!(stage.collect(84), [], "below the high watermark");
    // 82,500 of 100,000 bytes after one image of some 2,500 bytes is still above the low watermark of 80,000.
    let deleted = stage.collect(85).len() + stage.collect(86).len();
    assert!((1..=3).contains(&deleted), "{deleted}");
    assert!(stage.store.info(images[0]).is_ok(), "the one used last stays");
    assert!(
        stage.store.info(images[1]).is_err(),
        "the one not used for longest goes"
    );
}

#[test]
fn pruning_says_what_it_would_do() {
    let stage = Stage::new();
    let (used, unused) = (stage.image("used"), stage.image("unused"));
    let in_use = BTreeSet::from([used]);
    let dry = PruneOptions {
        all: true,
        dry_run: true,
        ..PruneOptions::default()
    };
    let would = stage.store.prune_images(dry, &in_use, |_| true).expect("said");
    assert_eq!(
        (would.deleted.as_slice(), would.untagged.len()),
        ([unused].as_slice(), 1)
    );
    assert_eq!(stage.store.list().len(), 2);
    let later = PruneOptions {
        all: true,
        unused_for: HOUR,
        ..PruneOptions::default()
    };
    assert_eq!(
        stage
            .store
            .prune_images(later, &in_use, |_| true)
            .expect("pruned")
            .deleted,
        []
    );
    stage.later(HOUR);
    let never = stage.store.prune_images(later, &in_use, |_| false).expect("pruned");
    assert_eq!(never.deleted, []);
    let pruned = stage.store.prune_images(later, &in_use, |_| true).expect("pruned");
    assert_eq!(
        (pruned.deleted.as_slice(), pruned.freed),
        ([unused].as_slice(), would.freed)
    );
    assert!(would.freed.0 > 0);
    assert_eq!(stage.store.list().len(), 1);
}
