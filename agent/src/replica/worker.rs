//! One task per replica: drives its lifecycle machine with the drivers.
//!
//! Actions are carried out in order. Short ones (saving, signals, release) are waited for; long ones (preparing, starting,
//! probing, waiting for the exit) run beside, and their outcome comes back as an event.
//!
//! **Invariant:** `select` only picks what happened next, `apply` changes the state and never waits.
//! **Invariant:** dropping a worker stops nothing: containers go on, and the next worker finds them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use futures::future::BoxFuture;
use gantry_lifecycle::{Action, Attempt, Event, Failure, Found, Machine, Policy, State};
use gantry_model::assignment::ReplicaItem;
use gantry_model::phase::{Desired, Health, Observed};
use gantry_model::spec::{HealthCheck, HealthTest};
use gantry_model::{DurationMs, Problem, ReplicaId, Timestamp};
use gantry_network::Connections;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::prepare::prepare;
use super::traffic::{self, Clients};
use crate::disk::{ImageFacts, Record};
use crate::drivers::{Launch, blocking};
use crate::limits::{PROBE_OUTPUT_MAX, RELEASE_ATTEMPTS, RELEASE_RETRY, SHUTDOWN_GRACE, WORKER_RECOVERY_WAIT};
use crate::shared::Shared;
use crate::signal;

/// What the agent tells a worker; only the newest counts, since what is wanted of a replica only rises.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// The leader sent this.
    Put(Arc<ReplicaItem>),
    /// It is not in the leader's set any more.
    Gone,
}

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing is left of the replica.
    Gone(ReplicaId),
    /// The agent ends; the replica goes on.
    Shutdown(ReplicaId),
}

/// The worker of one replica.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    record: Record,
    inbox: watch::Receiver<Option<Command>>,
    shutdown: CancellationToken,
    /// Actions not begun yet.
    queue: VecDeque<Action>,
    /// The action being waited for.
    current: Option<BoxFuture<'static, Option<Event>>>,
    beside: JoinSet<Outcome>,
    launch: Option<Arc<Launch>>,
    /// The leader has forgotten the replica: nobody waits for a report of its removal.
    unwanted: bool,
    /// Told to stop, and waiting for its clients.
    draining: Option<Draining>,
    /// Runs, and does not accept connections yet: not ready as far as the leader is told.
    is_deaf: bool,
}

/// A stop that waits.
#[derive(Debug, Clone, Copy)]
struct Draining {
    /// What the leader wants.
    desired: Desired,
    /// Not longer.
    until: Timestamp,
}

/// How something beside ended.
enum Outcome {
    Prepared(Result<Arc<Launch>, Failure>),
    Event(Event),
    Clients(Clients),
    Accepts,
}

/// What happened next.
enum Wake {
    Command(Option<Command>),
    Current(Option<Event>),
    Beside(Outcome),
    Crashed,
    Timer,
    Nothing,
    Shutdown,
}

impl Worker {
    /// A worker for a replica that was just assigned.
    pub(crate) fn new(
        shared: Arc<Shared>,
        item: ReplicaItem,
        inbox: watch::Receiver<Option<Command>>,
        shutdown: CancellationToken,
    ) -> Self {
        let machine = Machine::new(Policy::of(&item.spec));
        let desired = item.desired;
        let record = Record {
            item,
            machine,
            image: None,
        };
        let mut worker = Self::of(shared, record, inbox, shutdown);
        worker.step(Event::Desired(desired));
        worker
    }

    fn of(
        shared: Arc<Shared>,
        record: Record,
        inbox: watch::Receiver<Option<Command>>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            shared,
            record,
            inbox,
            shutdown,
            queue: VecDeque::new(),
            current: None,
            beside: JoinSet::new(),
            launch: None,
            unwanted: false,
            draining: None,
            is_deaf: false,
        }
    }

    /// A worker for a replica of a former agent: looks for its container first.
    pub(crate) fn recover(
        shared: Arc<Shared>,
        record: Record,
        inbox: watch::Receiver<Option<Command>>,
        shutdown: CancellationToken,
    ) -> Self {
        let mut worker = Self::of(shared, record, inbox, shutdown);
        worker
            .shared
            .board
            .report(worker.id(), worker.record.machine.observed().clone());
        worker.look(false);
        worker
    }

    /// Runs until nothing is left of the replica, or the agent ends.
    pub(crate) async fn run(mut self) -> Ended {
        self.proceed();
        loop {
            let wake = self.select().await;
            if matches!(wake, Wake::Shutdown) {
                self.finish_start().await;
                return Ended::Shutdown(self.id());
            }
            self.apply(wake);
            if *self.record.machine.state() == State::Gone && self.current.is_none() && self.queue.is_empty() {
                return Ended::Gone(self.id());
            }
        }
    }

    fn id(&self) -> ReplicaId {
        self.record.item.id
    }

    async fn select(&mut self) -> Wake {
        let timer = self.record.machine.wake_at().filter(|_| self.is_idle());
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Wake::Shutdown,
            event = wait_current(&mut self.current) => Wake::Current(event),
            Some(outcome) = self.beside.join_next() => match outcome {
                Ok(outcome) => Wake::Beside(outcome),
                Err(error) if error.is_cancelled() => Wake::Nothing,
                Err(_) => Wake::Crashed,
            },
            Ok(()) = self.inbox.changed() => Wake::Command(self.inbox.borrow_and_update().clone()),
            () = self.shared.clock.sleep_until(timer) => Wake::Timer,
        }
    }

    fn apply(&mut self, wake: Wake) {
        match wake {
            Wake::Command(Some(Command::Put(item))) => self.take_item(&item),
            Wake::Command(Some(Command::Gone)) => {
                self.unwanted = true;
                self.want(Desired::Remove);
            }
            Wake::Command(None) => {}
            Wake::Current(event) => {
                if let Some(event) = event {
                    self.step(event);
                }
            }
            Wake::Beside(Outcome::Prepared(Ok(launch))) => self.take_launch(launch),
            Wake::Beside(Outcome::Prepared(Err(failure))) => self.step(Event::PrepareFailed(failure)),
            Wake::Beside(Outcome::Event(event)) => self.step(event),
            Wake::Beside(Outcome::Clients(clients)) => self.hear_of_clients(clients),
            Wake::Beside(Outcome::Accepts) => {
                self.is_deaf = false;
                self.step(Event::Note(String::new()));
            }
            Wake::Crashed => {
                tracing::error!(replica = %self.id(), "an operation crashed; looking at what is there");
                self.look(true);
            }
            Wake::Timer => self.step(Event::Tick),
            Wake::Nothing | Wake::Shutdown => {}
        }
        // Nobody waits for the clients of a container that has ended, or is being stopped for another reason.
        if let Some(draining) = self.draining
            && !self.is_running()
        {
            self.want(draining.desired);
        }
        self.proceed();
    }

    fn take_item(&mut self, item: &ReplicaItem) {
        self.unwanted = false;
        if item.desired < Desired::Stop || !self.drain(item.desired) {
            self.want(item.desired);
        }
    }

    /// Node, address and spec of a replica never change; what the leader wants does.
    fn want(&mut self, desired: Desired) {
        self.draining = None;
        self.record.item.desired = desired;
        self.step(Event::Desired(desired));
    }

    /// Begins to wait for the replica's clients; false when there is nothing to wait for.
    fn drain(&mut self, desired: Desired) -> bool {
        if let Some(draining) = &mut self.draining {
            draining.desired = draining.desired.max(desired);
            return true;
        }
        let limit = self.record.item.spec.container.stop_grace();
        let serves = self.is_running() && self.record.machine.observed().ready && !self.is_deaf;
        if !serves || limit == DurationMs::ZERO {
            return false;
        }
        self.want(Desired::Drain);
        let until = self.shared.clock.now().after(limit);
        self.draining = Some(Draining { desired, until });
        self.watch_clients(None, until);
        true
    }

    fn watch_clients(&mut self, told: Option<Connections>, until: Timestamp) {
        let (shared, id) = (Arc::clone(&self.shared), self.id());
        self.beside
            .spawn(async move { Outcome::Clients(traffic::clients(&shared, id, told, until).await) });
    }

    fn hear_of_clients(&mut self, clients: Clients) {
        let Some(draining) = self.draining else { return };
        match clients {
            Clients::Done => self.want(draining.desired),
            Clients::Late(count) => {
                tracing::info!(replica = %self.id(), in_use = count.busy(), "stops with connections in use: its grace is over");
                self.want(draining.desired);
            }
            Clients::Busy(count) => {
                let limit = self.record.item.spec.container.stop_grace();
                self.step(Event::Note(traffic::describe(count, limit)));
                self.watch_clients(Some(count), draining.until);
            }
        }
    }

    /// A program without a health check is ready when it accepts connections on the ports that it publishes.
    fn watch_ports(&mut self) {
        let ports = traffic::ports(&self.record.item);
        let is_unchecked = self.record.machine.observed().health == Health::None;
        if ports.is_empty() || !is_unchecked || self.record.item.spec.networks.is_empty() {
            return;
        }
        self.is_deaf = true;
        self.step(Event::Note(format!(
            "does not accept connections yet on port(s) {}",
            join(&ports)
        )));
        let (shared, id) = (Arc::clone(&self.shared), self.id());
        self.beside.spawn(async move {
            traffic::accepts(&shared, id, &ports).await;
            Outcome::Accepts
        });
    }

    fn is_running(&self) -> bool {
        matches!(self.record.machine.state(), State::Running { .. })
    }

    fn report(&mut self, mut observed: Observed) {
        if self.is_deaf {
            observed.ready = false;
            observed.ready_since = None;
        }
        self.shared.board.report(self.id(), observed);
    }

    fn take_launch(&mut self, launch: Arc<Launch>) {
        let config = &launch.image.config;
        self.record.image = Some(ImageFacts {
            shell: config.shell.clone(),
            stop_signal: config.stop_signal.clone(),
        });
        let image_health = config.healthcheck.clone();
        self.launch = Some(launch);
        self.step(Event::Prepared { image_health });
    }

    fn step(&mut self, event: Event) {
        let has_started = matches!(&event, Event::Started { .. });
        let is_running = has_started || matches!(&event, Event::Recovered(Found::Running { .. }));
        if has_started {
            self.is_deaf = false;
        }
        let actions = self.record.machine.step(event, self.shared.clock.now());
        self.queue.extend(actions);
        let has_container = matches!(
            self.record.machine.state(),
            State::Running { .. } | State::Stopping { .. }
        );
        if is_running && has_container {
            self.wait_for_exit();
        }
        if has_started && self.is_running() {
            self.watch_ports();
        }
    }

    fn is_idle(&self) -> bool {
        self.current.is_none() && self.queue.is_empty()
    }

    /// Begins queued actions until one has to be waited for.
    fn proceed(&mut self) {
        while self.current.is_none() {
            let Some(action) = self.queue.pop_front() else { return };
            self.begin(action);
        }
    }

    fn begin(&mut self, action: Action) {
        match action {
            Action::Save => self.save(),
            Action::Prepare => {
                let (shared, item) = (Arc::clone(&self.shared), Arc::new(self.record.item.clone()));
                self.beside
                    .spawn(async move { Outcome::Prepared(prepare(&shared, item).await.map(Arc::new)) });
            }
            Action::Start { attempt } => self.start(attempt),
            Action::Signal => self.signal(),
            Action::Kill => self.kill(),
            Action::Probe { attempt, check } => self.probe(attempt, &check),
            Action::Release => self.release(),
            Action::Remove => self.remove(),
            Action::Forget => self.forget(),
            Action::Report(observed) => self.report(observed),
        }
    }

    /// A record that cannot be saved is no reason to leave a container running that should stop: the next agent finds the
    /// container itself.
    fn save(&mut self) {
        let (shared, record) = (Arc::clone(&self.shared), self.record.clone());
        self.current = Some(Box::pin(async move {
            let saved = blocking(move || shared.disk.save_record(&record)).await;
            if let Err(problem) = saved {
                tracing::error!(%problem, "a replica's record could not be saved");
            }
            None
        }));
    }

    fn start(&mut self, attempt: Attempt) {
        let Some(launch) = self.launch.clone() else {
            let failure = Failure {
                reason: "it has not been prepared".to_string(),
                retryable: true,
            };
            return self.step(Event::StartFailed { attempt, failure });
        };
        let shared = Arc::clone(&self.shared);
        self.beside.spawn(async move {
            Outcome::Event(match shared.drivers.runtime.launch(launch, attempt).await {
                Ok(running) => Event::Started {
                    attempt,
                    pid: running.pid,
                    at: running.started_at,
                },
                Err(failure) => Event::StartFailed {
                    attempt,
                    failure: failure.into(),
                },
            })
        });
    }

    fn wait_for_exit(&mut self) {
        let (shared, id, attempt) = (Arc::clone(&self.shared), self.id(), self.record.machine.attempt());
        self.beside.spawn(async move {
            loop {
                match shared.drivers.runtime.wait(id, attempt).await {
                    Ok(exit) => return Outcome::Event(Event::Exited { attempt, exit }),
                    Err(problem) => {
                        tracing::error!(%problem, replica = %id, "cannot wait for its container, trying again");
                        tokio::time::sleep(WORKER_RECOVERY_WAIT.to_std()).await;
                    }
                }
            }
        });
    }

    fn stop_signal(&self) -> i32 {
        let spec = self.record.item.spec.container.stop_signal.as_deref();
        let image = self
            .record
            .image
            .as_ref()
            .and_then(|image| image.stop_signal.as_deref());
        spec.or(image).and_then(signal::number).unwrap_or(nix::libc::SIGTERM)
    }

    fn signal(&mut self) {
        let (shared, id, attempt) = (Arc::clone(&self.shared), self.id(), self.record.machine.attempt());
        let signal = self.stop_signal();
        self.wait_for("signal its container", id, async move {
            shared.drivers.runtime.signal(id, attempt, signal).await
        });
    }

    fn kill(&mut self) {
        let (shared, id, attempt) = (Arc::clone(&self.shared), self.id(), self.record.machine.attempt());
        self.wait_for("kill its container", id, async move {
            shared.drivers.runtime.kill(id, attempt).await
        });
    }

    /// A failure is only logged: what it was for is tried again when the grace is over.
    fn wait_for(
        &mut self,
        what: &'static str,
        id: ReplicaId,
        operation: impl Future<Output = Result<(), Problem>> + Send + 'static,
    ) {
        self.current = Some(Box::pin(async move {
            if let Err(problem) = operation.await {
                tracing::warn!(%problem, replica = %id, "cannot {what}");
            }
            None
        }));
    }

    fn probe(&mut self, attempt: Attempt, check: &HealthCheck) {
        let (shared, id, timeout) = (Arc::clone(&self.shared), self.id(), check.timeout);
        let shell = self
            .record
            .image
            .as_ref()
            .map(|image| image.shell.clone())
            .unwrap_or_default();
        let command = probe_command(&check.test, shell);
        self.beside.spawn(async move {
            let result = shared.drivers.runtime.probe(id, attempt, command, timeout).await;
            let (healthy, output) = match result {
                Ok((status, output)) => (status == 0, shorten(output)),
                Err(problem) => (false, problem.to_string()),
            };
            Outcome::Event(Event::Probed {
                attempt,
                healthy,
                output,
            })
        });
    }

    fn release(&mut self) {
        self.beside.abort_all();
        self.launch = None;
        let (shared, id) = (Arc::clone(&self.shared), self.id());
        self.current = Some(Box::pin(async move {
            for _ in 0..RELEASE_ATTEMPTS {
                match release(&shared, id).await {
                    Ok(()) => break,
                    Err(problem) => tracing::warn!(%problem, replica = %id, "cannot release it yet"),
                }
                tokio::time::sleep(RELEASE_RETRY.to_std()).await;
            }
            Some(Event::Released)
        }));
    }

    fn remove(&mut self) {
        self.beside.abort_all();
        let (shared, id) = (Arc::clone(&self.shared), self.id());
        self.current = Some(Box::pin(async move {
            Some(match remove(&shared, id).await {
                Ok(()) => Event::Removed,
                Err(problem) => Event::RemoveFailed {
                    reason: problem.to_string(),
                },
            })
        }));
    }

    fn forget(&mut self) {
        let (shared, id, unwanted) = (Arc::clone(&self.shared), self.id(), self.unwanted);
        self.current = Some(Box::pin(async move {
            let disk = Arc::clone(&shared);
            if let Err(problem) = blocking(move || disk.disk.forget(id)).await {
                tracing::warn!(%problem, replica = %id, "its folder could not be removed");
            }
            shared.board.removed(id);
            if unwanted {
                shared.board.retain_removed(|other| other != id);
            }
            None
        }));
    }

    /// Looks for the container of the last attempt, after a moment when the last look may have been the crash itself.
    fn look(&mut self, later: bool) {
        let (shared, id, attempt) = (Arc::clone(&self.shared), self.id(), self.record.machine.attempt());
        self.current = Some(Box::pin(async move {
            if later {
                tokio::time::sleep(WORKER_RECOVERY_WAIT.to_std()).await;
            }
            loop {
                match shared.drivers.runtime.find(id, attempt).await {
                    Ok(found) => return Some(Event::Recovered(found)),
                    Err(problem) => tracing::error!(%problem, replica = %id, "cannot look for its container"),
                }
                tokio::time::sleep(WORKER_RECOVERY_WAIT.to_std()).await;
            }
        }));
    }

    /// A start under way is waited for, so that it is not cut in half; what it leads to is found by the next agent.
    async fn finish_start(&mut self) {
        if !matches!(self.record.machine.state(), State::Starting { .. }) {
            return;
        }
        let finished = async { while self.beside.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(SHUTDOWN_GRACE.to_std(), finished).await;
    }
}

async fn wait_current(current: &mut Option<BoxFuture<'static, Option<Event>>>) -> Option<Event> {
    match current {
        Some(operation) => {
            let event = operation.await;
            *current = None;
            event
        }
        None => std::future::pending().await,
    }
}

async fn release(shared: &Shared, id: ReplicaId) -> Result<(), Problem> {
    shared.drivers.runtime.release(id).await?;
    traffic::last_bytes(shared, id).await;
    shared.drivers.network.detach(id).await
}

async fn remove(shared: &Shared, id: ReplicaId) -> Result<(), Problem> {
    release(shared, id).await?;
    shared.drivers.volumes.remove(id).await
}

/// A line runs in the image's shell, as in Docker.
pub(crate) fn probe_command(test: &HealthTest, shell: Vec<String>) -> Vec<String> {
    match test {
        HealthTest::Disabled => Vec::new(),
        HealthTest::Exec(command) => command.clone(),
        HealthTest::Shell(line) => {
            let mut command = shell;
            if command.is_empty() {
                command = vec!["/bin/sh".to_string(), "-c".to_string()];
            }
            command.push(line.clone());
            command
        }
    }
}

fn join(ports: &BTreeSet<u16>) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(", ")
}

fn shorten(mut output: String) -> String {
    if let Some((end, _)) = output.char_indices().find(|(at, _)| *at >= PROBE_OUTPUT_MAX) {
        output.truncate(end);
    }
    output
}
