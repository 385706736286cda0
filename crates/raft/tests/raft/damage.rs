//! Damaged, torn and foreign files: a clear error that names the file, never a wrong state.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_model::{Class, Problem};
use gantry_raft::{OpenError, Options, Replicated};
use tempfile::TempDir;

use crate::harness::{Cluster, eventually, id, put_all};
use crate::restart::Nowhere;

async fn open(dir: &Path) -> Result<Replicated, OpenError> {
    Replicated::open(Options::new(id(1), "server-1", dir), Arc::new(Nowhere)).await
}

/// A stopped server's folder with `entries` and perhaps a snapshot.
async fn folder(entries: u64, snapshot_every: fn(&mut Options)) -> TempDir {
    let cluster = Cluster::of(1, snapshot_every).await;
    put_all(&cluster.server(id(1)), 1..=entries).await;
    let snapshots = cluster.dir(id(1)).join("snapshots");
    if entries > 100 {
        eventually("a snapshot", || async { fs::read_dir(&snapshots).unwrap().next() })
            .await
            .unwrap();
    }
    cluster.stop(id(1)).await;
    let copy = TempDir::new().unwrap();
    copy_all(cluster.dir(id(1)), copy.path());
    copy
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

fn only(dir: &Path, extension: &str) -> PathBuf {
    let found = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut matching: Vec<PathBuf> = found
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    matching.sort_by_key(|path| fs::metadata(path).unwrap().len());
    matching.pop().unwrap()
}

fn flip(path: &Path, position: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[position] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

async fn refused(dir: &Path) -> (OpenError, String) {
    let error = open(dir).await.err().expect("it is refused");
    let shown = error.to_string();
    (error, shown)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_of_a_later_version_is_refused_with_a_remedy() {
    let dir = folder(3, |_| ()).await;
    fs::write(dir.path().join("FORMAT"), "2\n").unwrap();
    let (error, shown) = refused(dir.path()).await;
    assert!(
        matches!(
            error,
            OpenError::Newer {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{shown}"
    );
    let problem = Problem::from(error);
    assert!(
        problem.class == Class::Invalid && problem.remedy.contains("later"),
        "{problem}"
    );
    fs::write(dir.path().join("FORMAT"), "what?").unwrap();
    assert!(refused(dir.path()).await.1.contains("FORMAT is damaged"));
    fs::remove_file(dir.path().join("FORMAT")).unwrap();
    assert!(refused(dir.path()).await.1.contains("FORMAT is damaged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_damage_to_a_snapshot_is_found_and_named() {
    let dir = folder(150, |options| options.snapshot_every = 50).await;
    let snapshot = only(&dir.path().join("snapshots"), "snapshot");
    let intact = fs::read(&snapshot).unwrap();
    for position in [0, 9, 40, intact.len() / 2, intact.len() - 1] {
        flip(&snapshot, position);
        let (error, shown) = refused(dir.path()).await;
        assert!(
            matches!(&error, OpenError::Damaged { path, .. } if *path == snapshot),
            "byte {position}: {shown}"
        );
        fs::write(&snapshot, &intact).unwrap();
    }
    for length in [0, 10, intact.len() - 1] {
        fs::write(&snapshot, &intact[..length]).unwrap();
        assert!(matches!(refused(dir.path()).await.0, OpenError::Damaged { path, .. } if path == snapshot));
    }
    fs::write(&snapshot, &intact).unwrap();
    // Half written when the power went: never had its name, and goes.
    fs::write(snapshot.with_file_name("7.part"), &intact[..20]).unwrap();
    let server = open(dir.path()).await.unwrap();
    assert_eq!(server.state().tags().count(), 150);
    server.shutdown().await;
    assert!(!snapshot.with_file_name("7.part").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_gone_is_missed() {
    let dir = folder(150, |options| {
        options.snapshot_every = 50;
        options.keep_entries = 0;
    })
    .await;
    fs::remove_file(only(&dir.path().join("snapshots"), "snapshot")).unwrap();
    let (_, shown) = refused(dir.path()).await;
    assert!(shown.contains("purged"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_within_the_log_is_refused_and_a_torn_end_is_not() {
    let dir = folder(60, |_| ()).await;
    let wal = only(&dir.path().join("log"), "log");
    let intact = fs::read(&wal).unwrap();
    for position in [intact.len() / 4, intact.len() / 2] {
        flip(&wal, position);
        let (error, shown) = refused(dir.path()).await;
        assert!(
            matches!(&error, OpenError::Damaged { path, .. } if path.ends_with("log")),
            "byte {position}: {shown}"
        );
        fs::write(&wal, &intact).unwrap();
    }
    // A record that was being written when the power went was acknowledged to nobody.
    fs::write(&wal, &intact[..intact.len() - 3]).unwrap();
    let server = open(dir.path()).await.unwrap();
    assert!(server.state().tags().count() >= 58);
    server.shutdown().await;
}
