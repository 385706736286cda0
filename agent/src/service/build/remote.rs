//! The person behind a build, over their connection: [`Client`] for the threads of the executor.
//!
//! **Invariant:** what a thread waits for comes, or it is told that it never will.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_api::v1::{
    BuildInput, BuildOutput, ContextEntries, FileChunk, NeedFiles, SecretReply, SshData, build_input, build_output,
};
use gantry_api::{encode, kind};
use gantry_build::{Cancel, Client, Contents, Incoming};
use gantry_env::System;
use gantry_model::build::{BuildEvent, BuildRequest, ContextEntry};
use gantry_model::{Class, Digest, Problem};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::drivers::blocking;

/// Messages that wait for the disk.
const INPUTS_WAITING: usize = 64;
/// Bytes of an SSH agent's connection in one message.
const SSH_BYTES: usize = 16 << 10;
/// Whoever waits looks for a cancelled build so often.
const WAIT: Duration = Duration::from_millis(200);
/// Digests in one message.
const DIGESTS_MAX: usize = 10_000;

/// Where answers go.
type Output = mpsc::Sender<Result<BuildOutput, Status>>;

/// See the module.
pub(super) struct Remote {
    output: Output,
    contents: Arc<Contents>,
    cancel: Cancel,
    secrets: BTreeSet<String>,
    ssh: BTreeSet<String>,
    connections: AtomicU32,
    /// Steps of the agent's own, which count down: the executor's count up from 0.
    steps: AtomicU32,
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

#[derive(Default)]
struct Inbox {
    entries: BTreeMap<String, Vec<ContextEntry>>,
    complete: BTreeSet<String>,
    /// Asked for and not here yet.
    awaited: BTreeSet<Digest>,
    arriving: BTreeMap<Digest, Incoming>,
    secrets: BTreeMap<String, Option<Vec<u8>>>,
    ssh: BTreeMap<u32, UnixStream>,
    /// Nothing more comes: why.
    closed: Option<Problem>,
}

impl Remote {
    pub(super) fn new(request: &BuildRequest, output: Output, contents: Arc<Contents>, cancel: Cancel) -> Arc<Self> {
        Arc::new(Self {
            output,
            contents,
            cancel,
            secrets: request.spec.secrets.iter().map(|secret| secret.id.clone()).collect(),
            ssh: super::ssh_ids(request),
            connections: AtomicU32::new(0),
            steps: AtomicU32::new(u32::MAX),
            inbox: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// A number for a step of the agent's own.
    pub(super) fn number(&self) -> u32 {
        self.steps.fetch_sub(1, Ordering::Relaxed)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // Every change is one step, so a panicking holder leaves it whole.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the person sends, until they send no more.
    pub(super) async fn receive(self: Arc<Self>, mut input: Streaming<BuildInput>) {
        let (sender, mut receiver) = mpsc::channel(INPUTS_WAITING);
        let taker = Arc::clone(&self);
        let taking = tokio::spawn(blocking(move || {
            while let Some(message) = receiver.blocking_recv() {
                if let Err(problem) = taker.take(message) {
                    taker.close(problem);
                    return;
                }
            }
        }));
        let why = loop {
            match input.message().await {
                Ok(Some(message)) => {
                    if sender.send(message).await.is_err() {
                        break None;
                    }
                }
                Ok(None) => {
                    break Some(Problem::new(
                        Class::Unavailable,
                        "build",
                        "the client sends nothing more",
                    ));
                }
                Err(status) => break Some(gantry_rpc::status::to_problem(&status, "build")),
            }
        };
        drop(sender);
        // What came before the end counts.
        let _ = taking.await;
        if let Some(why) = why {
            self.close(why);
        }
    }

    fn close(&self, why: Problem) {
        self.inbox().closed.get_or_insert(why);
        self.changed.notify_all();
    }

    /// Returns when nobody takes what is said any more.
    pub(super) async fn hung_up(&self) {
        self.output.closed().await;
    }

    fn take(&self, message: BuildInput) -> Result<(), Problem> {
        match message.input {
            Some(build_input::Input::Entries(entries)) => self.take_entries(entries),
            Some(build_input::Input::File(chunk)) => self.take_file(chunk),
            Some(build_input::Input::Secret(reply)) => {
                self.take_secret(reply);
                Ok(())
            }
            Some(build_input::Input::Ssh(data)) => {
                self.take_ssh(data);
                Ok(())
            }
            Some(build_input::Input::Start(_)) | None => Err(Problem::new(
                Class::Invalid,
                "build",
                "a message that does not belong here",
            )),
        }
    }

    fn take_entries(&self, message: ContextEntries) -> Result<(), Problem> {
        let wrong = |error: serde_json::Error| Problem::new(Class::Invalid, "build context", error.to_string());
        let entries: Vec<ContextEntry> = if message.entries_json.is_empty() {
            Vec::new()
        } else {
            serde_json::from_slice(&message.entries_json).map_err(wrong)?
        };
        let mut inbox = self.inbox();
        inbox
            .entries
            .entry(message.context.clone())
            .or_default()
            .extend(entries);
        if message.last {
            inbox.complete.insert(message.context);
            drop(inbox);
            self.changed.notify_all();
        }
        Ok(())
    }

    fn take_file(&self, chunk: FileChunk) -> Result<(), Problem> {
        let invalid = |reason: String| Problem::new(Class::Invalid, "build context", reason);
        let digest: Digest = chunk.digest.parse().map_err(|error| invalid(format!("{error}")))?;
        if !chunk.error.is_empty() {
            return Err(invalid(chunk.error));
        }
        let begun = {
            let mut inbox = self.inbox();
            if !inbox.awaited.contains(&digest) {
                return Ok(());
            }
            inbox.arriving.remove(&digest)
        };
        let refused = |error: gantry_build::BuildError| error.into_problem("build context");
        let mut incoming = match begun {
            Some(incoming) => incoming,
            None => self.contents.receive(digest, &System).map_err(refused)?,
        };
        incoming.write(&chunk.data).map_err(refused)?;
        if !chunk.last {
            self.inbox().arriving.insert(digest, incoming);
            return Ok(());
        }
        incoming.finish().map_err(refused)?;
        self.inbox().awaited.remove(&digest);
        self.changed.notify_all();
        Ok(())
    }

    fn take_secret(&self, reply: SecretReply) {
        let value = (!reply.missing).then(|| reply.data.to_vec());
        self.inbox().secrets.insert(reply.id, value);
        self.changed.notify_all();
    }

    fn take_ssh(&self, data: SshData) {
        let mut inbox = self.inbox();
        let Some(connection) = inbox.ssh.get_mut(&data.connection) else {
            return;
        };
        // The container's side may have ended meanwhile.
        let written = connection.write_all(&data.data);
        if data.closed || written.is_err() {
            let _ = connection.shutdown(Shutdown::Both);
            inbox.ssh.remove(&data.connection);
        }
    }

    fn say(&self, output: build_output::Output) -> Result<(), Problem> {
        let message = BuildOutput { output: Some(output) };
        self.output.blocking_send(Ok(message)).map_err(|_| {
            self.cancel.set();
            Problem::new(Class::Unavailable, "build", "the client has gone")
        })
    }

    /// Tells an event from the event loop.
    pub(super) async fn tell(&self, event: BuildEvent) {
        let output = build_output::Output::Event(encode(kind::BUILD_EVENT, &event));
        // Who has gone is noticed elsewhere.
        drop(self.output.send(Ok(BuildOutput { output: Some(output) })).await);
    }

    /// Waits until the inbox has what is looked for.
    fn wait<T>(&self, mut look: impl FnMut(&mut Inbox) -> Option<T>) -> Result<T, Problem> {
        let mut inbox = self.inbox();
        loop {
            if let Some(found) = look(&mut inbox) {
                return Ok(found);
            }
            if let Some(why) = &inbox.closed {
                return Err(why.clone());
            }
            if self.cancel.is_set() {
                return Err(Problem::new(Class::Unavailable, "build", "the build was cancelled"));
            }
            inbox = self
                .changed
                .wait_timeout(inbox, WAIT)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Client for Remote {
    fn event(&self, event: BuildEvent) {
        // Who has gone ends the build.
        let _ = self.say(build_output::Output::Event(encode(kind::BUILD_EVENT, &event)));
    }

    fn entries(&self, context: &str) -> Result<Vec<ContextEntry>, Problem> {
        self.wait(|inbox| {
            let is_complete = inbox.complete.contains(context);
            is_complete.then(|| inbox.entries.get(context).cloned().unwrap_or_default())
        })
    }

    fn fetch(&self, digests: &[Digest]) -> Result<(), Problem> {
        let unasked: Vec<String> = {
            let mut inbox = self.inbox();
            let fresh = digests.iter().filter(|digest| inbox.awaited.insert(**digest));
            fresh.map(ToString::to_string).collect()
        };
        for digests in unasked.chunks(DIGESTS_MAX) {
            let digests = digests.to_vec();
            self.say(build_output::Output::NeedFiles(NeedFiles { digests }))?;
        }
        self.wait(|inbox| {
            digests
                .iter()
                .all(|digest| !inbox.awaited.contains(digest))
                .then_some(())
        })
    }

    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, Problem> {
        if !self.secrets.contains(id) {
            return Ok(None);
        }
        self.say(build_output::Output::NeedSecret(id.to_string()))?;
        self.wait(|inbox| inbox.secrets.get(id).cloned())
    }

    fn has_ssh(&self, id: &str) -> bool {
        self.ssh.contains(id)
    }

    fn ssh(&self, id: &str, connection: UnixStream) {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let Ok(mut reading) = connection.try_clone() else {
            return;
        };
        self.inbox().ssh.insert(number, connection);
        let (output, id) = (self.output.clone(), id.to_string());
        std::thread::spawn(move || {
            let mut buffer = vec![0; SSH_BYTES];
            loop {
                let length = reading.read(&mut buffer).unwrap_or(0);
                let data = SshData {
                    connection: number,
                    id: id.clone(),
                    data: buffer[..length].to_vec().into(),
                    closed: length == 0,
                };
                let message = BuildOutput {
                    output: Some(build_output::Output::Ssh(data)),
                };
                if output.blocking_send(Ok(message)).is_err() || length == 0 {
                    return;
                }
            }
        });
    }

    fn output(&self, bytes: Vec<u8>) -> Result<(), Problem> {
        self.say(build_output::Output::Data(bytes.into()))
    }
}
