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
