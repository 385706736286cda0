//! Tars that try to get out of their root.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use gantry_image::{ImageError, TarError};
use tar::EntryType;

use crate::fixtures::{TarMaker, World, docker_archive, xattr};

fn refused_as_unsafe(world: &World, tar: &[u8]) {
    let error = world.unpack(tar).expect_err("a hostile tar");
    assert!(
        matches!(
            &error,
            ImageError::Archive {
                source: TarError::Unsafe { .. },
                ..
            }
        ),
        "{error}"
    );
    world.assert_untouched();
    world.assert_nothing_half_done();
    assert_eq!(crate::fixtures::names(&world.dir().join("layers")), [""; 0]);
}

#[test]
fn paths_that_climb_out_are_refused() {
    for path in [
        "../victim/file",
        "a/../../victim/file",
        "/../../victim/file",
        "..",
        "./../x",
    ] {
        refused_as_unsafe(&World::new(), &TarMaker::default().file(path, "owned").end());
    }
}

#[test]
fn absolute_paths_start_at_the_root_of_the_image() {
    let world = World::new();
    let victim = world.victim().join("file").display().to_string();
    let layer = world
        .unpack(&TarMaker::default().file(&victim, "inside").end())
        .expect("an honest place");
    let inside = layer.join(victim.trim_start_matches('/'));
    assert_eq!(fs::read_to_string(inside).expect("the file within the image"), "inside");
    world.assert_untouched();
}

#[test]
fn links_as_parents_do_not_lead_out() {
    for target in ["../../..", "/", "../../../victim"] {
        let world = World::new();
        let climb = "../".repeat(8);
        let absolute = world.victim().display().to_string();
        for target in [target, absolute.as_str(), climb.as_str()] {
            let tar = TarMaker::default()
                .symlink("way", target)
                .file("way/file", "owned")
                .end();
            // Inside the root, the link leads nowhere or to the root itself; both are fine, leaving is not.
            let _ = world.unpack(&tar);
            world.assert_untouched();
        }
    }
}

#[test]
fn a_member_over_a_link_replaces_the_link() {
    let world = World::new();
    let victim = world.victim().join("file").display().to_string();
    let tar = TarMaker::default().symlink("out", &victim).file("out", "mine").end();
    let layer = world.unpack(&tar).expect("an honest tar");
    assert!(fs::symlink_metadata(layer.join("out")).expect("the file").is_file());
    let dir = world.victim().display().to_string();
    let tar = TarMaker::default()
        .symlink("out", &dir)
        .dir("out")
        .file("out/file", "mine")
        .end();
    let layer = world.unpack(&tar).expect("an honest tar");
    assert!(fs::symlink_metadata(layer.join("out")).expect("the folder").is_dir());
    world.assert_untouched();
}

#[test]
fn hard_links_reach_no_file_outside() {
    let world = World::new();
    let victim = world.victim().join("file").display().to_string();
    refused_as_unsafe(&world, &TarMaker::default().hard_link("x", "../victim/file").end());
    let dir = world.victim().display().to_string();
    for tar in [
        TarMaker::default().hard_link("x", &victim),
        TarMaker::default().symlink("way", &dir).hard_link("x", "way/file"),
        TarMaker::default()
            .symlink("way", "../../victim")
            .hard_link("x", "way/file"),
    ] {
        assert!(world.unpack(&tar.end()).is_err());
        world.assert_untouched();
        world.assert_nothing_half_done();
    }
    // A hard link to a symbolic link is a link to the link, never to what it leads to.
    let tar = TarMaker::default().symlink("s", &victim).hard_link("x", "s").end();
    let layer = world.unpack(&tar).expect("an honest tar");
    assert!(fs::symlink_metadata(layer.join("x")).expect("the link").is_symlink());
    world.assert_untouched();
}

#[test]
fn hard_links_to_folders_and_nothing_are_refused() {
    let world = World::new();
    for tar in [
        TarMaker::default().dir("d").hard_link("x", "d"),
        TarMaker::default().hard_link("x", "absent"),
        TarMaker::default().hard_link("x", "/"),
    ] {
        refused_as_unsafe(&world, &tar.end());
    }
}

#[test]
fn whiteouts_hide_nothing_outside() {
    let world = World::new();
    for path in [".wh...", ".wh..", ".wh.", "a/.wh..."] {
        refused_as_unsafe(&world, &TarMaker::default().file(path, "").end());
    }
    let dir = world.victim().display().to_string();
    let _ = world.unpack(&TarMaker::default().symlink("way", &dir).file("way/.wh.file", "").end());
    let _ = world.unpack(
        &TarMaker::default()
            .symlink("way", &dir)
            .file("way/.wh..wh..opq", "")
            .end(),
    );
    world.assert_untouched();
    assert_eq!(xattr(&world.victim(), "trusted.overlay.opaque"), None);
}

#[test]
fn overlay_attributes_cannot_be_smuggled_in() {
    let world = World::new();
    let tar = TarMaker::default()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.note", b"kept\n\0"),
        ])
        .dir("d")
        .end();
    let layer = world.unpack(&tar).expect("an honest tar").join("d");
    assert_eq!(xattr(&layer, "trusted.overlay.redirect"), None);
    assert_eq!(xattr(&layer, "user.overlay.opaque"), None);
    assert_eq!(xattr(&layer, "user.note").as_deref(), Some(b"kept\n\0".as_slice()));
}

#[test]
fn device_nodes_are_made_inside_only() {
    let world = World::new();
    let mut null = crate::fixtures::header(EntryType::Char, "dev/null", "");
    null.set_device_major(1).expect("a gnu header");
    null.set_device_minor(3).expect("a gnu header");
    let tar = TarMaker::default()
        .raw(&mut null, b"")
        .member(EntryType::Fifo, "pipe", "", b"");
    let layer = world.unpack(&tar.end()).expect("an honest tar");
    assert!(
        fs::symlink_metadata(layer.join("dev/null"))
            .expect("the device")
            .file_type()
            .is_char_device()
    );
    assert!(
        fs::symlink_metadata(layer.join("pipe"))
            .expect("the pipe")
            .file_type()
            .is_fifo()
    );
}

#[test]
fn the_root_is_never_replaced() {
    for path in ["/", ".", "./", "a/.."] {
        let world = World::new();
        refused_as_unsafe(&world, &TarMaker::default().symlink(path, "/").end());
    }
}

#[test]
fn archives_of_images_cannot_climb_out_either() {
    let world = World::new();
    let hostile = TarMaker::default().file("../../victim/file", "owned").end();
    assert!(world.store.load(hostile.as_slice()).is_err());
    let hostile = TarMaker::default()
        .symlink("config.json", "/etc/passwd")
        .file(
            "manifest.json",
            r#"[{"Config":"config.json","RepoTags":null,"Layers":[]}]"#,
        )
        .end();
    assert!(world.store.load(hostile.as_slice()).is_err());
    let layer = TarMaker::default().file("../../../victim/file", "owned").end();
    let image = world
        .store
        .load(docker_archive("x", &[layer]).as_slice())
        .expect("loads; the layer is not unpacked yet");
    assert!(world.store.unpack(image[0].digest).is_err());
    world.assert_untouched();
    world.assert_nothing_half_done();
}

#[test]
fn a_small_layer_that_grows_without_end_is_refused() {
    let world = World::new();
    // Two GiB of zeros, in some 200 KB of zstd.
    let mut header = crate::fixtures::header(EntryType::Regular, "bomb", "");
    header.set_size(2 << 30);
    header.set_cksum();
    let mut bomb = zstd::Encoder::new(Vec::new(), 1).expect("memory");
    std::io::Write::write_all(&mut bomb, header.as_bytes()).expect("memory");
    std::io::copy(
        &mut std::io::Read::take(std::io::repeat(0), (2 << 30) + 1024),
        &mut bomb,
    )
    .expect("memory");
    let bomb = bomb.finish().expect("memory");
    assert!(bomb.len() < 1 << 20, "{}", bomb.len());
    let digest = crate::fixtures::sha256(b"never reached");
    let config = format!(r#"{{"os":"linux","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#);
    let archive = TarMaker::default()
        .file("c", &config)
        .member(EntryType::Regular, "l", "", &bomb)
        .file("manifest.json", r#"[{"Config":"c","RepoTags":["x:1"],"Layers":["l"]}]"#)
        .end();
    let image = world
        .store
        .load(archive.as_slice())
        .expect("loads; the layer is not unpacked yet");
    let error = world.store.unpack(image[0].digest).expect_err("a bomb");
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
    world.assert_nothing_half_done();
}

#[test]
fn paths_too_long_are_refused_and_the_last_of_several_counts() {
    let world = World::new();
    let long = "d/".repeat(2100);
    let tar = TarMaker::default()
        .pax(&[("path", long.as_bytes())])
        .file("x", "")
        .end();
    assert!(world.unpack(&tar).is_err(), "longer than any path");
    let name = "n".repeat(300);
    let tar = TarMaker::default()
        .pax(&[("path", name.as_bytes())])
        .file("x", "")
        .end();
    assert!(world.unpack(&tar).is_err(), "longer than any name");
    world.assert_nothing_half_done();
    let tar = TarMaker::default()
        .file("twice", "first")
        .dir("was")
        .file("was/inside", "1")
        .file("twice", "second")
        .file("was", "a file now")
        .end();
    let layer = world.unpack(&tar).expect("an honest tar");
    assert_eq!(fs::read_to_string(layer.join("twice")).expect("it"), "second");
    assert_eq!(fs::read_to_string(layer.join("was")).expect("it"), "a file now");
    assert_eq!(
        world.store.verify(&Default::default(), false).expect("read"),
        [],
        "counted right all the same"
    );
}
