//! Requests and their answers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::process::pidfd_send_signal;
use gantry_sys::{Errno, socket, terminal};
use nix::unistd::Pid;

use crate::channel::News;
use crate::daemon::Daemon;
use crate::exec::{Exec, Place};
use crate::failure::During;
use crate::log::Stream;
use crate::output::Attachment;
use crate::plan::ProcessPlan;
use crate::record::{self, STATE_FILE, StateRecord};
use crate::wire::{MESSAGE_LENGTH_MAX, Request, Response};
use crate::{Failure, hooks};

/// A connection of the agent's, and the exec that belongs to it.
#[derive(Debug)]
pub(crate) struct Client {
    /// None once the other side has gone; its exec runs on.
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) exec: Option<Exec>,
}

impl Client {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Some(socket),
            exec: None,
        }
    }

    pub(crate) fn runs(&self, pid: Pid) -> bool {
        self.exec.as_ref().is_some_and(|exec| exec.pid == pid)
    }

    /// A client that does not take its answer is let go rather than waited for.
    fn send(&mut self, response: &Response, fds: &[BorrowedFd<'_>]) {
        let Some(connection) = &self.socket else { return };
        let text = serde_json::to_vec(response).unwrap_or_default();
        if socket::send(connection, &text, fds).is_err() {
            self.socket = None;
        }
    }
}

/// Reads one request of a client and answers it.
pub(crate) fn answer(daemon: &mut Daemon, index: usize) {
    let mut buffer = vec![0; MESSAGE_LENGTH_MAX];
    let received = match &daemon.clients[index].socket {
        Some(connection) => socket::receive(connection, &mut buffer),
        None => return,
    };
    let length = match received {
        Err(Errno::EAGAIN) => return,
        Ok((0, _)) | Err(_) => {
            daemon.clients[index].socket = None;
            return;
        }
        Ok((length, _)) => length,
    };
    let outcome = serde_json::from_slice(&buffer[..length])
        .map_err(|error| Failure::found("understand", "a request", error))
        .and_then(|request| carry_out(daemon, index, request));
    let (response, fds) = match outcome {
        Ok(Answer::Later) => return,
        Ok(Answer::Now(response)) => (response, Vec::new()),
        Ok(Answer::Descriptors(fds)) => (Response::Done, fds),
        Err(failure) => (Response::Failed(failure), Vec::new()),
    };
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    daemon.clients[index].send(&response, &fds);
}

enum Answer {
    Now(Response),
    Descriptors(Vec<OwnedFd>),
    Later,
}

fn carry_out(daemon: &mut Daemon, index: usize, request: Request) -> Result<Answer, Failure> {
    match request {
        Request::State => Ok(Answer::Now(state(daemon))),
        Request::Start => start(daemon).map(Answer::Now),
        Request::Attach => attach(daemon).map(Answer::Descriptors),
        Request::Signal(number) => {
            match pidfd_send_signal(&daemon.container.pidfd, number) {
                // Ended a moment ago; the exit is about to be reported.
                Ok(()) | Err(Errno::ESRCH) => Ok(Answer::Now(Response::Done)),
                Err(errno) => Err(Failure::new("send signal", number, errno)),
            }
        }
        Request::Resize { rows, columns } => {
            let master = daemon
                .terminal
                .as_ref()
                .ok_or_else(|| Failure::found("resize", "the terminal", "there is none"))?;
            terminal::resize(master, rows, columns).during("resize", "the terminal")?;
            Ok(Answer::Now(Response::Done))
        }
        Request::Stdin => {
            let input = daemon.terminal.as_ref().or(daemon.stdin.as_ref());
            let input =
                input.ok_or_else(|| Failure::found("open", "standard input", "the container was started without"))?;
            input
                .as_fd()
                .try_clone_to_owned()
                .map(|fd| Answer::Descriptors(vec![fd]))
                .during("duplicate", "standard input")
        }
        Request::CloseStdin => {
            daemon.stdin = None;
            Ok(Answer::Now(Response::Done))
        }
        Request::Exec(plan) => start_exec(daemon, index, &plan),
        Request::KillExec => {
            let exec = daemon.clients[index].exec.as_ref();
            exec.map_or(Ok(()), Exec::kill_all)
                .map(|()| Answer::Now(Response::Done))
        }
    }
}

fn state(daemon: &Daemon) -> Response {
    let StateRecord {
        pid,
        shim_pid,
        started_at_ms,
        ..
    } = daemon.state;
    if daemon.held.is_some() {
        Response::Created { pid, shim_pid }
    } else {
        Response::Running {
            pid,
            started_at_ms,
            shim_pid,
        }
    }
}

/// Returns when the process has executed its program. When it could not, its end is about to be recorded.
fn start(daemon: &mut Daemon) -> Result<Response, Failure> {
    let channel = daemon
        .held
        .take()
        .ok_or_else(|| Failure::found("start", "the container", "it was started before"))?;
    channel.go_on()?;
    loop {
        match channel.receive()? {
            News::Executed => break,
            News::Failed(failure) => return Err(failure),
            News::Terminal(_) | News::Hooks | News::Created => {}
        }
    }
    daemon.state.is_held = false;
    daemon.state.started_at_ms = record::wall_clock_ms();
    record::write(&daemon.bundle, STATE_FILE, &daemon.state)?;
    let (hooks, told) = &daemon.after_start;
    hooks::run_and_log(hooks, told);
    Ok(state(daemon))
}

fn attach(daemon: &mut Daemon) -> Result<Vec<OwnedFd>, Failure> {
    let streams: &[Stream] = if daemon.terminal.is_some() {
        &[Stream::Stdout]
    } else {
        &[Stream::Stdout, Stream::Stderr]
    };
    let mut ends = Vec::new();
    for stream in streams {
        let (attachment, end) = Attachment::make(*stream)?;
        daemon.attached.push(attachment);
        ends.push(end);
    }
    Ok(ends)
}

/// The answer follows when the process has executed its program, or failed to.
fn start_exec(daemon: &mut Daemon, index: usize, plan: &ProcessPlan) -> Result<Answer, Failure> {
    if daemon.clients[index].exec.is_some() {
        return Err(Failure::found("exec", "", "this connection has one already"));
    }
    if daemon.held.is_some() {
        return Err(Failure::found(
            "start",
            "a process",
            "the container has not been started",
        ));
    }
    daemon.execs_started += 1;
    let place = Place {
        container: daemon.container.pidfd.as_fd(),
        own_pid_namespace: daemon.own_pid_namespace.as_fd(),
        cgroup: &daemon.cgroup,
        space: daemon.container.space.as_ref(),
        number: daemon.execs_started,
    };
    daemon.clients[index].exec = Some(Exec::start(plan, &place)?);
    Ok(Answer::Later)
}

/// Hears from an exec's process that is being set up.
pub(crate) fn pass_on_news(client: &mut Client) {
    let Some(exec) = &mut client.exec else { return };
    let Some(channel) = &exec.channel else { return };
    let response = match channel.receive() {
        Ok(News::Terminal(master)) => {
            exec.streams = vec![master];
            return;
        }
        // It has neither hooks nor anything to wait for.
        Ok(News::Hooks | News::Created) => return,
        Ok(News::Executed) => Response::ExecStarted { pid: exec.pid.as_raw() },
        Ok(News::Failed(failure)) | Err(failure) => Response::Failed(failure),
    };
    exec.channel = None;
    let streams = std::mem::take(&mut exec.streams);
    let is_started = matches!(response, Response::ExecStarted { .. });
    let fds: Vec<BorrowedFd<'_>> = if is_started {
        streams.iter().map(AsFd::as_fd).collect()
    } else {
        Vec::new()
    };
    client.send(&response, &fds);
}

/// An exec's process has ended: what it still had to say comes first.
pub(crate) fn end_exec(client: &mut Client, code: i32) {
    while client.exec.as_ref().is_some_and(|exec| exec.channel.is_some()) {
        pass_on_news(client);
    }
    if let Some(exec) = client.exec.take() {
        exec.clean_up();
    }
    client.send(&Response::ExecExited { code }, &[]);
}
