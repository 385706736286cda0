//! Which operation a path and a method ask for.

use axum::http::Method;
use gantry_model::Digest;
use gantry_model::object::RegistryAction;

use crate::backend::{ManifestTarget, Repository};
use crate::{Code, Refusal};

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Object {
    /// The registry itself.
    Base,
    /// Tokens.
    Token,
    /// All repositories.
    Catalog,
    /// The tags of a repository.
    Tags(Repository),
    /// A manifest.
    Manifest(Repository, ManifestTarget),
    /// What says something about a manifest.
    Referrers(Repository, Digest),
    /// A blob.
    Blob(Repository, Digest),
    /// New uploads.
    Uploads(Repository),
    /// One upload.
    Upload(Repository, String),
}

impl Object {
    /// Parses a path below `/v2`.
    pub(crate) fn parse(path: &str) -> Result<Self, Refusal> {
        let path = path.strip_prefix("/v2").unwrap_or(path);
        let path = path.strip_prefix('/').unwrap_or(path);
        match path {
            "" => return Ok(Self::Base),
            "token" => return Ok(Self::Token),
            "_catalog" => return Ok(Self::Catalog),
            _ => {}
        }
        let unknown = || Refusal::new(Code::Unsupported, format!("there is no operation /v2/{path}"));
        if let Some(name) = path.strip_suffix("/tags/list") {
            return Repository::parse(name).map(Self::Tags);
        }
        let trimmed = path.strip_suffix('/').unwrap_or(path);
        if let Some(name) = trimmed.strip_suffix("/blobs/uploads") {
            return Repository::parse(name).map(Self::Uploads);
        }
        let (rest, last) = trimmed.rsplit_once('/').ok_or_else(unknown)?;
        if let Some(name) = rest.strip_suffix("/blobs/uploads") {
            return Ok(Self::Upload(Repository::parse(name)?, last.to_string()));
        }
        if let Some(name) = rest.strip_suffix("/blobs") {
            return Ok(Self::Blob(Repository::parse(name)?, digest(last)?));
        }
        if let Some(name) = rest.strip_suffix("/referrers") {
            return Ok(Self::Referrers(Repository::parse(name)?, digest(last)?));
        }
        let name = rest.strip_suffix("/manifests").ok_or_else(unknown)?;
        Ok(Self::Manifest(Repository::parse(name)?, target(last)?))
    }

    /// The repository and what must be allowed there; none for what everybody known may ask.
    pub(crate) fn needs(&self, method: &Method) -> Option<(&Repository, RegistryAction)> {
        let by_method = match *method {
            Method::GET | Method::HEAD => RegistryAction::Pull,
            Method::DELETE => RegistryAction::Delete,
            _ => RegistryAction::Push,
        };
        match self {
            Self::Base | Self::Token | Self::Catalog => None,
            Self::Tags(repository) | Self::Referrers(repository, _) => Some((repository, RegistryAction::Pull)),
            Self::Manifest(repository, _) | Self::Blob(repository, _) => Some((repository, by_method)),
            Self::Uploads(repository) | Self::Upload(repository, _) => Some((repository, RegistryAction::Push)),
        }
    }
}

/// A digest; algorithms other than SHA-256 are not kept.
pub(crate) fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse()
        .map_err(|error| Refusal::new(Code::DigestInvalid, format!("{error}")))
}

fn target(text: &str) -> Result<ManifestTarget, Refusal> {
    if text.contains(':') {
        return digest(text).map(ManifestTarget::Digest);
    }
    // A tag is well-formed where a reference with it is.
    let is_tag = format!("x:{text}").parse::<gantry_model::ImageReference>().is_ok();
    if !is_tag {
        // Nothing can have such a name, so that whoever asks learns that there is none.
        return Err(Refusal::new(Code::ManifestUnknown, format!("'{text}' is no tag")));
    }
    Ok(ManifestTarget::Tag(text.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn repository(name: &str) -> Repository {
        Repository::parse(name).expect(name)
    }

    #[test]
    fn paths_name_operations() {
        let sha = SHA.parse().expect("a digest");
        let web = || repository("web");
        let deep = || repository("ghcr.io/a/manifests/b");
        for (path, object) in [
            ("/v2", Object::Base),
            ("/v2/", Object::Base),
            ("/v2/token", Object::Token),
            ("/v2/_catalog", Object::Catalog),
            ("/v2/web/tags/list", Object::Tags(web())),
            (
                "/v2/web/manifests/v1",
                Object::Manifest(web(), ManifestTarget::Tag("v1".into())),
            ),
            (
                &format!("/v2/ghcr.io/a/manifests/b/manifests/{SHA}"),
                Object::Manifest(deep(), ManifestTarget::Digest(sha)),
            ),
            (&format!("/v2/web/referrers/{SHA}"), Object::Referrers(web(), sha)),
            (&format!("/v2/web/blobs/{SHA}"), Object::Blob(web(), sha)),
            ("/v2/web/blobs/uploads/", Object::Uploads(web())),
            ("/v2/web/blobs/uploads", Object::Uploads(web())),
            ("/v2/web/blobs/uploads/a.b", Object::Upload(web(), "a.b".into())),
        ] {
            assert_eq!(Object::parse(path), Ok(object), "{path}");
        }
    }

    #[test]
    fn wrong_paths_say_what_is_wrong() {
        for (path, code) in [
            ("/v2/web", Code::Unsupported),
            ("/v2/web/x/y", Code::Unsupported),
            ("/v2/Web/tags/list", Code::NameInvalid),
            ("/v2/a..b/tags/list", Code::NameInvalid),
            ("/v2/web:1/tags/list", Code::NameInvalid),
            ("/v2/web/blobs/sha256:00", Code::DigestInvalid),
            ("/v2/web/manifests/sha512:00", Code::DigestInvalid),
            ("/v2/web/manifests/.a", Code::ManifestUnknown),
        ] {
            assert_eq!(Object::parse(path).expect_err(path).code, code, "{path}");
        }
    }

    #[test]
    fn names_are_those_of_images() {
        assert_eq!(repository("web").name, "docker.io/library/web");
        assert_eq!(repository("library/web").familiar, "web");
        assert_eq!(repository("ghcr.io/a/b").name, "ghcr.io/a/b");
    }
}
