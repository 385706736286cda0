//! What goes in comes out: import, load, save.

use gantry_image::{Format, ImageError, ImportOptions, Selector};
use gantry_model::Class;

use crate::fixtures::{TarMaker, World, docker_archive, gzip, names, reference, tree, zstd};

fn options() -> ImportOptions {
    ImportOptions {
        cmd: vec!["/app".into()],
        env: vec!["VERSION=v1".into()],
        exposed_ports: vec!["8080".into()],
        ..ImportOptions::default()
    }
}

#[test]
fn an_imported_image_keeps_its_digest_through_both_forms() {
    let (from, tar) = (World::new(), TarMaker::default().file("app", "binary").end());
    let image = from
        .store
        .import_rootfs(tar.as_slice(), &reference("web:v1"), &options())
        .expect("an honest tar");
    assert_eq!(
        from.store.config(image.digest).expect("its configuration").env,
        ["VERSION=v1"]
    );
    let again = from
        .store
        .import_rootfs(tar.as_slice(), &reference("web:v1"), &options())
        .expect("the same");
    assert_eq!(again, image, "the same input makes the same image");
    for format in [Format::DockerArchive, Format::Oci] {
        let mut archive = Vec::new();
        from.store
            .save(&[reference("web:v1").into()], &mut archive, format)
            .expect("saved");
        for bytes in [archive.clone(), gzip(&archive), zstd(&archive)] {
            let to = World::new();
            let loaded = to.store.load(bytes.as_slice()).expect("loaded");
            assert_eq!(loaded, std::slice::from_ref(&image), "{format:?}");
            let layers = to.store.unpack(image.digest).expect("unpacked");
            assert_eq!(tree(&layers[0]).get("app").map(String::as_str), Some("binary"));
        }
    }
}

/// Docker before 23 reads gzip and plain tar only.
#[test]
fn an_archive_for_docker_has_no_layer_that_older_dockers_cannot_read() {
    let world = World::new();
    let plain = TarMaker::default().file("a", &"content\n".repeat(1000)).end();
    let archive = docker_archive(
        "owner/app:1",
        &[zstd(&plain), gzip(&TarMaker::default().file("b", "2").end())],
    );
    let image = world.store.load(archive.as_slice()).expect("loaded").remove(0);
    let save = |format| {
        let mut saved = Vec::new();
        let selector = [reference("owner/app:1").into()];
        world.store.save(&selector, &mut saved, format).expect("saved");
        saved
    };
    let starts = |archive: &[u8]| {
        let mut archive = tar::Archive::new(archive);
        let mut starts = Vec::new();
        for entry in archive.entries().expect("a tar") {
            let mut start = Vec::new();
            std::io::Read::read_to_end(&mut std::io::Read::take(entry.expect("a member"), 4), &mut start)
                .expect("read");
            starts.push(start);
        }
        starts
    };
    let zstd_magic = vec![0x28, 0xb5, 0x2f, 0xfd];
    let saved = save(Format::DockerArchive);
    assert!(!starts(&saved).contains(&zstd_magic));
    assert!(
        starts(&save(Format::Oci)).contains(&zstd_magic),
        "what OCI allows stays as it is"
    );
    let to = World::new();
    let loaded = to.store.load(saved.as_slice()).expect("loaded").remove(0);
    assert_eq!(loaded.config_digest, image.config_digest, "Docker's id of it");
    assert_eq!(loaded.references, image.references);
    let layers = to.store.unpack(loaded.digest).expect("unpacked");
    assert_eq!(tree(&layers[1]).get("a").map(String::len), Some(8000), "the lower one");
    assert_eq!(
        save(Format::DockerArchive),
        saved,
        "the same image makes the same bytes"
    );
    world.assert_nothing_half_done();
}

#[test]
fn an_old_docker_archive_is_loaded() {
    let world = World::new();
    let layers = [
        TarMaker::default().file("a", "1").end(),
        gzip(&TarMaker::default().file("b", "2").end()),
    ];
    let archive = docker_archive("owner/app:1", &layers[..1]);
    let image = &world.store.load(archive.as_slice()).expect("loaded")[0];
    assert_eq!(image.references, [reference("owner/app:1")]);
    assert_eq!(
        world.store.resolve(&reference("docker.io/owner/app:1")),
        Some(image.digest)
    );
    assert_eq!(
        world.store.config(image.digest).expect("its configuration").cmd,
        ["/run"]
    );
    let again = &world.store.load(archive.as_slice()).expect("loaded again")[0];
    assert_eq!(
        again.digest, image.digest,
        "the manifest made for it is always the same"
    );
}

#[test]
fn duplicate_layers_linked_in_the_archive_are_found() {
    let world = World::new();
    let layer = TarMaker::default().file("a", "1").end();
    let digest = crate::fixtures::sha256(&layer);
    let config = format!(r#"{{"os":"linux","rootfs":{{"diff_ids":["{digest}","{digest}"]}}}}"#);
    let archive = TarMaker::default()
        .member(tar::EntryType::Regular, "one/layer.tar", "", &layer)
        .symlink("two/layer.tar", "../one/layer.tar")
        .file("c.json", &config)
        .file(
            "manifest.json",
            r#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["one/layer.tar","two/layer.tar"]}]"#,
        )
        .end();
    let image = &world.store.load(archive.as_slice()).expect("loaded")[0];
    let layers = world.store.unpack(image.digest).expect("unpacked");
    assert!(
        layers.len() == 2 && layers[0] != layers[1],
        "overlayfs refuses the same layer twice"
    );
}

#[test]
fn of_several_platforms_this_machines_is_taken() {
    let (ours, from) = (World::new(), World::new());
    let image = from
        .import(&TarMaker::default().file("a", "1").end(), "multi:1")
        .expect("imported");
    let mut archive = Vec::new();
    from.store
        .save(&[image.digest.into()], &mut archive, Format::Oci)
        .expect("saved");
    let manifest_size = std::fs::metadata(from.dir().join("blobs/sha256").join(image.digest.hex()))
        .expect("it")
        .len();
    let architecture = image.platform.trim_start_matches("linux/");
    let elsewhere = crate::fixtures::sha256(b"elsewhere");
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[
            {{"mediaType":"m","digest":"{elsewhere}","size":9,"platform":{{"os":"linux","architecture":"z80"}}}},
            {{"mediaType":"m","digest":"{elsewhere}","size":9,"platform":{{"os":"unknown","architecture":"unknown"}}}},
            {{"mediaType":"m","digest":"{}","size":{manifest_size},
              "platform":{{"os":"linux","architecture":"{architecture}"}}}}]}}"#,
        image.digest
    );
    let index_digest = crate::fixtures::sha256(index.as_bytes());
    let top = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.index.v1+json",
            "digest":"{index_digest}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"r.io/multi:1"}}}}]}}"#,
        index.len()
    );
    let mut tar = TarMaker::default().file("index.json", &top);
    tar = tar.file(&format!("blobs/sha256/{}", index_digest.hex()), &index);
    for digest in names(&from.dir().join("blobs/sha256")) {
        let bytes = std::fs::read(from.dir().join("blobs/sha256").join(&digest)).expect("a blob");
        tar = tar.member(tar::EntryType::Regular, &format!("blobs/sha256/{digest}"), "", &bytes);
    }
    let loaded = ours.store.load(tar.end().as_slice()).expect("loaded");
    assert_eq!((loaded[0].digest, loaded.len()), (image.digest, 1));
    assert_eq!(loaded[0].references, [reference("r.io/multi:1")]);
    let pinned = reference("r.io/multi").with_digest(index_digest);
    assert_eq!(
        ours.store.resolve(&pinned),
        Some(image.digest),
        "the index's digest means this machine's image"
    );
}

#[test]
fn archives_that_are_no_images_say_so() {
    let world = World::new();
    for (archive, text) in [
        (
            TarMaker::default().file("bin/sh", "").end(),
            "neither a manifest.json nor an index.json",
        ),
        (TarMaker::default().file("manifest.json", "[{").end(), "EOF"),
        (
            TarMaker::default()
                .file("manifest.json", r#"[{"Config":"x","Layers":[]}]"#)
                .end(),
            "x is missing from it",
        ),
        (
            TarMaker::default()
                .file(
                    "index.json",
                    r#"{"schemaVersion":2,"manifests":[{"mediaType":"m","size":1,
                        "digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000",
                        "platform":{"os":"linux","architecture":"z80"}}]}"#,
                )
                .end(),
            "holds images for linux/z80",
        ),
    ] {
        let problem = world.store.load(archive.as_slice()).expect_err("no image").problem();
        assert!(
            problem.reason.contains(text) && problem.class == Class::Invalid,
            "{text}: {problem}"
        );
    }
    assert_eq!(names(&world.dir().join("blobs/sha256")), [""; 0]);
    world.assert_nothing_half_done();
}

#[test]
fn a_damaged_image_keeps_the_whole_archive_out() {
    let from = World::new();
    from.import(&TarMaker::default().file("a", "1").end(), "a")
        .expect("imported");
    from.import(&TarMaker::default().file("b", "content of b").end(), "b")
        .expect("imported");
    let mut archive = Vec::new();
    let both = [Selector::from(reference("a")), Selector::from(reference("b"))];
    from.store
        .save(&both, &mut archive, Format::DockerArchive)
        .expect("saved");
    let position = archive
        .windows(12)
        .position(|window| window == b"content of b")
        .expect("the content of b");
    archive[position] = b'C';
    let to = World::new();
    let error = to.store.load(archive.as_slice()).expect_err("a damaged archive");
    assert!(matches!(error, ImageError::WrongDigest { .. }), "{error}");
    assert_eq!(to.store.list(), []);
    assert_eq!(names(&to.dir().join("blobs/sha256")), [""; 0]);
    for cut in [archive.len() / 3, 100, 1000] {
        assert!(to.store.load(&archive[..cut]).is_err(), "cut at {cut}");
        assert_eq!(to.store.list(), []);
    }
    to.assert_nothing_half_done();
}

#[test]
fn images_are_found_by_name_and_by_the_beginning_of_a_digest() {
    let world = World::new();
    let image = world
        .import(&TarMaker::default().file("a", "1").end(), "a")
        .expect("imported");
    assert_eq!(world.store.find("a").expect("by name"), reference("a").into());
    for text in [
        image.digest.to_string(),
        image.digest.hex()[..12].into(),
        image.config_digest.hex()[..12].into(),
    ] {
        assert_eq!(
            world.store.find(&text).expect("by digest"),
            image.digest.into(),
            "{text}"
        );
    }
    assert!(world.store.find("zzz").is_err() && world.store.find("a:2").is_err());
    let other = reference("b:1");
    world.store.tag(&other, image.digest).expect("tagged");
    assert_eq!(world.store.list()[0].references, [reference("a"), other]);
}
