//! Manifests: read, and stored.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use gantry_model::Digest;
use http_body_util::{BodyExt, Limited};

use crate::backend::{Backend, ManifestTarget, Repository};
use crate::serve::{Asked, empty, set};
use crate::{Code, MANIFEST_BYTES_MAX, Refusal};

/// Says what was sent or stored.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

pub(crate) async fn get<B: Backend>(
    backend: &B,
    repository: &Repository,
    target: &ManifestTarget,
) -> Result<Response, Refusal> {
    let manifest = backend.manifest(repository, target).await?;
    let mut response = Response::new(Body::from(manifest.bytes.clone()));
    set(&mut response, header::CONTENT_TYPE, manifest.media_type);
    set(&mut response, header::CONTENT_LENGTH, manifest.bytes.len().to_string());
    set(&mut response, header::ETAG, format!("\"{}\"", manifest.digest));
    set(&mut response, CONTENT_DIGEST, manifest.digest.to_string());
    Ok(response)
}

pub(crate) async fn put<B: Backend>(
    backend: &B,
    (asked, body): (Asked, Body),
    repository: &Repository,
    target: &ManifestTarget,
) -> Result<Response, Refusal> {
    let content_type = asked.headers.get(header::CONTENT_TYPE).cloned();
    let bytes = read(body).await?;
    check_type(content_type.as_ref(), &bytes)?;
    let stored = backend.put_manifest(repository, target, bytes).await?;
    let mut response = empty(StatusCode::CREATED);
    let location = format!("/v2/{}/manifests/{}", repository.written, stored.digest);
    set(&mut response, header::LOCATION, location);
    set(&mut response, CONTENT_DIGEST, stored.digest.to_string());
    if let Some(subject) = stored.subject {
        set(&mut response, OCI_SUBJECT, Digest::to_string(&subject));
    }
    Ok(response)
}

async fn read(body: Body) -> Result<Bytes, Refusal> {
    let limited = Limited::new(body, MANIFEST_BYTES_MAX).collect().await;
    let collected = limited.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            let message = format!("a manifest has at most {MANIFEST_BYTES_MAX} bytes");
            return Refusal::new(Code::TooLarge, message);
        }
        Refusal::new(
            Code::ManifestInvalid,
            format!("the manifest did not come whole: {error}"),
        )
    })?;
    Ok(collected.to_bytes())
}

/// What the manifest says it is and what the client says it is must not differ: clients rely on one or the other.
fn check_type(announced: Option<&HeaderValue>, bytes: &[u8]) -> Result<(), Refusal> {
    let invalid = |message: String| Err(Refusal::new(Code::ManifestInvalid, message));
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else {
        return invalid("the manifest is not JSON".to_string());
    };
    let own = value.get("mediaType").and_then(serde_json::Value::as_str);
    let announced = announced.and_then(|value| value.to_str().ok());
    let announced = announced.map(|value| value.split(';').next().unwrap_or_default().trim());
    match (own, announced) {
        (Some(own), Some(announced)) if own != announced && announced != "application/json" => invalid(format!(
            "the manifest says it is {own}, the request that it is {announced}"
        )),
        _ => Ok(()),
    }
}
