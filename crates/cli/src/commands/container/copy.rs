//! `gantry cp` and `gantry export`: files of a container or replica as a tar, packed and unpacked here.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use clap::Args;
use gantry_api::v1::copy_to_input::Input;
use gantry_api::v1::{Chunk, ContainerRequest, CopyFromRequest, CopyToInput, CopyToStart};
use gantry_model::{Class, Problem};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::NodeArgs;
use crate::args::Global;
use crate::client::stream_problem;
use crate::engine::Engine;
use crate::failure::{Failure, Outcome, file_problem};
use crate::terminal;

/// Bytes in one message.
const CHUNK_BYTES: usize = 256 * 1024;

/// Messages on their way; reading waits for the network beyond them.
const CHUNKS_MAX: usize = 4;

// Arguments of `gantry cp`.
#[derive(Debug, Args)]
pub struct CopyArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Keep owners
    #[arg(short, long)]
    archive: bool,
    /// Copy what a symbolic link points at
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// CONTAINER:PATH, or a path here; - is a tar on standard input
    source: String,
    /// CONTAINER:PATH, or a path here; - is a tar on standard output
    target: String,
}

// Arguments of `gantry export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Write to this file instead of standard output
    #[arg(long = "to", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name or id
    container: String,
}

enum Place<'a> {
    Here(&'a str),
    Inside(&'a str, &'a str),
}

/// As in Docker: what begins with `/` or `.` is a path here, whatever colons follow.
fn place(text: &str) -> Place<'_> {
    if text.starts_with(['/', '.']) || text == "-" {
        return Place::Here(text);
    }
    match text.split_once(':') {
        Some((container, path)) if !container.is_empty() => Place::Inside(container, path),
        _ => Place::Here(text),
    }
}

/// Copies in or out.
pub async fn run(global: &Global, args: &CopyArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    match (place(&args.source), place(&args.target)) {
        (Place::Inside(container, path), Place::Here(target)) => copy_out(&engine, args, container, path, target).await,
        (Place::Here(source), Place::Inside(container, path)) => copy_in(&engine, args, source, container, path).await,
        (Place::Here(_), Place::Here(_)) => Err(wrong(&args.source, "names no container on either side").into()),
        (Place::Inside(..), Place::Inside(..)) => Err(wrong(&args.source, "copies between two containers").into()),
    }
}

fn wrong(text: &str, reason: &str) -> Problem {
    Problem::new(Class::Invalid, format!("cp {text}"), reason)
        .remedy("write CONTAINER:PATH on one side, and a path here on the other")
}

async fn copy_out(engine: &Engine, args: &CopyArgs, container: &str, path: &str, target: &str) -> Outcome {
    let request = CopyFromRequest {
        container: container.to_string(),
        path: path.to_string(),
        follow_link: args.follow_link,
    };
    let answer = engine.client().copy_from(engine.request(request)).await;
    let mut chunks = answer.map_err(|status| stream_problem(&status))?.into_inner();
    if target == "-" {
        return to_output(&mut chunks).await;
    }
    let landing = Landing::of(Path::new(target), path)?;
    let (pipe, unpacking) = piped(move |reader| unpack(reader, &landing, &landing.base));
    let received = receive(&mut chunks, pipe).await;
    let unpacked = unpacking.await.map_err(io::Error::other)?;
    received?;
    unpacked.map_err(|error| file_problem("write", Path::new(target), &error).into())
}

async fn to_output(chunks: &mut Streaming<Chunk>) -> Outcome {
    if terminal::is_output() {
        let problem = Problem::new(
            Class::Invalid,
            "standard output",
            "is a terminal, and a tar is not for reading",
        );
        return Err(problem.remedy("send it to a file or a pipe").into());
    }
    while let Some(chunk) = chunks.message().await.map_err(|status| stream_problem(&status))? {
        crate::output::emit_bytes(&chunk.data)?;
    }
    Ok(())
}

/// A pipe into a thread, since unpacking blocks.
fn piped<T: Send + 'static>(
    work: impl FnOnce(PipeReader) -> T + Send + 'static,
) -> (mpsc::Sender<bytes::Bytes>, tokio::task::JoinHandle<T>) {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let reader = PipeReader {
        receiver,
        current: bytes::Bytes::new(),
    };
    (sender, tokio::task::spawn_blocking(move || work(reader)))
}

struct PipeReader {
    receiver: mpsc::Receiver<bytes::Bytes>,
    current: bytes::Bytes,
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(next) => self.current = next,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

async fn receive(chunks: &mut Streaming<Chunk>, pipe: mpsc::Sender<bytes::Bytes>) -> Outcome {
    while let Some(chunk) = chunks.message().await.map_err(|status| stream_problem(&status))? {
        if pipe.send(chunk.data).await.is_err() {
            // The thread has ended, and says why.
            return Ok(());
        }
    }
    Ok(())
}

/// Where what comes out of a container lands, by Docker's rules.
struct Landing {
    /// Existing folder to unpack into.
    base: PathBuf,
    /// Name for the topmost entry, instead of its own.
    rename: Option<String>,
}

impl Landing {
    fn of(target: &Path, source: &str) -> Result<Self, Problem> {
        // `path/.` means what is in the folder, not the folder.
        let contents = source.ends_with("/.");
        if target.is_dir() {
            return Ok(Self {
                base: target.to_path_buf(),
                rename: contents.then(|| ".".to_string()),
            });
        }
        let parent = target
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let name = target.file_name().map(|name| name.to_string_lossy().to_string());
        if !parent.is_dir() || target.to_string_lossy().ends_with('/') {
            return Err(
                Problem::new(Class::NotFound, target.display().to_string(), "is no folder")
                    .remedy("make it first, or name a file in a folder that is there"),
            );
        }
        Ok(Self {
            base: parent.to_path_buf(),
            rename: name,
        })
    }
}

/// What a container sends is not trusted: every path is taken relative to the landing folder, and none may leave it.
fn unpack(reader: impl Read, landing: &Landing, base: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_overwrite(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let own = entry.path()?.into_owned();
        let Some(path) = renamed(&own, landing.rename.as_deref()) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("'{}' leads out of the folder", own.display()),
            ));
        };
        if path.as_os_str().is_empty() {
            continue;
        }
        std::fs::create_dir_all(base)?;
        entry.set_preserve_permissions(true);
        // `unpack_in` checks every parent for links that lead out; it takes the entry's own name, so renaming goes by hand.
        if path == own {
            entry.unpack_in(base)?;
            continue;
        }
        let destination = base.join(&path);
        if destination.parent().is_some_and(|parent| !is_below(parent, base)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("'{}' leads out of the folder", own.display()),
            ));
        }
        entry.unpack(&destination)?;
    }
    Ok(())
}

fn is_below(path: &Path, base: &Path) -> bool {
    match (path.canonicalize(), base.canonicalize()) {
        (Ok(path), Ok(base)) => path.starts_with(base),
        _ => false,
    }
}

/// The path with its topmost part renamed (`.` drops it); none when it is absolute or climbs.
fn renamed(own: &Path, rename: Option<&str>) -> Option<PathBuf> {
    let parts: Vec<Component<'_>> = own.components().filter(|part| *part != Component::CurDir).collect();
    if !parts.iter().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    let Some(rename) = rename else {
        return Some(parts.iter().collect());
    };
    let rest: PathBuf = parts.iter().skip(1).collect();
    Some(match rename {
        "." => rest,
        name => PathBuf::from(name).join(rest).components().collect(),
    })
}

async fn copy_in(engine: &Engine, args: &CopyArgs, source: &str, container: &str, path: &str) -> Outcome {
    let (folder, name) = split_target(path);
    let source = PathBuf::from(source);
    let from_input = source.as_os_str() == "-";
    if !from_input && !source.exists() {
        return Err(file_problem("read", &source, &io::Error::from(io::ErrorKind::NotFound)).into());
    }
    // An existing folder inside takes the source by its own name; else the last part is the new name. The agent knows which.
    let is_folder = from_input || path.ends_with('/') || is_folder_inside(engine, container, path).await?;
    let (folder, name) = if is_folder {
        (path.to_string(), None)
    } else {
        (folder, Some(name))
    };
    let start = CopyToStart {
        container: container.to_string(),
        path: folder,
        archive: args.archive,
    };
    let (chunks, receiver) = mpsc::channel(CHUNKS_MAX);
    let _ = chunks
        .send(CopyToInput {
            input: Some(Input::Start(start)),
        })
        .await;
    let follow = args.follow_link;
    let packing = tokio::task::spawn_blocking({
        let source = source.clone();
        move || pack(&source, name.as_deref(), follow, chunks)
    });
    let answer = engine
        .client()
        .copy_to(engine.request(ReceiverStream::new(receiver)))
        .await;
    match packing.await {
        Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(file_problem("read", &source, &error).into());
        }
        Ok(_) | Err(_) => {}
    }
    answer.map_err(|status| stream_problem(&status))?;
    Ok(())
}

fn split_target(path: &str) -> (String, String) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/".to_string(), name.to_string()),
        Some((folder, name)) => (folder.to_string(), name.to_string()),
        None => ("/".to_string(), path.to_string()),
    }
}

/// Asks by reading its first entry.
async fn is_folder_inside(engine: &Engine, container: &str, path: &str) -> Result<bool, Failure> {
    let request = CopyFromRequest {
        container: container.to_string(),
        path: path.to_string(),
        follow_link: true,
    };
    let answer = match engine.client().copy_from(engine.request(request)).await {
        Ok(answer) => answer,
        Err(status) if status.code() == tonic::Code::NotFound => return Ok(false),
        Err(status) => return Err(stream_problem(&status).into()),
    };
    let mut chunks = answer.into_inner();
    let mut beginning = Vec::new();
    while beginning.len() < 512 {
        match chunks.message().await {
            Ok(Some(chunk)) => beginning.extend_from_slice(&chunk.data),
            Ok(None) => break,
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(false),
            Err(status) => return Err(stream_problem(&status).into()),
        }
    }
    let mut archive = tar::Archive::new(beginning.as_slice());
    let first = archive
        .entries()
        .ok()
        .and_then(|mut entries| entries.next())
        .and_then(Result::ok);
    Ok(first.is_some_and(|entry| entry.header().entry_type().is_dir()))
}

/// Standard input is a tar already; anything else becomes one.
fn pack(source: &Path, name: Option<&str>, follow: bool, chunks: mpsc::Sender<CopyToInput>) -> io::Result<()> {
    let mut sink = io::BufWriter::with_capacity(CHUNK_BYTES, Sink { chunks });
    if source.as_os_str() == "-" {
        io::copy(&mut io::stdin().lock(), &mut sink)?;
        return sink.flush();
    }
    let contents = source.to_string_lossy().ends_with("/.");
    let own = source.canonicalize()?;
    let own = own
        .file_name()
        .map(|name| name.to_string_lossy().to_string())
        .unwrap_or_default();
    let top = if contents {
        ".".to_string()
    } else {
        name.map_or(own, str::to_string)
    };
    let mut archive = tar::Builder::new(sink);
    archive.follow_symlinks(follow);
    let is_folder = if follow {
        source.is_dir()
    } else {
        std::fs::symlink_metadata(source)?.is_dir()
    };
    if is_folder {
        archive.append_dir_all(&top, source)?;
    } else {
        archive.append_path_with_name(source, &top)?;
    }
    archive.into_inner()?.flush()
}

struct Sink {
    chunks: mpsc::Sender<CopyToInput>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let input = Input::Data(bytes.to_vec().into());
        let sent = self.chunks.blocking_send(CopyToInput { input: Some(input) });
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all files of a container as a tar.
pub async fn export(global: &Global, args: &ExportArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let request = ContainerRequest {
        container: args.container.clone(),
    };
    let answer = engine.client().export_container(engine.request(request)).await;
    let mut chunks = answer.map_err(|status| stream_problem(&status))?.into_inner();
    let Some(path) = &args.file else {
        return to_output(&mut chunks).await;
    };
    let failed = |error: io::Error| Failure::from(file_problem("write", path, &error));
    let mut file = File::create(path).map_err(failed)?;
    while let Some(chunk) = chunks.message().await.map_err(|status| stream_problem(&status))? {
        file.write_all(&chunk.data).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart_as_in_docker() {
        assert!(matches!(place("web:/etc"), Place::Inside("web", "/etc")));
        assert!(matches!(place("./a:b"), Place::Here("./a:b")));
        assert!(matches!(place("/a:b"), Place::Here("/a:b")));
        assert!(matches!(place("-"), Place::Here("-")));
        assert!(matches!(place("plain"), Place::Here("plain")));
    }

    #[test]
    fn paths_of_a_container_stay_below_where_they_land() {
        let path = |own: &str, rename| renamed(Path::new(own), rename);
        assert_eq!(path("etc/passwd", None), Some(PathBuf::from("etc/passwd")));
        assert_eq!(path("etc/passwd", Some("copy")), Some(PathBuf::from("copy/passwd")));
        assert_eq!(path("passwd", Some("copy")), Some(PathBuf::from("copy")));
        assert_eq!(path("etc/passwd", Some(".")), Some(PathBuf::from("passwd")));
        assert_eq!((path("../x", None), path("/x", None)), (None, None));
    }
}
