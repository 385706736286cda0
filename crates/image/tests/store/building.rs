//! Layers and images made here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_image::{
    CommittedLayer, ConfigDocument, Format, HistoryEntry, ImageDraft, ImageError, IndexDraft, LayerCompression, Lease,
    ManifestFormat, ManifestInfo, UpperLayer,
};
use gantry_model::{Digest, DurationMs, Timestamp};
use rustix::fs::{CWD, FileType, Gid, Mode, Uid, XattrFlags, chownat, lsetxattr, makedev, mknodat};

use crate::fixtures::{World, names, reference, tree, xattr};

fn lease(world: &World) -> Lease {
    world.store.lease(DurationMs::secs(600)).expect("a lease")
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().expect("it runs");
    assert!(status.success(), "{program} {arguments:?}");
}

/// Commits a folder that `fill` has filled.
fn layer(
    world: &World,
    lease: &Lease,
    parent: Option<Digest>,
    epoch: Option<Timestamp>,
    fill: impl FnOnce(&Path),
) -> CommittedLayer {
    let workspace = world.store.workspace();
    let upper = workspace.folder("upper").expect("a folder");
    fill(&upper);
    let layer = UpperLayer {
        upper: &upper,
        parent,
        epoch,
    };
    world.store.commit_layer(lease, &layer).expect("committed")
}

fn node(path: &Path, kind: FileType, major: u32, minor: u32) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), makedev(major, minor)).expect("a node");
}

/// Everything a layer can hold.
fn fill_with_everything(upper: &Path) {
    let long = upper.join("d".repeat(150)).join("e".repeat(150));
    fs::create_dir_all(&long).expect("a folder");
    fs::write(long.join("überlang"), "long").expect("a file");
    fs::create_dir(upper.join("bin")).expect("a folder");
    fs::write(upper.join("bin/ping"), "ping").expect("a file");
    chownat(
        CWD,
        upper.join("bin/ping"),
        Some(Uid::from_raw(12)),
        Some(Gid::from_raw(3_000_000)),
        rustix::fs::AtFlags::empty(),
    )
    .expect("owned");
    fs::set_permissions(upper.join("bin/ping"), fs::Permissions::from_mode(0o4755)).expect("a mode");
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    lsetxattr(
        upper.join("bin/ping"),
        "security.capability",
        &capability,
        XattrFlags::empty(),
    )
    .expect("a capability");
    lsetxattr(upper.join("bin/ping"), "user.note", b"a\n=b", XattrFlags::empty()).expect("an attribute");
    fs::hard_link(upper.join("bin/ping"), upper.join("bin/ping6")).expect("a link");
    symlink("ping", upper.join("bin/link")).expect("a link");
    symlink("x".repeat(200), upper.join("bin/longlink")).expect("a link");
    node(&upper.join("null"), FileType::CharacterDevice, 1, 3);
    node(&upper.join("disk"), FileType::BlockDevice, 8, 1);
    node(&upper.join("pipe"), FileType::Fifo, 0, 0);
    drop(std::os::unix::net::UnixListener::bind(upper.join("socket")).expect("a socket"));
    let sparse = fs::File::create(upper.join("sparse")).expect("a file");
    std::os::unix::fs::FileExt::write_at(&sparse, b"far", 64 << 20).expect("written");
    sparse.set_len(100 << 20).expect("longer");
    node(&upper.join("gone"), FileType::CharacterDevice, 0, 0);
    fs::create_dir(upper.join("hidden")).expect("a folder");
    fs::write(upper.join("hidden/new"), "new").expect("a file");
    lsetxattr(
        upper.join("hidden"),
        "trusted.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    )
    .expect("opaque");
    lsetxattr(
        upper.join("bin"),
        "trusted.overlay.origin",
        b"somewhere",
        XattrFlags::empty(),
    )
    .expect("an origin");
}

/// What matters of every file below a folder.
fn details(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for name in names(&folder) {
            let path = folder.join(name);
            let metadata = fs::symlink_metadata(&path).expect("an entry");
            let content = if metadata.is_file() {
                crate::fixtures::sha256(&fs::read(&path).expect("a file")).to_string()
            } else {
                fs::read_link(&path).map_or(String::new(), |target| target.display().to_string())
            };
            if metadata.file_type().is_char_device() && metadata.rdev() == 0 {
                found.insert(
                    path.strip_prefix(dir).expect("below").to_path_buf(),
                    "whiteout".to_string(),
                );
                continue;
            }
            let attributes = [
                "security.capability",
                "user.note",
                "trusted.overlay.opaque",
                "trusted.overlay.origin",
            ];
            let attributes: Vec<_> = attributes.iter().map(|name| xattr(&path, name)).collect();
            let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
            let text = format!(
                "{:o} {}:{} {} {links} {} {content} {attributes:?}",
                metadata.mode(),
                metadata.uid(),
                metadata.gid(),
                metadata.rdev(),
                metadata.mtime()
            );
            found.insert(path.strip_prefix(dir).expect("below").to_path_buf(), text);
            if metadata.is_dir() {
                pending.push(path);
            }
        }
    }
    found
}

fn blob(world: &World, digest: Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    world
        .store
        .read_blob(digest, 0)
        .expect("it")
        .read_to_end(&mut bytes)
        .expect("verified");
    bytes
}

#[test]
fn a_layer_comes_out_as_it_went_in() {
    let (from, to) = (World::new(), World::new());
    let lease_from = lease(&from);
    let base = layer(&from, &lease_from, None, None, |upper| {
        fs::write(upper.join("gone"), "").expect("a file");
        fs::create_dir(upper.join("hidden")).expect("a folder");
        fs::write(upper.join("hidden/old"), "").expect("a file");
    });
    let made = layer(&from, &lease_from, Some(base.chain), None, fill_with_everything);
    let folders = from.store.chain_folders(made.chain).expect("unpacked");
    let ours = details(&folders[0]);
    assert!(
        !ours.contains_key(Path::new("socket")),
        "a socket means nothing in an image"
    );
    assert!(
        ours[Path::new("bin")].ends_with("None, None]"),
        "overlayfs' own attributes are gone"
    );
    for compression in [LayerCompression::Gzip, LayerCompression::Zstd, LayerCompression::None] {
        let draft = ImageDraft {
            top: Some(made.chain),
            compression,
            references: vec![reference("made:1")],
            ..ImageDraft::default()
        };
        let image = from.store.write_image(&lease_from, &draft).expect("written");
        assert_eq!(from.store.write_image(&lease_from, &draft).expect("again"), image);
        let mut archive = Vec::new();
        from.store
            .save(&[reference("made:1").into()], &mut archive, Format::Oci)
            .expect("saved");
        assert!(archive.len() < 2 << 20, "holes take no room");
        let loaded = to.store.load(archive.as_slice()).expect("loaded");
        assert_eq!(loaded[0].digest, image.digest);
        let theirs = to.store.unpack(image.digest).expect("unpacked");
        assert_eq!(details(&theirs[0]), ours, "{compression:?}");
        to.store
            .remove(&image.digest.into(), &BTreeSet::new())
            .expect("removed");
    }
    assert_eq!(made.entries as usize, ours.len());
    assert_eq!(
        from.store.chain_diff_ids(made.chain).expect("it"),
        [base.diff_id, made.diff_id]
    );
    let verified = from.store.verify(&BTreeSet::new(), false).expect("verified");
    assert_eq!(verified, []);
}

#[test]
fn real_overlayfs_uppers_become_layers() {
    let world = World::new();
    let lease = lease(&world);
    let base = layer(&world, &lease, None, None, |upper| {
        fs::create_dir_all(upper.join("etc/old")).expect("a folder");
        fs::write(upper.join("etc/old/a"), "1").expect("a file");
        fs::write(upper.join("etc/passwd"), "root").expect("a file");
        fs::write(upper.join("removed"), "").expect("a file");
        fs::write(upper.join("kept"), "").expect("a file");
    });
    let workspace = world.store.workspace();
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| workspace.folder(name).expect("a folder"));
    let lower = world.store.chain_folders(base.chain).expect("unpacked");
    let options = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off",
        lower[0].display(),
        upper.display(),
        work.display()
    );
    run(
        "mount",
        &[
            "-t",
            "overlay",
            "overlay",
            "-o",
            &options,
            &merged.display().to_string(),
        ],
    );
    fs::remove_file(merged.join("removed")).expect("removed");
    fs::remove_dir_all(merged.join("etc/old")).expect("removed");
    fs::create_dir(merged.join("etc/old")).expect("made anew");
    fs::write(merged.join("etc/old/b"), "2").expect("a file");
    fs::write(merged.join("etc/passwd"), "root:x").expect("a file");
    let seen = tree(&merged);
    run("umount", &[&merged.display().to_string()]);
    let made = world
        .store
        .commit_layer(
            &lease,
            &UpperLayer {
                upper: &upper,
                parent: Some(base.chain),
                epoch: None,
            },
        )
        .expect("committed");
    assert!(!upper.exists(), "it is moved, not copied");
    let image = world
        .store
        .write_image(
            &lease,
            &ImageDraft {
                top: Some(made.chain),
                ..ImageDraft::default()
            },
        )
        .expect("written");
    let other = World::new();
    let mut archive = Vec::new();
    world
        .store
        .save(&[image.digest.into()], &mut archive, Format::Oci)
        .expect("saved");
    other.store.load(archive.as_slice()).expect("loaded");
    for store in [&world.store, &other.store] {
        let layers: Vec<_> = store.unpack(image.digest).expect("unpacked");
        assert!(
            fs::symlink_metadata(layers[0].join("removed"))
                .expect("it")
                .file_type()
                .is_char_device()
        );
        let layers: Vec<_> = layers.iter().map(|layer| layer.display().to_string()).collect();
        let options = format!("lowerdir={}", layers.join(":"));
        run(
            "mount",
            &[
                "-t",
                "overlay",
                "overlay",
                "-o",
                &options,
                &merged.display().to_string(),
            ],
        );
        let found = tree(&merged);
        run("umount", &[&merged.display().to_string()]);
        assert_eq!(found, seen);
    }
}

#[test]
fn the_same_files_make_the_same_bytes() {
    let epoch = Some(Timestamp(1_600_000_000_000));
    let make = || {
        let world = World::new();
        let lease = lease(&world);
        let made = layer(&world, &lease, None, epoch, fill_with_everything);
        let blob = world
            .store
            .layer_blob(&lease, made.chain, LayerCompression::Gzip)
            .expect("made");
        let newest = details(&world.store.chain_folders(made.chain).expect("it")[0]);
        assert!(
            newest.values().all(|text| !text.contains(" 17")),
            "the folder is clamped as its tar is"
        );
        (made, blob)
    };
    assert_eq!(make(), make());
}

#[test]
fn a_lost_blob_is_made_again_and_a_damaged_layer_is_told() {
    let world = World::new();
    let lease = lease(&world);
    let made = layer(&world, &lease, None, None, |upper| {
        fs::write(upper.join("a"), "content").expect("a file")
    });
    let first = world
        .store
        .layer_blob(&lease, made.chain, LayerCompression::Gzip)
        .expect("made");
    let path = world.dir().join("blobs/sha256").join(first.digest.hex());
    fs::remove_file(&path).expect("lost");
    assert_eq!(
        world
            .store
            .layer_blob(&lease, made.chain, LayerCompression::Gzip)
            .expect("again"),
        first
    );
    fs::remove_file(&path).expect("lost");
    fs::write(
        world.store.chain_folders(made.chain).expect("it")[0].join("a"),
        "changed",
    )
    .expect("damaged");
    let error = world
        .store
        .layer_blob(&lease, made.chain, LayerCompression::Gzip)
        .expect_err("damaged");
    assert!(matches!(error, ImageError::WrongDigest { .. }), "{error}");
    world.assert_nothing_half_done();
}

#[test]
fn docker_gets_its_own_media_types() {
    let world = World::new();
    let lease = lease(&world);
    let made = layer(&world, &lease, None, None, |upper| {
        fs::write(upper.join("a"), "").expect("a file")
    });
    let step = |text: &str, empty_layer| HistoryEntry {
        created_by: text.into(),
        empty_layer,
        ..HistoryEntry::default()
    };
    let mut config = ConfigDocument::default();
    config.config.cmd = Some(vec!["/a".into()]);
    config.history = vec![step("COPY a / # buildkit", false), step("CMD [\"/a\"]", true)];
    let draft = ImageDraft {
        config,
        top: Some(made.chain),
        format: ManifestFormat::Docker,
        references: vec![reference("made:docker")],
        ..ImageDraft::default()
    };
    let image = world.store.write_image(&lease, &draft).expect("written");
    let manifest = ManifestInfo::parse(&blob(&world, image.digest)).expect("a manifest");
    assert_eq!(
        manifest.media_type,
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    assert_eq!(
        manifest.config.expect("one").media_type,
        "application/vnd.docker.container.image.v1+json"
    );
    assert_eq!(
        manifest.layers[0].media_type,
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    );
    let zstd = ImageDraft {
        compression: LayerCompression::Zstd,
        ..draft.clone()
    };
    assert!(
        world.store.write_image(&lease, &zstd).is_err(),
        "Docker's format has no zstd"
    );
    let mut lying = draft;
    lying.config.history.pop();
    lying.config.history.push(step("RUN x", false));
    assert!(
        world.store.write_image(&lease, &lying).is_err(),
        "two steps with a layer, one layer"
    );
}

#[test]
fn an_index_resolves_to_this_machine_and_keeps_the_rest() {
    let world = World::new();
    let lease = lease(&world);
    let image = |architecture: &str| {
        let made = layer(&world, &lease, None, None, |upper| {
            fs::write(upper.join(architecture), "").expect("a file")
        });
        let config = ConfigDocument {
            architecture: architecture.into(),
            ..ConfigDocument::default()
        };
        let draft = ImageDraft {
            config,
            top: Some(made.chain),
            ..ImageDraft::default()
        };
        world.store.write_image(&lease, &draft).expect("written")
    };
    let ours = image(&ConfigDocument::default().architecture);
    let theirs = image("z80");
    let draft = IndexDraft {
        images: vec![theirs.digest, ours.digest],
        references: vec![reference("multi:1")],
        ..IndexDraft::default()
    };
    let index = world.store.write_index(&lease, &draft).expect("written");
    drop(lease);
    assert_eq!(world.store.resolve(&reference("multi:1")), Some(ours.digest));
    assert_eq!(world.store.target(&reference("multi:1")), Some(index));
    let z80 = gantry_image::Platform::parse("linux/z80");
    assert_eq!(world.store.for_platform(index, &z80), Some(theirs.digest));
    assert_eq!(world.store.prune(&BTreeSet::new()).expect("nothing to do").deleted, []);
    let mut archive = Vec::new();
    world
        .store
        .save(&[reference("multi:1").into()], &mut archive, Format::Oci)
        .expect("saved");
    let other = World::new();
    other.store.load(archive.as_slice()).expect("loaded");
    assert_eq!(
        other.store.target(&reference("multi:1")),
        Some(index),
        "the index travels with its images"
    );
    assert_eq!(other.store.images_below(index).len(), 2);
    let removed = other
        .store
        .remove(&reference("multi:1").into(), &BTreeSet::new())
        .expect("removed");
    assert_eq!(removed.deleted.len(), 3);
    assert_eq!(names(&other.dir().join("blobs/sha256")), [""; 0]);
}
