//! A command in a replica's container, with its streams.
//!
//! A thread holds the runtime's session, since waiting for it blocks; the streams are served asynchronously. When the caller
//! goes away, the command is killed with everything it started.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::v1::{ExecInput, ExecOutput, ExecStart, TerminalSize, exec_input, exec_output};
use gantry_model::{Class, Problem, ReplicaId};
use gantry_rpc::status::{from_problem, to_problem};
use gantry_runtime::{ExecSpec, ExecStreams, Handle, HandleError};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::streams::{self, Output, Stream, asynchronous, dimensions, write_all};
use super::{Answers, NodeService, STREAM_WAITING};
use crate::drivers::blocking;
use crate::drivers::containers::problem;

/// How often the thread that waits looks whether the caller is still there.
const CANCEL_CHECK: Duration = Duration::from_millis(200);
/// Output that is still in the pipes when the command has ended; a child of it that lives on keeps them open for ever.
const DRAIN: Duration = Duration::from_millis(500);

/// Starts the command that the first message names.
pub(super) async fn open(
    service: &NodeService,
    mut input: Streaming<ExecInput>,
) -> Result<Answers<ExecOutput>, Problem> {
    let first = input.message().await.map_err(|status| to_problem(&status, "exec"))?;
    let Some(exec_input::Input::Start(start)) = first.and_then(|first| first.input) else {
        return Err(Problem::new(Class::Invalid, "exec", "does not begin with a start"));
    };
    let target = service.target(&start.replica).await?;
    let (id, containers) = (target.id, target.containers);
    let handle = blocking(move || containers.handle(id))
        .await
        .map_err(|problem| Problem {
            reason: "has no container that runs".to_string(),
            ..problem
        })?;
    let size = start.size;
    let cancel = service.shutdown.child_token();
    let session = start_session(id, handle, spec(start), cancel.clone()).await?;
    let (sender, answers) = mpsc::channel(STREAM_WAITING);
    match session {
        Session::Runs(started, ended) => {
            tokio::spawn(serve(started, ended, size, input, sender, cancel));
        }
        Session::CannotRun { code, reason } => {
            let outputs = [
                exec_output::Output::Stderr(reason.into()),
                exec_output::Output::ExitCode(code),
            ];
            for output in outputs {
                // There is room for both, and a caller that has gone needs neither.
                drop(sender.try_send(Ok(ExecOutput { output: Some(output) })));
            }
        }
    }
    Ok(ReceiverStream::new(answers))
}

/// Exit status of a command that is there and cannot be run; one more is that of a command that is not there, as in a shell.
const CANNOT_RUN: i32 = 126;

/// What became of a command.
enum Session {
    /// It runs.
    Runs(Started, Ended),
    /// The container has no such program, or may not run it: told like a shell would.
    CannotRun { code: i32, reason: String },
}

fn spec(start: ExecStart) -> ExecSpec {
    let some = |text: String| (!text.is_empty()).then_some(text);
    ExecSpec {
        args: start.command,
        env: start.environment,
        user: some(start.user),
        cwd: some(start.working_dir).map(PathBuf::from),
        tty: start.tty,
        stdin: start.stdin,
        privileged: false,
    }
}

struct Started {
    streams: ExecStreams,
    pid: u32,
}

type Ended = oneshot::Receiver<Result<i32, HandleError>>;

async fn start_session(
    id: ReplicaId,
    handle: Arc<Handle>,
    spec: ExecSpec,
    cancel: CancellationToken,
) -> Result<Session, Problem> {
    let (tell_started, started) = oneshot::channel();
    let (tell_ended, ended) = oneshot::channel();
    let work = move || {
        let mut session = match handle.exec(&spec) {
            Ok(session) => session,
            Err(error) => return drop(tell_started.send(Err(error))),
        };
        let pid = session.pid;
        let Some(streams) = session.streams.take() else { return };
        if tell_started.send(Ok(Started { streams, pid })).is_err() {
            cancel.cancel();
        }
        let code = loop {
            match session.wait_timeout(CANCEL_CHECK) {
                Ok(Some(code)) => break Ok(code),
                Ok(None) if cancel.is_cancelled() => {
                    if let Err(error) = session.kill() {
                        break Err(error);
                    }
                }
                Ok(None) => {}
                Err(error) => break Err(error),
            }
        };
        // Nobody listens when the caller has gone.
        drop(tell_ended.send(code));
    };
    // A thread of its own: an exec may last for hours, and threads for blocking work are counted.
    let spawned = std::thread::Builder::new().name("exec".to_string()).spawn(work);
    spawned.map_err(|error| Problem::new(Class::Exhausted, "exec", format!("no thread for it: {error}")))?;
    match started.await {
        Ok(Ok(started)) => Ok(Session::Runs(started, ended)),
        Ok(Err(HandleError::Refused(failure))) if failure.exit_code() >= CANNOT_RUN => Ok(Session::CannotRun {
            code: failure.exit_code(),
            reason: format!("{failure}\n"),
        }),
        Ok(Err(error)) => Err(problem(id, &error)),
        Err(_) => Err(Problem::new(Class::Internal, "exec", "ended while it was started")),
    }
}

async fn serve(
    started: Started,
    ended: Ended,
    size: Option<TerminalSize>,
    input: Streaming<ExecInput>,
    sender: mpsc::Sender<Result<ExecOutput, Status>>,
    cancel: CancellationToken,
) {
    let _cancel_at_end = cancel.clone().drop_guard();
    let pid = started.pid;
    let (stdin, outputs) = match split(started.streams) {
        Ok(split) => split,
        Err(error) => {
            let problem = Problem::new(
                Class::Internal,
                "exec",
                format!("its streams cannot be served: {error}"),
            );
            return drop(sender.send(Err(from_problem(&problem))).await);
        }
    };
    let terminal = stdin.clone().filter(|_| outputs.len() == 1);
    resize(terminal.as_deref(), size);
    let feeding = feed(input, pid, stdin, terminal);
    let streams = outputs.into_iter().map(|(stream, fd)| pump(stream, fd, sender.clone()));
    let mut pumping = std::pin::pin!(futures::future::join_all(streams));
    let result = {
        let mut feeding = std::pin::pin!(feeding);
        let mut ended = std::pin::pin!(ended);
        let (mut is_fed, mut is_pumped) = (false, false);
        loop {
            tokio::select! {
                result = &mut ended => break result,
                gone = &mut feeding, if !is_fed => {
                    is_fed = true;
                    if gone == Feeding::CallerGone { return }
                }
                _ = &mut pumping, if !is_pumped => is_pumped = true,
                () = sender.closed() => return,
            }
        }
    };
    let _drained = tokio::time::timeout(DRAIN, pumping).await;
    let last = match result {
        Ok(Ok(code)) => Ok(ExecOutput {
            output: Some(exec_output::Output::ExitCode(code)),
        }),
        Ok(Err(error)) => Err(from_problem(&Problem::new(
            Class::Unavailable,
            "exec",
            error.to_string(),
        ))),
        Err(_) => Err(from_problem(&Problem::new(
            Class::Internal,
            "exec",
            "its end was not seen",
        ))),
    };
    drop(sender.send(last).await);
}

type Split = (Option<Stream>, Vec<(Output, Stream)>);

fn split(streams: ExecStreams) -> io::Result<Split> {
    match streams {
        ExecStreams::Terminal(fd) => {
            let fd = asynchronous(fd, Interest::READABLE | Interest::WRITABLE)?;
            Ok((Some(Arc::clone(&fd)), vec![(Output::Stdout, fd)]))
        }
        ExecStreams::Pipes { stdin, stdout, stderr } => {
            let stdin = stdin.map(|fd| asynchronous(fd, Interest::WRITABLE)).transpose()?;
            let outputs = vec![
                (Output::Stdout, asynchronous(stdout, Interest::READABLE)?),
                (Output::Stderr, asynchronous(stderr, Interest::READABLE)?),
            ];
            Ok((stdin, outputs))
        }
    }
}

fn resize(terminal: Option<&AsyncFd<OwnedFd>>, size: Option<TerminalSize>) {
    if let (Some(terminal), Some(size)) = (terminal, size) {
        let (rows, columns) = dimensions(size);
        // A terminal whose command has ended needs no size.
        let _ = gantry_sys::terminal::resize(terminal.get_ref(), rows, columns);
    }
}

/// Passes on what the command prints, until the stream's end.
async fn pump(output: Output, fd: Stream, sender: mpsc::Sender<Result<ExecOutput, Status>>) {
    let hand_on = |data| {
        let output = match output {
            Output::Stdout => exec_output::Output::Stdout(data),
            Output::Stderr => exec_output::Output::Stderr(data),
        };
        let sender = sender.clone();
        async move { sender.send(Ok(ExecOutput { output: Some(output) })).await.is_ok() }
    };
    streams::pump(fd, hand_on).await;
}

/// How the caller's messages ended.
#[derive(PartialEq, Eq)]
enum Feeding {
    /// It has nothing more to say, and waits for the end.
    Done,
    CallerGone,
}

async fn feed(
    mut input: Streaming<ExecInput>,
    pid: u32,
    mut stdin: Option<Stream>,
    terminal: Option<Stream>,
) -> Feeding {
    loop {
        let message = match input.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Feeding::Done,
            Err(_) => return Feeding::CallerGone,
        };
        match message.input {
            Some(exec_input::Input::Stdin(data)) => {
                if let Some(fd) = &stdin
                    && write_all(fd, &data).await.is_err()
                {
                    stdin = None;
                }
            }
            Some(exec_input::Input::StdinClosed(_)) => stdin = None,
            Some(exec_input::Input::Resize(size)) => resize(terminal.as_deref(), Some(size)),
            Some(exec_input::Input::Signal(number)) => send_signal(pid, number),
            Some(exec_input::Input::Start(_)) | None => {}
        }
    }
}

fn send_signal(pid: u32, number: i32) {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0);
    if let (Some(pid), Ok(signal)) = (pid, Signal::try_from(number)) {
        // One that has just ended takes any signal.
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
    }
}
