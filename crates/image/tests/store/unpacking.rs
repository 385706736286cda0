//! Layers become the files they describe.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::sync::Arc;

use gantry_image::{ImageError, TarError};
use tar::EntryType;

use crate::fixtures::{TarMaker, World, docker_archive, gzip, header, names, reference, tree, xattr, zstd};

#[test]
fn owners_modes_times_and_capabilities_survive() {
    let world = World::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, b'\n', 0, 0, 0, 0, 0, 0, 0];
    let mut program = header(EntryType::Regular, "bin/ping", "");
    program.set_mode(0o4755);
    program.set_uid(12);
    program.set_gid(34);
    program.set_size(2);
    let mut folder = header(EntryType::Directory, "bin", "");
    folder.set_mode(0o1777);
    let tar = TarMaker::default()
        .raw(&mut folder, b"")
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("mtime", b"1234567890.5"),
        ])
        .raw(&mut program, b"ok")
        .hard_link("bin/ping6", "bin/ping")
        .symlink("sbin", "bin")
        .file("sbin/late", "through the link")
        .end();
    let layer = world.unpack(&tar).expect("an honest tar");
    let ping = fs::metadata(layer.join("bin/ping")).expect("the program");
    assert_eq!((ping.uid(), ping.gid(), ping.nlink()), (12, 34, 2));
    assert_eq!(ping.mode() & 0o7777, 0o4755);
    assert_eq!((ping.mtime(), ping.mtime_nsec()), (1_234_567_890, 500_000_000));
    assert_eq!(
        xattr(&layer.join("bin/ping"), "security.capability").as_deref(),
        Some(capability.as_slice())
    );
    let bin = fs::metadata(layer.join("bin")).expect("the folder");
    assert_eq!((bin.mode() & 0o7777, bin.mtime()), (0o1777, 1_000_000_000));
    assert_eq!(names(&layer.join("bin")), ["late", "ping", "ping6"]);
    assert_eq!(
        fs::metadata(&layer).expect("the root").permissions().mode() & 0o7777,
        0o755
    );
}

#[test]
fn long_names_and_sparse_files_are_understood() {
    let world = World::new();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let mut old = header(EntryType::GNUSparse, "old", "");
    let gnu = old.as_gnu_mut().expect("a gnu header");
    gnu.sparse[0].set_offset(1 << 20);
    gnu.sparse[0].set_length(3);
    gnu.set_real_size(2 << 20);
    old.set_size(3);
    let mut map = b"1\n4096\n3\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"abc");
    let tar = TarMaker::default()
        .member(
            EntryType::GNULongName,
            "././@LongLink",
            "",
            format!("{long}\0").as_bytes(),
        )
        .file("short", "gnu")
        .pax(&[("path", format!("{long}2").as_bytes())])
        .file("short", "pax")
        .raw(&mut old, b"xyz")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"new"),
            ("GNU.sparse.realsize", b"8192"),
        ])
        .member(EntryType::Regular, "GNUSparseFile.0/new", "", &map)
        .end();
    let layer = world.unpack(&tar).expect("an honest tar");
    assert_eq!(fs::read_to_string(layer.join(&long)).expect("the file"), "gnu");
    assert_eq!(
        fs::read_to_string(layer.join(format!("{long}2"))).expect("the file"),
        "pax"
    );
    let old = fs::read(layer.join("old")).expect("the sparse file");
    assert_eq!((old.len(), &old[1 << 20..(1 << 20) + 3]), (2 << 20, b"xyz".as_slice()));
    assert!(
        fs::metadata(layer.join("old")).expect("the sparse file").blocks() < 100,
        "holes stay holes"
    );
    let new = fs::read(layer.join("new")).expect("the sparse file");
    assert_eq!((new.len(), &new[4096..4099]), (8192, b"abc".as_slice()));
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    let world = World::new();
    let lower = TarMaker::default()
        .file("gone", "1")
        .file("d/old", "1")
        .file("e/old", "1")
        .end();
    let upper = TarMaker::default()
        .file(".wh.gone", "")
        .dir("d")
        .file("d/.wh..wh..opq", "")
        .file("d/new", "2")
        .file(".wh.e", "")
        .dir("e")
        .file(".wh..wh.plnk", "")
        .file("kept", "2")
        .file(".wh.kept", "")
        .end();
    let images = world
        .store
        .load(docker_archive("two", &[lower, upper]).as_slice())
        .expect("an honest archive");
    let layers = world.store.unpack(images[0].digest).expect("honest layers");
    let (top, bottom) = (&layers[0], &layers[1]);
    assert_eq!(names(bottom), ["d", "e", "gone"]);
    assert_eq!(names(top), ["d", "e", "gone", "kept"]);
    let gone = fs::symlink_metadata(top.join("gone")).expect("the whiteout");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for folder in ["d", "e"] {
        let opaque = xattr(&top.join(folder), "trusted.overlay.opaque");
        assert_eq!(opaque.as_deref(), Some(b"y".as_slice()), "{folder}");
    }
    assert_eq!(fs::read_to_string(top.join("kept")).expect("the layer's own file"), "2");
}

#[test]
fn a_merged_image_shows_what_docker_would_show() {
    let world = World::new();
    let lower = TarMaker::default()
        .file("gone", "1")
        .file("d/old", "1")
        .file("same", "1")
        .end();
    let upper = TarMaker::default()
        .file(".wh.gone", "")
        .dir("d")
        .file("d/.wh..wh..opq", "")
        .file("d/new", "2")
        .end();
    let images = world
        .store
        .load(docker_archive("two", &[lower, upper]).as_slice())
        .expect("an honest archive");
    let layers = world.store.unpack(images[0].digest).expect("honest layers");
    let target = world.folder.path().join("merged");
    fs::create_dir(&target).expect("a folder");
    let lower: Vec<_> = layers.iter().map(|path| path.display().to_string()).collect();
    let status = std::process::Command::new("mount")
        .args([
            "-t",
            "overlay",
            "overlay",
            "-o",
            &format!("lowerdir={}", lower.join(":")),
        ])
        .arg(&target)
        .status()
        .expect("mount runs");
    assert!(status.success(), "overlayfs mounts the layers");
    let merged = tree(&target);
    let unmounted = std::process::Command::new("umount")
        .arg(&target)
        .status()
        .expect("umount runs");
    assert!(unmounted.success());
    let expected = [("d", "folder"), ("d/new", "2"), ("same", "1")];
    assert_eq!(
        merged,
        expected
            .map(|(path, content)| (path.to_string(), content.to_string()))
            .into()
    );
}

#[test]
fn compressed_layers_unpack_alike() {
    let plain = TarMaker::default().file("a/b", "content").end();
    let mut trees = Vec::new();
    for tar in [plain.clone(), gzip(&plain), zstd(&plain)] {
        let world = World::new();
        trees.push(tree(&world.unpack(&tar).expect("an honest tar")));
    }
    assert!(trees.iter().all(|tree| *tree == trees[0] && tree.len() == 2));
}

#[test]
fn a_layer_that_is_not_its_diff_id_is_refused() {
    let world = World::new();
    let layer = TarMaker::default().file("a", "good").end();
    let archive = docker_archive("x", std::slice::from_ref(&layer));
    let evil = TarMaker::default().file("a", "evil").end();
    let position = archive
        .windows(layer.len())
        .position(|window| window == layer)
        .expect("the layer");
    let mut forged = archive.clone();
    forged[position..position + layer.len()].copy_from_slice(&evil);
    let image = world
        .store
        .load(forged.as_slice())
        .expect("nothing vouches for a layer in the old form but its diff id");
    let error = world.store.unpack(image[0].digest).expect_err("a forged layer");
    assert!(matches!(error, ImageError::WrongDigest { .. }), "{error}");
    assert_eq!(names(&world.dir().join("layers")), [""; 0]);
    world.assert_nothing_half_done();
}

#[test]
fn many_callers_get_the_same_layers() {
    let world = Arc::new(World::new());
    let big = "x".repeat(1 << 20);
    let layers = [
        TarMaker::default().file("a", &big).end(),
        TarMaker::default().file("b", &big).end(),
    ];
    let base = world
        .store
        .load(docker_archive("base", &layers[..1]).as_slice())
        .expect("an honest archive");
    let both = world
        .store
        .load(docker_archive("both", &layers).as_slice())
        .expect("an honest archive");
    let digests = [base[0].digest, both[0].digest];
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let world = Arc::clone(&world);
            std::thread::spawn(move || world.store.unpack(digests[number % 2]).expect("honest layers").len())
        })
        .collect();
    let counts: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().expect("no panic"))
        .collect();
    assert_eq!(counts, [1, 2, 1, 2, 1, 2, 1, 2]);
    assert_eq!(names(&world.dir().join("layers")).len(), 2);
    world.assert_nothing_half_done();
}

#[test]
fn truncated_and_foreign_input_is_told_apart() {
    let world = World::new();
    let tar = TarMaker::default().file("a", &"x".repeat(2000)).cut();
    let mut wrong_checksum = gzip(&TarMaker::default().file("a", "1").end());
    let position = wrong_checksum.len() - 8;
    wrong_checksum[position] ^= 1;
    for (input, text) in [
        (tar.clone(), "cut off after"),
        (tar[..1000].to_vec(), "cut off after"),
        (gzip(&tar)[..20].to_vec(), "cut off after"),
        (Vec::new(), "cut off after 0 bytes"),
        (b"#!/bin/sh\n".repeat(100), "not a valid tar"),
        (wrong_checksum, "cannot be read"),
    ] {
        let problem = world.import(&input, "x").expect_err("no tar").problem();
        assert!(problem.reason.contains(text), "{text}: {problem}");
        assert!(
            !problem.remedy.is_empty() && problem.object == "the root filesystem",
            "{problem}"
        );
        assert_eq!(world.store.resolve(&reference("x")), None);
    }
    world.assert_nothing_half_done();
    assert_eq!(names(&world.dir().join("blobs/sha256")), [""; 0]);
}

#[test]
fn bombs_hit_a_limit() {
    let world = World::new();
    let mut huge = header(EntryType::Regular, "huge", "");
    huge.set_size(1 << 62);
    let error = world
        .unpack(&TarMaker::default().raw(&mut huge, b"").end())
        .expect_err("too large");
    assert!(
        matches!(
            &error,
            ImageError::Archive {
                source: TarError::TooLarge { .. },
                ..
            }
        ),
        "{error}"
    );
    let mut long = header(EntryType::GNULongName, "long", "");
    long.set_size(1 << 40);
    let error = world
        .unpack(&TarMaker::default().raw(&mut long, b"").end())
        .expect_err("too long a name");
    assert!(
        matches!(
            &error,
            ImageError::Archive {
                source: TarError::Malformed { .. },
                ..
            }
        ),
        "{error}"
    );
}
