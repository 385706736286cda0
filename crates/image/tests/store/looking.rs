//! What the store says about images: inspect, history, usage, export.

use std::collections::BTreeSet;
use std::fs;

use gantry_image::ImportOptions;
use gantry_model::Digest;

use crate::fixtures::{TarMaker, World, docker_archive, names, reference, tree};

#[test]
fn an_image_is_shown_in_dockers_words() {
    let world = World::new();
    let options = ImportOptions {
        cmd: vec!["/app".into()],
        env: vec!["A=1".into()],
        exposed_ports: vec!["80".into()],
        ..ImportOptions::default()
    };
    let tar = TarMaker::default().file("app", "x").end();
    let image = world
        .store
        .import_rootfs(tar.as_slice(), &reference("web:1"), &options)
        .expect("imported");
    let shown = serde_json::to_value(world.store.inspect(image.digest).expect("it")).expect("json");
    assert_eq!(shown["Id"], image.config_digest.to_string());
    assert_eq!(shown["RepoTags"][0], "web:1");
    assert_eq!(shown["RepoDigests"][0], format!("web@{}", image.digest));
    assert_eq!(shown["Config"]["Cmd"][0], "/app");
    assert!(shown["Config"]["ExposedPorts"]["80/tcp"].is_object());
    assert_eq!(
        shown["RootFS"]["Type"],
        serde_json::Value::Null,
        "OCI's word is lower case"
    );
    assert_eq!(shown["RootFS"]["diff_ids"].as_array().map(Vec::len), Some(1));
    let history = world.store.history(image.digest).expect("it");
    assert_eq!((history.len(), history[0].comment.as_str()), (1, "imported by gantry"));
    assert_eq!(history[0].size, image.size);
}

#[test]
fn usage_tells_shared_from_own() {
    let world = World::new();
    let (shared, own) = (
        TarMaker::default().file("a", &"a".repeat(5000)),
        TarMaker::default().file("b", &"b".repeat(3000)),
    );
    let (shared, own) = (shared.end(), own.end());
    let load = |name: &str, layers: &[Vec<u8>]| {
        world
            .store
            .load(docker_archive(name, layers).as_slice())
            .expect("loaded")[0]
            .digest
    };
    let base = load("base", std::slice::from_ref(&shared));
    let both = load("both", &[shared.clone(), own.clone()]);
    world.store.unpack(both).expect("unpacked");
    let usage = world.store.usage(&BTreeSet::from([base])).expect("counted");
    let of = |digest: Digest| usage.images.iter().find(|image| image.digest == digest).expect("it");
    assert_eq!(of(base).shared, of(both).shared);
    assert_eq!(of(both).shared.0, shared.len() as u64 + 5000);
    assert!(of(both).unique.0 > own.len() as u64 + 3000, "its documents are its own");
    assert_eq!(usage.images_reclaimable, of(both).unique);
    assert_eq!(usage.images_size.0, of(both).size.0 + of(base).unique.0);
    assert_eq!((usage.layers, usage.layers_size.0), (2, 8000));
    assert!(of(base).in_use && !of(both).in_use);
    assert_eq!(usage.garbage.0, 0);
}

#[test]
fn an_exported_image_is_what_a_container_would_see() {
    let world = World::new();
    let lower = TarMaker::default()
        .file("gone", "1")
        .dir("d")
        .file("d/old", "1")
        .file("same", "1")
        .dir("e")
        .file("e/old", "1")
        .end();
    let upper = TarMaker::default()
        .file(".wh.gone", "")
        .dir("d")
        .file("d/.wh..wh..opq", "")
        .file("d/new", "2")
        .hard_link("d/link", "d/new")
        .file(".wh.e", "")
        .file("e.txt", "2")
        .end();
    let image = world
        .store
        .load(docker_archive("two", &[lower, upper]).as_slice())
        .expect("loaded")[0]
        .digest;
    let mut tar = Vec::new();
    world.store.export(image, &mut tar).expect("exported");
    let mut again = Vec::new();
    world.store.export(image, &mut again).expect("exported");
    assert!(tar == again, "the same image makes the same bytes");
    let other = World::new();
    let layer = other.unpack(&tar).expect("a whole tar");
    assert_eq!(names(&layer), ["d", "e.txt", "same"]);
    assert_eq!(names(&layer.join("d")), ["link", "new"]);
    assert_eq!(tree(&layer)["same"], "1");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(layer.join("d/new")).expect("it").nlink(), 2);
}
