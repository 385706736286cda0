//! From one node's store to another's.

use std::io::{self, Read};

use gantry_image::{Descriptor, ImageError};

use crate::fixtures::{TarMaker, World, names, reference};

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

fn worlds() -> (World, World, gantry_image::ImageInfo) {
    let (from, to) = (World::new(), World::new());
    let image = from
        .import(&TarMaker::default().file("a", &"x".repeat(300_000)).end(), "web")
        .expect("imported");
    (from, to, image)
}

#[test]
fn an_image_travels_blob_by_blob() {
    let (from, to, image) = worlds();
    let mut rounds = 0;
    loop {
        let missing = to.store.missing(image.digest).expect("a manifest");
        if missing.is_empty() {
            break;
        }
        rounds += 1;
        for blob in missing {
            to.store
                .put_blob(&blob, from.store.open_blob(blob.digest).expect("the source has it"))
                .expect("received");
        }
    }
    assert_eq!(rounds, 2, "the manifest, then what it names");
    let received = to.store.commit_image(image.digest).expect("whole");
    assert_eq!((received.digest, received.references.len()), (image.digest, 0));
    to.store.tag(&reference("web"), image.digest).expect("tagged");
    assert_eq!(to.store.list(), from.store.list());
    assert_eq!(to.store.unpack(image.digest).expect("unpacked").len(), 1);
}

#[test]
fn an_interrupted_transfer_continues_where_it_ended() {
    let (from, to, image) = worlds();
    let manifest = Descriptor::of_manifest(image.digest);
    to.store
        .put_blob(&manifest, from.store.open_blob(image.digest).expect("it"))
        .expect("received");
    let layer = to
        .store
        .missing(image.digest)
        .expect("a manifest")
        .pop()
        .expect("the layer");
    let source = || from.store.open_blob(layer.digest).expect("the source has it");
    let error = to
        .store
        .put_blob(&layer, Broken(source().take(100_000)))
        .expect_err("cut off");
    assert!(matches!(error, ImageError::Source { .. }), "{error}");
    assert_eq!(to.store.partial_len(layer.digest), 100_000);
    let dir = to.dir();
    let World { folder, store } = to;
    drop(store);
    let store = gantry_image::Store::open(&dir).expect("opens again");
    assert_eq!(store.partial_len(layer.digest), 100_000, "it survives a restart");
    let mut rest = source();
    io::copy(&mut (&mut rest).take(100_000), &mut io::sink()).expect("skipped");
    assert!(matches!(
        store.resume_blob(&layer, 99, io::empty()),
        Err(ImageError::WrongOffset { expected: 100_000, .. })
    ));
    store.resume_blob(&layer, 100_000, rest).expect("the rest");
    assert_eq!(store.partial_len(layer.digest), 0);
    drop((folder, store));
}

#[test]
fn wrong_content_never_becomes_visible() {
    let (from, to, image) = worlds();
    let whole = std::fs::read(from.dir().join("blobs/sha256").join(image.digest.hex())).expect("the manifest");
    let blob = Descriptor::new("", image.digest, whole.len() as u64);
    let mut forged = whole.clone();
    forged[0] ^= 1;
    let long = [whole.clone(), vec![0]].concat();
    assert!(matches!(
        to.store.put_blob(&blob, forged.as_slice()),
        Err(ImageError::WrongDigest { .. })
    ));
    assert_eq!(to.store.partial_len(image.digest), 0, "nothing of it is worth keeping");
    assert!(matches!(
        to.store.put_blob(&blob, long.as_slice()),
        Err(ImageError::TooLarge { .. })
    ));
    assert!(matches!(
        to.store.put_blob(&blob, &whole[..9]),
        Err(ImageError::WrongSize { found: 9, .. })
    ));
    let endless = Descriptor::of_manifest(image.digest);
    assert!(matches!(
        to.store.put_blob(&endless, io::repeat(0)),
        Err(ImageError::TooLarge { .. })
    ));
    assert!(to.store.open_blob(image.digest).is_err());
    assert_eq!(names(&to.dir().join("blobs/sha256")), [""; 0]);
}

#[test]
fn an_incomplete_image_is_not_entered() {
    let (from, to, image) = worlds();
    let manifest = Descriptor::of_manifest(image.digest);
    to.store
        .put_blob(&manifest, from.store.open_blob(image.digest).expect("it"))
        .expect("received");
    let error = to.store.commit_image(image.digest).expect_err("blobs are missing");
    assert!(matches!(error, ImageError::Incomplete { missing: 2, .. }), "{error}");
    assert_eq!(to.store.list(), []);
}
