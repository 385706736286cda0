//! Lists: repositories, tags, and what says something about a manifest.

use axum::http::{HeaderName, StatusCode, header};
use axum::response::Response;
use gantry_model::Digest;
use gantry_model::object::RegistryAction;
use serde_json::{Value, json};

use crate::backend::{Backend, Referrer, Repository};
use crate::serve::{Asked, document, set};
use crate::{Code, PAGE_MAX, Refusal};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

pub(crate) async fn catalog<B: Backend>(backend: &B, asked: &Asked) -> Result<Response, Refusal> {
    let all = backend.repositories().await?.into_iter();
    let all = all.filter(|repository| asked.access.allows(repository, RegistryAction::Pull));
    let (page, next) = page(asked, all)?;
    let mut response = document(StatusCode::OK, &json!({ "repositories": page }));
    link(&mut response, "/v2/_catalog", next.as_ref());
    Ok(response)
}

pub(crate) async fn tags<B: Backend>(backend: &B, asked: &Asked, repository: &Repository) -> Result<Response, Refusal> {
    let all = backend.tags(repository).await?.ok_or_else(|| {
        let message = format!("there is no repository {}", repository.familiar);
        Refusal::new(Code::NameUnknown, message)
    })?;
    let (page, next) = page(asked, all.into_iter())?;
    let answer = json!({ "name": repository.written, "tags": page });
    let mut response = document(StatusCode::OK, &answer);
    let path = format!("/v2/{}/tags/list", repository.written);
    link(&mut response, &path, next.as_ref());
    Ok(response)
}

pub(crate) async fn referrers<B: Backend>(
    backend: &B,
    asked: &Asked,
    repository: &Repository,
    subject: Digest,
) -> Result<Response, Refusal> {
    let wanted = asked.parameter("artifactType");
    let all = backend.referrers(repository, subject).await?.into_iter();
    let fits = |referrer: &Referrer| wanted.is_none_or(|wanted| referrer.artifact_type.as_deref() == Some(wanted));
    let manifests: Vec<Value> = all.filter(fits).map(|referrer| described(&referrer)).collect();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests });
    let mut response = document(StatusCode::OK, &index);
    set(&mut response, header::CONTENT_TYPE, INDEX_TYPE.to_string());
    if wanted.is_some() {
        set(&mut response, FILTERS_APPLIED, "artifactType".to_string());
    }
    Ok(response)
}

fn described(referrer: &Referrer) -> Value {
    let mut descriptor = json!({
        "mediaType": referrer.media_type,
        "digest": referrer.digest.to_string(),
        "size": referrer.size,
    });
    if let Some(artifact_type) = &referrer.artifact_type {
        descriptor["artifactType"] = json!(artifact_type);
    }
    if !referrer.annotations.is_empty() {
        descriptor["annotations"] = json!(referrer.annotations);
    }
    descriptor
}

/// The next page, as parameters.
struct Next {
    count: usize,
    last: String,
}

/// What comes after `last`, at most `n` of it, and where the rest begins.
fn page(asked: &Asked, all: impl Iterator<Item = String>) -> Result<(Vec<String>, Option<Next>), Refusal> {
    let count = match asked.parameter("n") {
        None => PAGE_MAX,
        Some(text) => {
            let count = text.parse::<usize>();
            let count = count.map_err(|_| Refusal::new(Code::SizeInvalid, format!("n={text} is no number")))?;
            count.min(PAGE_MAX)
        }
    };
    let last = asked.parameter("last").unwrap_or_default();
    let mut rest = all.filter(|entry| last.is_empty() || entry.as_str() > last);
    let page: Vec<String> = rest.by_ref().take(count).collect();
    let next = page.last().filter(|_| rest.next().is_some());
    let next = next.map(|last| Next {
        count,
        last: last.clone(),
    });
    Ok((page, next))
}

fn link(response: &mut Response, path: &str, next: Option<&Next>) {
    if let Some(next) = next {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("n", &next.count.to_string())
            .append_pair("last", &next.last)
            .finish();
        set(response, header::LINK, format!("<{path}?{query}>; rel=\"next\""));
    }
}
