//! What registries ask of the store.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};

use gantry_image::{Descriptor, ImageError, ManifestInfo, ManifestKind, Node, Store, UploadId};
use gantry_model::{Digest, DurationMs};

use crate::fixtures::{TarMaker, World, names, reference, sha256};

const NONE: BTreeSet<Digest> = BTreeSet::new();

fn put(world: &World, bytes: &[u8]) -> Digest {
    let digest = sha256(bytes);
    world
        .store
        .put_blob(&Descriptor::new("", digest, bytes.len() as u64), bytes)
        .expect("received");
    digest
}

#[test]
fn an_upload_goes_on_after_a_restart() {
    let World { folder, store } = World::new();
    let dir = folder.path().join("store");
    let lease = store.lease(DurationMs::secs(3600)).expect("a lease").detach();
    let id = store.begin_upload().expect("begun");
    assert_eq!(store.append_upload(id, 0, b"one ".as_slice()).expect("taken"), 4);
    drop(store);
    let store = Store::open(&dir).expect("opens again");
    let lease = store.adopt_lease(lease).expect("it is still there");
    let id: UploadId = id.to_string().parse().expect("an id");
    assert_eq!(store.upload_len(id).expect("known"), 4);
    let error = store.append_upload(id, 3, b"two".as_slice()).expect_err("a gap");
    assert!(
        matches!(error, ImageError::WrongUploadOffset { expected: 4, .. }),
        "{error}"
    );
    store.append_upload(id, 4, b"two".as_slice()).expect("taken");
    let digest = sha256(b"one two");
    assert_eq!(store.finish_upload(&lease, id, digest).expect("whole"), 7);
    assert!(store.upload_len(id).is_err(), "it is over");
    assert_eq!(names(&dir.join("uploads")), [""; 0]);
    store.prune(&NONE).expect("pruned");
    assert_eq!(store.blob_size(digest), Some(7), "the lease keeps it");
    drop(lease);
    store.prune(&NONE).expect("pruned");
    assert_eq!(store.blob_size(digest), None);
}

#[test]
fn a_wrong_upload_never_becomes_a_blob() {
    let world = World::new();
    let lease = world.store.lease(DurationMs::secs(60)).expect("a lease");
    let id = world.store.begin_upload().expect("begun");
    world.store.append_upload(id, 0, b"content".as_slice()).expect("taken");
    let error = world
        .store
        .finish_upload(&lease, id, sha256(b"other"))
        .expect_err("wrong");
    assert!(matches!(error, ImageError::WrongDigest { .. }), "{error}");
    assert!(world.store.upload_len(id).is_err());
    for text in ["", "../../tags.json", "0123456789abcdeg", "+123456789abcdef"] {
        assert!(text.parse::<UploadId>().is_err(), "{text}");
    }
    let idle = world.store.begin_upload().expect("begun");
    world.store.append_upload(idle, 0, b"abc".as_slice()).expect("taken");
    assert_eq!(world.store.expire_uploads(DurationMs::secs(60)).expect("looked").0, 0);
    assert_eq!(world.store.expire_uploads(DurationMs(0)).expect("dropped").0, 3);
    assert!(world.store.cancel_upload(idle).is_err());
}

#[test]
fn artifacts_are_stored_and_found_by_their_subject() {
    let world = World::new();
    let lease = world.store.lease(DurationMs::secs(60)).expect("a lease");
    let image = world
        .import(&TarMaker::default().file("a", "1").end(), "a")
        .expect("imported");
    let (empty, sbom) = (put(&world, b"{}"), put(&world, b"parts"));
    let artifact = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/sbom",
        "config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{empty}","size":2}},
        "layers":[{{"mediaType":"text/plain","digest":"{sbom}","size":5}}],
        "subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":1}},
        "annotations":{{"k":"v"}}}}"#,
        image.digest
    );
    let info = world
        .store
        .put_manifest(&lease, artifact.as_bytes(), None)
        .expect("any kind is stored");
    assert_eq!(
        (info.kind, info.artifact_type.as_deref()),
        (ManifestKind::Artifact, Some("application/sbom"))
    );
    let (again, bytes) = world.store.manifest(info.digest).expect("it");
    assert_eq!((again, bytes.as_slice()), (info.clone(), artifact.as_bytes()));
    let referrers = world.store.referrers(image.digest).expect("listed");
    assert_eq!(referrers[0].digest, info.digest);
    assert_eq!(referrers[0].annotations["k"], "v");
    assert_eq!(world.store.list().len(), 1, "it is no image");
    assert!(
        world.store.commit_image(info.digest).is_err(),
        "containers cannot be made of it"
    );
    drop(lease);
    assert_eq!(
        world.store.prune(&NONE).expect("pruned").deleted,
        [],
        "it belongs to the image"
    );
    let removed = world.store.remove(&reference("a").into(), &NONE).expect("removed");
    assert_eq!(
        BTreeSet::from_iter(removed.deleted),
        BTreeSet::from([image.digest, info.digest])
    );
    assert_eq!(names(&world.dir().join("blobs/sha256")), [""; 0]);
}

#[test]
fn what_a_registry_holds_stays_without_a_name() {
    let world = World::new();
    let lease = world.store.lease(DurationMs::secs(60)).expect("a lease");
    let layer = put(&world, &TarMaker::default().file("a", "1").end());
    let config = put(&world, br#"{"os":"windows","rootfs":{"type":"layers","diff_ids":[]}}"#);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",
        "config":{{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"{config}","size":57}},
        "layers":[{{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"{layer}","size":2560}}]}}"#
    );
    let size = world.store.blob_size(layer).expect("it");
    let manifest = manifest.replace("2560", &size.to_string());
    let info = world
        .store
        .put_manifest(&lease, manifest.as_bytes(), None)
        .expect("stored");
    let error = world.store.commit_image(info.digest).expect_err("foreign layers");
    assert!(error.to_string().contains("may not be distributed"), "{error}");
    world
        .store
        .set_roots("registry", BTreeSet::from([Node::Manifest(info.digest)]))
        .expect("noted");
    drop(lease);
    assert_eq!(world.store.prune(&NONE).expect("pruned").deleted, []);
    assert!(world.store.manifest(info.digest).is_ok() && world.store.blob_size(layer).is_some());
    world.store.set_roots("registry", BTreeSet::new()).expect("noted");
    assert_eq!(world.store.prune(&NONE).expect("pruned").deleted, [info.digest]);
    assert_eq!(names(&world.dir().join("blobs/sha256")), [""; 0]);
}

#[test]
fn a_manifest_without_its_blobs_is_refused() {
    let world = World::new();
    let lease = world.store.lease(DurationMs::secs(60)).expect("a lease");
    let absent = sha256(b"absent");
    let manifest =
        format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{absent}","size":6}},"layers":[]}}"#);
    let error = world
        .store
        .put_manifest(&lease, manifest.as_bytes(), None)
        .expect_err("incomplete");
    assert!(matches!(error, ImageError::Incomplete { missing: 1, .. }), "{error}");
    let error = world
        .store
        .put_manifest(&lease, manifest.as_bytes(), Some(absent))
        .expect_err("another digest");
    assert!(matches!(error, ImageError::WrongDigest { .. }), "{error}");
    for schema_one in [
        r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#,
        "<html>",
        "[]",
        r#"{"schemaVersion":1}"#,
    ] {
        assert!(ManifestInfo::parse(schema_one.as_bytes()).is_err(), "{schema_one}");
    }
    let error = ManifestInfo::parse(br#"{"schemaVersion":1,"fsLayers":[]}"#).expect_err("schema 1");
    assert!(error.to_string().contains("schema 1"), "{error}");
}

#[test]
fn damaged_content_never_leaves_whole() {
    let world = World::new();
    let content = vec![7; 300_000];
    let digest = put(&world, &content);
    let mut whole = Vec::new();
    world
        .store
        .read_blob(digest, 0)
        .expect("it")
        .read_to_end(&mut whole)
        .expect("verified");
    assert!(whole == content);
    let mut rest = Vec::new();
    world
        .store
        .read_blob(digest, 299_990)
        .expect("it")
        .read_to_end(&mut rest)
        .expect("verified");
    assert_eq!(rest, [7; 10]);
    assert!(world.store.read_blob(digest, 300_001).is_err());
    let path = world.dir().join("blobs/sha256").join(digest.hex());
    let mut damaged = content.clone();
    damaged[5] = 0;
    fs::write(&path, &damaged).expect("damaged");
    for offset in [0, 100_000] {
        let mut reader = world.store.read_blob(digest, offset).expect("it");
        let mut sink = Vec::new();
        let error = reader.read_to_end(&mut sink).expect_err("damaged");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!((sink.len() as u64) < 300_000 - offset, "the end is held back");
        assert!(reader.read(&mut [0; 10]).is_err(), "asking again is no end either");
    }
}
