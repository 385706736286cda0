//! A tool we did not write reads what we write, and we read what it writes. Package `skopeo`; skipped, and said so, without it.

use std::fs;
use std::path::Path;
use std::process::Command;

use gantry_image::{Format, ImportOptions};

use crate::fixtures::{TarMaker, World, gzip, reference, tree};

fn skopeo(arguments: &[&str]) -> Option<Vec<u8>> {
    let output = match Command::new("skopeo")
        .args(["--insecure-policy"])
        .args(arguments)
        .output()
    {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: skopeo does not run ({error}); install the package skopeo");
            return None;
        }
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "skopeo {arguments:?}: {errors}");
    Some(output.stdout)
}

fn saved(world: &World, format: Format, name: &str) -> String {
    let path = world.folder.path().join(name);
    let file = fs::File::create(&path).expect("a file");
    world
        .store
        .save(&[reference("web:v1").into()], file, format)
        .expect("saved");
    path.display().to_string()
}

fn web(world: &World) -> gantry_image::ImageInfo {
    let tar = gzip(&TarMaker::default().file("app", "binary").end());
    let options = ImportOptions {
        env: vec!["VERSION=v1".into()],
        ..ImportOptions::default()
    };
    world
        .store
        .import_rootfs(tar.as_slice(), &reference("web:v1"), &options)
        .expect("imported")
}

fn reload(path: &Path) -> (World, gantry_image::ImageInfo) {
    let world = World::new();
    let mut images = world
        .store
        .load(fs::File::open(path).expect("the archive"))
        .expect("loaded");
    (world, images.remove(0))
}

#[test]
fn skopeo_reads_our_docker_archive() {
    let world = World::new();
    web(&world);
    let archive = saved(&world, Format::DockerArchive, "docker.tar");
    let Some(output) = skopeo(&["inspect", "--config", &format!("docker-archive:{archive}:web:v1")]) else {
        return;
    };
    assert!(String::from_utf8_lossy(&output).contains("VERSION=v1"));
}

#[test]
fn skopeo_reads_our_oci_layout_and_keeps_its_digest() {
    let world = World::new();
    let image = web(&world);
    let archive = saved(&world, Format::Oci, "oci.tar");
    let source = format!("oci-archive:{archive}:v1");
    let Some(output) = skopeo(&["inspect", &source]) else {
        return;
    };
    assert!(String::from_utf8_lossy(&output).contains(&image.digest.to_string()));
    let copy = world.folder.path().join("copy.tar");
    skopeo(&["copy", &source, &format!("oci-archive:{}:r.io/web:v2", copy.display())]);
    let (_other, loaded) = reload(&copy);
    assert_eq!(
        (loaded.digest, loaded.references),
        (image.digest, vec![reference("r.io/web:v2")])
    );
}

#[test]
fn we_read_skopeos_docker_archive() {
    let world = World::new();
    let image = web(&world);
    let archive = saved(&world, Format::DockerArchive, "docker.tar");
    let copy = world.folder.path().join("copy.tar");
    let target = format!("docker-archive:{}:web:v2", copy.display());
    if skopeo(&["copy", &format!("docker-archive:{archive}"), &target]).is_none() {
        return;
    }
    let (other, loaded) = reload(&copy);
    assert_eq!(loaded.references, [reference("web:v2")]);
    assert_eq!(other.store.config(loaded.digest).expect("it").env, ["VERSION=v1"]);
    let ours = tree(&world.store.unpack(image.digest).expect("unpacked")[0]);
    assert_eq!(tree(&other.store.unpack(loaded.digest).expect("unpacked")[0]), ours);
}

#[test]
fn skopeo_reads_what_is_built_here() {
    use gantry_image::{ConfigDocument, HistoryEntry, ImageDraft, LayerCompression, ManifestFormat, UpperLayer};
    let world = World::new();
    let lease = world.store.lease(gantry_model::DurationMs::secs(60)).expect("a lease");
    let workspace = world.store.workspace();
    let upper = workspace.folder("upper").expect("a folder");
    fs::write(upper.join("app"), "binary".repeat(100_000)).expect("a file");
    let layer = UpperLayer {
        upper: &upper,
        parent: None,
        epoch: None,
    };
    let made = world.store.commit_layer(&lease, &layer).expect("committed");
    let step = HistoryEntry {
        created_by: "COPY app / # buildkit".into(),
        ..HistoryEntry::default()
    };
    for (format, compression) in [
        (ManifestFormat::Oci, LayerCompression::Gzip),
        (ManifestFormat::Oci, LayerCompression::Zstd),
        (ManifestFormat::Docker, LayerCompression::Gzip),
        (ManifestFormat::Docker, LayerCompression::None),
    ] {
        let draft = ImageDraft {
            config: ConfigDocument {
                history: vec![step.clone()],
                ..ConfigDocument::default()
            },
            top: Some(made.chain),
            format,
            compression,
            references: vec![reference("web:v1")],
            ..ImageDraft::default()
        };
        let image = world.store.write_image(&lease, &draft).expect("written");
        // Skopeo takes only OCI's own manifests from an OCI layout.
        let (archive, source) = match format {
            ManifestFormat::Oci => {
                let archive = saved(&world, Format::Oci, "oci.tar");
                (archive.clone(), format!("oci-archive:{archive}:v1"))
            }
            ManifestFormat::Docker => {
                let archive = saved(&world, Format::DockerArchive, "docker.tar");
                (archive.clone(), format!("docker-archive:{archive}:web:v1"))
            }
        };
        let copy = world.folder.path().join("copy");
        // Copying into a folder verifies every digest; inspecting reads the configuration.
        if skopeo(&["copy", &source, &format!("dir:{}", copy.display())]).is_none() {
            return;
        }
        let output = skopeo(&["inspect", &source]).expect("it ran before");
        let output = String::from_utf8_lossy(&output);
        assert!(
            output.contains(&made.diff_id.to_string()) || output.contains(&image.digest.to_string()),
            "{output}"
        );
        fs::remove_dir_all(&copy).expect("removed");
        fs::remove_file(&archive).expect("removed");
    }
}
