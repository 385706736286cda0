//! The OCI distribution specification 1.1, endpoint by endpoint, over HTTP messages and a backend in memory.

mod memory;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use gantry_model::Digest;
use gantry_registry::{MANIFEST_BYTES_MAX, router};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use memory::{Memory, PASSWORD, READER, digest_of};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

struct Registry(Router);

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("ASCII"))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Status and code of an error document.
    fn error(&self) -> (u16, String) {
        let document = self.json();
        let code = document["errors"][0]["code"].as_str().expect("a code");
        assert!(document["errors"][0]["message"].is_string());
        (self.status, code.to_string())
    }
}

impl Registry {
    fn new() -> Self {
        Self(router(Memory::default()))
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.0.clone().oneshot(request).await.expect("routers do not fail");
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.collect().await.expect("it comes whole").to_bytes(),
        }
    }

    /// A request with the login that may do everything.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let login = ("authorization", basic(PASSWORD));
        let mut request = Request::builder().method(method).uri(path).header("host", "r:7600");
        request = request.header(login.0, login.1);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).expect("a request")).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], Body::empty()).await
    }

    async fn blob(&self, repository: &str, content: &'static [u8]) -> Digest {
        let digest = digest_of(content);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        assert_eq!(self.ask("POST", &path, &[], content).await.status, 201);
        digest
    }

    /// A manifest over one blob; the name makes it one of its own.
    async fn manifest(&self, repository: &str, target: &str, more: Value) -> Answer {
        let config = self.blob(repository, b"{}").await;
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.to_string(), "size": 2 },
            "layers": [],
        });
        for (key, value) in more.as_object().expect("an object") {
            manifest[key] = value.clone();
        }
        let path = format!("/v2/{repository}/manifests/{target}");
        self.ask("PUT", &path, &[("content-type", MANIFEST)], manifest.to_string())
            .await
    }
}

fn basic(password: &str) -> String {
    use base64::Engine as _;
    format!(
        "Basic {}",
        base64::prelude::BASE64_STANDARD.encode(format!("user:{password}"))
    )
}

fn with(path: &str, authorization: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().uri(path).header("host", "r:7600");
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    request.body(Body::empty()).expect("a request")
}

#[tokio::test]
async fn who_is_not_known_is_told_how_to_become_it() {
    let registry = Registry::new();
    let answer = registry.send(with("/v2/", None)).await;
    assert_eq!(answer.error(), (401, "UNAUTHORIZED".to_string()));
    assert_eq!(
        answer.header("www-authenticate"),
        "Bearer realm=\"https://r:7600/v2/token\",service=\"r:7600\""
    );
    assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
    let answer = registry.send(with("/v2/a/b/manifests/x", None)).await;
    assert!(
        answer
            .header("www-authenticate")
            .ends_with(",scope=\"repository:a/b:pull\"")
    );
    for wrong in ["Basic x", "Basic dTp3cm9uZw==", "Bearer x", "Digest x", ""] {
        assert_eq!(registry.send(with("/v2/", Some(wrong))).await.status, 401, "{wrong}");
    }
    assert_eq!(registry.get("/v2/").await.status, 200);
    assert_eq!(registry.get("/v2").await.status, 200);
}

#[tokio::test]
async fn a_token_allows_what_was_asked_for_and_may_be() {
    let registry = Registry::new();
    registry.manifest("public/a", "1", json!({})).await;
    registry.manifest("private", "1", json!({})).await;
    let path = "/v2/token?service=r&scope=repository:public/a:pull,push&scope=repository:private:pull";
    assert_eq!(registry.send(with(path, None)).await.status, 401);
    let issued = registry.send(with(path, Some(&basic(READER)))).await.json();
    assert_eq!(issued["token"], issued["access_token"]);
    assert_eq!(issued["expires_in"], 300);
    let bearer = format!("Bearer {}", issued["token"].as_str().expect("its text"));
    let status = async |path: &str| registry.send(with(path, Some(&bearer))).await.status;
    assert_eq!(status("/v2/public/a/manifests/1").await, 200);
    assert_eq!(status("/v2/private/manifests/1").await, 401);
    let mut upload = with("/v2/public/a/blobs/uploads/", Some(&bearer));
    *upload.method_mut() = "POST".parse().expect("a method");
    assert_eq!(registry.send(upload).await.status, 401);
    // Without the detour, what is not allowed is denied.
    let denied = registry
        .send(with("/v2/private/manifests/1", Some(&basic(READER))))
        .await;
    assert_eq!(denied.error(), (403, "DENIED".to_string()));
    let catalog = registry.send(with("/v2/_catalog", Some(&basic(READER)))).await;
    assert_eq!(catalog.json(), json!({ "repositories": ["public/a"] }));
}

#[tokio::test]
async fn a_blob_comes_in_one_piece_and_goes_whole_or_in_part() {
    let registry = Registry::new();
    let digest = registry.blob("a/b", b"0123456789abcdef").await;
    let path = format!("/v2/a/b/blobs/{digest}");
    let whole = registry.get(&path).await;
    assert_eq!((whole.status, &whole.body[..]), (200, &b"0123456789abcdef"[..]));
    assert_eq!(whole.header("docker-content-digest"), digest.to_string());
    assert_eq!(whole.header("content-length"), "16");
    assert_eq!(whole.header("accept-ranges"), "bytes");
    let head = registry.ask("HEAD", &path, &[], Body::empty()).await;
    assert_eq!(
        (head.status, head.header("content-length"), head.body.len()),
        (200, "16", 0)
    );
    for (range, part, named) in [
        ("bytes=0-3", "0123", "bytes 0-3/16"),
        ("bytes=10-", "abcdef", "bytes 10-15/16"),
        ("bytes=-2", "ef", "bytes 14-15/16"),
    ] {
        let part_of = registry.ask("GET", &path, &[("range", range)], Body::empty()).await;
        assert_eq!((part_of.status, &part_of.body[..]), (206, part.as_bytes()), "{range}");
        assert_eq!(part_of.header("content-range"), named);
    }
    let outside = registry
        .ask("GET", &path, &[("range", "bytes=16-")], Body::empty())
        .await;
    assert_eq!((outside.status, outside.header("content-range")), (416, "bytes */16"));
    // Other repositories have nothing of it.
    let other = registry.get(&format!("/v2/other/blobs/{digest}")).await;
    assert_eq!(other.error(), (404, "BLOB_UNKNOWN".to_string()));
    assert_eq!(registry.ask("DELETE", &path, &[], Body::empty()).await.status, 202);
    assert_eq!(registry.ask("DELETE", &path, &[], Body::empty()).await.status, 404);
}

#[tokio::test]
async fn an_upload_comes_in_pieces_each_where_the_last_one_ended() {
    let registry = Registry::new();
    let begun = registry.ask("POST", "/v2/a/blobs/uploads/", &[], Body::empty()).await;
    assert_eq!((begun.status, begun.header("range")), (202, "0-0"));
    let location = begun.header("location").to_string();
    assert!(!begun.header("docker-upload-uuid").is_empty());
    let patch = async |range: &str, piece: &'static str| {
        let length = piece.len().to_string();
        let headers = [("content-range", range), ("content-length", length.as_str())];
        registry.ask("PATCH", &location, &headers, piece).await
    };
    let first = patch("0-3", "0123").await;
    assert_eq!(
        (first.status, first.header("range"), first.header("location")),
        (202, "0-3", location.as_str())
    );
    assert_eq!(
        patch("8-9", "89").await.error(),
        (416, "BLOB_UPLOAD_INVALID".to_string())
    );
    assert_eq!(patch("4-9", "45").await.error(), (400, "SIZE_INVALID".to_string()));
    let status = registry.get(&location).await;
    assert_eq!((status.status, status.header("range")), (204, "0-3"));
    // Docker's way: a stream of whatever length.
    let streamed = registry.ask("PATCH", &location, &[], "4567").await;
    assert_eq!((streamed.status, streamed.header("range")), (202, "0-7"));
    let digest = digest_of(b"0123456789");
    let missing = registry.ask("PUT", &location, &[], "89").await;
    assert_eq!(missing.error(), (400, "DIGEST_INVALID".to_string()));
    let finished = registry
        .ask("PUT", &format!("{location}?digest={digest}"), &[], "89")
        .await;
    assert_eq!(
        (finished.status, finished.header("location")),
        (201, &*format!("/v2/a/blobs/{digest}"))
    );
    assert_eq!(
        &registry.get(&format!("/v2/a/blobs/{digest}")).await.body[..],
        b"0123456789"
    );
    assert_eq!(
        registry.get(&location).await.error(),
        (404, "BLOB_UPLOAD_UNKNOWN".to_string())
    );
}

#[tokio::test]
async fn an_upload_with_another_digest_is_refused_and_one_can_be_given_up() {
    let registry = Registry::new();
    let digest = digest_of(b"right");
    for path in [
        format!("/v2/a/blobs/uploads/?digest={digest}"),
        "/v2/a/blobs/uploads/?digest=md5:1".to_string(),
    ] {
        let refused = registry.ask("POST", &path, &[], "wrong").await;
        assert_eq!(refused.error(), (400, "DIGEST_INVALID".to_string()));
    }
    let begun = registry.ask("POST", "/v2/a/blobs/uploads/", &[], Body::empty()).await;
    let location = begun.header("location").to_string();
    assert_eq!(registry.ask("DELETE", &location, &[], Body::empty()).await.status, 204);
    for method in ["GET", "PATCH", "DELETE"] {
        let gone = registry.ask(method, &location, &[], Body::empty()).await;
        assert_eq!(gone.error(), (404, "BLOB_UPLOAD_UNKNOWN".to_string()), "{method}");
    }
}

#[tokio::test]
async fn a_blob_is_mounted_from_where_it_may_be_read() {
    let registry = Registry::new();
    let digest = registry.blob("a", b"content").await;
    let mount = |from: &str, digest: Digest| format!("/v2/b/blobs/uploads/?mount={digest}{from}");
    for path in [
        mount("", digest),
        mount("&from=c", digest),
        mount("&from=a", digest_of(b"x")),
    ] {
        let upload = registry.ask("POST", &path, &[], Body::empty()).await;
        assert_eq!(upload.status, 202, "{path}");
        assert!(upload.header("location").starts_with("/v2/b/blobs/uploads/"));
    }
    let mounted = registry
        .ask("POST", &mount("&from=a", digest), &[], Body::empty())
        .await;
    assert_eq!(
        (mounted.status, mounted.header("location")),
        (201, &*format!("/v2/b/blobs/{digest}"))
    );
    assert_eq!(registry.get(&format!("/v2/b/blobs/{digest}")).await.status, 200);
}

#[tokio::test]
async fn manifests_are_stored_by_tag_and_by_digest() {
    let registry = Registry::new();
    let stored = registry.manifest("a/b", "v1", json!({})).await;
    assert_eq!(stored.status, 201);
    let digest = stored.header("docker-content-digest").to_string();
    assert_eq!(stored.header("location"), format!("/v2/a/b/manifests/{digest}"));
    for target in ["v1", &digest] {
        let path = format!("/v2/a/b/manifests/{target}");
        let read = registry.get(&path).await;
        assert_eq!((read.status, read.header("content-type")), (200, MANIFEST));
        assert_eq!(read.header("docker-content-digest"), digest);
        assert_eq!(digest_of(&read.body).to_string(), digest);
        let head = registry.ask("HEAD", &path, &[], Body::empty()).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), read.body.len().to_string());
    }
    let by_digest = registry.manifest("a/b", &digest, json!({})).await;
    assert_eq!(by_digest.status, 201);
    assert_eq!(
        registry
            .ask("DELETE", "/v2/a/b/manifests/v1", &[], Body::empty())
            .await
            .status,
        202
    );
    let gone = registry.get("/v2/a/b/manifests/v1").await;
    assert_eq!(gone.error(), (404, "MANIFEST_UNKNOWN".to_string()));
    let path = format!("/v2/a/b/manifests/{digest}");
    assert_eq!(registry.ask("DELETE", &path, &[], Body::empty()).await.status, 202);
    assert_eq!(registry.get(&path).await.status, 404);
}

#[tokio::test]
async fn bad_manifests_are_refused() {
    let registry = Registry::new();
    let put = async |content_type: &str, body: String| {
        let headers = [("content-type", content_type)];
        registry.ask("PUT", "/v2/a/manifests/v1", &headers, body).await.error()
    };
    let lies = json!({ "schemaVersion": 2, "mediaType": "other/type" }).to_string();
    assert_eq!(
        put(MANIFEST, "not JSON".to_string()).await,
        (400, "MANIFEST_INVALID".to_string())
    );
    assert_eq!(put(MANIFEST, lies).await, (400, "MANIFEST_INVALID".to_string()));
    assert_eq!(
        put(MANIFEST, " ".repeat(MANIFEST_BYTES_MAX + 1)).await,
        (413, "SIZE_INVALID".to_string())
    );
    let missing = json!({ "layers": [{ "digest": digest_of(b"never").to_string() }] });
    let refused = registry.manifest("a", "v1", missing).await;
    assert_eq!(refused.error(), (404, "MANIFEST_BLOB_UNKNOWN".to_string()));
    let other = registry
        .manifest("a", &digest_of(b"other").to_string(), json!({}))
        .await;
    assert_eq!(other.error(), (400, "DIGEST_INVALID".to_string()));
    let tag = registry.manifest("a", ".wrong", json!({})).await;
    assert_eq!(tag.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let registry = Registry::new();
    for tag in ["b", "a", "d", "c"] {
        registry.manifest("x", tag, json!({})).await;
    }
    assert_eq!(
        registry.get("/v2/x/tags/list").await.json(),
        json!({ "name": "x", "tags": ["a", "b", "c", "d"] })
    );
    let page = registry.get("/v2/x/tags/list?n=2").await;
    assert_eq!(page.json()["tags"], json!(["a", "b"]));
    assert_eq!(page.header("link"), "</v2/x/tags/list?n=2&last=b>; rel=\"next\"");
    let rest = registry.get("/v2/x/tags/list?n=2&last=b").await;
    assert_eq!(
        (rest.json()["tags"].clone(), rest.header("link")),
        (json!(["c", "d"]), "")
    );
    assert_eq!(registry.get("/v2/x/tags/list?n=0").await.json()["tags"], json!([]));
    assert_eq!(registry.get("/v2/x/tags/list?n=many").await.status, 400);
    let unknown = registry.get("/v2/nobody/tags/list").await;
    assert_eq!(unknown.error(), (404, "NAME_UNKNOWN".to_string()));
    registry.manifest("y", "a", json!({})).await;
    let catalog = registry.get("/v2/_catalog?n=1").await;
    assert_eq!(catalog.json()["repositories"], json!(["x"]));
    assert_eq!(catalog.header("link"), "</v2/_catalog?n=1&last=x>; rel=\"next\"");
}

#[tokio::test]
async fn referrers_are_found_by_what_they_speak_about() {
    let registry = Registry::new();
    let image = registry.manifest("a", "v1", json!({})).await;
    let subject = image.header("docker-content-digest").to_string();
    assert_eq!(image.header("oci-subject"), "");
    for (tag, kind) in [("s", "signature/x"), ("b", "sbom/x")] {
        let more = json!({ "artifactType": kind, "subject": { "mediaType": MANIFEST, "digest": subject, "size": 1 } });
        let stored = registry.manifest("a", tag, more).await;
        assert_eq!((stored.status, stored.header("oci-subject")), (201, subject.as_str()));
    }
    let all = registry.get(&format!("/v2/a/referrers/{subject}")).await;
    assert_eq!(all.header("content-type"), "application/vnd.oci.image.index.v1+json");
    assert_eq!(all.json()["manifests"].as_array().map(Vec::len), Some(2));
    let some = registry
        .get(&format!("/v2/a/referrers/{subject}?artifactType=sbom/x"))
        .await;
    assert_eq!(some.header("oci-filters-applied"), "artifactType");
    let found = some.json()["manifests"].clone();
    assert_eq!(found.as_array().map(Vec::len), Some(1));
    assert_eq!(found[0]["artifactType"], "sbom/x");
    let none = registry.get(&format!("/v2/a/referrers/{}", digest_of(b"x"))).await;
    assert_eq!((none.status, none.json()["manifests"].clone()), (200, json!([])));
    assert_eq!(
        registry.get("/v2/a/referrers/x").await.error(),
        (400, "DIGEST_INVALID".to_string())
    );
}

#[tokio::test]
async fn what_is_not_possible_is_said_so() {
    let registry = Registry::new();
    let digest = digest_of(b"x");
    for (method, path, expected) in [
        ("PUT", "/v2/".to_string(), (405, "UNSUPPORTED")),
        ("POST", "/v2/a/manifests/v1".to_string(), (405, "UNSUPPORTED")),
        ("PUT", format!("/v2/a/blobs/{digest}"), (405, "UNSUPPORTED")),
        ("GET", "/v2/a/blobs/uploads/".to_string(), (405, "UNSUPPORTED")),
        ("GET", "/v2/nothing".to_string(), (405, "UNSUPPORTED")),
        ("GET", "/v2/UPPER/tags/list".to_string(), (400, "NAME_INVALID")),
        ("GET", "/v2/a/blobs/sha256:short".to_string(), (400, "DIGEST_INVALID")),
    ] {
        let answer = registry.ask(method, &path, &[], Body::empty()).await;
        assert_eq!(answer.error(), (expected.0, expected.1.to_string()), "{method} {path}");
    }
}
