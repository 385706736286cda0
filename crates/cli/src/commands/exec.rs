//! `gantry exec`: a process beside a replica's own, as if it ran here.

use std::io::{Read, Write};

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use gantry_api::v1::exec_input::Input;
use gantry_api::v1::exec_output::Output;
use gantry_api::v1::{ExecInput, ExecStart};
use gantry_model::{Class, Problem};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::container::NodeArgs;
use crate::args::Global;
use crate::client::{Client, stream_problem};
use crate::complete;
use crate::engine::Engine;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::terminal::{self, Raw};

/// Pieces of input on their way; the terminal or pipe waits when there are more.
const INPUTS_MAX: usize = 16;

/// Input is read in pieces of this many bytes, the size of a pipe's buffer page times four.
const INPUT_BYTES: usize = 16 * 1024;

// Arguments of `gantry exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Pass this terminal's or pipe's input on
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set a variable
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Run as this user
    #[arg(short, long, default_value = "", hide_default_value = true)]
    user: String,
    /// Start in this folder
    #[arg(short, long, value_name = "DIR", default_value = "", hide_default_value = true)]
    workdir: String,
    #[command(flatten)]
    node: NodeArgs,
    /// SERVICE, SERVICE.SLOT or id of a replica, or a container run by hand
    #[arg(add = ArgValueCompleter::new(complete::replicas))]
    replica: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs the command; its exit status becomes ours.
pub async fn run(global: &Global, args: ExecArgs) -> Outcome {
    if args.tty && args.interactive && !terminal::is_input() {
        let problem = Problem::new(Class::Invalid, "standard input", "is not a terminal");
        return Err(problem.remedy("leave out -t").into());
    }
    let by_hand = Engine::holding(global, args.node.name(), &args.replica).await?;
    let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
    let (tty, interactive) = (args.tty, args.interactive);
    send(&inputs, Input::Start(start(global, args))).await;
    let answer = match by_hand {
        Some(engine) => {
            engine
                .node_client()
                .exec(engine.request(ReceiverStream::new(receiver)))
                .await
        }
        None => {
            Client::open(global)
                .await?
                .reach()
                .await?
                .exec(ReceiverStream::new(receiver))
                .await
        }
    };
    let outputs = answer.map_err(|status| stream_problem(&status))?.into_inner();
    // Raw only once the command runs: what went wrong before is shown on a sane terminal, and Ctrl-C works until then.
    let raw = if tty && interactive { Some(Raw::enter()?) } else { None };
    if interactive {
        let inputs = inputs.clone();
        std::thread::spawn(move || pass_input(&inputs));
    } else {
        send(&inputs, Input::StdinClosed(true)).await;
    }
    let code = converse(outputs, &inputs, tty).await;
    drop(raw);
    match code? {
        0 => Ok(()),
        code => Err(Failure::Exit(u8::try_from(code).unwrap_or(u8::MAX))),
    }
}

fn start(global: &Global, args: ExecArgs) -> ExecStart {
    let (namespace, replica) = global.qualified(&args.replica);
    ExecStart {
        replica,
        namespace,
        command: args.command,
        tty: args.tty,
        stdin: args.interactive,
        environment: args.env,
        user: args.user,
        working_dir: args.workdir,
        size: if args.tty { terminal::size() } else { None },
    }
}

/// A closed channel means that the call has ended, which its output says better.
async fn send(inputs: &mpsc::Sender<ExecInput>, input: Input) {
    let _ = inputs.send(ExecInput { input: Some(input) }).await;
}

/// Reads until the input or the call ends. On a thread of its own, since a read of a terminal cannot be cancelled.
fn pass_input(inputs: &mpsc::Sender<ExecInput>) {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; INPUT_BYTES];
    loop {
        let input = match stdin.read(&mut buffer) {
            Ok(0) | Err(_) => Input::StdinClosed(true),
            Ok(count) => Input::Stdin(buffer[..count].to_vec().into()),
        };
        let ended = matches!(input, Input::StdinClosed(_));
        if inputs.blocking_send(ExecInput { input: Some(input) }).is_err() || ended {
            return;
        }
    }
}

enum Event {
    Output(Option<Output>),
    Resized,
    Signalled(SignalKind),
}

struct Signals {
    resized: Signal,
    interrupt: Signal,
    terminate: Signal,
}

/// Until the command ends: output to the terminal, sizes and signals to the command.
async fn converse(
    mut outputs: Streaming<gantry_api::v1::ExecOutput>,
    inputs: &mpsc::Sender<ExecInput>,
    tty: bool,
) -> Result<i32, Failure> {
    let mut signals = Signals {
        resized: signal(SignalKind::window_change())?,
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    };
    loop {
        let event = tokio::select! {
            message = outputs.message() => {
                let message = message.map_err(|status| stream_problem(&status))?;
                match message {
                    Some(message) => Event::Output(message.output),
                    None => return Err(ended_early()),
                }
            }
            _ = signals.resized.recv() => Event::Resized,
            _ = signals.interrupt.recv() => Event::Signalled(SignalKind::interrupt()),
            _ = signals.terminate.recv() => Event::Signalled(SignalKind::terminate()),
        };
        match event {
            Event::Output(Some(Output::Stdout(bytes))) => output::emit_bytes(&bytes)?,
            Event::Output(Some(Output::Stderr(bytes))) => std::io::stderr().lock().write_all(&bytes)?,
            Event::Output(Some(Output::ExitCode(code))) => return Ok(code),
            Event::Output(None) => {}
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
    Problem::new(
        Class::Unavailable,
        "exec",
        "the connection ended before the command did",
    )
    .into()
}
