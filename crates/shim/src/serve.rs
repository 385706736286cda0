//! Requests and their answers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::process::pidfd_send_signal;
use gantry_sys::{Errno, socket, terminal};
use nix::unistd::Pid;

use crate::Failure;
use crate::daemon::Daemon;
use crate::exec::{Exec, Place};
use crate::failure::During;
use crate::plan::ProcessPlan;
use crate::stdio::News;
use crate::wire::{MESSAGE_LENGTH_MAX, Request, Response};

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
    let (response, fd) = match outcome {
        Ok(Answer::Later) => return,
        Ok(Answer::Now(response)) => (response, None),
        Ok(Answer::Descriptor(fd)) => (Response::Done, Some(fd)),
        Err(failure) => (Response::Failed(failure), None),
    };
    let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
    daemon.clients[index].send(&response, &fds);
}

enum Answer {
    Now(Response),
    Descriptor(OwnedFd),
    Later,
}

fn carry_out(daemon: &mut Daemon, index: usize, request: Request) -> Result<Answer, Failure> {
    match request {
        Request::State => Ok(Answer::Now(Response::Running {
            pid: daemon.state.pid,
            started_at_ms: daemon.state.started_at_ms,
            shim_pid: daemon.state.shim_pid,
        })),
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
                .map(Answer::Descriptor)
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

/// The answer follows when the process has executed its program, or failed to.
fn start_exec(daemon: &mut Daemon, index: usize, plan: &ProcessPlan) -> Result<Answer, Failure> {
    if daemon.clients[index].exec.is_some() {
        return Err(Failure::found("exec", "", "this connection has one already"));
    }
    daemon.execs_started += 1;
    let place = Place {
        container: daemon.container.pidfd.as_fd(),
        own_pid_namespace: daemon.own_pid_namespace.as_fd(),
        cgroup: &daemon.cgroup,
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
