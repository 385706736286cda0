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
    });
    mount(&["umount"]);
    fs::remove_dir(&small).expect("unmounted");
    outcome.expect("the checks hold");
}
