//! `Store::load`: archives of `docker save`, `podman save`, `skopeo copy`, `buildx`, and of our own `save`.
//!
//! The archive is read once, from a pipe if need be; every file in it goes to `tmp/` and is hashed on the way. Then its documents
//! say which files are images. An OCI index is preferred, since it has the manifests whose digests the rest of the world knows;
//! a `manifest.json` alone (Docker before 25) gets a manifest made for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use gantry_model::{Digest, ImageReference};
use serde::Deserialize;

use crate::batch::{Batch, NewImage};
use crate::blobs::Staged;
use crate::compress::decompress;
use crate::document::{CONFIG_OCI, Descriptor, Document, Index, Manifest, architecture, invalid, json, to_json};
use crate::error::{ImageError, Result};
use crate::limits::{INDEX_DEPTH_MAX, Limits};
use crate::store::{ImageInfo, Store};
use crate::tarball::{Kind, TarError, TarReader};
use crate::unpack::clean;

const WHAT: &str = "the image archive";
/// Where containerd and Docker since 25 put the whole reference.
pub(crate) const ANNOTATION_NAME: &str = "io.containerd.image.name";
/// Where OCI layouts put a name or only a tag.
pub(crate) const ANNOTATION_REF: &str = "org.opencontainers.image.ref.name";
/// Links within an archive that lead to links; honest ones have one step.
const LINK_STEPS_MAX: usize = 8;

/// One image of Docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// The files of an archive.
#[derive(Default)]
struct Files {
    by_path: BTreeMap<String, Staged>,
    links: BTreeMap<String, String>,
    by_digest: BTreeMap<Digest, String>,
}

impl Store {
    /// Takes in all images of an archive that suit this machine, plain or compressed by gzip or zstd, with the names they have
    /// there. Nothing is taken in when one of them is damaged.
    ///
    /// # Errors
    /// When the archive is cut off, damaged, no image archive, or holds images of other platforms only.
    pub fn load(&self, source: impl Read) -> Result<Vec<ImageInfo>> {
        let files = self.stage_archive(source)?;
        let mut batch = Batch::new(self);
        let docker = match files.get("manifest.json") {
            Some(file) => json::<Vec<DockerImage>>("manifest.json", &file.read_document("manifest.json")?)?,
            None => Vec::new(),
        };
        let images = match files.get("index.json") {
            Some(file) => {
                let index: Index = json("index.json", &file.read_document("index.json")?)?;
                Loader {
                    files: &files,
                    batch: &mut batch,
                }
                .layout(&index, &docker)?
            }
            None if docker.is_empty() => {
                return Err(ImageError::NotAnImage {
                    reason: "it has neither a manifest.json nor an index.json".to_string(),
                });
            }
            None => {
                let mut loader = Loader {
                    files: &files,
                    batch: &mut batch,
                };
                docker
                    .iter()
                    .map(|image| loader.docker_image(image))
                    .collect::<Result<_>>()?
            }
        };
        batch.commit(images)
    }

    fn stage_archive(&self, source: impl Read) -> Result<Files> {
        let archive = |source| ImageError::Archive {
            what: WHAT.to_string(),
            source,
        };
        let (_, plain) = decompress(source).map_err(|source| ImageError::Source {
            what: WHAT.to_string(),
            source,
        })?;
        let mut tar = TarReader::new(plain, Limits::ARCHIVE);
        let mut files = Files::default();
        while let Some(member) = tar.next_member().map_err(archive)? {
            let path = archive_path(&member.path, b"").map_err(|reason| unsafe_path(&member.name(), reason))?;
            match member.kind {
                Kind::File if member.sparse.is_none() => {
                    let staged = self.blobs.stage(|buffer| tar.read_body(buffer).map_err(archive))?;
                    files.by_digest.insert(staged.digest, path.clone());
                    files.by_path.insert(path, staged);
                }
                Kind::Symlink | Kind::HardLink => {
                    let folder = match member.kind {
                        Kind::Symlink => path.rsplit_once('/').map_or("", |(folder, _)| folder),
                        _ => "",
                    };
                    let target = archive_path(&member.link, folder.as_bytes());
                    let target = target.map_err(|reason| unsafe_path(&member.name(), reason))?;
                    files.links.insert(path, target);
                }
                // Folders say nothing, and the rest has no place in an image archive.
                Kind::File | Kind::Directory | Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo => {}
            }
        }
        // Some writers leave the end mark out, so only what came can tell whether it is whole; digests do.
        if !tar.is_complete() && tar.position() == 0 {
            return Err(archive(TarError::Truncated { bytes: 0 }));
        }
        Ok(files)
    }
}

fn archive_path(path: &[u8], folder: &[u8]) -> std::result::Result<String, &'static str> {
    let whole = if path.starts_with(b"/") {
        path.to_vec()
    } else {
        [folder, path].join(&b'/')
    };
    Ok(String::from_utf8_lossy(&clean(&whole)?.join(&b'/')).into_owned())
}

fn unsafe_path(member: &str, reason: &'static str) -> ImageError {
    ImageError::Archive {
        what: WHAT.to_string(),
        source: TarError::Unsafe {
            member: member.to_string(),
            reason,
        },
    }
}

impl Files {
    /// The file at a path, links followed.
    fn get(&self, path: &str) -> Option<&Staged> {
        let mut path = path;
        for _ in 0..LINK_STEPS_MAX {
            match self.links.get(path) {
                Some(target) => path = target,
                None => break,
            }
        }
        self.by_path.get(path)
    }

    /// The content a descriptor names; none when the archive does not have it.
    fn blob(&self, blob: &Descriptor) -> Result<Option<&Staged>> {
        let what = || format!("blob {} of {WHAT}", blob.digest);
        let named = self.get(&format!("blobs/sha256/{}", blob.digest.hex()));
        let Some(file) = named.or_else(|| self.by_path.get(self.by_digest.get(&blob.digest)?)) else {
            return Ok(None);
        };
        if file.digest != blob.digest {
            return Err(ImageError::WrongDigest {
                what: what(),
                expected: blob.digest,
                found: file.digest,
            });
        }
        match blob.size {
            Some(expected) if expected != file.size => Err(ImageError::WrongSize {
                what: what(),
                expected,
                found: file.size,
            }),
            _ => Ok(Some(file)),
        }
    }
}

/// Finds the images among the files and adds their blobs to the batch.
struct Loader<'f, 'b, 's> {
    files: &'f Files,
    batch: &'b mut Batch<'s>,
}

impl Loader<'_, '_, '_> {
    fn layout(&mut self, index: &Index, docker: &[DockerImage]) -> Result<Vec<NewImage>> {
        let candidates = index.candidates();
        if candidates.is_empty() {
            return Err(no_platform(index));
        }
        let mut images: Vec<NewImage> = Vec::new();
        for descriptor in candidates {
            let digest = descriptor.digest;
            let configs = self.add_document(descriptor, 0)?;
            let mut references: Vec<_> = reference_of(descriptor).into_iter().collect();
            if references.is_empty() {
                for config in configs {
                    references.extend(self.docker_references(docker, config)?);
                }
            }
            match images.iter_mut().find(|image| image.manifest == digest) {
                Some(image) => image.references.extend(references),
                None => images.push(NewImage::named(digest, references)),
            }
        }
        Ok(images)
    }

    /// Adds a manifest with all its blobs, or an index with those of its manifests that are whole; returns the digests of their
    /// configurations, this machine's first.
    fn add_document(&mut self, from: &Descriptor, depth: usize) -> Result<Vec<Digest>> {
        let name = from.digest.to_string();
        let file = self
            .files
            .blob(from)?
            .ok_or_else(|| absent(&name, "the index names it"))?;
        match Document::parse(from.digest, &file.read_document(&name)?)? {
            Document::Manifest(manifest) => {
                self.batch.add(file)?;
                self.add_blobs(from.digest, &manifest)?;
                Ok(vec![manifest.config.digest])
            }
            Document::Index(_) if depth >= INDEX_DEPTH_MAX => {
                Err(invalid(format!("index {name}"), "indexes within indexes without end"))
            }
            Document::Index(index) => {
                self.batch.add(file)?;
                self.add_children(&index, depth)
            }
        }
    }

    /// Docker saves the index of all platforms with the content of those it has.
    fn add_children(&mut self, index: &Index, depth: usize) -> Result<Vec<Digest>> {
        let mut configs = Vec::new();
        let mut failure = None;
        for digest in index.preferred_order() {
            let Some(child) = index.manifests.iter().find(|child| child.digest == digest) else {
                continue;
            };
            if self.files.blob(child)?.is_none() {
                failure.get_or_insert_with(|| absent(&digest.to_string(), "the index names it"));
                continue;
            }
            match self.add_document(child, depth + 1) {
                Ok(found) => configs.extend(found),
                Err(error @ ImageError::NotAnImage { .. }) => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        match failure {
            Some(_) if index.candidates().is_empty() => Err(no_platform(index)),
            Some(error) if configs.is_empty() => Err(error),
            _ => Ok(configs),
        }
    }

    fn add_blobs(&mut self, image: Digest, manifest: &Manifest) -> Result<()> {
        for blob in manifest.blobs() {
            match self.files.blob(blob)? {
                Some(file) => self.batch.add(file)?,
                // An archive may leave out layers that the receiver has already.
                None if self.batch.pin(blob.digest) => {}
                None => return Err(absent(&blob.digest.to_string(), &format!("image {image} needs it"))),
            }
        }
        Ok(())
    }

    fn docker_image(&mut self, image: &DockerImage) -> Result<NewImage> {
        let file = |path: &str| {
            let path = archive_path(path.as_bytes(), b"").map_err(|reason| unsafe_path(path, reason))?;
            self.files
                .get(&path)
                .ok_or_else(|| absent(&path, "manifest.json names it"))
        };
        let config = file(&image.config)?;
        let layers: Vec<_> = image.layers.iter().map(|path| file(path)).collect::<Result<_>>()?;
        let mut descriptors = Vec::new();
        self.batch.add(config)?;
        for layer in layers {
            self.batch.add(layer)?;
            let media_type = layer.compression.layer_media_type();
            descriptors.push(Descriptor::new(media_type, layer.digest, layer.size));
        }
        let config = Descriptor::new(CONFIG_OCI, config.digest, config.size);
        let manifest = to_json(&Manifest::new(config, descriptors));
        Ok(NewImage::named(self.batch.add_bytes(&manifest)?, references(image)?))
    }

    /// The names that `manifest.json` has for the image with this configuration.
    fn docker_references(&self, docker: &[DockerImage], config: Digest) -> Result<Vec<ImageReference>> {
        let mut found = Vec::new();
        for image in docker {
            if self.files.get(&image.config).is_some_and(|file| file.digest == config) {
                found.extend(references(image)?);
            }
        }
        Ok(found)
    }
}

fn references(image: &DockerImage) -> Result<Vec<ImageReference>> {
    let tags = image.repo_tags.iter().flatten();
    let parsed = tags.map(|tag| {
        tag.parse()
            .map_err(|error: gantry_model::ImageRefError| invalid("manifest.json", error.to_string()))
    });
    parsed.collect()
}

/// The name a layout's index gives: a whole reference, or what looks like one. A bare word may be only a tag; the image then
/// comes without a name.
fn reference_of(descriptor: &Descriptor) -> Option<ImageReference> {
    let name = descriptor
        .annotation(ANNOTATION_NAME)
        .and_then(|name| name.parse().ok());
    let looks_whole = |name: &&str| name.contains(['/', ':']);
    name.or_else(|| descriptor.annotation(ANNOTATION_REF).filter(looks_whole)?.parse().ok())
}

fn absent(name: &str, why: &str) -> ImageError {
    ImageError::NotAnImage {
        reason: format!("{name} is missing from it, but {why}"),
    }
}

fn no_platform(index: &Index) -> ImageError {
    let platforms = index
        .manifests
        .iter()
        .filter_map(|descriptor| descriptor.platform.as_ref());
    let names: BTreeSet<_> = platforms
        .map(|platform| format!("{}/{}", platform.os, platform.architecture))
        .collect();
    let names: Vec<_> = names.into_iter().collect();
    ImageError::NotAnImage {
        reason: match names.as_slice() {
            [] => "its index is empty".to_string(),
            names => format!(
                "it holds images for {}, none for linux/{}",
                names.join(", "),
                architecture()
            ),
        },
    }
}
