//! A store whose process is killed at any moment verifies. The test runs itself as the process that is killed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use gantry_env::{Env, System};
use gantry_image::{GcPolicy, ImageDraft, Store, UpperLayer};
use gantry_model::{Digest, DurationMs};

use crate::fixtures::{TarMaker, docker_archive, gzip, names, reference};

const VICTIM: &str = "GANTRY_IMAGE_TEST_VICTIM";
const NONE: BTreeSet<Digest> = BTreeSet::new();
/// Times it is killed; `PROPTEST_CASES` raises it.
const ROUNDS: u64 = 40;
/// Later than that the store has been worked on for long enough.
const LIFE_MS_MAX: u64 = 120;

/// Everything that changes a store, without end.
fn work(dir: &Path) {
    let store = Store::open(dir).expect("opens after every crash");
    for number in 0u64.. {
        let choice = System.random_below(1000);
        let layer = |seed: u64| {
            TarMaker::default()
                .file(&format!("f{}", seed % 7), &"x".repeat(3000 + seed as usize))
                .end()
        };
        let name = reference(&format!("image:{}", choice % 5));
        match choice % 8 {
            0 | 1 => {
                let layers = [gzip(&layer(choice % 7)), layer(choice)];
                let plain = [layer(choice % 7), layer(choice)];
                let archive = docker_archive(
                    &name.to_string(),
                    if choice.is_multiple_of(2) { &layers[1..] } else { &plain },
                );
                store.load(archive.as_slice()).expect("loaded");
            }
            2 => drop(
                store
                    .resolve(&name)
                    .map(|digest| store.unpack(digest).expect("unpacked")),
            ),
            3 => drop(store.remove(&name.into(), &NONE)),
            4 => drop(store.prune(&NONE).expect("pruned")),
            5 => {
                let usage = store.disk_use().expect("known");
                let policy = GcPolicy {
                    high_percent: 0,
                    low_percent: 0,
                    age_min: DurationMs(0),
                    tagged: choice.is_multiple_of(3),
                };
                store.collect(&policy, usage, &NONE).expect("collected");
            }
            6 => {
                let bytes = layer(choice);
                let blob = gantry_image::Descriptor::new("", crate::fixtures::sha256(&bytes), bytes.len() as u64);
                store.put_blob(&blob, bytes.as_slice()).expect("received");
            }
            _ => {
                let lease = store.lease(DurationMs::secs(60)).expect("a lease");
                let workspace = store.workspace();
                let upper = workspace.folder("upper").expect("a folder");
                std::fs::write(upper.join("file"), format!("{number}")).expect("a file");
                let made = store.commit_layer(
                    &lease,
                    &UpperLayer {
                        upper: &upper,
                        parent: None,
                        epoch: None,
                    },
                );
                let draft = ImageDraft {
                    top: Some(made.expect("committed").chain),
                    references: vec![name],
                    ..ImageDraft::default()
                };
                store.write_image(&lease, &draft).expect("written");
            }
        }
    }
}

/// Not a test by itself: the process that [`a_killed_store_verifies`] kills.
#[test]
fn victim() {
    if let Some(dir) = std::env::var_os(VICTIM) {
        work(Path::new(&dir));
    }
}

#[test]
fn a_killed_store_verifies() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rounds = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(ROUNDS);
    for round in 0..rounds {
        let mut victim = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "killed::victim", "--nocapture"])
            .env(VICTIM, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        // No waiting for anything: the moment of death is what is random.
        std::thread::sleep(Duration::from_millis(5 + System.random_below(LIFE_MS_MAX)));
        assert!(
            victim.try_wait().expect("a child").is_none(),
            "the victim has failed by itself in round {round}"
        );
        victim.kill().expect("killed");
        victim.wait().expect("a child");
        let store = Store::open(folder.path()).expect("opens");
        let findings = store.verify(&NONE, false).expect("read");
        assert_eq!(findings, [], "round {round}");
        assert_eq!(names(&folder.path().join("tmp")), [""; 0]);
    }
}
