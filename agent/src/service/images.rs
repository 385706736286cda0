//! Images in and out of the node's store, as streams.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use gantry_api::v1::import_image_start::Format as ImportFormat;
use gantry_api::v1::{
    Chunk, ExportImageRequest, ImportImageChunk, ImportImageReply, ImportImageStart, RemoveImageReply,
    RemoveImageRequest, import_image_chunk,
};
use gantry_image::{Format, ImageInfo, ImportOptions, Selector, Store};
use gantry_lifecycle::State;
use gantry_model::spec::HealthCheck;
use gantry_model::{Class, Digest, ImageReference, Problem, Timestamp};
use gantry_rpc::status::{from_problem, to_problem};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Answers, NodeService, STREAM_WAITING};
use crate::drivers::blocking;
use crate::drivers::images::{ChunkReader, wire_info};
use crate::limits::CHUNK_BYTES;
use crate::shared::Shared;

/// `gantry_image::ImportOptions` as it travels.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WireOptions {
    cmd: Vec<String>,
    entrypoint: Vec<String>,
    env: Vec<String>,
    working_dir: String,
    user: String,
    exposed_ports: Vec<String>,
    volumes: Vec<String>,
    labels: BTreeMap<String, String>,
    stop_signal: Option<String>,
    healthcheck: Option<HealthCheck>,
    created_at: Option<Timestamp>,
}

impl From<WireOptions> for ImportOptions {
    fn from(wire: WireOptions) -> Self {
        Self {
            cmd: wire.cmd,
            entrypoint: wire.entrypoint,
            env: wire.env,
            working_dir: wire.working_dir,
            user: wire.user,
            exposed_ports: wire.exposed_ports,
            volumes: wire.volumes,
            labels: wire.labels,
            stop_signal: wire.stop_signal,
            healthcheck: wire.healthcheck,
            created_at: wire.created_at,
        }
    }
}

pub(super) fn broken(error: &io::Error) -> Problem {
    Problem::new(Class::Internal, "blob", format!("cannot be read: {error}"))
}

/// Images as an archive.
pub(super) fn export(service: &NodeService, request: ExportImageRequest) -> Result<Answers<Chunk>, Problem> {
    let store = Arc::clone(service.images.store());
    let found = request
        .images
        .iter()
        .map(|image| store.find(image).map_err(Problem::from));
    let images: Vec<_> = found.collect::<Result<_, _>>()?;
    let format = if request.oci {
        Format::Oci
    } else {
        Format::DockerArchive
    };
    Ok(send_bytes(move |sink| {
        store.save(&images, sink, format).map_err(Problem::from)
    }))
}

/// A stream of what a thread writes.
pub(super) fn send_bytes(
    write: impl FnOnce(&mut ChunkWriter) -> Result<(), Problem> + Send + 'static,
) -> Answers<Chunk> {
    let (sender, answers) = mpsc::channel(STREAM_WAITING);
    tokio::task::spawn_blocking(move || {
        let mut sink = ChunkWriter {
            sender,
            buffer: Vec::with_capacity(CHUNK_BYTES),
        };
        let written = write(&mut sink).and_then(|()| sink.flush().map_err(|error| broken(&error)));
        if let Err(problem) = written {
            // Nobody is told when the other end has hung up.
            drop(sink.sender.blocking_send(Err(from_problem(&problem))));
        }
    });
    ReceiverStream::new(answers)
}

pub(super) struct ChunkWriter {
    sender: mpsc::Sender<Result<Chunk, Status>>,
    buffer: Vec<u8>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..length]);
        if self.buffer.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        let chunk = Chunk { data: full.into() };
        let sent = self.sender.blocking_send(Ok(chunk));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the receiver has hung up"))
    }
}

/// Takes images in.
pub(super) async fn import(
    service: &NodeService,
    mut input: Streaming<ImportImageChunk>,
) -> Result<ImportImageReply, Problem> {
    let failed = |status: Status| to_problem(&status, "image import");
    let first = input.message().await.map_err(failed)?;
    let Some(import_image_chunk::Chunk::Start(start)) = first.and_then(|first| first.chunk) else {
        return Err(Problem::new(
            Class::Invalid,
            "image import",
            "does not begin with a start",
        ));
    };
    let (chunks, source) = mpsc::channel(STREAM_WAITING);
    let store = Arc::clone(service.images.store());
    let taken = blocking(move || take_in(&store, &start, ChunkReader::new(source)));
    let (received, taken) = tokio::join!(receive(input, chunks), taken);
    // What the reader says of a cut stream is less than what the stream itself says.
    received?;
    let images = taken?;
    service.images.refresh();
    Ok(ImportImageReply {
        images: images.iter().map(wire_info).collect(),
        node: service.node.clone(),
    })
}

async fn receive(
    mut input: Streaming<ImportImageChunk>,
    chunks: mpsc::Sender<Result<Bytes, io::Error>>,
) -> Result<(), Problem> {
    loop {
        match input.message().await {
            Ok(Some(message)) => {
                let Some(import_image_chunk::Chunk::Data(data)) = message.chunk else {
                    continue;
                };
                // A reader that has seen enough says why itself.
                if chunks.send(Ok(data)).await.is_err() {
                    return Ok(());
                }
            }
            Ok(None) => return Ok(()),
            Err(status) => {
                let problem = to_problem(&status, "image import");
                let _ = chunks.send(Err(io::Error::other(problem.to_string()))).await;
                return Err(problem);
            }
        }
    }
}

fn take_in(store: &Store, start: &ImportImageStart, source: impl Read) -> Result<Vec<ImageInfo>, Problem> {
    match start.format() {
        ImportFormat::Rootfs => {
            let reference: ImageReference = start
                .reference
                .parse()
                .map_err(|error| Problem::new(Class::Invalid, "image reference", format!("{error}")))?;
            let options = options(&start.options_json)?;
            let image = store.import_rootfs(source, &reference, &options)?;
            Ok(vec![image])
        }
        ImportFormat::Archive => Ok(store.load(source)?),
        ImportFormat::Unspecified => Err(Problem::new(Class::Invalid, "image import", "names no format")),
    }
}

fn options(json: &[u8]) -> Result<ImportOptions, Problem> {
    if json.is_empty() {
        return Ok(ImportOptions::default());
    }
    let options: WireOptions = serde_json::from_slice(json)
        .map_err(|error| Problem::new(Class::Invalid, "import options", error.to_string()))?;
    Ok(options.into())
}

/// Removes an image, but never one that a replica of this node may still need.
pub(super) async fn remove(service: &NodeService, request: RemoveImageRequest) -> Result<RemoveImageReply, Problem> {
    let (shared, store) = (Arc::clone(&service.shared), Arc::clone(service.images.store()));
    let (containers, kept) = (service.engine.images(), service.images.kept().clone());
    let removed = blocking(move || -> Result<_, Problem> {
        let selector = store.find(&request.image)?;
        let mut used: BTreeSet<Digest> = in_use(&shared, &store)?.into_iter().chain(containers).collect();
        match &selector {
            // The whole image is to go, by its digest: it is kept for the cluster no longer.
            Selector::Digest(digest) => kept.set(&store, *digest, false)?,
            // A name alone goes; what the cluster has kept here stays without it.
            Selector::Reference(_) => used.extend(kept.all()),
        }
        Ok(store.remove(&selector, &used)?)
    });
    let removed = removed.await?;
    service.images.refresh();
    Ok(RemoveImageReply {
        untagged: removed.untagged.iter().map(ToString::to_string).collect(),
        deleted: removed.deleted.iter().map(ToString::to_string).collect(),
    })
}

/// Images that replicas of this node may still need.
pub(super) fn in_use(shared: &Shared, store: &Store) -> Result<BTreeSet<Digest>, Problem> {
    let records = shared.disk.records()?;
    let needs = records.iter().filter(|record| {
        let state = record.machine.state();
        !matches!(state, State::Ended | State::Removing { .. } | State::Gone)
    });
    let digests = needs.filter_map(|record| {
        let container = &record.item.spec.container;
        match &container.image_digest {
            Some(digest) => digest.parse().ok(),
            None => store.resolve(&container.image.parse().ok()?),
        }
    });
    Ok(digests.collect())
}
