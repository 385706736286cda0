//! A backend in memory: one node that forgets nothing and never fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::http::Extensions;
use bytes::Bytes;
use futures::{StreamExt, stream};
use gantry_model::Digest;
use gantry_model::object::RegistryAction;
use gantry_registry::{
    Access, Allowed, Backend, ByteStream, Code, IssuedToken, Login, Manifest, ManifestTarget, Piece, Referrer, Refusal,
    Repository, StoredManifest,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The password that may do everything.
pub const PASSWORD: &str = "all";
/// The password that may only read `public/*`.
pub const READER: &str = "reader";

/// How far a read of a blob gets, so that tests see streams.
const CHUNK_BYTES: usize = 7;

#[derive(Debug, Default)]
struct Content {
    blobs: BTreeMap<Digest, Bytes>,
    manifests: BTreeMap<Digest, Bytes>,
    repositories: BTreeMap<String, Holding>,
    uploads: BTreeMap<String, Vec<u8>>,
    tokens: BTreeMap<String, Access>,
    begun: usize,
}

#[derive(Debug, Default)]
struct Holding {
    tags: BTreeMap<String, Digest>,
    manifests: BTreeSet<Digest>,
    blobs: BTreeSet<Digest>,
}

#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Content>>);

pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

impl Memory {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().expect("no test panics while it holds it")
    }
}

fn descriptors(manifest: &Value) -> Vec<Digest> {
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let all = std::iter::once(&manifest["config"]).chain(layers);
    all.filter_map(|descriptor| descriptor["digest"].as_str()?.parse().ok())
        .collect()
}

fn unknown(code: Code) -> Refusal {
    Refusal::new(code, "unknown")
}

impl Backend for Memory {
    fn certified(&self, extensions: &Extensions) -> Option<Access> {
        extensions.get::<Access>().cloned()
    }

    async fn login(&self, login: Login) -> Result<Option<Access>, Refusal> {
        Ok(match login {
            Login::Basic { password, .. } if password == PASSWORD => Some(Access::full("all")),
            Login::Basic { password, .. } if password == READER => Some(Access {
                who: "reader".to_string(),
                allowed: vec![Allowed {
                    repositories: gantry_model::object::RepositoryPattern("public/*".to_string()),
                    actions: [RegistryAction::Pull].into(),
                }],
            }),
            Login::Basic { .. } => None,
            Login::Bearer(token) => self.content().tokens.get(&token).cloned(),
        })
    }

    async fn issue(&self, access: Access) -> Result<IssuedToken, Refusal> {
        let mut content = self.content();
        let token = format!("token{}", content.tokens.len());
        content.tokens.insert(token.clone(), access);
        Ok(IssuedToken {
            token,
            expires_in_s: 300,
        })
    }

    async fn repositories(&self) -> Result<Vec<String>, Refusal> {
        Ok(self.content().repositories.keys().cloned().collect())
    }

    async fn tags(&self, repository: &Repository) -> Result<Option<Vec<String>>, Refusal> {
        let content = self.content();
        let holding = content.repositories.get(&repository.familiar);
        Ok(holding.map(|holding| holding.tags.keys().cloned().collect()))
    }

    async fn manifest(&self, repository: &Repository, target: &ManifestTarget) -> Result<Manifest, Refusal> {
        let content = self.content();
        let holding = content.repositories.get(&repository.familiar);
        let digest = holding.and_then(|holding| match target {
            ManifestTarget::Tag(tag) => holding.tags.get(tag).copied(),
            ManifestTarget::Digest(digest) => holding.manifests.get(digest).copied(),
        });
        let digest = digest.ok_or_else(|| unknown(Code::ManifestUnknown))?;
        let bytes = content.manifests[&digest].clone();
        let value: Value = serde_json::from_slice(&bytes).expect("only JSON is stored");
        Ok(Manifest {
            digest,
            media_type: value["mediaType"].as_str().unwrap_or_default().to_string(),
            bytes,
        })
    }

    async fn put_manifest(
        &self,
        repository: &Repository,
        target: &ManifestTarget,
        bytes: Bytes,
    ) -> Result<StoredManifest, Refusal> {
        let digest = digest_of(&bytes);
        if matches!(target, ManifestTarget::Digest(wanted) if *wanted != digest) {
            return Err(unknown(Code::DigestInvalid));
        }
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| unknown(Code::ManifestInvalid))?;
        let mut content = self.content();
        let holding = content.repositories.entry(repository.familiar.clone()).or_default();
        if descriptors(&value).iter().any(|blob| !holding.blobs.contains(blob)) {
            return Err(unknown(Code::ManifestBlobUnknown));
        }
        holding.manifests.insert(digest);
        if let ManifestTarget::Tag(tag) = target {
            holding.tags.insert(tag.clone(), digest);
        }
        content.manifests.insert(digest, bytes);
        Ok(StoredManifest {
            digest,
            subject: value["subject"]["digest"]
                .as_str()
                .and_then(|subject| subject.parse().ok()),
        })
    }

    async fn delete_manifest(&self, repository: &Repository, target: &ManifestTarget) -> Result<(), Refusal> {
        let mut content = self.content();
        let holding = content.repositories.get_mut(&repository.familiar);
        let gone = holding.is_some_and(|holding| match target {
            ManifestTarget::Tag(tag) => holding.tags.remove(tag).is_some(),
            ManifestTarget::Digest(digest) => {
                holding.tags.retain(|_, meant| meant != digest);
                holding.manifests.remove(digest)
            }
        });
        gone.then_some(()).ok_or_else(|| unknown(Code::ManifestUnknown))
    }

    async fn referrers(&self, repository: &Repository, subject: Digest) -> Result<Vec<Referrer>, Refusal> {
        let content = self.content();
        let manifests = content.repositories.get(&repository.familiar).into_iter();
        let manifests = manifests.flat_map(|holding| &holding.manifests);
        let described = manifests.filter_map(|digest| {
            let bytes = &content.manifests[digest];
            let value: Value = serde_json::from_slice(bytes).ok()?;
            let is_about = value["subject"]["digest"].as_str() == Some(&subject.to_string());
            is_about.then(|| Referrer {
                digest: *digest,
                size: bytes.len() as u64,
                media_type: value["mediaType"].as_str().unwrap_or_default().to_string(),
                artifact_type: value["artifactType"].as_str().map(str::to_string),
                annotations: BTreeMap::new(),
            })
        });
        Ok(described.collect())
    }

    async fn blob_size(&self, repository: &Repository, digest: Digest) -> Result<u64, Refusal> {
        let content = self.content();
        let holding = content.repositories.get(&repository.familiar);
        let is_here = holding.is_some_and(|holding| holding.blobs.contains(&digest));
        is_here
            .then(|| content.blobs[&digest].len() as u64)
            .ok_or_else(|| unknown(Code::BlobUnknown))
    }

    async fn read_blob(&self, digest: Digest, start: u64, end: u64) -> Result<ByteStream, Refusal> {
        let bytes = self.content().blobs[&digest].slice(start as usize..end as usize);
        let chunks: Vec<_> = bytes.chunks(CHUNK_BYTES).map(Bytes::copy_from_slice).map(Ok).collect();
        Ok(Box::pin(stream::iter(chunks)))
    }

    async fn delete_blob(&self, repository: &Repository, digest: Digest) -> Result<(), Refusal> {
        let mut content = self.content();
        let holding = content.repositories.get_mut(&repository.familiar);
        let gone = holding.is_some_and(|holding| holding.blobs.remove(&digest));
        gone.then_some(()).ok_or_else(|| unknown(Code::BlobUnknown))
    }

    async fn mount(&self, repository: &Repository, digest: Digest, from: &Repository) -> Result<bool, Refusal> {
        let mut content = self.content();
        let source = content.repositories.get(&from.familiar);
        let has = source.is_some_and(|holding| holding.blobs.contains(&digest));
        if has {
            let target = content.repositories.entry(repository.familiar.clone()).or_default();
            target.blobs.insert(digest);
        }
        Ok(has)
    }

    async fn begin_upload(&self, _: &Repository) -> Result<String, Refusal> {
        let mut content = self.content();
        content.begun += 1;
        let name = format!("n.{}", content.begun);
        content.uploads.insert(name.clone(), Vec::new());
        Ok(name)
    }

    async fn upload_size(&self, _: &Repository, upload: &str) -> Result<u64, Refusal> {
        let content = self.content();
        let upload = content.uploads.get(upload);
        upload
            .map(|bytes| bytes.len() as u64)
            .ok_or_else(|| unknown(Code::BlobUploadUnknown))
    }

    async fn write_upload(&self, repository: &Repository, upload: &str, mut piece: Piece) -> Result<u64, Refusal> {
        let size = self.upload_size(repository, upload).await?;
        if piece.offset.is_some_and(|offset| offset != size) {
            return Err(unknown(Code::RangeInvalid));
        }
        while let Some(bytes) = piece.bytes.next().await {
            let bytes = bytes.map_err(|error| Refusal::new(Code::Unavailable, error.to_string()))?;
            let mut content = self.content();
            content
                .uploads
                .get_mut(upload)
                .expect("it was there")
                .extend_from_slice(&bytes);
        }
        let Some(wanted) = piece.finish else {
            return self.upload_size(repository, upload).await;
        };
        let mut content = self.content();
        let bytes = content.uploads.remove(upload).expect("it was there");
        if digest_of(&bytes) != wanted {
            return Err(unknown(Code::DigestInvalid));
        }
        let size = bytes.len() as u64;
        content.blobs.insert(wanted, bytes.into());
        let holding = content.repositories.entry(repository.familiar.clone()).or_default();
        holding.blobs.insert(wanted);
        Ok(size)
    }

    async fn cancel_upload(&self, _: &Repository, upload: &str) -> Result<(), Refusal> {
        let gone = self.content().uploads.remove(upload);
        gone.map(drop).ok_or_else(|| unknown(Code::BlobUploadUnknown))
    }
}
