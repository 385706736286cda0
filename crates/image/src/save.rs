//! `Store::save`: images as one archive that other tools read.
//!
//! **Invariant:** the same images make the same bytes: members are in order of name, without times or owners.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use gantry_model::{Digest, ImageReference};
use serde::Serialize;
use serde_json::Value;

use crate::document::{Descriptor, Index, Manifest, to_json};
use crate::error::{ImageError, Result};
use crate::load::{ANNOTATION_NAME, ANNOTATION_REF, manifest_media_type};
use crate::store::{Selector, Store, select};

const WHAT: &str = "the image archive";

/// The form of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// What `docker save` writes since Docker 25: an OCI layout with a `manifest.json`, which any `docker load` reads.
    DockerArchive,
    /// An OCI image layout alone.
    Oci,
}

/// An image and the names it goes out with.
struct Outgoing {
    digest: Digest,
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
    references: Vec<ImageReference>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

impl Store {
    /// Writes the images as one tar. One selected by reference goes out with that name, one selected by digest with none.
    ///
    /// # Errors
    /// When an image is not here, or `sink` fails.
    pub fn save(&self, images: &[Selector], sink: impl Write, format: Format) -> Result<()> {
        let images = self.outgoing(images)?;
        let mut blobs = BTreeSet::new();
        for image in &images {
            blobs.insert(image.digest);
            blobs.extend(image.manifest.blobs().map(|blob| blob.digest));
        }
        let mut archive = Archive {
            tar: tar::Builder::new(sink),
        };
        archive.folder("blobs/")?;
        archive.folder("blobs/sha256/")?;
        for digest in blobs {
            let file = self.open_blob(digest)?;
            let size = file
                .metadata()
                .map_err(ImageError::io("read", self.blobs.path(digest)))?
                .len();
            archive.file(&blob_path(digest), size, file)?;
        }
        archive.document("index.json", &to_json(&index(&images)))?;
        if format == Format::DockerArchive {
            archive.document("manifest.json", &to_json(&docker_manifest(&images)))?;
        }
        archive.document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.finish()
    }

    fn outgoing(&self, selectors: &[Selector]) -> Result<Vec<Outgoing>> {
        let mut names: BTreeMap<Digest, BTreeSet<ImageReference>> = BTreeMap::new();
        {
            let state = self.state();
            for selector in selectors {
                let names = names.entry(select(&state.catalog, selector)?).or_default();
                if let Selector::Reference(reference) = selector
                    && reference.tag().is_some()
                {
                    names.insert(reference.clone().without_digest());
                }
            }
        }
        let outgoing = names.into_iter().map(|(digest, references)| {
            let manifest_bytes = self.blobs.read_document(digest)?;
            Ok(Outgoing {
                digest,
                manifest: Manifest::parse(digest, &manifest_bytes)?,
                manifest_bytes,
                references: references.into_iter().collect(),
            })
        });
        outgoing.collect()
    }
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// One descriptor per name, as Docker and containerd have it.
fn index(images: &[Outgoing]) -> Index {
    let mut manifests = Vec::new();
    for image in images {
        let media_type = manifest_media_type(&image.manifest_bytes);
        let plain = Descriptor::new(media_type, image.digest, image.manifest_bytes.len() as u64);
        if image.references.is_empty() {
            manifests.push(plain.clone());
        }
        for reference in &image.references {
            let mut named = plain.clone();
            let mut annotate =
                |key: &str, value: String| named.annotations.insert(key.to_string(), Value::String(value));
            annotate(ANNOTATION_NAME, reference.to_string());
            annotate(ANNOTATION_REF, reference.tag().unwrap_or_default().to_string());
            manifests.push(named);
        }
    }
    Index::new(manifests)
}

fn docker_manifest(images: &[Outgoing]) -> Vec<DockerImage> {
    let image = |image: &Outgoing| DockerImage {
        config: blob_path(image.manifest.config.digest),
        repo_tags: image.references.iter().map(ImageReference::familiar).collect(),
        layers: image
            .manifest
            .layers
            .iter()
            .map(|layer| blob_path(layer.digest))
            .collect(),
    };
    images.iter().map(image).collect()
}

struct Archive<W: Write> {
    tar: tar::Builder<W>,
}

impl<W: Write> Archive<W> {
    fn document(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.file(path, bytes.len() as u64, bytes)
    }

    fn file(&mut self, path: &str, size: u64, data: impl Read) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        self.append(header, path, data.take(size))
    }

    fn folder(&mut self, path: &str) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(0o755);
        self.append(header, path, io::empty())
    }

    fn append(&mut self, mut header: tar::Header, path: &str, data: impl Read) -> Result<()> {
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        self.tar.append_data(&mut header, path, data).map_err(sink_error)
    }

    fn finish(self) -> Result<()> {
        self.tar
            .into_inner()
            .and_then(|mut sink| sink.flush())
            .map_err(sink_error)
    }
}

fn sink_error(source: io::Error) -> ImageError {
    ImageError::Sink {
        what: WHAT.to_string(),
        source,
    }
}
