//! The shim's long life: wait for the next event, act on it, until the container has ended and everybody knows.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use gantry_sys::process::reap;
use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

use crate::channel::Channel;
use crate::exec::kill_group;
use crate::log::LogWriter;
use crate::namespaces::UserSpace;
use crate::output::{Attachment, Output, Progress};
use crate::plan::{CgroupPlan, HookPlan, HookState};
use crate::record::{self, EXIT_FILE, ExitRecord, StateRecord};
use crate::serve::Client;
use crate::{Failure, hooks, serve};

/// How long a reader that is attached may do nothing once the container has ended.
const DRAIN_WAIT_MS: u16 = 10_000;

/// The container's first process.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    /// All its processes end with its first one.
    pub(crate) has_own_pids: bool,
    pub(crate) space: Option<UserSpace>,
}

/// Everything the shim knows.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) bundle: PathBuf,
    pub(crate) cgroup: CgroupPlan,
    pub(crate) container: Container,
    /// The line to a container that waits to be started.
    pub(crate) held: Option<Channel>,
    /// Hooks for after the start, and what they are told.
    pub(crate) after_start: (Vec<HookPlan>, HookState),
    /// Hooks for after the end, and what they are told.
    pub(crate) after_stop: (Vec<HookPlan>, HookState),
    pub(crate) state: StateRecord,
    pub(crate) oom_kills_before: u64,
    pub(crate) own_pid_namespace: OwnedFd,
    pub(crate) signals: SignalFd,
    pub(crate) listener: OwnedFd,
    pub(crate) log: LogWriter,
    pub(crate) outputs: Vec<Output>,
    pub(crate) attached: Vec<Attachment>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) clients: Vec<Client>,
    pub(crate) execs_started: u64,
    /// Held as long as there is a container: one shim per bundle.
    pub(crate) lock: Option<Flock<File>>,
}

/// Something happened to one of the descriptors; the numbers are positions in the daemon's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    ChildEnded,
    Connection,
    Output(usize),
    /// The reader takes more, or has gone.
    Attached(usize),
    Request(usize),
    ExecNews(usize),
}

impl Daemon {
    /// Returns when the container has ended and that is recorded.
    pub(crate) fn serve(&mut self) -> Result<(), Failure> {
        loop {
            let events = self.select()?;
            for event in events {
                if let Some(code) = self.apply(event) {
                    return self.finish(code);
                }
            }
            self.tidy();
        }
    }

    /// Waits for events and changes nothing.
    fn select(&self) -> Result<Vec<Event>, Failure> {
        let input = PollFlags::POLLIN;
        let mut watched = vec![
            (Event::ChildEnded, self.signals.as_fd(), input),
            (Event::Connection, self.listener.as_fd(), input),
        ];
        for (index, output) in self.outputs.iter().enumerate() {
            let is_waited_for = |one: &Attachment| one.stream() == output.stream() && one.has_pending();
            if !self.attached.iter().any(is_waited_for) {
                watched.push((Event::Output(index), output.fd(), input));
            }
        }
        for (index, attachment) in self.attached.iter().enumerate() {
            // Without any flag, poll still tells when the reader has gone.
            let flags = if attachment.has_pending() {
                PollFlags::POLLOUT
            } else {
                PollFlags::empty()
            };
            watched.push((Event::Attached(index), attachment.fd(), flags));
        }
        for (index, client) in self.clients.iter().enumerate() {
            watched.extend(
                client
                    .socket
                    .as_ref()
                    .map(|socket| (Event::Request(index), socket.as_fd(), input)),
            );
            let channel = client.exec.as_ref().and_then(|exec| exec.channel.as_ref());
            watched.extend(channel.map(|channel| (Event::ExecNews(index), channel.fd(), input)));
        }
        let mut polled: Vec<PollFd<'_>> = watched.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Failure::new("wait for", "events", errno)),
        }
        let happened = polled.iter().map(|fd| fd.any().unwrap_or(false));
        Ok(watched
            .iter()
            .zip(happened)
            .filter_map(|((event, ..), happened)| happened.then_some(*event))
            .collect())
    }

    /// Acts on one event; the exit code when the container has ended. Positions stay valid until [`Self::tidy`].
    fn apply(&mut self, event: Event) -> Option<i32> {
        match event {
            Event::ChildEnded => return self.reap_children(),
            Event::Connection => self.accept(),
            Event::Output(index) => {
                if self.outputs[index].forward(&mut self.log, &mut self.attached) == Progress::Ended {
                    self.outputs[index].finish(&mut self.log);
                    self.outputs[index].has_ended = true;
                }
            }
            Event::Attached(index) => {
                let attachment = &mut self.attached[index];
                if attachment.has_pending() {
                    attachment.flush();
                } else {
                    attachment.has_ended = true;
                }
            }
            Event::Request(index) => serve::answer(self, index),
            Event::ExecNews(index) => serve::pass_on_news(&mut self.clients[index]),
        }
        None
    }

    fn reap_children(&mut self) -> Option<i32> {
        let _ = self.signals.read_signal();
        let mut ended = None;
        while let Ok(Some((pid, code))) = reap() {
            if pid == self.container.pid {
                ended = Some(code);
            } else if let Some(client) = self.clients.iter_mut().find(|client| client.runs(pid)) {
                serve::end_exec(client, code);
            }
        }
        ended
    }

    fn accept(&mut self) {
        self.clients
            .extend(gantry_sys::socket::accept(&self.listener).ok().map(Client::new));
    }

    /// Lets go of what has ended.
    fn tidy(&mut self) {
        self.outputs.retain(|output| !output.has_ended);
        self.attached.retain(|attachment| !attachment.has_ended);
        self.clients
            .retain(|client| client.socket.is_some() || client.exec.is_some());
    }

    /// Nobody can write any more: all processes of the pid namespace are gone when its first one can be reaped. Where it shared
    /// one, the others are killed here, so that its end means the same.
    fn finish(&mut self, code: i32) -> Result<(), Failure> {
        if !self.container.has_own_pids {
            kill_group(&self.cgroup.gathering_folder)?;
        }
        for output in &mut self.outputs {
            while output.forward(&mut self.log, &mut self.attached) == Progress::More {}
            output.finish(&mut self.log);
        }
        let exit = ExitRecord {
            code,
            oom_killed: oom_kills(&self.cgroup) > self.oom_kills_before,
            at_ms: record::wall_clock_ms(),
        };
        // The socket's file stays: the next shim of this bundle may have put its own there by now.
        record::write_durably(&self.bundle, EXIT_FILE, &exit)?;
        // Who waits for the end hears of it when the connections go, and may remove the bundle then.
        let (hooks, told) = &self.after_stop;
        hooks::run_and_log(hooks, told);
        self.lock = None;
        self.clients.clear();
        self.drain();
        Ok(())
    }

    /// Whoever is attached still gets the rest, as long as they read.
    fn drain(&mut self) {
        let timeout = PollTimeout::from(DRAIN_WAIT_MS);
        for attachment in &mut self.attached {
            while attachment.has_pending() {
                let mut polled = [PollFd::new(attachment.fd(), PollFlags::POLLOUT)];
                match poll(&mut polled, timeout) {
                    Ok(0) => break,
                    Ok(_) | Err(Errno::EINTR) => attachment.flush(),
                    Err(_) => break,
                }
            }
        }
    }
}

/// How often the kernel has killed in the container's group for lack of memory; 0 when that cannot be read.
pub(crate) fn oom_kills(cgroup: &CgroupPlan) -> u64 {
    let text = std::fs::read_to_string(&cgroup.oom_file).unwrap_or_default();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(cgroup.oom_key.as_str())?.strip_prefix(' '));
    value.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}
