//! `verify` finds what is wrong, and repair leaves a store in which nothing is.

use std::collections::BTreeSet;
use std::fs;

use gantry_image::Finding;
use gantry_model::Digest;

use crate::fixtures::{TarMaker, World, docker_archive, names, reference};

const NONE: BTreeSet<Digest> = BTreeSet::new();

fn world() -> (World, Digest, Digest) {
    let world = World::new();
    let layer = |name: &str| TarMaker::default().dir("d").file(&format!("d/{name}"), name).end();
    let load = |name: &str, layers: &[Vec<u8>]| {
        let archive = docker_archive(name, layers);
        world.store.load(archive.as_slice()).expect("loaded")[0].digest
    };
    let base = load("base", &[layer("a")]);
    let both = load("both", &[layer("a"), layer("b")]);
    world.store.unpack(both).expect("unpacked");
    assert_eq!(world.store.verify(&NONE, false).expect("read"), []);
    (world, base, both)
}

fn check_repaired(world: &World) {
    assert!(!world.store.verify(&NONE, true).expect("repaired").is_empty());
    assert_eq!(world.store.verify(&NONE, false).expect("read"), []);
    world.assert_nothing_half_done();
}

#[test]
fn a_damaged_blob_takes_its_images_with_it() {
    let (world, base, both) = world();
    let image = world.store.inspect(both).expect("it");
    let top = image.layers[1].digest;
    let path = world.dir().join("blobs/sha256").join(top.hex());
    let mut bytes = fs::read(&path).expect("the layer");
    bytes[700] ^= 1;
    fs::write(&path, bytes).expect("damaged");
    let findings = world.store.verify(&NONE, false).expect("read");
    assert!(
        matches!(findings[..], [Finding::DamagedBlob { digest, .. }] if digest == top),
        "{findings:?}"
    );
    assert!(findings[0].to_string().contains(&top.to_string()) && !findings[0].remedy().is_empty());
    check_repaired(&world);
    assert_eq!(world.store.resolve(&reference("both")), None, "it is fetched again");
    assert_eq!(world.store.resolve(&reference("base")), Some(base));
}

#[test]
fn a_missing_blob_is_named_with_its_image() {
    let (world, _, both) = world();
    let top = world.store.inspect(both).expect("it").layers[1].digest;
    fs::remove_file(world.dir().join("blobs/sha256").join(top.hex())).expect("lost");
    let findings = world.store.verify(&NONE, false).expect("read");
    let Finding::IncompleteImage {
        digest,
        missing,
        references,
    } = &findings[0]
    else {
        panic!("{findings:?}");
    };
    assert_eq!(
        (*digest, missing.as_slice(), references.as_slice()),
        (both, [top].as_slice(), [reference("both")].as_slice())
    );
    check_repaired(&world);
}

#[test]
fn a_damaged_layer_is_unpacked_again() {
    for damage in [
        |layer: &std::path::Path| fs::remove_file(layer.join("d/b")).expect("lost"),
        |layer: &std::path::Path| fs::write(layer.join("d/b"), "").expect("cut off"),
        |layer: &std::path::Path| fs::write(layer.join("d/c"), "x").expect("more"),
    ] {
        let (world, _, both) = world();
        let top = world.store.unpack(both).expect("unpacked").remove(0);
        damage(&top);
        let findings = world.store.verify(&NONE, false).expect("read");
        assert!(matches!(findings[..], [Finding::DamagedLayer { .. }]), "{findings:?}");
        let in_use = BTreeSet::from([both]);
        world.store.verify(&in_use, true).expect("read");
        assert!(top.exists(), "nothing is pulled from under a container");
        check_repaired(&world);
        assert_eq!(
            names(&world.store.unpack(both).expect("unpacked").remove(0).join("d")),
            ["b"]
        );
    }
}

#[test]
fn layers_that_a_loss_of_power_may_have_torn_are_dropped() {
    let (world, _, both) = world();
    let dir = world.dir();
    let World { folder, store } = world;
    let layers = store.unpack(both).expect("unpacked");
    drop(store);
    let records = dir.join("records");
    let unsynced: Vec<_> = names(&records)
        .into_iter()
        .filter(|name| name.ends_with(".unsynced"))
        .collect();
    assert_eq!(unsynced.len(), 2);
    fs::write(records.join(&unsynced[0]), "another life of the machine").expect("written");
    let store = gantry_image::Store::open(&dir).expect("opens");
    assert_eq!(layers.iter().filter(|layer| layer.exists()).count(), 1);
    assert_eq!(store.unpack(both).expect("again"), layers);
    store.settle().expect("synced");
    assert!(names(&records).iter().all(|name| name.ends_with(".json")));
    assert_eq!(store.verify(&NONE, false).expect("read"), []);
    drop(folder);
}
