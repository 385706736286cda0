//! The conversation with the node: the request and the lists of contexts first, then whatever the node asks for, until it has a
//! result.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use gantry_api::kind;
use gantry_api::v1::build_input::Input;
use gantry_api::v1::build_output::Output;
use gantry_api::v1::{BuildInput, BuildOutput, ContextEntries, FileChunk, SecretReply};
use gantry_env::{Env, System};
use gantry_model::build::{BuildEvent, BuildRequest, BuildResult};
use gantry_model::spec::BuildSecret;
use gantry_model::{Class, DurationMs, Problem};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::Job;
use super::context::Walked;
use super::folder::Files;
use super::progress::{FailedStep, Progress};
use super::sink::Sink;
use super::ssh::Agents;
use crate::client::stream_problem;
use crate::engine::Engine;
use crate::failure::Failure;

/// Messages on their way to the node; reading files waits beyond them.
const INPUTS_MAX: usize = 16;

/// Bytes of a file in one message.
const CHUNK_BYTES: usize = 1 << 20;

/// Entries of a context in one message: a few megabytes of JSON, below the limit of messages.
const ENTRIES_PER_MESSAGE: usize = 10_000;

/// Requests for contents that wait for a reader of files.
const REQUESTS_MAX: usize = 1024;

/// How often a terminal is drawn anew.
const REDRAW_INTERVAL: DurationMs = DurationMs(100);

/// How a build ended.
pub enum Ended {
    /// With a result; none where the node had nothing to say.
    Built(Option<BuildResult>),
    /// A step failed.
    Failed(FailedStep),
    /// The node refused or went away.
    Refused(Problem),
}

/// Runs a build.
///
/// # Errors
/// When something on this side fails.
pub async fn run(
    engine: &Engine,
    request: BuildRequest,
    walked: Walked,
    job: &Job,
    progress: Progress,
) -> Result<Ended, Failure> {
    let sink = job.target.open()?;
    let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
    let (wanted, requests) = mpsc::channel(REQUESTS_MAX);
    let Walked { entries, files } = walked;
    let sender = inputs.clone();
    let sending = tokio::task::spawn_blocking(move || send_all(&sender, &request, &entries, &files, requests));
    let mut session = Session {
        agents: Agents::new(&job.spec.ssh, inputs.clone()),
        secrets: job.spec.secrets.clone(),
        inputs,
        wanted,
        sink,
        progress,
        result: None,
    };
    let answer = engine
        .client()
        .build(engine.request(ReceiverStream::new(receiver)))
        .await;
    let ended = match answer {
        Ok(outputs) => session.converse(outputs.into_inner()).await,
        Err(status) => Ok(Ended::Refused(stream_problem(&status))),
    };
    let Session {
        inputs,
        wanted,
        agents,
        progress,
        sink,
        ..
    } = session;
    progress.finish();
    // With its channels closed, sending ends; a file that is being read is read to its end.
    drop((inputs, wanted, agents));
    let _ = sending.await;
    let ended = ended?;
    if let (Ended::Built(_), Some(sink)) = (&ended, sink) {
        sink.finish()?;
    }
    Ok(ended)
}

/// What the select of [`Session::converse`] picks.
enum Event {
    Output(Option<Output>),
    Ended,
    Broken(Problem),
    Redraw,
    Interrupted,
}

struct Session {
    inputs: mpsc::Sender<BuildInput>,
    wanted: mpsc::Sender<Vec<String>>,
    secrets: Vec<BuildSecret>,
    agents: Agents,
    sink: Option<Sink>,
    progress: Progress,
    result: Option<BuildResult>,
}

impl Session {
    async fn converse(&mut self, mut outputs: Streaming<BuildOutput>) -> Result<Ended, Failure> {
        let mut redraw = tokio::time::interval(std::time::Duration::from_millis(REDRAW_INTERVAL.0));
        loop {
            let event = tokio::select! {
                message = outputs.message() => match message {
                    Ok(Some(message)) => Event::Output(message.output),
                    Ok(None) => Event::Ended,
                    Err(status) => Event::Broken(stream_problem(&status)),
                },
                _ = redraw.tick(), if self.progress.is_live() => Event::Redraw,
                _ = tokio::signal::ctrl_c() => Event::Interrupted,
            };
            match event {
                Event::Output(Some(output)) => {
                    self.apply(output).await?;
                    // The last message; the node may keep the call open as long as we do.
                    if self.result.is_some() {
                        return Ok(self.end(None));
                    }
                }
                Event::Output(None) => {}
                Event::Redraw => self.progress.redraw(System.monotonic()),
                Event::Ended => return Ok(self.end(None)),
                Event::Broken(problem) => return Ok(self.end(Some(problem))),
                // The node stops when the connection ends.
                Event::Interrupted => {
                    return Ok(Ended::Refused(Problem::new(Class::Unavailable, "build", "interrupted")));
                }
            }
        }
    }

    /// A step that failed says more than the status that follows from it.
    fn end(&mut self, problem: Option<Problem>) -> Ended {
        match (self.progress.failed(), problem) {
            (Some(failed), _) => Ended::Failed(failed),
            (None, Some(problem)) => Ended::Refused(problem),
            (None, None) => Ended::Built(self.result.take()),
        }
    }

    async fn apply(&mut self, output: Output) -> Result<(), Failure> {
        match output {
            Output::Event(document) => {
                let event: BuildEvent = gantry_api::decode(&document, kind::BUILD_EVENT)?;
                self.progress.apply(event, System.monotonic());
            }
            Output::NeedFiles(files) => {
                // Closed: the call is over, and says why.
                let _ = self.wanted.send(files.digests).await;
            }
            Output::NeedSecret(id) => {
                let reply = secret(&self.secrets, &id)?;
                self.send(Input::Secret(reply)).await;
            }
            Output::Ssh(data) => self.agents.apply(data).await,
            Output::Data(bytes) => {
                if let Some(sink) = &mut self.sink {
                    sink.write(&bytes)?;
                }
            }
            Output::Result(document) => self.result = Some(gantry_api::decode(&document, kind::BUILD_RESULT)?),
        }
        Ok(())
    }

    async fn send(&self, input: Input) {
        let _ = self.inputs.send(BuildInput { input: Some(input) }).await;
    }
}

/// A secret's bytes, from its file or variable.
fn secret(known: &[BuildSecret], id: &str) -> Result<SecretReply, Problem> {
    let mut reply = SecretReply {
        id: id.to_string(),
        ..SecretReply::default()
    };
    let Some(secret) = known.iter().find(|secret| secret.id == id) else {
        reply.missing = true;
        return Ok(reply);
    };
    if let Some(name) = &secret.environment {
        match std::env::var_os(name) {
            Some(value) => reply.data = std::os::unix::ffi::OsStringExt::into_vec(value).into(),
            None => reply.missing = true,
        }
    } else if let Some(path) = &secret.file {
        let path = Path::new(path);
        let bytes = std::fs::read(path).map_err(|error| {
            let problem = crate::failure::file_problem("be read", path, &error);
            problem.remedy(format!("it is the secret '{id}': correct --secret"))
        })?;
        reply.data = bytes.into();
    } else {
        reply.missing = true;
    }
    Ok(reply)
}

/// The request, the lists, then contents as they are asked for. On a thread of its own: it reads files.
fn send_all(
    inputs: &mpsc::Sender<BuildInput>,
    request: &BuildRequest,
    contexts: &[(String, Vec<gantry_model::build::ContextEntry>)],
    files: &Files,
    mut requests: mpsc::Receiver<Vec<String>>,
) {
    // A closed channel means that the call is over, which its answer says better.
    let send = |input: Input| inputs.blocking_send(BuildInput { input: Some(input) }).is_ok();
    if !send(Input::Start(gantry_api::encode(kind::BUILD_REQUEST, request))) {
        return;
    }
    for (context, entries) in contexts {
        let pieces = entries.len().div_ceil(ENTRIES_PER_MESSAGE).max(1);
        for piece in 0..pieces {
            let end = entries.len().min((piece + 1) * ENTRIES_PER_MESSAGE);
            let json = serde_json::to_vec(&entries[piece * ENTRIES_PER_MESSAGE..end]).expect("entries have text keys");
            let message = ContextEntries {
                context: context.clone(),
                entries_json: json.into(),
                last: piece + 1 == pieces,
            };
            if !send(Input::Entries(message)) {
                return;
            }
        }
    }
    while let Some(digests) = requests.blocking_recv() {
        for digest in digests {
            let sent = match files.get(&digest) {
                Some(path) => send_file(&digest, path, files, &send),
                None => send(Input::File(broken(&digest, "is not part of any context".to_string()))),
            };
            if !sent {
                return;
            }
        }
    }
}

fn broken(digest: &str, error: String) -> FileChunk {
    FileChunk {
        digest: digest.to_string(),
        last: true,
        error,
        ..FileChunk::default()
    }
}

/// In pieces; the last one says whether the content still is what its digest promised.
fn send_file(digest: &str, path: &Path, files: &Files, send: &dyn Fn(Input) -> bool) -> bool {
    let failed = |error: std::io::Error| broken(digest, format!("{} cannot be read: {error}", path.display()));
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return send(Input::File(failed(error))),
    };
    let mut hasher = Sha256::new();
    loop {
        let mut data = Vec::with_capacity(CHUNK_BYTES);
        let read = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut data);
        if let Err(error) = read {
            return send(Input::File(failed(error)));
        }
        hasher.update(&data);
        let last = data.len() < CHUNK_BYTES;
        if last {
            let content = gantry_model::Digest::from_bytes(hasher.finalize().into());
            if content.to_string() != digest {
                files.doubt();
                let error = format!("{} changed while it was read: build again", path.display());
                return send(Input::File(broken(digest, error)));
            }
            return send(Input::File(FileChunk {
                digest: digest.to_string(),
                data: data.into(),
                last: true,
                error: String::new(),
            }));
        }
        let piece = FileChunk {
            digest: digest.to_string(),
            data: data.into(),
            ..FileChunk::default()
        };
        if !send(Input::File(piece)) {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn chunks(digest: &str, path: &Path) -> Vec<FileChunk> {
        let sent = RefCell::new(Vec::new());
        send_file(digest, path, &Files::default(), &|input| {
            if let Input::File(chunk) = input {
                sent.borrow_mut().push(chunk);
            }
            true
        });
        sent.into_inner()
    }

    #[test]
    fn contents_come_in_pieces_and_changes_are_seen() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("big");
        let content = vec![7; CHUNK_BYTES + 10];
        std::fs::write(&path, &content).expect("written");
        let digest = super::super::digests::digest(&path).expect("read");
        let sent = chunks(&digest, &path);
        let joined: Vec<u8> = sent.iter().flat_map(|chunk| chunk.data.to_vec()).collect();
        assert_eq!(joined, content);
        assert!(sent.last().is_some_and(|chunk| chunk.last && chunk.error.is_empty()));
        std::fs::write(&path, "other").expect("written");
        assert!(
            chunks(&digest, &path)
                .pop()
                .expect("an answer")
                .error
                .contains("changed")
        );
        std::fs::remove_file(&path).expect("removed");
        assert!(
            chunks(&digest, &path)
                .pop()
                .expect("an answer")
                .error
                .contains("cannot be read")
        );
    }

    #[test]
    fn an_empty_file_is_one_piece() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("empty");
        std::fs::write(&path, "").expect("written");
        let digest = super::super::digests::digest(&path).expect("read");
        let sent = chunks(&digest, &path);
        assert!(sent.len() == 1 && sent[0].last && sent[0].data.is_empty() && sent[0].error.is_empty());
    }

    #[test]
    fn secrets_come_from_files_and_are_missing_when_unknown() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("s");
        std::fs::write(&path, "hush").expect("written");
        let known = [BuildSecret {
            id: "a".to_string(),
            file: Some(path.display().to_string()),
            environment: None,
        }];
        assert_eq!(&secret(&known, "a").expect("read").data[..], b"hush");
        assert!(secret(&known, "b").expect("answered").missing);
        std::fs::remove_file(&path).expect("removed");
        assert!(secret(&known, "a").expect_err("gone").to_string().contains("--secret"));
    }
}
