//! What can be asked of a registry: manifests, tags, referrers, deletion, and whether a login is right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gantry_env::Env;
use gantry_image::Descriptor;
use gantry_model::{Digest, ImageReference};
use hyper::header::{ACCEPT as ACCEPT_HEADER, CONTENT_TYPE, HeaderName};
use hyper::{Method, StatusCode};
use serde::Deserialize;

use crate::auth::Scope;
use crate::backoff::Backoff;
use crate::endpoint::Endpoint;
use crate::error::{Asked, Cause, DistributionError, Result};
use crate::headers;
use crate::limits::{MANIFEST_BYTES_MAX, PAGES_MAX};
use crate::manifest::{ACCEPT, FetchedManifest, INDEX_OCI, Parts};
use crate::options::{Keychain, Options};
use crate::payload::Payload;
use crate::transport::{Call, Transport, lock, not_a_registry};
use crate::verify;

/// Tags asked for at once; registries give fewer if they like.
const PAGE_TAGS: u32 = 1000;
/// Set by registries that filtered referrers themselves.
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// A client of registries. Cheap to clone; clones share connections, tokens and the limits of concurrent transfers.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) transport: Arc<Transport>,
    /// Blobs on their way, so that two pulls of one layer fetch it once.
    pub(crate) coming: Arc<Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>>,
}

/// What refers to an image, such as a signature.
#[derive(Debug, Clone)]
pub struct Referrer {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// What it is.
    pub artifact_type: Option<String>,
}

#[derive(Deserialize)]
struct TagList {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Client {
    /// Makes a client; nothing is connected yet.
    #[must_use]
    pub fn new(options: Options, env: Arc<dyn Env>) -> Self {
        Self {
            transport: Arc::new(Transport::new(options, env)),
            coming: Arc::default(),
        }
    }

    /// Checks that the registry is one and takes these credentials.
    ///
    /// # Errors
    /// When it cannot be reached, refuses, or is no registry.
    pub async fn check_login(&self, registry: &str, keychain: &Keychain) -> Result<()> {
        let endpoint = Endpoint::origin(registry, &self.transport.options)?;
        let asked = Asked::new(registry, "", "the login");
        let mut call = self.transport.get(&asked, &endpoint, keychain, "");
        call.scope = Scope::NONE;
        let response = self.transport.send(&call, &[StatusCode::OK]).await?;
        let media_type = headers::media_type(response.headers());
        if media_type == "text/html" {
            return Err(not_a_registry(response.status(), media_type, b"").at(&asked));
        }
        Ok(())
    }

    /// The manifest or index that a reference means, from the first of mirrors and registry that has it.
    ///
    /// # Errors
    /// When none of them has it in a usable form; the registry's own reason is told.
    pub async fn fetch_manifest(&self, reference: &ImageReference, keychain: &Keychain) -> Result<FetchedManifest> {
        let endpoints = self.transport.sources(reference.registry())?;
        self.first_of(&endpoints, |endpoint| self.manifest_at(endpoint, reference, keychain))
            .await
    }

    async fn manifest_at(
        &self,
        endpoint: &Endpoint,
        reference: &ImageReference,
        keychain: &Keychain,
    ) -> Result<FetchedManifest> {
        let asked = asked_manifest(endpoint, reference);
        let path = manifest_path(reference);
        let call = self
            .transport
            .get(&asked, endpoint, keychain, &path)
            .header(ACCEPT_HEADER, ACCEPT);
        let mut backoff = Backoff::new(self.transport.timing_of(endpoint));
        loop {
            let cause = match self.try_manifest(&call, reference.digest()).await {
                Ok(manifest) => return Ok(manifest),
                Err(cause) => cause,
            };
            self.transport.wait_or_fail(&mut backoff, &asked, cause).await?;
        }
    }

    async fn try_manifest(&self, call: &Call<'_>, pinned: Option<Digest>) -> Result<FetchedManifest, Cause> {
        let response = self.transport.attempt(call, &[StatusCode::OK]).await?;
        let status = response.status();
        let said = headers::media_type(response.headers());
        let announced = headers::content_length(response.headers());
        let expected = pinned.or_else(|| headers::content_digest(response.headers()));
        let bytes = self.transport.read(response, MANIFEST_BYTES_MAX).await?;
        if let Some(expected) = announced.filter(|announced| *announced != bytes.len() as u64) {
            let found = bytes.len() as u64;
            return Err(Cause::WrongSize { expected, found });
        }
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(not_a_registry(status, said, &bytes));
        }
        if let Some(expected) = expected {
            verify::check(&bytes, expected)?;
        }
        let parts = Parts::parse(&bytes)?;
        Ok(FetchedManifest {
            digest: verify::digest_of(&bytes),
            media_type: parts.media_type(&said),
            kind: parts.kind()?,
            bytes,
        })
    }

    /// The digest that a reference means, without its content where the registry says it.
    ///
    /// # Errors
    /// As [`Client::fetch_manifest`].
    pub async fn resolve(&self, reference: &ImageReference, keychain: &Keychain) -> Result<Digest> {
        let endpoints = self.transport.sources(reference.registry())?;
        let head = self
            .first_of(&endpoints, |endpoint| self.head_manifest(endpoint, reference, keychain))
            .await;
        match head {
            Ok(Some(digest)) => Ok(digest),
            // A registry that does not answer HEAD, or does not say the digest, may still give the manifest.
            Ok(None) => Ok(self.fetch_manifest(reference, keychain).await?.digest),
            Err(error) => match error.cause {
                Cause::Status { status, .. } if status.is_client_error() => {
                    Ok(self.fetch_manifest(reference, keychain).await?.digest)
                }
                _ => Err(error),
            },
        }
    }

    /// Whether the registry itself has it, and under which digest, if it says so.
    pub(crate) async fn head_manifest(
        &self,
        endpoint: &Endpoint,
        reference: &ImageReference,
        keychain: &Keychain,
    ) -> Result<Option<Digest>> {
        let asked = asked_manifest(endpoint, reference);
        let mut call = self
            .transport
            .get(&asked, endpoint, keychain, &manifest_path(reference));
        call.method = Method::HEAD;
        let call = call.header(ACCEPT_HEADER, ACCEPT);
        let response = self.transport.send(&call, &[StatusCode::OK]).await?;
        Ok(headers::content_digest(response.headers()))
    }

    /// Stores a manifest under its digest, or under the tag of the reference when it has no digest.
    pub(crate) async fn put_manifest(
        &self,
        reference: &ImageReference,
        keychain: &Keychain,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<()> {
        let endpoint = Endpoint::origin(reference.registry(), &self.transport.options)?;
        let asked = asked_manifest(&endpoint, reference);
        let mut call = self
            .transport
            .get(&asked, &endpoint, keychain, &manifest_path(reference));
        call.method = Method::PUT;
        call.scope = Scope::push(reference.repository());
        call.patience = self.transport.options.timing.commit;
        let expected = verify::digest_of(&bytes);
        call.payload = Payload::Bytes(bytes);
        let call = call.header(CONTENT_TYPE, media_type);
        let response = self
            .transport
            .send(&call, &[StatusCode::CREATED, StatusCode::OK])
            .await?;
        match headers::content_digest(response.headers()) {
            Some(found) if found != expected => Err(Cause::WrongDigest { expected, found }.at(&asked)),
            _ => Ok(()),
        }
    }

    /// All tags of a repository, in the registry's order.
    ///
    /// # Errors
    /// When the registry refuses, or its pages have no end.
    pub async fn tags(&self, repository: &ImageReference, keychain: &Keychain) -> Result<Vec<String>> {
        let endpoint = Endpoint::origin(repository.registry(), &self.transport.options)?;
        let asked = Asked::new(repository.registry(), repository.repository(), "the tags");
        let path = format!("{}/tags/list", repository.repository());
        let mut call = self.transport.get(&asked, &endpoint, keychain, &path);
        call.url.query_pairs_mut().append_pair("n", &PAGE_TAGS.to_string());
        let mut tags = Vec::new();
        for _ in 0..PAGES_MAX {
            let response = self.transport.send(&call, &[StatusCode::OK]).await?;
            let next = headers::next_page(response.headers());
            let list = self.transport.json::<TagList>(response).await;
            let page = list.map_err(|cause| cause.at(&asked))?.tags.unwrap_or_default();
            let is_empty = page.is_empty();
            tags.extend(page);
            let Some(next) = next.filter(|_| !is_empty) else {
                return Ok(tags);
            };
            let joined = self.transport.safe_join(&call.url, &next, &endpoint);
            let url = joined.map_err(|cause| cause.at(&asked))?;
            if url == call.url {
                return Err(Cause::malformed("a page of tags names itself as the next").at(&asked));
            }
            call.url = url;
        }
        Err(Cause::malformed(format!("more than {PAGES_MAX} pages of tags")).at(&asked))
    }

    /// What refers to the image with the reference's digest, of one kind or of all; empty for registries from before referrers.
    ///
    /// # Errors
    /// When the registry refuses, or the reference has no digest.
    pub async fn referrers(
        &self,
        image: &ImageReference,
        artifact_type: Option<&str>,
        keychain: &Keychain,
    ) -> Result<Vec<Referrer>> {
        let endpoint = Endpoint::origin(image.registry(), &self.transport.options)?;
        let asked = Asked::new(image.registry(), image.repository(), "the referrers");
        let Some(digest) = image.digest() else {
            return Err(Cause::Configuration {
                what: "reference".to_string(),
                reason: "referrers are asked for by digest".to_string(),
            }
            .at(&asked));
        };
        let path = format!("{}/referrers/{digest}", image.repository());
        let mut call = self
            .transport
            .get(&asked, &endpoint, keychain, &path)
            .header(ACCEPT_HEADER, INDEX_OCI);
        if let Some(wanted) = artifact_type {
            call.url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let mut found = Vec::new();
        for _ in 0..PAGES_MAX {
            let response = match self.transport.send(&call, &[StatusCode::OK]).await {
                Ok(response) => response,
                Err(DistributionError {
                    cause: Cause::NotFound { .. } | Cause::NotARegistry { .. },
                    ..
                }) => {
                    let old = self.referrers_by_tag(image, digest, keychain).await?;
                    return Ok(of_type(old, artifact_type));
                }
                Err(error) => return Err(error),
            };
            let next = headers::next_page(response.headers());
            let is_filtered = response.headers().contains_key(FILTERS_APPLIED);
            let parts: Parts = self.transport.json(response).await.map_err(|cause| cause.at(&asked))?;
            let page = referrers_in(&parts);
            found.extend(if is_filtered {
                page
            } else {
                of_type(page, artifact_type)
            });
            let Some(next) = next else { return Ok(found) };
            let joined = self.transport.safe_join(&call.url, &next, &endpoint);
            call.url = joined.map_err(|cause| cause.at(&asked))?;
        }
        Err(Cause::malformed(format!("more than {PAGES_MAX} pages of referrers")).at(&asked))
    }

    /// The tag under which clients kept referrers before registries did (OCI distribution specification, "Referrers Tag Schema").
    async fn referrers_by_tag(
        &self,
        image: &ImageReference,
        digest: Digest,
        keychain: &Keychain,
    ) -> Result<Vec<Referrer>> {
        let name = format!("{}/{}:sha256-{}", image.registry(), image.repository(), digest.hex());
        let Ok(tag) = name.parse::<ImageReference>() else {
            return Ok(Vec::new());
        };
        match self.fetch_manifest(&tag, keychain).await {
            Ok(manifest) => {
                let parts = Parts::parse(&manifest.bytes);
                let asked = Asked::new(image.registry(), image.repository(), "the referrers");
                Ok(referrers_in(&parts.map_err(|cause| cause.at(&asked))?))
            }
            Err(error) if matches!(error.cause, Cause::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Deletes a tag, or the manifest with the reference's digest and all tags of it.
    ///
    /// # Errors
    /// When the registry refuses; many do not allow it.
    pub async fn delete_manifest(&self, reference: &ImageReference, keychain: &Keychain) -> Result<()> {
        let endpoint = Endpoint::origin(reference.registry(), &self.transport.options)?;
        let asked = asked_manifest(&endpoint, reference);
        self.delete(&asked, &endpoint, keychain, &manifest_path(reference))
            .await
    }

    /// Deletes a blob of a repository.
    ///
    /// # Errors
    /// When the registry refuses; many do not allow it.
    pub async fn delete_blob(&self, repository: &ImageReference, digest: Digest, keychain: &Keychain) -> Result<()> {
        let endpoint = Endpoint::origin(repository.registry(), &self.transport.options)?;
        let asked = Asked::new(repository.registry(), repository.repository(), format!("blob {digest}"));
        let path = format!("{}/blobs/{digest}", repository.repository());
        self.delete(&asked, &endpoint, keychain, &path).await
    }

    async fn delete(&self, asked: &Asked, endpoint: &Endpoint, keychain: &Keychain, path: &str) -> Result<()> {
        let mut call = self.transport.get(asked, endpoint, keychain, path);
        call.method = Method::DELETE;
        call.scope = Scope::delete(&asked.repository);
        let wanted = [StatusCode::ACCEPTED, StatusCode::OK, StatusCode::NO_CONTENT];
        self.transport.send(&call, &wanted).await.map(drop)
    }

    /// Asks one endpoint after the other; the last one's refusal counts, since it is the registry itself.
    async fn first_of<'a, T, F>(&self, endpoints: &'a [Endpoint], mut ask: impl FnMut(&'a Endpoint) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let (origin, mirrors) = endpoints
            .split_last()
            .expect("the registry itself is always among them");
        for mirror in mirrors {
            match ask(mirror).await {
                Ok(found) => return Ok(found),
                Err(error) => self.transport.pass_over(mirror, &error.asked, &error.cause),
            }
        }
        ask(origin).await
    }

    /// The lock that holds off a second transfer of the same blob.
    pub(crate) fn coming(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut coming = lock(&self.coming);
        coming.retain(|_, lock| Arc::strong_count(lock) > 1);
        coming.entry(digest).or_default().clone()
    }
}

pub(crate) fn asked_manifest(endpoint: &Endpoint, reference: &ImageReference) -> Asked {
    let what = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("manifest {digest}"),
        (None, tag) => format!("manifest {}", tag.unwrap_or_default()),
    };
    Asked::new(&endpoint.name, reference.repository(), what)
}

fn manifest_path(reference: &ImageReference) -> String {
    let repository = reference.repository();
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("{repository}/manifests/{digest}"),
        (None, tag) => format!("{repository}/manifests/{}", tag.unwrap_or("latest")),
    }
}

fn referrers_in(parts: &Parts) -> Vec<Referrer> {
    let entries = parts.manifests.iter().flatten();
    entries
        .map(|entry| Referrer {
            descriptor: entry.descriptor(),
            artifact_type: entry.artifact_type.clone(),
        })
        .collect()
}

fn of_type(mut referrers: Vec<Referrer>, wanted: Option<&str>) -> Vec<Referrer> {
    referrers.retain(|referrer| wanted.is_none_or(|wanted| referrer.artifact_type.as_deref() == Some(wanted)));
    referrers
}
