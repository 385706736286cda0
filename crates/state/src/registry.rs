//! What the registry asks of the state.

use gantry_model::object::{ImageRecord, RegistryToken, RepositoryManifest, TagRecord, UploadedBlob};
use gantry_model::{Digest, TokenId};

use crate::index::Naming;
use crate::{Key, Object, RegistryKey, RegistryObject, State, Table};

impl State {
    /// The tags of a repository (normalised, without a tag), in order.
    pub fn tags_of<'a>(&'a self, repository: &str) -> impl Iterator<Item = &'a TagRecord> {
        let prefix = format!("{repository}:");
        let from = Key::Tag(prefix.clone());
        self.objects
            .range(from..)
            .map_while(move |(key, stored)| match (key, stored.object.as_ref()) {
                (Key::Tag(reference), Object::Tag(tag)) if reference.starts_with(&prefix) => Some(tag),
                _ => None,
            })
    }

    /// Images and artifacts with this content as their configuration or a layer.
    pub fn images_with_blob(&self, blob: Digest) -> impl Iterator<Item = &ImageRecord> {
        self.naming(blob, Naming::Blob)
    }

    /// Indexes that list a manifest.
    pub fn indexes_with(&self, manifest: Digest) -> impl Iterator<Item = &ImageRecord> {
        self.naming(manifest, Naming::Child)
    }

    /// Manifests that say something about this one.
    pub fn referrers_of(&self, manifest: Digest) -> impl Iterator<Item = &ImageRecord> {
        self.naming(manifest, Naming::Subject)
    }

    fn naming(&self, digest: Digest, how: Naming) -> impl Iterator<Item = &ImageRecord> {
        self.indexes
            .naming(digest, how)
            .filter_map(|manifest| self.image(&manifest.to_string()))
    }

    fn registry(&self, key: RegistryKey) -> Option<&RegistryObject> {
        match self.get(&Key::Registry(key))?.object.as_ref() {
            Object::Registry(object) => Some(object),
            _ => None,
        }
    }

    /// Everything that only the registry knows.
    pub fn registry_objects(&self) -> impl Iterator<Item = &RegistryObject> {
        self.table(Table::Registry)
            .filter_map(|stored| match stored.object.as_ref() {
                Object::Registry(object) => Some(object),
                _ => None,
            })
    }

    /// The manifests that were pushed by digest, in order of repository.
    pub fn registry_manifests(&self) -> impl Iterator<Item = &RepositoryManifest> {
        self.registry_objects().filter_map(|object| match object {
            RegistryObject::Manifest(manifest) => Some(manifest),
            RegistryObject::Blob(_) | RegistryObject::Token(_) => None,
        })
    }

    /// A manifest of a repository that was pushed by digest.
    #[must_use]
    pub fn registry_manifest(&self, repository: &str, digest: Digest) -> Option<&RepositoryManifest> {
        match self.registry(RegistryKey::Manifest(repository.to_string(), digest))? {
            RegistryObject::Manifest(manifest) => Some(manifest),
            RegistryObject::Blob(_) | RegistryObject::Token(_) => None,
        }
    }

    /// Uploaded content that no manifest may need yet.
    #[must_use]
    pub fn uploaded_blob(&self, digest: Digest) -> Option<&UploadedBlob> {
        match self.registry(RegistryKey::Blob(digest))? {
            RegistryObject::Blob(blob) => Some(blob),
            RegistryObject::Manifest(_) | RegistryObject::Token(_) => None,
        }
    }

    /// All of it.
    pub fn uploaded_blobs(&self) -> impl Iterator<Item = &UploadedBlob> {
        self.registry_objects().filter_map(|object| match object {
            RegistryObject::Blob(blob) => Some(blob),
            RegistryObject::Manifest(_) | RegistryObject::Token(_) => None,
        })
    }

    /// A token of the registry.
    #[must_use]
    pub fn registry_token(&self, id: TokenId) -> Option<&RegistryToken> {
        match self.registry(RegistryKey::Token(id))? {
            RegistryObject::Token(token) => Some(token),
            RegistryObject::Manifest(_) | RegistryObject::Blob(_) => None,
        }
    }

    /// All tokens of the registry.
    pub fn registry_tokens(&self) -> impl Iterator<Item = &RegistryToken> {
        self.registry_objects().filter_map(|object| match object {
            RegistryObject::Token(token) => Some(token),
            RegistryObject::Manifest(_) | RegistryObject::Blob(_) => None,
        })
    }
}
