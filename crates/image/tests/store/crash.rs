//! What a crash, a second process or another version leave behind.

use std::fs;

use gantry_image::{ImageError, Store};
use gantry_model::Class;

use crate::fixtures::{TarMaker, World, names, reference};

#[test]
fn leftovers_are_cleared_and_the_rest_is_kept() {
    let World { folder, store } = World::new();
    let dir = folder.path().join("store");
    let tar = TarMaker::default().file("a", "1").end();
    let image = store
        .import_rootfs(tar.as_slice(), &reference("a"), &Default::default())
        .expect("imported");
    let layers = store.unpack(image.digest).expect("unpacked");
    drop(store);
    fs::create_dir(dir.join("tmp/7")).expect("a half unpacked layer");
    fs::write(dir.join("tmp/7/file"), "half").expect("its file");
    fs::write(dir.join("tmp/tags.json"), "{\"for").expect("a half written index");
    let store = Store::open(&dir).expect("opens");
    assert_eq!(names(&dir.join("tmp")), [""; 0]);
    assert_eq!(store.list(), std::slice::from_ref(&image));
    assert_eq!(store.unpack(image.digest).expect("still unpacked"), layers);
}

#[test]
fn blobs_of_a_crashed_import_are_pruned() {
    let World { folder, store } = World::new();
    let dir = folder.path().join("store");
    let blob = gantry_image::Descriptor::new("", crate::fixtures::sha256(b"orphan"), 6);
    store.put_blob(&blob, b"orphan".as_slice()).expect("received");
    assert_eq!(store.prune(&Default::default()).expect("pruned").freed.0, 6);
    assert_eq!(names(&dir.join("blobs/sha256")), [""; 0]);
}

#[test]
fn a_second_opener_is_refused() {
    let world = World::new();
    let error = Store::open(world.dir()).expect_err("open already");
    assert!(matches!(error, ImageError::Locked { .. }), "{error}");
    assert_eq!(error.problem().class, Class::Conflict);
}

#[test]
fn a_newer_store_is_left_alone() {
    let World { folder, store } = World::new();
    let dir = folder.path().join("store");
    drop(store);
    fs::write(dir.join("tags.json"), r#"{"format":99,"pictures":[]}"#).expect("a newer index");
    fs::write(dir.join("tmp/precious"), "").expect("something of a newer version");
    let error = Store::open(&dir).expect_err("too new");
    assert!(matches!(error, ImageError::NewerFormat { found: 99, .. }), "{error}");
    assert_eq!(names(&dir.join("tmp")), ["precious"]);
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let world = World::new();
    let small = world.folder.path().join("small");
    fs::create_dir(&small).expect("a folder");
    let mount = |arguments: &[&str]| {
        let status = std::process::Command::new(arguments[0])
            .args(&arguments[1..])
            .arg(&small)
            .status();
        assert!(status.expect("it runs").success(), "{arguments:?}");
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs"]);
    let outcome = std::panic::catch_unwind(|| {
        let store = Store::open(small.join("store")).expect("opens");
        let tar = TarMaker::default().file("a", &"x".repeat(1 << 20)).end();
        let error = store
            .import_rootfs(tar.as_slice(), &reference("a"), &Default::default())
            .expect_err("too large");
        let problem = error.problem();
        assert_eq!(problem.class, Class::Exhausted, "{problem}");
        assert!(problem.remedy.contains("free some space"), "{problem}");
        assert_eq!(names(&small.join("store/tmp")), [""; 0]);
        assert_eq!(store.list(), []);
        full_while_unpacking(&store);
        full_while_building(&store);
        assert_eq!(store.verify(&Default::default(), false).expect("read"), []);
    });
    mount(&["umount"]);
    fs::remove_dir(&small).expect("unmounted");
    outcome.expect("the checks hold");
}

/// 100 KB of zeros take little as gzip and too much as files.
fn full_while_unpacking(store: &Store) {
    let layer = TarMaker::default().file("a", &"x".repeat(180 << 10)).end();
    let digest = crate::fixtures::sha256(&layer);
    let config = format!(r#"{{"os":"linux","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#);
    let archive = TarMaker::default()
        .file("c", &config)
        .member(tar::EntryType::Regular, "l", "", &crate::fixtures::gzip(&layer))
        .file("manifest.json", r#"[{"Config":"c","RepoTags":["x:1"],"Layers":["l"]}]"#)
        .end();
    let image = store.load(archive.as_slice()).expect("small enough").remove(0);
    let ballast = store_dir(store).join("ballast");
    fs::write(&ballast, vec![1; 100 << 10]).expect("it fits");
    let problem = store.unpack(image.digest).expect_err("too large").problem();
    assert_eq!(problem.class, Class::Exhausted, "{problem}");
    assert_eq!(names(&store_dir(store).join("layers")), [""; 0]);
    fs::remove_file(&ballast).expect("removed");
    store.unpack(image.digest).expect("now it fits");
    store
        .remove(&image.digest.into(), &Default::default())
        .expect("removed");
}

fn full_while_building(store: &Store) {
    let lease = store.lease(gantry_model::DurationMs::secs(60)).expect("a lease");
    let workspace = store.workspace();
    let upper = workspace.folder("upper").expect("a folder");
    let noise: Vec<u8> = (0u32..150_000)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 23) as u8)
        .collect();
    fs::write(upper.join("a"), noise).expect("it fits");
    let layer = gantry_image::UpperLayer {
        upper: &upper,
        parent: None,
        epoch: None,
    };
    let made = store.commit_layer(&lease, &layer).expect("nothing is copied");
    let error = store
        .layer_blob(&lease, made.chain, gantry_image::LayerCompression::None)
        .expect_err("too large");
    assert_eq!(error.problem().class, Class::Exhausted, "{error}");
    assert_eq!(names(&store_dir(store).join("blobs/sha256")), [""; 0]);
}

fn store_dir(store: &Store) -> std::path::PathBuf {
    store.dir().to_path_buf()
}
