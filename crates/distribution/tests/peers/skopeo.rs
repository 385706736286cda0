//! Docker's registry and skopeo, in both directions.

use std::fs;
use std::process::Command;

use gantry_distribution::{Client, Options, Platforms, PullRequest};
use gantry_model::Class;
use serde_json::Value;
use std::sync::Arc;
use tempfile::TempDir;

use crate::image::{Image, digest_of};
use crate::registry::{PASSWORD, Registry, USER};
use crate::{Side, files, have, run};

fn creds() -> String {
    format!("{USER}:{PASSWORD}")
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_reads_what_we_push() {
    let (Some(registry), true) = (Registry::start(), have(&["skopeo"])) else {
        return;
    };
    let side = Side::new(&registry);
    let image = Image::new(1, &[3_000_000, 700, 0]);
    let name = registry.reference("deep/er/app:v1");
    let pushed = side.push(&image, &name).await.expect("pushed");
    let source = format!("docker://{name}");
    let certs = registry.own_certs_dir();
    let inspected = run(Command::new("skopeo")
        .arg("inspect")
        .arg("--cert-dir")
        .arg(&certs)
        .args(["--creds", &creds(), &source]));
    let inspected: Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
    assert_eq!(inspected["Digest"], pushed.digest.to_string());
    assert_eq!(inspected["RepoTags"][0], "v1");

    let dir = TempDir::new().expect("a temporary folder");
    let target = format!("dir:{}", dir.path().display());
    run(Command::new("skopeo")
        .arg("copy")
        .arg("--src-cert-dir")
        .arg(&certs)
        .args(["--src-creds", &creds(), &source, &target]));
    for (digest, bytes) in &image.blobs {
        assert_eq!(
            &fs::read(dir.path().join(digest.hex())).expect("skopeo has it"),
            bytes,
            "{digest}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn we_read_what_skopeo_pushes() {
    let (Some(registry), true) = (Registry::start(), have(&["skopeo"])) else {
        return;
    };
    let image = Image::new(2, &[2_000_000, 900]);
    let first = Side::new(&registry);
    first
        .push(&image, &registry.reference("app:source"))
        .await
        .expect("pushed");
    let source = format!("docker://{}", registry.reference("app:source"));
    let certs = registry.own_certs_dir();
    // Docker's schema 2, and layers compressed anew by zstd.
    for (tag, options) in [
        ("v2s2", vec!["--format", "v2s2"]),
        ("zstd", vec!["--format", "oci", "--dest-compress-format", "zstd"]),
    ] {
        let name = registry.reference(&format!("copies/app:{tag}"));
        let target = format!("docker://{name}");
        // skopeo compresses only what it reads uncompressed.
        let plain = TempDir::new().expect("a temporary folder");
        let middle = format!("dir:{}", plain.path().display());
        run(Command::new("skopeo")
            .args(["copy", "--dest-decompress"])
            .arg("--src-cert-dir")
            .arg(&certs)
            .args(["--src-creds", &creds(), &source, &middle]));
        run(Command::new("skopeo")
            .arg("copy")
            .args(options)
            .arg("--dest-cert-dir")
            .arg(&certs)
            .args(["--dest-creds", &creds(), &middle, &target]));
        let side = Side::new(&registry);
        let pulled = side.pull(&name).await.unwrap_or_else(|error| panic!("{tag}: {error}"));
        let folders = side.store.unpack(pulled.image).expect("unpacked");
        assert_eq!(files(&folders[1]), [("file-0".to_string(), 2_000_000)], "{tag}");
        assert_eq!(files(&folders[0]), [("file-1".to_string(), 900)], "{tag}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_layers_go_in_chunks_and_come_in_parts() {
    let Some(registry) = Registry::start() else { return };
    let image = Image::new(3, &[5_000_000]);
    let options = Options {
        chunk_bytes: 1_500_000,
        certs_dirs: vec![registry.certs_dir()],
        ..Options::default()
    };
    let name = registry.reference("chunks:v1");
    Side::with(&registry, options)
        .push(&image, &name)
        .await
        .expect("pushed in four chunks");
    // As after a broken transfer: the beginning is here already.
    let side = Side::new(&registry);
    let layer = image.layer(0);
    let descriptor = gantry_image::Descriptor::new("", layer, image.layer_bytes(0).len() as u64);
    let broken = std::io::Read::chain(&image.layer_bytes(0)[..2_000_000], Cut);
    side.store.put_blob(&descriptor, broken).expect_err("cut off");
    assert_eq!(side.store.partial_len(layer), 2_000_000);
    side.pull(&name).await.expect("the rest");
    let asked = format!("GET /v2/chunks/blobs/{layer}");
    assert!(
        registry.log().contains("206") || registry.log().contains(&asked),
        "{}",
        registry.log()
    );
}

/// A source that breaks.
struct Cut;

impl std::io::Read for Cut {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::ConnectionReset.into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_mounts_and_deletion_work_with_dockers_registry() {
    let Some(registry) = Registry::start() else { return };
    let side = Side::new(&registry);
    let image = Image::new(4, &[2_000_000]);
    let base = registry.reference("base:v1");
    for tag in ["v1", "v2", "v3"] {
        side.push(&image, &registry.reference(&format!("base:{tag}")))
            .await
            .expect("pushed");
    }
    let tags = side.client.tags(&base, &side.keychain).await.expect("a list");
    assert_eq!(tags, ["v1", "v2", "v3"]);
    side.store.tag(&base, image.digest()).expect("it is here");
    side.push(&image, &registry.reference("derived:v1"))
        .await
        .expect("pushed");
    let log = registry.log();
    let mounted = log
        .lines()
        .filter(|line| line.contains("derived") && line.contains("mount="))
        .count();
    assert!(mounted > 0 && !log.contains("PATCH /v2/derived"), "{log}");
    let pinned = base.clone().with_digest(image.digest());
    side.client
        .delete_manifest(&pinned, &side.keychain)
        .await
        .expect("deletion is enabled");
    let error = side
        .client
        .fetch_manifest(&base, &side.keychain)
        .await
        .expect_err("it is gone");
    assert_eq!(error.problem().class, Class::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_real_registry_is_told() {
    let Some(registry) = Registry::start() else { return };
    let side = Side::new(&registry);
    let name = registry.reference("nothing/here:v1");
    let problem = side.pull(&name).await.expect_err("no such image").problem();
    assert_eq!(problem.class, Class::NotFound);
    assert!(problem.to_string().contains("manifest unknown"), "{problem}");

    let wrong = registry.keychain_of("wrong");
    let problem = side
        .client
        .check_login(&registry.name(), &wrong)
        .await
        .expect_err("wrong password")
        .problem();
    assert_eq!(problem.class, Class::Denied);
    side.client
        .check_login(&registry.name(), &side.keychain)
        .await
        .expect("the right one");

    // An authority that is not the registry's.
    let other = Registry::start().expect("one runs already");
    let strange = Options {
        certs_dirs: Vec::new(),
        ca_files: vec![other.own_certs_dir().join("ca.crt")],
        ..Options::default()
    };
    let client = Client::new(strange, Arc::new(gantry_env::System));
    let request = PullRequest {
        reference: &name,
        platforms: Platforms::Own,
        keychain: &side.keychain,
        unpack: false,
    };
    let problem = client
        .pull(&side.store, request, &|_| {})
        .await
        .expect_err("not trusted")
        .problem();
    let text = problem.to_string();
    assert!(
        text.contains("TLS connection") && text.contains(&format!("certs.d/{}/ca.crt", registry.name())),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_skopeo_leads_to_this_machines_image() {
    let Some(registry) = Registry::start() else { return };
    let side = Side::new(&registry);
    let (amd, arm) = (Image::on("amd64", 5, &[10]), Image::on("arm64", 6, &[10]));
    for image in [&amd, &arm] {
        let name = registry.reference(&format!("multi:{}", &image.digest().hex()[..8]));
        side.push(image, &name).await.expect("pushed");
    }
    let index = crate::image::index_of(&[("arm64", &arm), ("amd64", &amd)]);
    let descriptor = gantry_image::Descriptor::new(crate::image::INDEX_OCI, digest_of(&index), index.len() as u64);
    side.store
        .put_blob(&descriptor, index.as_slice())
        .expect("the content is right");
    let request = gantry_distribution::PushRequest {
        reference: &registry.reference("multi:all"),
        image: Some(descriptor.digest),
        keychain: &side.keychain,
    };
    side.client
        .push(&side.store, request, &|_| {})
        .await
        .expect("the index and both images");
    let fresh = Side::new(&registry);
    let pulled = fresh.pull(&registry.reference("multi:all")).await.expect("pulled");
    let own = if std::env::consts::ARCH == "aarch64" {
        &arm
    } else {
        &amd
    };
    assert_eq!((pulled.image, pulled.resolved), (own.digest(), descriptor.digest));
}
