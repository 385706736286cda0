//! One task per container: carries out what people ask of it, one thing after the other, and sees to its life in between.
//!
//! **Invariant:** `select` only picks what happened next, `apply` changes the state and never waits.
//! **Invariant:** dropping an actor stops nothing: containers go on, and the next agent finds them.

mod act;

use std::collections::VecDeque;
use std::sync::Arc;

use gantry_lifecycle::{Attempt, Found};
use gantry_model::container::ContainerStatus;
use gantry_model::phase::Exit;
use gantry_model::spec::{Resources, RestartPolicy};
use gantry_model::{Class, DurationMs, Problem, ReplicaId, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::launch::{Up, Watcher};
use super::life::AfterEnd;
use super::parts::{Parts, View};
use super::record::Record;
use crate::drivers::{LaunchFailure, ReadyImage};
use crate::limits::SHUTDOWN_GRACE;

/// Told when something is done.
pub(crate) type Reply = oneshot::Sender<Result<(), Problem>>;

/// What people ask of a container.
#[derive(Debug)]
pub(crate) enum Command {
    /// Run it.
    Start { watcher: Option<Watcher>, reply: Reply },
    /// End it, and run it again when asked to.
    Stop { stop: Stop, then_start: bool, reply: Reply },
    /// Signal its first process.
    Kill { signal: i32, reply: Reply },
    /// Freeze or thaw it.
    Freeze { frozen: bool, reply: Reply },
    /// Remove it, also while it runs when forced to.
    Remove { force: bool, volumes: bool, reply: Reply },
    /// It has another name.
    Rename { name: String, reply: Reply },
    /// Change what it may use and when it is started again.
    Update { changes: Box<Changes>, reply: Reply },
}

/// What is changed of a container; absent leaves it.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) resources: Option<Resources>,
    pub(crate) restart: Option<RestartPolicy>,
}

/// How it is stopped.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stop {
    /// Before SIGKILL; the container's own when absent.
    pub(crate) grace: Option<DurationMs>,
    /// Instead of the container's stop signal.
    pub(crate) signal: Option<i32>,
}

/// Where the actor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing runs.
    Rest,
    /// Being started.
    Starting,
    /// Its program runs.
    Up,
    /// It was told to end; SIGKILL follows then.
    Stopping { kill_at: Timestamp },
    /// Waits to be started again.
    Backoff { until: Timestamp },
    /// It ended; what it had on the network is being given back.
    Ending,
    /// Everything of it is being removed.
    Removing,
}

/// What comes after the present thing.
#[derive(Debug)]
enum Then {
    Start { watcher: Option<Watcher>, reply: Reply },
    Remove { volumes: bool, reply: Option<Reply> },
}

/// See the module.
pub(crate) struct Actor {
    parts: Arc<Parts>,
    record: Record,
    inbox: mpsc::Receiver<Command>,
    view: watch::Sender<View>,
    shutdown: CancellationToken,
    phase: Phase,
    beside: JoinSet<Outcome>,
    /// Its image, as long as the next start can use what the last one found.
    image: Option<ReadyImage>,
    /// Waits for the start under way.
    starting: Vec<Reply>,
    /// Wait for its end.
    ending: Vec<Reply>,
    then: VecDeque<Then>,
    saves: Saves,
    /// Held by whoever writes the container's folder: a record must not be written while the folder is removed.
    folder: Folder,
}

/// Guards a container's folder.
pub(super) type Folder = Arc<tokio::sync::Mutex<()>>;

/// One save at a time; changes meanwhile become one more.
#[derive(Debug, Default)]
struct Saves {
    under_way: bool,
    wanted: bool,
}

/// How something beside ended.
enum Outcome {
    Found(Found),
    Started(Result<Box<Up>, LaunchFailure>),
    Exited(Attempt, Exit),
    Probed(Attempt, bool),
    Released(Result<(), Problem>),
    Removed(Result<(), Problem>, Option<Reply>),
    Frozen {
        frozen: bool,
        result: Result<(), Problem>,
        reply: Reply,
    },
    Saved,
    /// Somebody was told already.
    Done,
}

enum Wake {
    Command(Command),
    Beside(Outcome),
    Crashed,
    Timer,
    Shutdown,
}

impl Actor {
    /// An actor for a container that rests.
    pub(super) fn new(
        parts: Arc<Parts>,
        record: Record,
        image: Option<ReadyImage>,
        inbox: mpsc::Receiver<Command>,
        shutdown: CancellationToken,
    ) -> (Self, watch::Receiver<View>) {
        let view = View {
            record: Arc::new(record.clone()),
            is_gone: false,
        };
        let (view, seen) = watch::channel(view);
        let actor = Self {
            parts,
            record,
            inbox,
            view,
            shutdown,
            phase: Phase::Rest,
            beside: JoinSet::new(),
            image,
            starting: Vec::new(),
            ending: Vec::new(),
            then: VecDeque::new(),
            saves: Saves::default(),
            folder: Folder::default(),
        };
        (actor, seen)
    }

    /// Looks for the container of a former agent first.
    pub(super) fn recover(mut self) -> Self {
        self.phase = Phase::Starting;
        let (parts, id, attempt) = (Arc::clone(&self.parts), self.record.id, self.record.life.attempt);
        self.beside
            .spawn(async move { Outcome::Found(act::find(&parts, id, attempt).await) });
        self
    }

    /// Runs until nothing is left of the container, or the agent ends.
    pub(super) async fn run(mut self) {
        loop {
            match self.select().await {
                Wake::Shutdown => return self.finish().await,
                wake => self.apply(wake),
            }
            if self.view.borrow().is_gone {
                return;
            }
        }
    }

    async fn select(&mut self) -> Wake {
        let timer = self.wake_at();
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Wake::Shutdown,
            Some(outcome) = self.beside.join_next() => outcome.map_or(Wake::Crashed, Wake::Beside),
            Some(command) = self.inbox.recv() => Wake::Command(command),
            () = self.parts.shared.clock.sleep_until(timer), if timer.is_some() => Wake::Timer,
        }
    }

    fn wake_at(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Up => self.record.life.check_at(),
            Phase::Stopping { kill_at } => Some(kill_at),
            Phase::Backoff { until } => Some(until),
            Phase::Rest | Phase::Starting | Phase::Ending | Phase::Removing => None,
        }
    }

    fn apply(&mut self, wake: Wake) {
        match wake {
            Wake::Command(command) => self.command(command),
            Wake::Beside(outcome) => self.outcome(outcome),
            Wake::Timer => self.tick(),
            Wake::Crashed => {
                tracing::error!(container = %self.record.id, "an operation crashed; looking at what is there");
                let (parts, id, attempt) = (Arc::clone(&self.parts), self.record.id, self.record.life.attempt);
                self.beside
                    .spawn(async move { Outcome::Found(act::find(&parts, id, attempt).await) });
            }
            Wake::Shutdown => {}
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Start { watcher, reply } => self.on_start(watcher, reply),
            Command::Stop {
                stop,
                then_start,
                reply,
            } => self.on_stop(stop, then_start, reply),
            Command::Kill { signal, reply } => self.on_kill(signal, reply),
            Command::Freeze { frozen, reply } => self.on_freeze(frozen, reply),
            Command::Remove { force, volumes, reply } => self.on_remove(force, volumes, reply),
            Command::Rename { name, reply } => {
                let before = std::mem::replace(&mut self.record.name, name);
                self.parts.free_name(self.record.id, &before);
                self.changed();
                answer(reply, Ok(()));
            }
            Command::Update { changes, reply } => self.on_update(*changes, reply),
        }
    }

    fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Found(found) => self.on_found(found),
            Outcome::Started(Ok(up)) => self.on_up(*up),
            Outcome::Started(Err(failure)) => self.on_start_failed(&failure),
            Outcome::Exited(attempt, exit) => self.on_exited(attempt, exit),
            Outcome::Probed(attempt, is_healthy) if attempt == self.record.life.attempt => {
                self.record.life.checked(is_healthy, self.now());
                self.changed();
            }
            Outcome::Released(result) => self.on_released(result),
            Outcome::Removed(result, reply) => self.on_removed(result, reply),
            Outcome::Frozen { frozen, result, reply } => {
                if result.is_ok() && self.record.life.has_process() {
                    let status = if frozen {
                        ContainerStatus::Paused
                    } else {
                        ContainerStatus::Running
                    };
                    self.record.life.state.status = status;
                    self.changed();
                }
                answer(reply, result);
            }
            Outcome::Saved => {
                self.saves.under_way = false;
                if std::mem::take(&mut self.saves.wanted) {
                    self.save();
                }
            }
            Outcome::Probed(..) | Outcome::Done => {}
        }
    }

    fn on_start(&mut self, watcher: Option<Watcher>, reply: Reply) {
        match self.phase {
            Phase::Rest | Phase::Backoff { .. } => {
                self.record.life.forget_restarts();
                self.starting.push(reply);
                self.start(watcher);
            }
            Phase::Starting => self.starting.push(reply),
            Phase::Up => {
                let result = match self.record.life.state.status {
                    ContainerStatus::Paused => Err(self.conflict("is paused", "thaw it with `gantry unpause`")),
                    _ => Ok(()),
                };
                answer(reply, result);
            }
            Phase::Stopping { .. } | Phase::Ending => self.then.push_back(Then::Start { watcher, reply }),
            Phase::Removing => answer(reply, Err(self.conflict("is being removed", ""))),
        }
    }

    fn on_stop(&mut self, stop: Stop, then_start: bool, reply: Reply) {
        match self.phase {
            Phase::Rest | Phase::Backoff { .. } if then_start => self.on_start(None, reply),
            Phase::Rest | Phase::Removing => answer(reply, Ok(())),
            Phase::Backoff { .. } => {
                self.record.life.stopped_by_hand = true;
                self.record.life.give_up();
                self.ending.push(reply);
                self.end();
            }
            Phase::Starting | Phase::Up | Phase::Stopping { .. } => {
                self.queue_end(then_start, reply);
                self.record.life.stopped_by_hand = true;
                if self.phase == Phase::Up {
                    self.stop(stop);
                }
            }
            Phase::Ending => self.queue_end(then_start, reply),
        }
    }

    fn queue_end(&mut self, then_start: bool, reply: Reply) {
        if then_start {
            self.then.push_back(Then::Start { watcher: None, reply });
        } else {
            self.ending.push(reply);
        }
    }

    fn on_remove(&mut self, force: bool, volumes: bool, reply: Reply) {
        match self.phase {
            Phase::Rest => self.remove(volumes, Some(reply)),
            Phase::Removing => answer(reply, Err(self.conflict("is being removed already", ""))),
            Phase::Ending => self.then.push_back(Then::Remove {
                volumes,
                reply: Some(reply),
            }),
            Phase::Starting | Phase::Up | Phase::Stopping { .. } | Phase::Backoff { .. } if !force => {
                let remedy = format!("stop it first with `gantry stop {}`, or use --force", self.record.name);
                answer(reply, Err(self.conflict("runs", &remedy)));
            }
            Phase::Backoff { .. } => {
                self.record.life.give_up();
                self.then.push_back(Then::Remove {
                    volumes,
                    reply: Some(reply),
                });
                self.end();
            }
            Phase::Starting | Phase::Up | Phase::Stopping { .. } => {
                self.then.push_back(Then::Remove {
                    volumes,
                    reply: Some(reply),
                });
                self.record.life.stopped_by_hand = true;
                if self.phase != Phase::Starting {
                    self.kill_all();
                }
            }
        }
    }

    fn on_found(&mut self, found: Found) {
        let now = self.now();
        match found {
            Found::Running { pid, started_at } => {
                self.record.life.adopted(pid, started_at, now);
                self.phase = Phase::Up;
                self.wait();
                self.changed();
            }
            Found::Exited(exit) if self.record.life.has_process() => {
                self.phase = Phase::Up;
                self.on_exited(self.record.life.attempt, exit);
            }
            Found::Exited(_) | Found::Nothing => {
                self.record.life.vanished(now);
                let starts = self.record.life.starts_with_agent(&self.record.policy());
                if starts {
                    let (reply, _) = oneshot::channel();
                    self.then.push_back(Then::Start { watcher: None, reply });
                }
                self.end();
            }
        }
    }

    fn on_up(&mut self, up: Up) {
        self.record.address = up.address;
        self.record.ports = up.ports;
        self.image = Some(up.image);
        let stop_now = self.record.life.stopped_by_hand;
        self.record
            .life
            .started(up.running.pid, up.running.started_at, up.check);
        self.phase = Phase::Up;
        self.wait();
        self.changed();
        for reply in std::mem::take(&mut self.starting) {
            answer(reply, Ok(()));
        }
        if stop_now {
            match self.then.iter().any(|then| matches!(then, Then::Remove { .. })) {
                true => self.kill_all(),
                false => self.stop(Stop::default()),
            }
        }
    }

    fn on_start_failed(&mut self, failure: &LaunchFailure) {
        self.record.life.start_failed(&failure.reason, failure.exit_code);
        self.image = None;
        let problem = Problem::new(Class::Invalid, self.record.object(), failure.reason.clone());
        let waiting = std::mem::take(&mut self.starting);
        // Who is told sees the reason in the record, too.
        self.end();
        for reply in waiting {
            answer(reply, Err(problem.clone()));
        }
    }

    fn on_exited(&mut self, attempt: Attempt, exit: Exit) {
        if attempt != self.record.life.attempt || !self.record.life.has_process() {
            return;
        }
        let now = self.now();
        let policy = super::life::Policy {
            restart: &self.record.spec.restart,
            unless_stopped: self.record.spec.unless_stopped,
        };
        match self.record.life.exited(exit, &policy, now) {
            AfterEnd::Again(until) => {
                self.phase = Phase::Backoff { until };
                self.changed();
                if !self.ending.is_empty() || !self.then.is_empty() {
                    self.record.life.give_up();
                    self.end();
                }
            }
            AfterEnd::Over => self.end(),
        }
    }

    fn on_released(&mut self, result: Result<(), Problem>) {
        if let Err(problem) = result {
            tracing::warn!(%problem, container = %self.record.id, "its network could not be given back; removal tries again");
        } else {
            self.record.address = None;
            self.record.ports.clear();
        }
        self.phase = Phase::Rest;
        self.changed();
        for reply in std::mem::take(&mut self.ending) {
            answer(reply, Ok(()));
        }
        match self.then.pop_front() {
            Some(Then::Start { watcher, reply }) => self.on_start(watcher, reply),
            Some(Then::Remove { volumes, reply }) => self.remove(volumes, reply),
            None if self.record.spec.auto_remove && self.record.life.ends > 0 => self.remove(true, None),
            None => {}
        }
    }

    fn on_removed(&mut self, result: Result<(), Problem>, reply: Option<Reply>) {
        match &result {
            Ok(()) => {
                self.parts.leave(self.record.id);
                self.view.send_modify(|view| view.is_gone = true);
            }
            Err(problem) => {
                tracing::warn!(%problem, container = %self.record.id, "it could not be removed");
                self.phase = Phase::Rest;
                self.record.life.state.status = ContainerStatus::Exited;
                self.record.life.state.error = problem.to_string();
                self.changed();
            }
        }
        if let Some(reply) = reply {
            answer(reply, result);
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        match self.phase {
            Phase::Up => self.probe(now),
            Phase::Stopping { kill_at } if kill_at <= now => self.kill_all(),
            Phase::Backoff { until } if until <= now => self.start(None),
            Phase::Rest
            | Phase::Starting
            | Phase::Stopping { .. }
            | Phase::Backoff { .. }
            | Phase::Ending
            | Phase::Removing => {}
        }
    }

    fn conflict(&self, reason: &str, remedy: &str) -> Problem {
        Problem::new(Class::Conflict, self.record.object(), reason).remedy(remedy)
    }

    fn now(&self) -> Timestamp {
        self.parts.shared.clock.now()
    }

    /// A start under way is waited for, so that it is not cut in half; what it leads to is found by the next agent.
    async fn finish(mut self) {
        let is_busy = matches!(self.phase, Phase::Starting | Phase::Ending | Phase::Removing);
        if is_busy || self.saves.under_way {
            let patience = SHUTDOWN_GRACE.to_std();
            while let Ok(Some(outcome)) = tokio::time::timeout(patience, self.beside.join_next()).await {
                if let Ok(Outcome::Started(Ok(up))) = outcome {
                    self.record.address = up.address;
                    self.record.ports = up.ports;
                    self.record
                        .life
                        .started(up.running.pid, up.running.started_at, up.check);
                    break;
                } else if !is_busy {
                    break;
                }
            }
        }
        let (store, record) = (self.parts.store.clone(), self.record);
        let _saved = crate::drivers::blocking(move || store.save(&record)).await;
    }
}

/// Nobody is told who has gone.
fn answer(reply: Reply, result: Result<(), Problem>) {
    drop(reply.send(result));
}

/// The name of a container in problems that its actor cannot word any more.
pub(crate) fn gone(id: ReplicaId) -> Problem {
    Problem::new(Class::NotFound, format!("container {id}"), "is gone")
}
