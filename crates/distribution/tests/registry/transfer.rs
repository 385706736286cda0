//! Pull and push as they should go.

use std::fs;

use gantry_distribution::{Phase, Platforms, PullRequest, PushRequest, parse_platform};

use crate::fake::{Answer, Fake, Fault};
use crate::image::{INDEX_OCI, Image, digest_of, index_of};
use crate::{Steps, client, nobody, options, plain, reference, store};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_whole_and_is_not_fetched_twice() {
    let registry = Fake::start().await;
    let image = Image::new(1, &[100_000, 10]);
    registry.hold("team/app", "v1", &image);
    let (_dir, store) = store();
    let name = reference(&registry, "team/app:v1");
    let steps = Steps::default();
    let client = client(plain(&[&registry]));
    let keychain = nobody();
    let request = PullRequest {
        reference: &name,
        platforms: Platforms::Own,
        keychain: &keychain,
        unpack: true,
    };
    let pulled = client
        .pull(&store, request.clone(), &steps.hear())
        .await
        .expect("a healthy registry");
    assert_eq!(
        (pulled.image, pulled.resolved, pulled.was_here),
        (image.digest(), image.digest(), false)
    );
    assert_eq!(store.resolve(&name), Some(image.digest()));
    let folders = store.unpack(image.digest()).expect("unpacked");
    assert_eq!(
        fs::read(folders[1].join("file-0"))
            .expect("a file of the lowest layer")
            .len(),
        100_000
    );
    let phases = steps.phases(&image.layer(0).to_string());
    assert_eq!(phases.first(), Some(&Phase::Waiting));
    assert!(
        phases.ends_with(&[Phase::Done, Phase::Extracting, Phase::Done]),
        "{phases:?}"
    );

    let before = registry.seen_with("/blobs/").len();
    let again = client
        .pull(&store, request, &steps.hear())
        .await
        .expect("a healthy registry");
    assert!(again.was_here);
    assert_eq!(registry.seen_with("/blobs/").len(), before, "nothing is fetched twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_the_platform_is_chosen() {
    let registry = Fake::start().await;
    let (amd, arm) = (Image::on("amd64", 1, &[10]), Image::on("arm64", 2, &[10]));
    registry.hold("app", "amd", &amd);
    registry.hold("app", "arm", &arm);
    let index = index_of(&[("amd64", &amd), ("arm64", &arm)]);
    registry.hold_manifest("app", "all", INDEX_OCI, &index);
    let (_dir, store) = store();
    let client = client(plain(&[&registry]));
    let (keychain, name) = (nobody(), reference(&registry, "app:all"));
    for (platform, image) in [("linux/arm64", &arm), ("linux/amd64", &amd)] {
        let platform = parse_platform(platform).expect("a platform");
        let request = PullRequest {
            reference: &name,
            platforms: Platforms::One(&platform),
            keychain: &keychain,
            unpack: false,
        };
        let pulled = client.pull(&store, request, &|_| {}).await.expect("a healthy registry");
        assert_eq!(pulled.image, image.digest(), "{platform}");
        assert_eq!(pulled.resolved, digest_of(&index));
        assert_eq!(
            store.target(&name),
            Some(image.digest()),
            "the name means what was asked for"
        );
    }
    let riscv = parse_platform("linux/riscv64").expect("a platform");
    let request = PullRequest {
        reference: &name,
        platforms: Platforms::One(&riscv),
        keychain: &keychain,
        unpack: false,
    };
    let error = client
        .pull(&store, request, &|_| {})
        .await
        .expect_err("no such platform");
    let problem = error.problem().to_string();
    assert!(
        problem.contains("no image for linux/riscv64; there are: linux/amd64, linux/arm64"),
        "{problem}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_can_be_pushed_elsewhere() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let image = Image::new(3, &[2_900_000, 1_900_000, 10]);
    from.hold("app", "v1", &image);
    let (_dir, store) = store();
    let mut options = plain(&[&from, &to]);
    options.chunk_bytes = 1 << 20;
    let client = client(options);
    let keychain = nobody();
    let source = reference(&from, "app:v1");
    let pull = PullRequest {
        reference: &source,
        platforms: Platforms::Own,
        keychain: &keychain,
        unpack: false,
    };
    client.pull(&store, pull, &|_| {}).await.expect("a healthy registry");
    let target = reference(&to, "other/app:v2");
    let push = PushRequest {
        reference: &target,
        image: Some(image.digest()),
        keychain: &keychain,
    };
    let steps = Steps::default();
    let pushed = client
        .push(&store, push.clone(), &steps.hear())
        .await
        .expect("a healthy registry");
    assert_eq!(pushed.digest, image.digest());
    assert_eq!(to.manifest("other/app", "v2"), Some(image.manifest.clone()));
    for (digest, bytes) in &image.blobs {
        assert_eq!(to.blob("other/app", *digest).as_ref(), Some(bytes), "{digest}");
    }
    let chunks = to.seen_with("PATCH");
    assert_eq!(chunks.len(), 3 + 2, "2.9 MB and 1.9 MB in chunks of 1 MiB: {chunks:?}");
    assert!(chunks.iter().all(|chunk| chunk.body_len <= 1 << 20));
    // Small blobs go along with the end of their upload.
    assert!(
        to.seen_with("PUT /v2/other/app/blobs")
            .iter()
            .any(|seen| seen.body_len > 0)
    );
    let last = to.seen().last().map(|seen| seen.line());
    assert_eq!(last.as_deref(), Some("PUT /v2/other/app/manifests/v2"));

    let before = to.seen_with("POST").len();
    client
        .push(&store, push, &steps.hear())
        .await
        .expect("a healthy registry");
    assert_eq!(to.seen_with("POST").len(), before, "what is there is not sent again");
    assert_eq!(steps.phases(&image.layer(0).to_string()).last(), Some(&Phase::Exists));
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_another_repository_are_mounted() {
    let registry = Fake::start().await;
    let image = Image::new(4, &[2_000_000]);
    registry.hold("base", "v1", &image);
    let (_dir, store) = store();
    let client = client(plain(&[&registry]));
    let keychain = nobody();
    let base = reference(&registry, "base:v1");
    let pull = PullRequest {
        reference: &base,
        platforms: Platforms::Own,
        keychain: &keychain,
        unpack: false,
    };
    client.pull(&store, pull, &|_| {}).await.expect("a healthy registry");
    let target = reference(&registry, "mine:v1");
    let push = PushRequest {
        reference: &target,
        image: Some(image.digest()),
        keychain: &keychain,
    };
    let steps = Steps::default();
    client
        .push(&store, push, &steps.hear())
        .await
        .expect("a healthy registry");
    assert_eq!(steps.phases(&image.layer(0).to_string()).last(), Some(&Phase::Mounted));
    assert!(registry.seen_with("PATCH").is_empty() && registry.blob("mine", image.layer(0)).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_may_speak_plain_http_and_others_may_not() {
    let registry = Fake::start().await;
    registry.hold("app", "v1", &Image::new(5, &[10]));
    let keychain = nobody();
    let loopback = client(options());
    let found = loopback.resolve(&reference(&registry, "app:v1"), &keychain).await;
    found.expect("TLS was tried first, then plain HTTP");

    let dir = tempfile::TempDir::new().expect("a temporary folder");
    let strict = gantry_distribution::Options {
        // With an authority of its own there is no exception for loopback.
        ca_files: vec![any_authority(dir.path())],
        ..options()
    };
    let error = client(strict).resolve(&reference(&registry, "app:v1"), &keychain).await;
    let problem = error.expect_err("no TLS here").problem().to_string();
    assert!(
        problem.contains("plain HTTP instead of TLS") && problem.contains("--plain-http"),
        "{problem}"
    );
}

fn any_authority(dir: &std::path::Path) -> std::path::PathBuf {
    let path = dir.join("ca.pem");
    let key = rcgen::generate_simple_self_signed(vec!["nobody".to_string()]).expect("a certificate");
    fs::write(&path, key.cert.pem()).expect("a temporary file");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_their_faults_passed_over() {
    let (origin, mirror) = (Fake::start().await, Fake::start().await);
    let image = Image::new(6, &[50_000, 60_000]);
    origin.hold("app", "v1", &image);
    mirror.hold("app", "v1", &image);
    let mut options = plain(&[&origin]);
    options
        .mirrors
        .insert(origin.name(), vec!["http://127.0.0.1:1".into(), mirror.url("")]);
    let client = client(options);
    let (keychain, name) = (nobody(), reference(&origin, "app:v1"));
    // The mirror has one layer in pieces and another one wrong.
    let broken = format!("GET /v2/app/blobs/{}", image.layer(0));
    for _ in 0..2 {
        mirror.fault(&broken, Fault::Answer(500, vec![], "{}"));
    }
    mirror.fault(format!("GET /v2/app/blobs/{}", image.layer(1)), Fault::WrongBytes);
    let (_dir, store) = store();
    let pull = PullRequest {
        reference: &name,
        platforms: Platforms::Own,
        keychain: &keychain,
        unpack: true,
    };
    let pulled = client
        .pull(&store, pull, &|_| {})
        .await
        .expect("the origin stands behind");
    assert_eq!(pulled.image, image.digest());
    assert!(origin.seen_with("manifests").is_empty(), "the mirror had the manifest");
    let mut fetched: Vec<_> = origin.seen_with("/blobs/").iter().map(|seen| seen.line()).collect();
    fetched.sort();
    let mut expected = vec![broken, format!("GET /v2/app/blobs/{}", image.layer(1))];
    expected.sort();
    assert_eq!(fetched, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_come_page_by_page() {
    let registry = Fake::start().await;
    registry.answer_with(|seen| {
        if !seen.target.starts_with("/v2/app/tags/list") {
            return None;
        }
        let (tags, next) = match seen.target.contains("last=b") {
            false => (
                r#"{"tags":["a","b"]}"#,
                Some("</v2/app/tags/list?n=2&last=b>; rel=\"next\""),
            ),
            true => (r#"{"tags":["c"]}"#, None),
        };
        let answer = Answer::new(200).body(tags);
        Some(
            next.into_iter()
                .fold(answer, |answer, next| answer.header("Link", next)),
        )
    });
    let tags = client(plain(&[&registry]))
        .tags(&reference(&registry, "app"), &nobody())
        .await;
    assert_eq!(tags.expect("two pages"), ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_found_by_api_and_by_tag() {
    let registry = Fake::start().await;
    let image = Image::new(7, &[10]);
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX_OCI, "manifests": [
        {"mediaType": crate::image::MANIFEST_OCI, "digest": image.layer(0).to_string(), "size": 5, "artifactType": "sig"},
        {"mediaType": crate::image::MANIFEST_OCI, "digest": image.digest().to_string(), "size": 6, "artifactType": "sbom"},
    ]});
    let index = serde_json::to_vec(&index).expect("JSON");
    let subject = reference(&registry, "app").without_digest().with_digest(image.digest());
    let client = client(plain(&[&registry]));
    let keychain = nobody();
    assert!(
        client
            .referrers(&subject, None, &keychain)
            .await
            .expect("none yet")
            .is_empty()
    );
    registry.hold_manifest("app", &format!("sha256-{}", image.digest().hex()), INDEX_OCI, &index);
    let by_tag = client
        .referrers(&subject, Some("sig"), &keychain)
        .await
        .expect("by tag");
    assert_eq!(
        by_tag.iter().map(|found| found.descriptor.digest).collect::<Vec<_>>(),
        [image.layer(0)]
    );
    let body = index.clone();
    registry.answer_with(move |seen| {
        let asked = seen.target.starts_with("/v2/app/referrers/");
        asked.then(|| Answer::new(200).header("Content-Type", INDEX_OCI).body(body.clone()))
    });
    let by_api = client.referrers(&subject, None, &keychain).await.expect("by the API");
    assert_eq!(by_api.len(), 2);
    let sbom = client
        .referrers(&subject, Some("sbom"), &keychain)
        .await
        .expect("by the API, not filtered there");
    assert_eq!(sbom[0].artifact_type.as_deref(), Some("sbom"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_can_be_deleted() {
    let registry = Fake::start().await;
    registry.hold("app", "v1", &Image::new(8, &[10]));
    let client = client(plain(&[&registry]));
    let (keychain, name) = (nobody(), reference(&registry, "app:v1"));
    client.delete_manifest(&name, &keychain).await.expect("it is there");
    assert_eq!(registry.manifest("app", "v1"), None);
    let error = client.delete_manifest(&name, &keychain).await.expect_err("it is gone");
    assert!(error.problem().to_string().contains("manifest unknown"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_kept_and_pushed_whole_when_all_of_it_is_here() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let (amd, arm) = (Image::on("amd64", 11, &[10]), Image::on("arm64", 12, &[10]));
    from.hold("app", "amd", &amd);
    from.hold("app", "arm", &arm);
    let index = index_of(&[("arm64", &arm), ("amd64", &amd)]);
    from.hold_manifest("app", "all", INDEX_OCI, &index);
    let own = if cfg!(target_arch = "aarch64") { &arm } else { &amd };
    let client = client(plain(&[&from, &to]));
    let (keychain, name) = (nobody(), reference(&from, "app:all"));
    let (_dir, store) = store();
    let pull = |platforms| PullRequest {
        reference: &name,
        platforms,
        keychain: &keychain,
        unpack: false,
    };
    let pulled = client
        .pull(&store, pull(Platforms::Own), &|_| {})
        .await
        .expect("a healthy registry");
    assert_eq!(pulled.image, own.digest());
    assert_eq!(store.target(&name), Some(digest_of(&index)));
    assert_eq!(store.resolve(&name), Some(own.digest()));

    // One image of two is here, so that image is what can be sent.
    let push = |target| PushRequest {
        reference: target,
        image: store.target(&name),
        keychain: &keychain,
    };
    let half = reference(&to, "app:half");
    let pushed = client
        .push(&store, push(&half), &|_| {})
        .await
        .expect("a healthy registry");
    assert_eq!(pushed.digest, own.digest());

    client
        .pull(&store, pull(Platforms::All), &|_| {})
        .await
        .expect("a healthy registry");
    let whole = reference(&to, "app:whole");
    let pushed = client
        .push(&store, push(&whole), &|_| {})
        .await
        .expect("a healthy registry");
    assert_eq!(pushed.digest, digest_of(&index));
    assert_eq!(to.manifest("app", "whole"), Some(index));
    for image in [&amd, &arm] {
        assert_eq!(
            to.manifest("app", &image.digest().to_string()).as_ref(),
            Some(&image.manifest)
        );
        assert!(to.blob("app", image.layer(0)).is_some());
    }
}
