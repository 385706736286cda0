//! `gantry run`, `create`, `start` and `attach`.

use clap::Args;
use gantry_api::v1::{AttachStart, ContainerRequest, CreateContainerRequest};
use gantry_model::container::Container;
use gantry_model::{Class, Problem};

use super::attach::{Attachment, End, attach};
use super::detach::{self, DetachKeys};
use super::options::ContainerOptions;
use super::{NodeArgs, registry_auth};
use crate::args::Global;
use crate::client::stream_problem;
use crate::engine::Engine;
use crate::failure::{Failure, Outcome, file_problem};
use crate::{output, terminal};

/// Exit code when gantry itself could not run the container, as in Docker.
const EXIT_NOT_RUN: u8 = 125;
/// The program was found but cannot be executed.
const EXIT_NOT_EXECUTABLE: u8 = 126;
/// The program was not found.
const EXIT_NOT_FOUND: u8 = 127;

// Arguments of `gantry run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    options: ContainerOptions,
    /// Leave it running, and print its id
    #[arg(short, long)]
    detach: bool,
    /// Only these of stdin, stdout and stderr
    #[arg(short, long, value_name = "STREAM")]
    attach: Vec<String>,
    /// Keys that leave it running
    #[arg(long, value_name = "KEYS", default_value = detach::DEFAULT)]
    detach_keys: String,
    /// Do not pass signals on to it
    #[arg(long = "no-sig-proxy")]
    no_sig_proxy: bool,
    /// Docker's way to say so
    #[arg(long, value_name = "BOOL", hide = true)]
    sig_proxy: Option<bool>,
    /// The image
    image: String,
    /// The command and its arguments, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

// Arguments of `gantry create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    options: ContainerOptions,
    /// The image
    image: String,
    /// The command and its arguments, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

// Arguments of `gantry start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Show its output and pass signals on to it
    #[arg(short, long)]
    attach: bool,
    /// Pass input on to it
    #[arg(short, long)]
    interactive: bool,
    /// Keys that leave it running
    #[arg(long, value_name = "KEYS", default_value = detach::DEFAULT)]
    detach_keys: String,
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

// Arguments of `gantry attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Pass no input on to it
    #[arg(long)]
    no_stdin: bool,
    /// Keys that leave it running
    #[arg(long, value_name = "KEYS", default_value = detach::DEFAULT)]
    detach_keys: String,
    /// Do not pass signals on to it
    #[arg(long = "no-sig-proxy")]
    no_sig_proxy: bool,
    /// Name or id
    container: String,
}

/// Makes a container, and runs it.
pub async fn run(global: &Global, args: RunArgs) -> Outcome {
    let outcome = start_new(global, &args).await;
    outcome.map_err(|failure| match failure {
        Failure::Problem(problem) => {
            let code = exit_code(&problem);
            let _ = Failure::Problem(problem).report();
            Failure::Exit(code)
        }
        said @ Failure::Exit(_) => said,
    })
}

/// 126 and 127 are the program's fault, everything else is 125. The runtime says which in its reason, as runc does for Docker.
fn exit_code(problem: &Problem) -> u8 {
    let reason = problem.reason.to_lowercase();
    let is_program = problem.class == Class::Invalid || problem.class == Class::NotFound;
    match () {
        () if is_program
            && (reason.contains("executable file not found")
                || reason.contains("no such file or directory: program")) =>
        {
            EXIT_NOT_FOUND
        }
        () if is_program && (reason.contains("permission denied") || reason.contains("is a directory")) => {
            EXIT_NOT_EXECUTABLE
        }
        () => EXIT_NOT_RUN,
    }
}

async fn start_new(global: &Global, args: &RunArgs) -> Outcome {
    let (tty, input) = (args.options.tty, args.options.interactive);
    if tty && input && !args.detach && !terminal::is_input() {
        let problem = Problem::new(Class::Invalid, "standard input", "is not a terminal");
        return Err(problem.remedy("leave out -t").into());
    }
    let spec = args.options.spec(&args.image, &args.command)?;
    let keys = DetachKeys::parse(&args.detach_keys)?;
    let streams = Streams::parse(&args.attach, input)?;
    let cidfile = CidFile::claim(args.options.cidfile.as_deref())?;
    let engine = Engine::open(global, args.node.name()).await?;
    let document = gantry_api::encode(gantry_api::kind::RUN_SPEC, &spec);
    let auth = registry_auth(&args.image).await;
    if args.detach {
        let made = create(&engine, document, auth).await?;
        cidfile.write(&made)?;
        let request = ContainerRequest {
            container: made.id.to_string(),
        };
        let started = engine.client().start_container(engine.request(request)).await;
        started.map_err(|status| stream_problem(&status))?;
        output::emit(&format!("{}\n", made.id))?;
        return Ok(());
    }
    let start = AttachStart {
        run: Some(document),
        registry_auth_json: auth.into(),
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        size: if tty { terminal::size() } else { None },
        ..AttachStart::default()
    };
    let how = Attachment {
        tty,
        input: streams.stdin,
        pass_signals: !args.no_sig_proxy && args.sig_proxy.unwrap_or(true),
        keys,
        quiet: args.options.quiet,
    };
    exit(attach(&engine, start, how, |made| cidfile.write(made)).await?)
}

async fn create(engine: &Engine, spec: gantry_api::v1::Document, auth: Vec<u8>) -> Result<Container, Problem> {
    let request = CreateContainerRequest {
        spec: Some(spec),
        registry_auth_json: auth.into(),
    };
    let answer = engine.client().create_container(engine.request(request)).await;
    let document = answer.map_err(|status| stream_problem(&status))?.into_inner();
    gantry_api::decode(&document, gantry_api::kind::CONTAINER)
}

/// Makes a container, and prints its id.
pub async fn create_only(global: &Global, args: &CreateArgs) -> Outcome {
    let spec = args.options.spec(&args.image, &args.command)?;
    let cidfile = CidFile::claim(args.options.cidfile.as_deref())?;
    let engine = Engine::open(global, args.node.name()).await?;
    let document = gantry_api::encode(gantry_api::kind::RUN_SPEC, &spec);
    let made = create(&engine, document, registry_auth(&args.image).await).await?;
    cidfile.write(&made)?;
    output::emit(&format!("{}\n", made.id))?;
    Ok(())
}

/// Starts containers that were made, or that have ended.
pub async fn start(global: &Global, args: &StartArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    if args.attach || args.interactive {
        let [container] = args.containers.as_slice() else {
            let problem = Problem::new(Class::Invalid, "start", "can be attached to one container only");
            return Err(problem.remedy("leave out -a and -i, or name one").into());
        };
        let how = Existing {
            start: true,
            input: args.interactive,
            pass_signals: true,
        };
        return attach_existing(&engine, container, how, &args.detach_keys).await;
    }
    let mut failed = false;
    for container in &args.containers {
        let request = ContainerRequest {
            container: container.clone(),
        };
        match engine.client().start_container(engine.request(request)).await {
            Ok(_) => output::emit(&format!("{container}\n"))?,
            Err(status) => {
                let _ = Failure::Problem(stream_problem(&status)).report();
                failed = true;
            }
        }
    }
    if failed { Err(Failure::SAID) } else { Ok(()) }
}

/// Joins a container that runs.
pub async fn attach_running(global: &Global, args: &AttachArgs) -> Outcome {
    let engine = Engine::open(global, args.node.name()).await?;
    let how = Existing {
        start: false,
        input: !args.no_stdin,
        pass_signals: !args.no_sig_proxy,
    };
    attach_existing(&engine, &args.container, how, &args.detach_keys).await
}

/// How to join a container that is there.
struct Existing {
    start: bool,
    input: bool,
    pass_signals: bool,
}

async fn attach_existing(engine: &Engine, container: &str, how: Existing, keys: &str) -> Outcome {
    let keys = DetachKeys::parse(keys)?;
    let request = ContainerRequest {
        container: container.to_string(),
    };
    let found = engine.client().inspect_container(engine.request(request)).await;
    let document = found.map_err(|status| stream_problem(&status))?.into_inner();
    let found: Container = gantry_api::decode(&document, gantry_api::kind::CONTAINER)?;
    let (tty, input) = (found.spec.container.tty, how.input && found.spec.container.stdin_open);
    let request = AttachStart {
        container: found.id.to_string(),
        start_existing: how.start,
        stdin: input,
        stdout: true,
        stderr: true,
        size: if tty { terminal::size() } else { None },
        ..AttachStart::default()
    };
    let how = Attachment {
        tty,
        input,
        pass_signals: how.pass_signals,
        keys,
        quiet: true,
    };
    exit(attach(engine, request, how, |_| Ok(())).await?)
}

/// The container's exit status becomes ours.
fn exit(end: End) -> Outcome {
    match end {
        End::Detached | End::Exited(0) => Ok(()),
        End::Exited(code) => Err(Failure::Exit(u8::try_from(code).unwrap_or(u8::MAX))),
    }
}

/// Which streams are attached.
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Streams {
    fn parse(names: &[String], input: bool) -> Result<Self, Problem> {
        if names.is_empty() {
            return Ok(Self {
                stdin: input,
                stdout: true,
                stderr: true,
            });
        }
        let mut streams = Self {
            stdin: false,
            stdout: false,
            stderr: false,
        };
        for name in names {
            match name.to_ascii_lowercase().as_str() {
                "stdin" => streams.stdin = true,
                "stdout" => streams.stdout = true,
                "stderr" => streams.stderr = true,
                _ => {
                    return Err(Problem::new(Class::Invalid, format!("--attach {name}"), "is no stream")
                        .remedy("write stdin, stdout or stderr"));
                }
            }
        }
        Ok(streams)
    }
}

/// A file that is to hold the container's id, and must not be there before.
struct CidFile(Option<std::path::PathBuf>);

impl CidFile {
    fn claim(path: Option<&std::path::Path>) -> Result<Self, Problem> {
        match path {
            Some(path) if path.exists() => Err(Problem::new(
                Class::Conflict,
                path.display().to_string(),
                "is there already, so its container may run",
            )
            .remedy("remove it, or name another file")),
            path => Ok(Self(path.map(std::path::Path::to_path_buf))),
        }
    }

    fn write(&self, made: &Container) -> Result<(), Failure> {
        let Some(path) = &self.0 else { return Ok(()) };
        std::fs::write(path, made.id.to_string()).map_err(|error| file_problem("write", path, &error).into())
    }
}
