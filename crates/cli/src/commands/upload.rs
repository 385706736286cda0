//! Archives on their way into the cluster: a file, standard input, or a folder packed as it goes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use gantry_api::v1::import_image_chunk::Chunk;
use gantry_api::v1::{ImportImageChunk, ImportImageReply, ImportImageStart};
use gantry_env::{Env, System};
use gantry_model::{ByteSize, DurationMs, Problem};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{Client, stream_problem};
use crate::failure::{Failure, file_problem};
use crate::terminal;

/// Bytes in one message: large enough that messages cost nothing, small against the limit of 16 MiB.
const CHUNK_BYTES: usize = 1 << 20;

/// Messages on their way; reading waits for the network beyond them.
const CHUNKS_MAX: usize = 4;

/// Progress is shown this often, and only by what takes longer than this.
const PROGRESS_INTERVAL: DurationMs = DurationMs::secs(1);

/// Sends `path` (`-` is standard input) after `start`, and gives the answer.
///
/// # Errors
/// When the file cannot be read, or the cluster refuses the image.
pub async fn upload(client: &Client, start: ImportImageStart, path: &Path) -> Result<ImportImageReply, Failure> {
    let mut cluster = client.reach().await?;
    let (chunks, receiver) = mpsc::channel(CHUNKS_MAX);
    let source = path.to_path_buf();
    let reading = tokio::task::spawn_blocking(move || read(start, &source, &chunks));
    let answer = cluster.import_image(ReceiverStream::new(receiver)).await;
    // A file that cannot be read also breaks the call: its own reason comes first.
    match reading.await {
        Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(file_problem("be read", path, &error).into());
        }
        Ok(_) | Err(_) => {}
    }
    Ok(answer.map_err(|status| stream_problem(&status))?.into_inner())
}

fn read(start: ImportImageStart, path: &PathBuf, chunks: &mpsc::Sender<ImportImageChunk>) -> io::Result<()> {
    let mut sink = Sink::new(chunks);
    sink.send(Chunk::Start(start))?;
    if path.as_os_str() == "-" {
        copy(io::stdin().lock(), &mut sink)?;
    } else if path.is_dir() {
        pack(path, &mut sink)?;
    } else {
        copy(File::open(path)?, &mut sink)?;
    }
    sink.flush()?;
    sink.progress.end();
    Ok(())
}

fn copy(mut from: impl Read, sink: &mut Sink<'_>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => sink.write_all(&buffer[..count])?,
        }
    }
}

/// A folder as a tar archive, with links as links and owners as they are.
fn pack(folder: &Path, sink: &mut Sink<'_>) -> io::Result<()> {
    let mut archive = tar::Builder::new(sink);
    archive.follow_symlinks(false);
    archive.append_dir_all(".", folder)?;
    archive.into_inner()?.flush()
}

/// Collects what is written into messages.
struct Sink<'a> {
    chunks: &'a mpsc::Sender<ImportImageChunk>,
    buffer: Vec<u8>,
    progress: Progress,
}

impl<'a> Sink<'a> {
    fn new(chunks: &'a mpsc::Sender<ImportImageChunk>) -> Self {
        Self {
            chunks,
            buffer: Vec::with_capacity(CHUNK_BYTES),
            progress: Progress::new("sent"),
        }
    }

    fn send(&self, chunk: Chunk) -> io::Result<()> {
        let message = ImportImageChunk { chunk: Some(chunk) };
        // Closed: the call has ended, and says why.
        self.chunks
            .blocking_send(message)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        self.progress.add(full.len());
        self.send(Chunk::Data(full.into()))
    }
}

/// Bytes so far, on a terminal alone.
pub struct Progress {
    word: &'static str,
    bytes: u64,
    shown_at: DurationMs,
    shown: bool,
}

impl Progress {
    /// `word` is what happened to the bytes.
    pub fn new(word: &'static str) -> Self {
        Self {
            word,
            bytes: 0,
            shown_at: System.monotonic(),
            shown: false,
        }
    }

    /// So many more.
    pub fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        let now = System.monotonic();
        if now.saturating_sub(self.shown_at) >= PROGRESS_INTERVAL && terminal::is_progress() {
            self.shown_at = now;
            self.shown = true;
            eprint!("\r\x1b[K{} {}", ByteSize(self.bytes), self.word);
        }
    }

    /// Takes the line away again.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\x1b[K");
        }
    }
}

/// Where a saved archive goes.
///
/// # Errors
/// When the file cannot be made.
pub fn create(path: &Path) -> Result<File, Problem> {
    File::create(path).map_err(|error| file_problem("be written", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_arrives_as_an_archive_in_pieces() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("big"), vec![7; CHUNK_BYTES + 10]).expect("written");
        std::os::unix::fs::symlink("big", folder.path().join("link")).expect("linked");
        let (chunks, mut receiver) = mpsc::channel(16);
        read(ImportImageStart::default(), &folder.path().to_path_buf(), &chunks).expect("read");
        drop(chunks);
        let first = receiver.blocking_recv().and_then(|message| message.chunk);
        assert!(matches!(first, Some(Chunk::Start(_))));
        let mut bytes = Vec::new();
        while let Some(message) = receiver.blocking_recv() {
            if let Some(Chunk::Data(data)) = message.chunk {
                assert!(data.len() <= CHUNK_BYTES);
                bytes.extend_from_slice(&data);
            }
        }
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut found = Vec::new();
        for entry in archive.entries().expect("an archive") {
            let entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            found.push((path, entry.header().entry_type().is_symlink(), entry.size()));
        }
        found.sort();
        assert!(
            found
                .iter()
                .any(|(path, _, size)| path.ends_with("big") && *size == CHUNK_BYTES as u64 + 10)
        );
        assert!(found.iter().any(|(path, link, _)| path.ends_with("link") && *link));
    }
}
