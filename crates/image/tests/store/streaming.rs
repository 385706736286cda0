//! Layers that are unpacked while they arrive.

use std::io::{self, Read};

use gantry_image::{Descriptor, ImageError, ImageInfo, Lease, Store};
use gantry_model::{Digest, DurationMs};

use crate::fixtures::{TarMaker, World, docker_archive, gzip, names, tree, zstd};

/// Gives this many bytes and fails.
struct Broken<R>(io::Take<R>);

impl<R: Read> Read for Broken<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::new(io::ErrorKind::ConnectionReset, "the peer is gone")),
            count => Ok(count),
        }
    }
}

fn noise(size: usize, seed: u32) -> String {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b' ' + (state >> 25) as u8 % 90)
    };
    (0..size).map(|_| next()).collect()
}

/// A store with an image of two layers, and one that has its manifest and configuration.
fn worlds(compress: fn(&[u8]) -> Vec<u8>) -> (World, World, ImageInfo, Vec<Descriptor>) {
    let (from, to) = (World::new(), World::new());
    let layers = [1, 2].map(|number| {
        let tar = TarMaker::default()
            .dir("d")
            .file(&format!("d/{number}"), &noise(400_000, number));
        tar.end()
    });
    let layers = layers.map(|layer| (crate::fixtures::sha256(&layer), compress(&layer)));
    let diff_ids: Vec<_> = layers.iter().map(|(diff_id, _)| diff_id.to_string()).collect();
    let config = serde_json::json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string();
    let manifest = r#"[{"Config":"c","RepoTags":["x:1"],"Layers":["0","1"]}]"#;
    let mut tar = TarMaker::default().file("c", &config).file("manifest.json", manifest);
    for (number, (_, layer)) in layers.iter().enumerate() {
        tar = tar.member(tar::EntryType::Regular, &number.to_string(), "", layer);
    }
    let image = from.store.load(tar.end().as_slice()).expect("loaded").remove(0);
    for digest in [image.digest, image.config_digest] {
        let blob = from.store.read_blob(digest, 0).expect("it");
        to.store
            .put_blob(&Descriptor::new("", digest, blob.size()), blob)
            .expect("received");
    }
    let missing = to.store.missing(image.digest).expect("a manifest");
    assert_eq!(missing.len(), 2);
    (from, to, image, missing)
}

fn lease(store: &Store) -> Lease {
    store.lease(DurationMs::secs(60)).expect("a lease")
}

fn source(world: &World, digest: Digest, offset: u64) -> impl Read {
    world.store.read_blob(digest, offset).expect("the source has it")
}

#[test]
fn layers_arrive_in_any_order_and_are_unpacked_by_then() {
    for compress in [gzip as fn(&[u8]) -> Vec<u8>, zstd, <[u8]>::to_vec] {
        let (from, to, image, missing) = worlds(compress);
        let lease = lease(&to.store);
        std::thread::scope(|scope| {
            for blob in missing.iter().rev() {
                let (to, lease, from) = (&to, &lease, &from);
                scope.spawn(move || {
                    let received = to
                        .store
                        .resume_layer(lease, image.digest, blob, 0, source(from, blob.digest, 0));
                    received.expect("received");
                });
            }
        });
        assert_eq!(names(&to.dir().join("layers")).len(), 2);
        to.store.commit_image(image.digest).expect("whole");
        drop(lease);
        let (ours, theirs) = (to.store.unpack(image.digest), from.store.unpack(image.digest));
        for (ours, theirs) in ours.expect("unpacked").iter().zip(&theirs.expect("unpacked")) {
            assert_eq!(tree(ours), tree(theirs));
        }
        assert_eq!(to.store.verify(&Default::default(), false).expect("read"), []);
        to.assert_nothing_half_done();
    }
}

#[test]
fn a_broken_layer_goes_on_after_a_restart() {
    let (from, to, image, missing) = worlds(gzip);
    let blob = &missing[0];
    let cut = 200_000;
    let broken = Broken(source(&from, blob.digest, 0).take(cut));
    let error = to
        .store
        .resume_layer(&lease(&to.store), image.digest, blob, 0, broken)
        .expect_err("cut off");
    assert!(matches!(error, ImageError::Source { .. }), "{error}");
    to.assert_nothing_half_done();
    let dir = to.dir();
    let World { folder, store } = to;
    drop(store);
    let store = Store::open(&dir).expect("opens again");
    assert_eq!(store.partial_len(blob.digest), cut);
    let lease = lease(&store);
    let rest = source(&from, blob.digest, cut);
    store
        .resume_layer(&lease, image.digest, blob, cut, rest)
        .expect("the rest");
    assert_eq!(
        names(&dir.join("layers")).len(),
        1,
        "what came before the break is unpacked too"
    );
    drop(folder);
}

#[test]
fn a_damaged_transfer_is_told_as_one() {
    let (from, to, image, missing) = worlds(gzip);
    let blob = &missing[1];
    let mut bytes = Vec::new();
    source(&from, blob.digest, 0).read_to_end(&mut bytes).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    let lease = lease(&to.store);
    let error = to
        .store
        .resume_layer(&lease, image.digest, blob, 0, bytes.as_slice())
        .expect_err("damaged");
    assert!(matches!(error, ImageError::WrongDigest { .. }), "{error}");
    assert_eq!(to.store.partial_len(blob.digest), 0);
    assert_eq!(names(&to.dir().join("layers")), [""; 0]);
    to.assert_nothing_half_done();
}

#[test]
fn a_hostile_layer_is_refused_while_it_arrives() {
    let from = World::new();
    let layer = TarMaker::default().file("../victim/file", "owned").end();
    let image = from
        .store
        .load(docker_archive("x", &[layer]).as_slice())
        .expect("loaded")
        .remove(0);
    let to = World::new();
    for digest in [image.digest, image.config_digest] {
        let blob = from.store.read_blob(digest, 0).expect("it");
        to.store
            .put_blob(&Descriptor::new("", digest, blob.size()), blob)
            .expect("received");
    }
    let blob = to.store.missing(image.digest).expect("a manifest").remove(0);
    let lease = lease(&to.store);
    let error = to
        .store
        .resume_layer(&lease, image.digest, &blob, 0, source(&from, blob.digest, 0));
    let error = error.expect_err("hostile");
    assert!(matches!(error, ImageError::Archive { .. }), "{error}");
    to.assert_untouched();
    assert_eq!(names(&to.dir().join("layers")), [""; 0]);
    to.assert_nothing_half_done();
}
