//! Somebody at a container's streams; the container may be made and started by the same call.
//!
//! The first byte a program prints reaches whoever watches, since the streams are there before the program runs. Hanging up, or
//! detaching, leaves the container running.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_api::v1::{AttachInput, AttachOutput, AttachStart, attach_input, attach_output};
use gantry_model::{Class, Problem, ReplicaId};
use gantry_rpc::status::{from_problem, to_problem};
use tokio::io::Interest;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::super::streams::{Output, Stream, asynchronous, dimensions, pump, write_all};
use super::super::{Answers, NodeService, STREAM_WAITING};
use super::{containers, obtain};
use crate::drivers::{Attached, AttachedOutput, Runtime};
use crate::engine::launch::Watcher;
use crate::engine::{Entry, View};

/// Output that is still in the pipes when the container has ended; a process that escaped it keeps them open for ever.
const DRAIN: Duration = Duration::from_millis(500);
/// Exit statuses of programs that are not there or cannot be run.
const CANNOT_RUN: [i32; 2] = [126, 127];

type Sender = mpsc::Sender<Result<AttachOutput, Status>>;

/// Opens the streams that the first message names.
pub(super) async fn open(
    service: &NodeService,
    mut input: Streaming<AttachInput>,
) -> Result<Answers<AttachOutput>, Problem> {
    let first = input.message().await.map_err(|status| to_problem(&status, "attach"))?;
    let Some(attach_input::Input::Start(start)) = first.and_then(|first| first.input) else {
        return Err(Problem::new(Class::Invalid, "attach", "does not begin with a start"));
    };
    let (sender, answers) = mpsc::channel(STREAM_WAITING);
    let service = service.clone();
    tokio::spawn(async move {
        if let Err(problem) = serve(&service, start, input, &sender).await {
            // Nobody is told when the other end has hung up.
            drop(sender.send(Err(from_problem(&problem))).await);
        }
    });
    Ok(ReceiverStream::new(answers))
}

/// A container with somebody at its streams.
struct Watched {
    id: ReplicaId,
    runtime: Arc<dyn Runtime>,
    /// Of a container by hand: how it goes on, and how often it had ended before.
    view: Option<(watch::Receiver<View>, u64)>,
    /// Standard input belongs to whoever made it: it ends with them.
    owns_stdin: bool,
}

async fn serve(
    service: &NodeService,
    start: AttachStart,
    input: Streaming<AttachInput>,
    sender: &Sender,
) -> Result<(), Problem> {
    let (watched, attached) = match (&start.run, start.start_existing) {
        (Some(_), _) => run(service, &start, sender).await?,
        (None, starts) => existing(service, &start, starts, sender).await?,
    };
    let Some(attached) = attached else {
        return tell_failed_start(&watched, sender).await;
    };
    let streams = Streams::open(attached, &start).map_err(|error| {
        Problem::new(
            Class::Internal,
            "attach",
            format!("its streams cannot be served: {error}"),
        )
    })?;
    watch_it(service, watched, streams, input, sender).await
}

async fn run(
    service: &NodeService,
    start: &AttachStart,
    sender: &Sender,
) -> Result<(Watched, Option<Attached>), Problem> {
    let spec = containers::spec(start.run.as_ref())?;
    let image = obtain::image(service, &spec, &start.registry_auth_json, Some(sender)).await?;
    let (id, entry) = service.engine.create(spec, image).await?;
    begin(service, start, id, entry, sender).await
}

async fn existing(
    service: &NodeService,
    start: &AttachStart,
    starts: bool,
    sender: &Sender,
) -> Result<(Watched, Option<Attached>), Problem> {
    if let Some((id, entry)) = service.engine.look_up(&start.container)? {
        let life = entry.view.borrow().record.life.clone();
        if starts && !life.has_process() {
            return begin(service, start, id, entry, sender).await;
        }
        if !life.has_process() {
            return Err(Problem::new(
                Class::Conflict,
                format!("container {}", start.container),
                "does not run",
            )
            .remedy("start it with `gantry start --attach`"));
        }
        tell_container(service, &entry, sender).await;
        let watched = Watched {
            id,
            runtime: Arc::new(service.by_hand.clone()),
            view: Some((entry.view.clone(), life.ends)),
            owns_stdin: false,
        };
        let record = Arc::clone(&entry.view.borrow().record);
        let container = &record.spec.container;
        let stdin = start.stdin && (container.stdin_open || container.tty);
        let attached = watched.runtime.attach(id, stdin).await?;
        return Ok((watched, Some(attached)));
    }
    let target = service.target(&start.container).await?;
    let watched = Watched {
        id: target.id,
        runtime: Arc::new(target.containers),
        view: None,
        owns_stdin: false,
    };
    let attached = watched.runtime.attach(target.id, start.stdin).await?;
    Ok((watched, Some(attached)))
}

async fn tell_container(service: &NodeService, entry: &Entry, sender: &Sender) {
    let document = containers::document(&service.engine.shown(entry));
    drop(
        sender
            .send(Ok(output(attach_output::Output::Container(document))))
            .await,
    );
}

/// Starts a container with the caller at its streams; none when it could not be started.
async fn begin(
    service: &NodeService,
    start: &AttachStart,
    id: ReplicaId,
    entry: Entry,
    sender: &Sender,
) -> Result<(Watched, Option<Attached>), Problem> {
    let record = Arc::clone(&entry.view.borrow().record);
    let ends = record.life.ends;
    tell_container(service, &entry, sender).await;
    let container = &record.spec.container;
    let (streams, opened) = oneshot::channel();
    let watcher = Watcher {
        streams,
        stdin: start.stdin && (container.stdin_open || container.tty),
        size: start.size.map(dimensions),
    };
    let watched = Watched {
        id,
        runtime: Arc::new(service.by_hand.clone()),
        view: Some((entry.view.clone(), ends)),
        owns_stdin: start.stdin,
    };
    let (engine, started) = (service.engine.clone(), entry.clone());
    let starting = tokio::spawn(async move { engine.start(id, &started, Some(watcher)).await });
    if let Ok(attached) = opened.await {
        return Ok((watched, Some(attached)));
    }
    let failed = starting.await.unwrap_or(Ok(()));
    let code = entry.view.borrow().record.life.state.exit_code;
    match failed {
        Err(problem) if !code.is_some_and(|code| CANNOT_RUN.contains(&code)) => Err(problem),
        Ok(()) | Err(_) => Ok((watched, None)),
    }
}

/// A program that is not there is told like a shell would.
async fn tell_failed_start(watched: &Watched, sender: &Sender) -> Result<(), Problem> {
    let Some((view, _)) = &watched.view else { return Ok(()) };
    let record = Arc::clone(&view.borrow().record);
    let reason = format!("{}: {}\n", record.name, record.life.state.error);
    let code = record.life.state.exit_code.unwrap_or(CANNOT_RUN[0]);
    for last in [
        attach_output::Output::Stderr(reason.into()),
        attach_output::Output::ExitCode(code),
    ] {
        drop(sender.send(Ok(output(last))).await);
    }
    Ok(())
}

const fn output(output: attach_output::Output) -> AttachOutput {
    AttachOutput { output: Some(output) }
}

struct Streams {
    stdin: Option<Stream>,
    outputs: Vec<(Output, Stream)>,
    is_terminal: bool,
}

impl Streams {
    fn open(attached: Attached, start: &AttachStart) -> std::io::Result<Self> {
        let stdin = attached
            .stdin
            .map(|fd| asynchronous(fd, Interest::WRITABLE))
            .transpose()?;
        let mut outputs = Vec::new();
        let is_terminal = matches!(attached.output, AttachedOutput::Terminal(_));
        match attached.output {
            AttachedOutput::Terminal(fd) => outputs.push((Output::Stdout, asynchronous(fd, Interest::READABLE)?)),
            AttachedOutput::Pipes { stdout, stderr } => {
                if start.stdout {
                    outputs.push((Output::Stdout, asynchronous(stdout, Interest::READABLE)?));
                }
                if start.stderr {
                    outputs.push((Output::Stderr, asynchronous(stderr, Interest::READABLE)?));
                }
            }
        }
        Ok(Self {
            stdin,
            outputs,
            is_terminal,
        })
    }
}

/// How the caller's messages ended.
#[derive(Debug, PartialEq, Eq)]
enum Feeding {
    /// It has nothing more to say, and waits for the end.
    Done,
    Detached,
    Gone,
}

async fn watch_it(
    service: &NodeService,
    watched: Watched,
    streams: Streams,
    input: Streaming<AttachInput>,
    sender: &Sender,
) -> Result<(), Problem> {
    let pumps = streams.outputs.into_iter().map(|(which, fd)| {
        let sender = sender.clone();
        pump(fd, move |data: Bytes| {
            let data = match which {
                Output::Stdout => attach_output::Output::Stdout(data),
                Output::Stderr => attach_output::Output::Stderr(data),
            };
            let sender = sender.clone();
            async move { sender.send(Ok(output(data))).await.is_ok() }
        })
    });
    let mut pumping = std::pin::pin!(futures::future::join_all(pumps));
    let mut feeding = std::pin::pin!(feed(&watched, streams.stdin, streams.is_terminal, input));
    let mut ended = std::pin::pin!(end(&watched));
    let (mut is_fed, mut is_pumped) = (false, false);
    let code = loop {
        tokio::select! {
            biased;
            _ = &mut pumping, if !is_pumped => is_pumped = true,
            code = &mut ended => break code?,
            how = &mut feeding, if !is_fed => {
                is_fed = true;
                if how != Feeding::Done {
                    return Ok(());
                }
            }
            () = sender.closed() => return Ok(()),
            () = service.shutdown.cancelled() => {
                let reason = "the agent ends; the container goes on";
                return Err(Problem::new(Class::Unavailable, "attach", reason));
            }
        }
    };
    if !is_pumped {
        let _drained = tokio::time::timeout(DRAIN, pumping).await;
    }
    drop(sender.send(Ok(output(attach_output::Output::ExitCode(code)))).await);
    Ok(())
}

/// Waits for the end of the run that is watched: its exit status.
async fn end(watched: &Watched) -> Result<i32, Problem> {
    let Some((view, before)) = &watched.view else {
        let exit = watched.runtime.wait(watched.id, Default::default()).await?;
        return Ok(exit.code);
    };
    let (mut view, before) = (view.clone(), *before);
    let seen = view
        .wait_for(|view| view.is_gone || view.record.life.ends > before)
        .await;
    let record = seen.map(|view| Arc::clone(&view.record));
    let record =
        record.map_err(|_| Problem::new(Class::Unavailable, "attach", "the agent ends; the container goes on"))?;
    Ok(record.life.state.exit_code.unwrap_or(0))
}

async fn feed(
    watched: &Watched,
    mut stdin: Option<Stream>,
    is_terminal: bool,
    mut input: Streaming<AttachInput>,
) -> Feeding {
    let runtime = &watched.runtime;
    let id = watched.id;
    let how = loop {
        let message = match input.message().await {
            Ok(Some(message)) => message,
            Ok(None) => break Feeding::Done,
            Err(_) => break Feeding::Gone,
        };
        let done = match message.input {
            Some(attach_input::Input::Stdin(data)) => {
                if let Some(fd) = &stdin
                    && write_all(fd, &data).await.is_err()
                {
                    stdin = None;
                }
                Ok(())
            }
            Some(attach_input::Input::StdinClosed(_)) if stdin.take().is_some() && !is_terminal => {
                runtime.close_stdin(id).await
            }
            Some(attach_input::Input::Resize(size)) if is_terminal => {
                let (rows, columns) = dimensions(size);
                runtime.resize(id, rows, columns).await
            }
            Some(attach_input::Input::Signal(number)) => runtime.signal(id, Default::default(), number).await,
            Some(attach_input::Input::Detach(true)) => break Feeding::Detached,
            Some(
                attach_input::Input::Start(_)
                | attach_input::Input::Detach(false)
                | attach_input::Input::StdinClosed(_)
                | attach_input::Input::Resize(_),
            )
            | None => Ok(()),
        };
        if let Err(problem) = done {
            // It has ended, which is told by other means.
            tracing::debug!(%problem, container = %id, "a message could not be passed on");
        }
    };
    // Who made it and hangs up leaves nobody to write to it, as with Docker's `StdinOnce`.
    if how == Feeding::Gone && watched.owns_stdin && stdin.take().is_some() && !is_terminal {
        drop(runtime.close_stdin(id).await);
    }
    how
}
