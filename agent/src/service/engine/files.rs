//! Files of containers: copied out and in, exported, compared with their image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use gantry_api::kind;
use gantry_api::v1::{Chunk, CopyFromRequest, CopyToInput, CopyToStart, Documents, Empty, copy_to_input};
use gantry_model::container::{FileChange, FileChangeKind};
use gantry_model::{Class, Problem, ReplicaId};
use gantry_rpc::status::to_problem;
use gantry_runtime::{ChangeKind, CopyError, CopyIn, Handle};
use tokio::sync::mpsc;
use tonic::Streaming;

use super::super::images::send_bytes;
use super::super::{Answers, NodeService, STREAM_WAITING, Target};
use crate::drivers::blocking;
use crate::drivers::containers::problem;
use crate::drivers::images::ChunkReader;

/// Symbolic links followed before a path is taken for a circle; the kernel's own number (`MAXSYMLINKS`).
const LINKS_MAX: u32 = 40;

/// The container's, whose root is made when it has never been started: its files are the image's then, and what is copied into it
/// is there at its first start.
async fn handle(service: &NodeService, target: &Target) -> Result<Arc<Handle>, Problem> {
    let (containers, id) = (target.containers.clone(), target.id);
    let problem = match blocking(move || containers.handle(id)).await {
        Err(problem) if problem.class == Class::NotFound => problem,
        opened => return opened,
    };
    let launch = service.engine.outline(target.id).await?.ok_or(problem)?;
    let containers = target.containers.clone();
    blocking(move || {
        containers.lay_out(&launch)?;
        containers.handle(id)
    })
    .await
}

fn copy_problem(name: &str, error: &CopyError) -> Problem {
    let class = match error {
        CopyError::NotFound { .. } => Class::NotFound,
        CopyError::NotAFolder { .. } | CopyError::Escapes { .. } => Class::Invalid,
        CopyError::Handle(_) | CopyError::Io { .. } => Class::Internal,
    };
    Problem::new(class, format!("container {name}"), error.to_string())
}

/// Paths are absolute; one that is not starts at the root, as in Docker.
fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path.trim_start_matches('/'))
}

/// What a symbolic link at the end of a path leads to.
fn follow(handle: &Handle, path: &Path) -> Result<PathBuf, CopyError> {
    let mut path = path.to_path_buf();
    for _ in 0..LINKS_MAX {
        match handle.stat_path(&path)?.link {
            Some(link) => path = path.parent().unwrap_or(Path::new("/")).join(link),
            None => break,
        }
    }
    Ok(path)
}

pub(super) async fn copy_from(service: &NodeService, request: CopyFromRequest) -> Result<Answers<Chunk>, Problem> {
    let target = service.target(&request.container).await?;
    let handle = handle(service, &target).await?;
    let name = target.name;
    let path = absolute(&request.path);
    let (looked, asked, label) = (Arc::clone(&handle), path.clone(), name.clone());
    // A path that is not there is told before the stream begins.
    let path = blocking(move || {
        let found = if request.follow_link {
            follow(&looked, &asked)
        } else {
            looked.stat_path(&asked).map(|_| asked)
        };
        found.map_err(|error| copy_problem(&label, &error))
    });
    let path = path.await?;
    Ok(send_bytes(move |sink| {
        handle
            .copy_out(&path, sink)
            .map_err(|error| copy_problem(&name, &error))
    }))
}

pub(super) async fn export(service: &NodeService, container: &str) -> Result<Answers<Chunk>, Problem> {
    let target = service.target(container).await?;
    let handle = handle(service, &target).await?;
    let name = target.name;
    Ok(send_bytes(move |sink| {
        handle
            .copy_out(Path::new("/"), sink)
            .map_err(|error| copy_problem(&name, &error))
    }))
}

pub(super) async fn copy_to(service: &NodeService, mut input: Streaming<CopyToInput>) -> Result<Empty, Problem> {
    let first = input.message().await.map_err(|status| to_problem(&status, "copy"))?;
    let Some(copy_to_input::Input::Start(start)) = first.and_then(|first| first.input) else {
        return Err(Problem::new(Class::Invalid, "copy", "does not begin with a start"));
    };
    let target = service.target(&start.container).await?;
    let handle = handle(service, &target).await?;
    let (chunks, source) = mpsc::channel(STREAM_WAITING);
    let written = blocking(move || take_in(&handle, &target.name, &start, ChunkReader::new(source)));
    let (received, written) = tokio::join!(receive(input, chunks), written);
    // What the writer says of a stream that it gave up on is more than what the stream itself says.
    written?;
    received?;
    Ok(Empty {})
}

fn take_in(handle: &Handle, name: &str, start: &CopyToStart, source: ChunkReader) -> Result<(), Problem> {
    let how = CopyIn {
        owner: (!start.archive).then_some((0, 0)),
        replaces_kinds: false,
    };
    let copied = handle.copy_in(&absolute(&start.path), source, how);
    copied.map_err(|error| copy_problem(name, &error))
}

async fn receive(
    mut input: Streaming<CopyToInput>,
    chunks: mpsc::Sender<Result<Bytes, std::io::Error>>,
) -> Result<(), Problem> {
    loop {
        match input.message().await {
            Ok(Some(message)) => {
                let Some(copy_to_input::Input::Data(data)) = message.input else {
                    continue;
                };
                // A writer that has seen enough says why itself.
                if chunks.send(Ok(data)).await.is_err() {
                    return Ok(());
                }
            }
            Ok(None) => return Ok(()),
            Err(status) => {
                let problem = to_problem(&status, "copy");
                let _ = chunks.send(Err(std::io::Error::other(problem.to_string()))).await;
                return Err(problem);
            }
        }
    }
}

pub(super) async fn diff(service: &NodeService, container: &str) -> Result<Documents, Problem> {
    let target = service.target(container).await?;
    let handle = handle(service, &target).await?;
    let id = target.id;
    let changes = blocking(move || handle.changes())
        .await
        .map_err(|error| problem(id, &error))?;
    let change = |change: gantry_runtime::FileChange| FileChange {
        path: change.path.display().to_string(),
        kind: match change.kind {
            ChangeKind::Added => FileChangeKind::Added,
            ChangeKind::Changed => FileChangeKind::Changed,
            ChangeKind::Deleted => FileChangeKind::Deleted,
        },
    };
    let items = changes.into_iter().map(change);
    Ok(Documents {
        items: items
            .map(|change| gantry_api::encode(kind::FILE_CHANGE, &change))
            .collect(),
        revision: 0,
    })
}

/// Bytes that containers have written into their roots and logs.
pub(super) async fn written_bytes(service: &NodeService) -> BTreeMap<ReplicaId, u64> {
    let store = service.engine.parts().store.clone();
    let ids = service.engine.ids();
    blocking(move || {
        ids.into_iter()
            .map(|id| (id, bytes_below(&store.container(id))))
            .collect()
    })
    .await
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.file_type() {
        // The root's mount point shows the whole image while it runs.
        Ok(kind) if kind.is_dir() && entry.file_name() != "root" => bytes_below(&entry.path()),
        Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |metadata| metadata.len()),
        Ok(_) | Err(_) => 0,
    });
    sizes.sum()
}
