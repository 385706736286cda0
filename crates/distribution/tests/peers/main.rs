//! The client beside real peers: Docker's registry with TLS and a password, skopeo, and the docker CLI with its daemon.
//!
//! They come from the distribution's packages (`deploy/packages`, test); what is absent is skipped loudly.

mod docker;
#[path = "../registry/image.rs"]
mod image;
mod registry;
mod skopeo;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use gantry_distribution::{Client, Keychain, Options, Platforms, PullRequest, Pulled, PushRequest, Pushed, Result};
use gantry_env::System;
use gantry_image::{Descriptor, Store};
use gantry_model::ImageReference;
use tempfile::TempDir;

use crate::image::Image;
use crate::registry::Registry;

/// Whether all programs are there; says so where they are not.
fn have(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = std::env::split_paths(&path).collect();
    dirs.push("/usr/sbin".into());
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !dirs.iter().any(|dir| dir.join(program).is_file()))
        .collect();
    if missing.is_empty() {
        return true;
    }
    eprintln!("SKIP: {missing:?} not installed (deploy/packages lists what tests need)");
    false
}

/// Runs a program that must succeed.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let words = [output.stdout.as_slice(), b"\n", output.stderr.as_slice()].concat();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&words)
    );
    output
}

/// One side: a client with its store.
struct Side {
    client: Client,
    store: Arc<Store>,
    keychain: Keychain,
    _dir: TempDir,
}

impl Side {
    fn new(registry: &Registry) -> Self {
        Self::with(
            registry,
            Options {
                certs_dirs: vec![registry.certs_dir()],
                ..Options::default()
            },
        )
    }

    fn with(registry: &Registry, options: Options) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        Self {
            client: Client::new(options, Arc::new(System)),
            store: Arc::new(Store::open(dir.path().join("images")).expect("a fresh store")),
            keychain: registry.keychain(),
            _dir: dir,
        }
    }

    async fn pull(&self, reference: &ImageReference) -> Result<Pulled> {
        let request = PullRequest {
            reference,
            platforms: Platforms::Own,
            keychain: &self.keychain,
            unpack: true,
        };
        self.client.pull(&self.store, request, &|_| {}).await
    }

    async fn push(&self, image: &Image, reference: &ImageReference) -> Result<Pushed> {
        put(&self.store, image);
        let request = PushRequest {
            reference,
            image: Some(image.digest()),
            keychain: &self.keychain,
        };
        self.client.push(&self.store, request, &|_| {}).await
    }
}

/// Enters an image into a store as if it had been built here.
fn put(store: &Store, image: &Image) {
    let manifest = (image.digest(), image.manifest.clone());
    for (digest, bytes) in image.blobs.iter().chain([&manifest]) {
        let descriptor = Descriptor::new(image.media_type.clone(), *digest, bytes.len() as u64);
        store
            .put_blob(&descriptor, bytes.as_slice())
            .expect("the content is right");
    }
    store.commit_image(image.digest()).expect("the image is whole");
}

/// The files of one layer folder, by name with their sizes.
fn files(folder: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(folder).expect("an unpacked layer");
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            let size = entry.metadata().expect("its size").len();
            (entry.file_name().to_string_lossy().into_owned(), size)
        })
        .collect();
    files.sort();
    files
}
