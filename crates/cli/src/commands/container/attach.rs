//! The streams of a container as if it ran here: output, input, terminal, signals, and its exit status.

use std::io::{Read, Write};

use gantry_api::v1::attach_input::Input;
use gantry_api::v1::attach_output::Output;
use gantry_api::v1::{AttachInput, AttachOutput, AttachStart};
use gantry_model::container::Container;
use gantry_model::{Class, Problem};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::detach::DetachKeys;
use super::transfer::Progress;
use crate::client::stream_problem;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::output;
use crate::terminal::{self, Raw};

/// Pieces of input on their way; the terminal or pipe waits when there are more.
const INPUTS_MAX: usize = 16;

/// Input is read in pieces of this many bytes, the size of a pipe's buffer page times four.
const INPUT_BYTES: usize = 16 * 1024;

/// How to be attached.
pub struct Attachment {
    /// The container has a terminal.
    pub tty: bool,
    /// Our input goes to it.
    pub input: bool,
    /// Signals that reach us are passed on to it.
    pub pass_signals: bool,
    /// Keys that leave it running.
    pub keys: DetachKeys,
    /// Nothing is said about pulling.
    pub quiet: bool,
}

/// How being attached ended.
pub enum End {
    /// With the container.
    Exited(i32),
    /// The person left.
    Detached,
}

/// Attaches as `start` says until the container ends or the person leaves; `made` learns of the container first.
///
/// # Errors
/// When it cannot be made, found or started, or the connection breaks.
pub async fn attach(
    engine: &Engine,
    start: AttachStart,
    how: Attachment,
    made: impl FnOnce(&Container) -> Result<(), Failure>,
) -> Result<End, Failure> {
    let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
    send(&inputs, Input::Start(start)).await;
    let answer = engine
        .client()
        .attach(engine.request(ReceiverStream::new(receiver)))
        .await;
    let mut outputs = answer.map_err(|status| stream_problem(&status))?.into_inner();
    made(&first(&mut outputs, how.quiet).await?)?;
    // Raw only once there is a container: what went wrong before is shown on a sane terminal, and Ctrl-C works until then.
    let is_raw = how.tty && how.input && terminal::is_input();
    let raw = if is_raw { Some(Raw::enter()?) } else { None };
    if how.input {
        let (inputs, keys) = (inputs.clone(), if is_raw { how.keys } else { DetachKeys::none() });
        std::thread::spawn(move || pass_input(&inputs, keys));
    } else {
        send(&inputs, Input::StdinClosed(true)).await;
    }
    let end = converse(outputs, &inputs, how.tty, how.pass_signals && !is_raw).await;
    drop(raw);
    end
}

/// The container; its image may have to be pulled before.
async fn first(outputs: &mut Streaming<AttachOutput>, quiet: bool) -> Result<Container, Failure> {
    let mut progress = Progress::new(quiet);
    loop {
        let message = outputs.message().await.map_err(|status| stream_problem(&status))?;
        match message.and_then(|message| message.output) {
            Some(Output::Container(document)) => {
                progress.end();
                return Ok(gantry_api::decode(&document, gantry_api::kind::CONTAINER)?);
            }
            Some(Output::Progress(step)) => progress.show(&step),
            Some(_) => {}
            None => return Err(ended_early()),
        }
    }
}

/// A closed channel means that the call has ended, which its output says better.
async fn send(inputs: &mpsc::Sender<AttachInput>, input: Input) {
    let _ = inputs.send(AttachInput { input: Some(input) }).await;
}

/// Reads until the input, the call or the person's patience ends. On a thread of its own, since a read of a terminal cannot be
/// cancelled.
fn pass_input(inputs: &mpsc::Sender<AttachInput>, mut keys: DetachKeys) {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; INPUT_BYTES];
    loop {
        let mut next = Vec::new();
        match stdin.read(&mut buffer) {
            Ok(0) | Err(_) => next.push(Input::StdinClosed(true)),
            Ok(count) => {
                let typed = keys.filter(&buffer[..count]);
                if !typed.bytes.is_empty() {
                    next.push(Input::Stdin(typed.bytes.into()));
                }
                if typed.leave {
                    next.push(Input::Detach(true));
                }
            }
        }
        for input in next {
            let ended = matches!(input, Input::StdinClosed(_) | Input::Detach(_));
            if inputs.blocking_send(AttachInput { input: Some(input) }).is_err() || ended {
                return;
            }
        }
    }
}

enum Event {
    Output(Option<Output>),
    Ended,
    Resized,
    Signalled(SignalKind),
}

/// The signals that a container may be sent through us.
const PASSED: [fn() -> SignalKind; 6] = [
    SignalKind::interrupt,
    SignalKind::terminate,
    SignalKind::hangup,
    SignalKind::quit,
    SignalKind::user_defined1,
    SignalKind::user_defined2,
];

struct Signals {
    resized: Signal,
    /// None when signals are not passed on: then they end us, as ever.
    passed: Vec<(SignalKind, Signal)>,
}

impl Signals {
    fn listen(pass: bool) -> std::io::Result<Self> {
        let kinds = PASSED.iter().filter(|_| pass).map(|kind| kind());
        Ok(Self {
            resized: signal(SignalKind::window_change())?,
            passed: kinds
                .map(|kind| Ok((kind, signal(kind)?)))
                .collect::<std::io::Result<_>>()?,
        })
    }

    async fn next(&mut self) -> Event {
        let Self { resized, passed } = self;
        std::future::poll_fn(|context| {
            for (kind, signal) in passed.iter_mut() {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(Event::Signalled(*kind));
                }
            }
            resized.poll_recv(context).map(|_| Event::Resized)
        })
        .await
    }
}

/// Until the container ends: output to the terminal, sizes and signals to the container.
async fn converse(
    mut outputs: Streaming<AttachOutput>,
    inputs: &mpsc::Sender<AttachInput>,
    tty: bool,
    pass: bool,
) -> Result<End, Failure> {
    let mut signals = Signals::listen(pass)?;
    loop {
        let event = tokio::select! {
            message = outputs.message() => match message.map_err(|status| stream_problem(&status))? {
                Some(message) => Event::Output(message.output),
                None => Event::Ended,
            },
            event = signals.next() => event,
        };
        match event {
            Event::Output(Some(Output::Stdout(bytes))) => output::emit_bytes(&bytes)?,
            Event::Output(Some(Output::Stderr(bytes))) => std::io::stderr().lock().write_all(&bytes)?,
            Event::Output(Some(Output::ExitCode(code))) => return Ok(End::Exited(code)),
            Event::Output(_) => {}
            // The agent ends the call without an exit status only when it was left.
            Event::Ended => return Ok(End::Detached),
            Event::Resized => {
                if let Some(size) = terminal::size().filter(|_| tty) {
                    send(inputs, Input::Resize(size)).await;
                }
            }
            Event::Signalled(kind) => send(inputs, Input::Signal(kind.as_raw_value())).await,
        }
    }
}

fn ended_early() -> Failure {
    let reason = "the connection ended before the container was there";
    Problem::new(Class::Unavailable, "container", reason).into()
}
