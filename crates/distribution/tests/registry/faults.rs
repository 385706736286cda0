//! Registries that stall, lie, break off and send nonsense: what helps is tried again, the rest is told clearly, and the store
//! stays whole.

use gantry_distribution::{Client, Phase, Platforms, PullRequest, Pulled, PushRequest, Result, Step};
use gantry_image::{ImageError, Store};
use gantry_model::Class;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

use crate::fake::{Answer, Fake, Fault};
use crate::image::{Image, digest_of};
use crate::{Steps, client, impatient, nobody, plain, reference, store};

async fn pull(client: &Client, store: &Arc<Store>, registry: &Fake) -> Result<Pulled> {
    pull_heard(client, store, registry, |_| {}).await
}

async fn pull_heard(
    client: &Client,
    store: &Arc<Store>,
    registry: &Fake,
    hear: impl Fn(Step) + Send + Sync,
) -> Result<Pulled> {
    let (keychain, name) = (nobody(), reference(registry, "app:v1"));
    let request = PullRequest {
        reference: &name,
        platforms: Platforms::Own,
        keychain: &keychain,
        unpack: true,
    };
    client.pull(store, request, &hear).await
}

/// A registry with one image.
async fn with_image(layer_sizes: &[usize]) -> (Fake, Image) {
    let registry = Fake::start().await;
    let image = Image::new(9, layer_sizes);
    registry.hold("app", "v1", &image);
    (registry, image)
}

fn blob(image: &Image, layer: usize) -> String {
    format!("GET /v2/app/blobs/{}", image.layer(layer))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_goes_on_where_it_was() {
    let (registry, image) = with_image(&[300_000]).await;
    let size = image.layer_bytes(0).len();
    registry.fault(blob(&image, 0), Fault::TruncateAt(100_000));
    registry.fault(blob(&image, 0), Fault::StallAt(50_000));
    registry.fault(blob(&image, 0), Fault::Answer(503, vec![], "{}"));
    registry.fault(blob(&image, 0), Fault::Hangup);
    let (_dir, store) = store();
    let pulled = pull(&client(impatient(plain(&[&registry]))), &store, &registry)
        .await
        .expect("the rest comes later");
    assert_eq!(pulled.image, image.digest());
    let ranges: Vec<_> = registry
        .seen_with(&blob(&image, 0))
        .iter()
        .map(|seen| seen.header("range").map(str::to_string))
        .collect();
    let rest = |from: usize| Some(format!("bytes={from}-"));
    assert_eq!(
        ranges,
        [None, rest(100_000), rest(150_000), rest(150_000), rest(150_000)],
        "of {size}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_is_read_from_the_beginning_again() {
    let (registry, image) = with_image(&[300_000]).await;
    registry.fault(blob(&image, 0), Fault::TruncateAt(100_000));
    registry.fault(blob(&image, 0), Fault::IgnoreRange);
    let (_dir, store) = store();
    let pulled = pull(&client(plain(&[&registry])), &store, &registry).await;
    assert_eq!(pulled.expect("the beginning is skipped").image, image.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_is_kept_when_the_pull_fails_and_in_the_next_process() {
    let (registry, image) = with_image(&[300_000]).await;
    registry.fault(blob(&image, 0), Fault::TruncateAt(100_000));
    for _ in 0..4 {
        registry.fault(blob(&image, 0), Fault::Hangup);
    }
    let (dir, store) = store();
    let error = pull(&client(plain(&[&registry])), &store, &registry)
        .await
        .expect_err("it never comes");
    let problem = error.problem();
    assert_eq!(problem.class, Class::Unavailable, "{problem}");
    assert!(
        problem
            .object
            .contains(&format!("blob {} of {}/app", image.layer(0), registry.name())),
        "{problem}"
    );
    assert_eq!(store.partial_len(image.layer(0)), 100_000);
    assert!(
        matches!(store.info(image.digest()), Err(ImageError::NotFound { .. })),
        "nothing half is visible"
    );
    drop(store);

    let store = Arc::new(Store::open(dir.path().join("images")).expect("the store of before"));
    let before = registry.seen().len();
    pull(&client(plain(&[&registry])), &store, &registry)
        .await
        .expect("healthy again");
    let seen = registry.seen();
    let asked = seen[before..]
        .iter()
        .find(|seen| seen.line() == blob(&image, 0))
        .expect("the layer was asked for");
    assert_eq!(asked.header("range"), Some("bytes=100000-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_waited_for_when_short_and_told_when_long() {
    let (registry, image) = with_image(&[10]).await;
    let limit = |seconds: &str| {
        let headers = vec![("Retry-After", seconds.to_string())];
        Fault::Answer(
            429,
            headers,
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}"#,
        )
    };
    registry.fault(blob(&image, 0), limit("1"));
    let (_dir, store) = store();
    let client = client(plain(&[&registry]));
    pull(&client, &store, &registry).await.expect("a second is short");

    registry.fault("GET /v2/app/manifests", limit("21600"));
    let problem = pull(&client, &store, &registry)
        .await
        .expect_err("six hours are long")
        .problem();
    assert_eq!(problem.class, Class::Exhausted);
    let text = problem.to_string();
    assert!(
        text.contains("pull rate limit") && text.contains("21600 s") && text.contains("gantry login"),
        "{text}"
    );
    assert_eq!(registry.seen_with("manifests").len(), 2, "not asked again and again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_fails_for_good_is_told_after_some_attempts() {
    let registry = Fake::start().await;
    registry.answer_with(|_| {
        Some(Answer::new(500).body(r#"{"errors":[{"code":"UNKNOWN","message":"disk\u001b[31m full"}]}"#))
    });
    let (_dir, store) = store();
    let problem = pull(&client(plain(&[&registry])), &store, &registry)
        .await
        .expect_err("it fails")
        .problem();
    assert_eq!(problem.class, Class::Unavailable);
    let text = problem.to_string();
    assert!(
        text.contains("500 Internal Server Error") && text.contains("disk [31m full"),
        "{text}"
    );
    assert_eq!(registry.seen().len(), 5, "bounded");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_with_a_stall() {
    let registry = Fake::start().await;
    let mut options = impatient(plain(&[&registry]));
    options.timing.attempts_max = 2;
    for _ in 0..options.timing.attempts_max {
        registry.fault("GET", Fault::Silence);
    }
    let (_dir, store) = store();
    let problem = pull(&client(options), &store, &registry)
        .await
        .expect_err("nothing comes")
        .problem();
    assert_eq!(problem.class, Class::Timeout);
    assert!(problem.reason.contains("no byte moved"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_not_taken_for_documents() {
    let page = || vec![("Content-Type", "text/html; charset=utf-8".to_string())];
    for (status, body) in [
        (200, "<!doctype html><title>Log in to the WiFi</title>"),
        (404, "<html>not here</html>"),
    ] {
        let (registry, image) = with_image(&[10]).await;
        registry.fault("GET /v2/app/manifests", Fault::Answer(status, page(), body));
        let (_dir, store) = store();
        let client = client(plain(&[&registry]));
        let problem = pull(&client, &store, &registry)
            .await
            .expect_err("a page")
            .problem()
            .to_string();
        assert!(problem.contains("not a registry's: text/html: <"), "{problem}");
        assert!(problem.contains("no proxy or login page"), "{problem}");
        // In the place of a blob.
        if status == 200 {
            for _ in 0..5 {
                registry.fault(blob(&image, 0), Fault::Answer(200, page(), body));
            }
            let problem = pull(&client, &store, &registry)
                .await
                .expect_err("a page")
                .problem()
                .to_string();
            assert!(problem.contains("not a registry's"), "{problem}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_digests_are_found() {
    // A manifest by digest, one by tag whose header lies, and a layer.
    let (registry, image) = with_image(&[5_000]).await;
    let (_dir, store) = store();
    let client = client(plain(&[&registry]));
    let keychain = nobody();
    let pinned = reference(&registry, "app").without_digest().with_digest(image.digest());
    let other = Image::new(99, &[1]);
    registry.hold_manifest("app", "v1", &other.media_type, &other.manifest);
    let manifest = other.manifest.clone();
    registry.answer_with(move |seen| {
        let is_pinned = seen.target.contains("/manifests/sha256");
        is_pinned.then(|| {
            Answer::new(200)
                .header("Content-Type", crate::image::MANIFEST_OCI)
                .body(manifest.clone())
        })
    });
    let error = client
        .fetch_manifest(&pinned, &keychain)
        .await
        .expect_err("another manifest");
    let expected = format!(
        "the content has the digest {}, not {}",
        digest_of(&other.manifest),
        image.digest()
    );
    assert!(error.problem().to_string().contains(&expected), "{error}");

    registry.answer_with(|_| None);
    registry.hold("app", "v1", &image);
    registry.fault(blob(&image, 0), Fault::WrongBytes);
    pull(&client, &store, &registry).await.expect("right the second time");

    let (registry, image) = with_image(&[7_000]).await;
    for _ in 0..2 {
        registry.fault(blob(&image, 0), Fault::WrongBytes);
    }
    let client = crate::client(plain(&[&registry]));
    let problem = pull(&client, &store, &registry)
        .await
        .expect_err("wrong both times")
        .problem();
    assert_eq!(problem.class, Class::Invalid);
    assert!(problem.to_string().contains(&image.layer(0).to_string()), "{problem}");
    assert_eq!(store.partial_len(image.layer(0)), 0, "wrong content is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_lengths_are_found() {
    let (registry, image) = with_image(&[5_000]).await;
    for _ in 0..5 {
        registry.fault(blob(&image, 0), Fault::LieAboutLength(7));
    }
    let (_dir, store) = store();
    let problem = pull(&client(plain(&[&registry])), &store, &registry)
        .await
        .expect_err("a lie")
        .problem();
    let size = image.layer_bytes(0).len();
    assert!(
        problem.reason.contains(&format!(
            "{} bytes came or were announced, {size} were expected",
            size + 7
        )),
        "{problem}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_have_a_limit() {
    let registry = Fake::start().await;
    let mut huge = vec![b'{'; 1];
    huge.resize(5 << 20, b' ');
    registry.hold_manifest("app", "v1", crate::image::MANIFEST_OCI, &huge);
    let (_dir, store) = store();
    let problem = pull(&client(plain(&[&registry])), &store, &registry)
        .await
        .expect_err("5 MiB")
        .problem();
    assert!(problem.reason.contains("larger than 4"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_until_they_go_in_circles() {
    let (registry, storage) = (Fake::start().await, Fake::start().await);
    let image = Image::new(10, &[5_000]);
    registry.hold("app", "v1", &image);
    storage.hold("app", "v1", &image);
    let target = storage.clone();
    registry.answer_with(move |seen| {
        let is_blob = seen.target.contains("/blobs/");
        is_blob.then(|| Answer::new(307).header("Location", target.url(&seen.target)))
    });
    let (_dir, store) = store();
    let client = client(plain(&[&registry, &storage]));
    pull(&client, &store, &registry).await.expect("the storage has it");

    registry.answer_with(|seen| {
        let is_manifest = seen.target.contains("/manifests/");
        is_manifest.then(|| Answer::new(302).header("Location", seen.target.clone()))
    });
    let problem = pull(&client, &store, &registry)
        .await
        .expect_err("a circle")
        .problem()
        .to_string();
    assert!(problem.contains("redirected 10 times without an end"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_a_registry_is_told_at_once() {
    let registry = Fake::start().await;
    let (_dir, store) = store();
    let mut options = plain(&[&registry]);
    options.plain_http.insert("127.0.0.1:1".into());
    let name = "127.0.0.1:1/app:v1".parse().expect("a reference");
    let keychain = nobody();
    let request = PullRequest {
        reference: &name,
        platforms: Platforms::Own,
        keychain: &keychain,
        unpack: false,
    };
    let problem = client(options)
        .pull(&store, request, &|_| {})
        .await
        .expect_err("nobody there")
        .problem();
    assert_eq!(problem.class, Class::Unavailable);
    assert!(
        problem.to_string().contains("cannot connect to 127.0.0.1:1"),
        "{problem}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upload_goes_on_where_the_registry_is() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let image = Image::new(11, &[3_000_000]);
    from.hold("app", "v1", &image);
    let (_dir, store) = store();
    let mut options = plain(&[&from, &to]);
    options.chunk_bytes = 2 << 20;
    let client = client(options);
    pull(&client, &store, &from).await.expect("a healthy registry");
    to.fault("PATCH", Fault::HangupInUpload(500_000));
    to.fault("PATCH", Fault::Answer(502, vec![], "bad gateway"));
    to.fault("PUT /v2/new/blobs", Fault::Hangup);
    to.fault("PUT /v2/new/manifests", Fault::Answer(500, vec![], "{}"));
    let (keychain, target) = (nobody(), reference(&to, "new:v1"));
    let request = PushRequest {
        reference: &target,
        image: Some(image.digest()),
        keychain: &keychain,
    };
    let steps = Steps::default();
    client
        .push(&store, request, &steps.hear())
        .await
        .expect("the rest is sent later");
    assert_eq!(to.blob("new", image.layer(0)).as_deref(), Some(image.layer_bytes(0)));
    assert!(steps.phases(&image.layer(0).to_string()).contains(&Phase::Retrying));
    let begins: Vec<_> = to
        .seen_with("PATCH")
        .iter()
        .map(|seen| {
            seen.header("content-range")
                .unwrap_or_default()
                .split('-')
                .next()
                .unwrap_or_default()
                .to_string()
        })
        .collect();
    // The 502 was sent after the registry had taken its chunk.
    assert_eq!(begins, ["0", "500000", "2597152"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_refused_says_why() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let image = Image::new(12, &[10]);
    from.hold("app", "v1", &image);
    let (_dir, store) = store();
    let client = client(plain(&[&from, &to]));
    pull(&client, &store, &from).await.expect("a healthy registry");
    to.answer_with(|seen| {
        let body = r#"{"errors":[{"code":"DENIED","message":"quota exceeded"}]}"#;
        (seen.method == "POST").then(|| Answer::new(403).body(body))
    });
    let (keychain, target) = (nobody(), reference(&to, "new:v1"));
    let request = PushRequest {
        reference: &target,
        image: Some(image.digest()),
        keychain: &keychain,
    };
    let problem = client
        .push(&store, request, &|_| {})
        .await
        .expect_err("refused")
        .problem();
    assert_eq!(problem.class, Class::Denied);
    assert!(
        problem.to_string().contains("quota exceeded") && problem.to_string().contains("/new"),
        "{problem}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_as_the_limit_are_transferred_at_once() {
    // Four times three layers, and the registry answers none before three have been asked for.
    let (registry, image) = with_image(&[10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]).await;
    registry.answer_blobs_by(3, image.blobs[0].0);
    let (_dir, store) = store();
    pull(&client(plain(&[&registry])), &store, &registry)
        .await
        .expect("three are asked for at once");
    assert_eq!(registry.blobs_at_once(), 3);
    assert_eq!(registry.seen_with("/blobs/").len(), image.blobs.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_our_own_is_not_blamed_on_the_registry() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let image = Image::new(13, &[2_000_000]);
    from.hold("app", "v1", &image);
    let (dir, store) = store();
    let client = client(plain(&[&from, &to]));
    pull(&client, &store, &from).await.expect("a healthy registry");
    let path = dir.path().join("images/blobs/sha256").join(image.layer(0).hex());
    std::fs::write(&path, vec![7; image.layer_bytes(0).len()]).expect("a damaged disk");
    let (keychain, target) = (nobody(), reference(&to, "new:v1"));
    let request = PushRequest {
        reference: &target,
        image: Some(image.digest()),
        keychain: &keychain,
    };
    let problem = client
        .push(&store, request, &|_| {})
        .await
        .expect_err("damaged")
        .problem()
        .to_string();
    assert!(problem.contains("damaged on disk"), "{problem}");
    assert_eq!(to.manifest("new", "v1"), None);
}

/// A file system of a few megabytes, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let dir = tempfile::TempDir::new().expect("a temporary folder");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(dir.path())
            .status()
            .expect("mount runs");
        assert!(mounted.success(), "this test mounts a tmpfs, which needs root");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The folder of a mount that stays cannot be removed, which shows it.
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_a_whole_store() {
    let (registry, image) = with_image(&[1_000_000, 6_000_000]).await;
    let disk = SmallDisk::new();
    let store = Arc::new(Store::open(disk.0.path().join("images")).expect("a fresh store"));
    let client = client(plain(&[&registry]));
    let problem = pull(&client, &store, &registry)
        .await
        .expect_err("6 MB do not fit 4")
        .problem();
    let text = problem.to_string();
    assert!(
        text.contains("No space left on device") && text.contains("free some space"),
        "{text}"
    );
    assert!(matches!(store.info(image.digest()), Err(ImageError::NotFound { .. })));
    // What is here is right, and a smaller image still fits once the remains are pruned.
    store.prune(&std::collections::BTreeSet::new()).expect("room again");
    registry.hold("app", "v1", &Image::new(40, &[100_000]));
    pull(&client, &store, &registry).await.expect("it fits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_away_is_asked_once() {
    let (origin, mirror) = (Fake::start().await, Fake::start().await);
    let image = Image::new(14, &[10, 20, 30]);
    origin.hold("app", "v1", &image);
    for _ in 0..10 {
        mirror.fault("GET", Fault::Hangup);
    }
    let mut options = plain(&[&origin]);
    options.mirrors.insert(origin.name(), vec![mirror.url("")]);
    let (_dir, store) = store();
    let client = client(options);
    pull(&client, &store, &origin).await.expect("the origin stands behind");
    let asked: Vec<_> = mirror.seen().iter().map(|seen| seen.line()).collect();
    assert!(asked.iter().all(|line| line.contains("manifests")), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_a_failed_pull_are_not_collected_before_the_next() {
    let (registry, image) = with_image(&[100_000, 200_000]).await;
    let permit = Arc::new(Semaphore::new(0));
    registry.fault(blob(&image, 1), Fault::RefuseAfter(permit.clone()));
    let (_dir, store) = store();
    let client = client(plain(&[&registry]));
    let first = image.layer(0).to_string();
    let hear = |step: Step| {
        if step.what == first && step.phase == Phase::Done {
            permit.add_permits(1);
        }
    };
    let pulled = tokio::time::timeout(Duration::from_secs(60), pull_heard(&client, &store, &registry, hear)).await;
    let pulled = pulled.expect("the refusal comes once the first layer is here");
    pulled.expect_err("one layer is refused");
    store.prune(&std::collections::BTreeSet::new()).expect("a healthy disk");
    let before = registry.seen_with("GET").len();
    pull(&client, &store, &registry).await.expect("allowed now");
    let fetched: Vec<_> = registry.seen_with("GET")[before..]
        .iter()
        .map(|seen| seen.line())
        .filter(|line| line.contains("/blobs/"))
        .collect();
    assert_eq!(fetched, [blob(&image, 1)]);
}
