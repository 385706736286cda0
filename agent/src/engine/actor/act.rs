//! What an actor does to the machine. Each begins something beside, whose outcome comes back.

use std::sync::Arc;

use gantry_lifecycle::{Attempt, Found};
use gantry_model::container::ContainerStatus;
use gantry_model::{DurationMs, Problem, ReplicaId, Timestamp};
use nix::libc;

use super::{Actor, Changes, Folder, Outcome, Phase, Reply, Stop, answer};
use crate::drivers::blocking;
use crate::engine::launch::{self, Watcher};
use crate::engine::parts::{Parts, View};
use crate::limits::{RELEASE_ATTEMPTS, RELEASE_RETRY, WORKER_RECOVERY_WAIT};
use crate::replica::probe_command;
use crate::signal;

/// SIGKILL is sent again when a container is still there after so long.
const KILL_AGAIN: DurationMs = gantry_lifecycle::KILL_AGAIN;

/// Looks until there is an answer.
pub(super) async fn find(parts: &Parts, id: ReplicaId, attempt: Attempt) -> Found {
    loop {
        match parts.runtime.find(id, attempt).await {
            Ok(found) => return found,
            Err(problem) => tracing::error!(%problem, container = %id, "cannot look for it, trying again"),
        }
        tokio::time::sleep(WORKER_RECOVERY_WAIT.to_std()).await;
    }
}

impl Actor {
    /// Others see what the record says now, and the disk does soon.
    pub(super) fn changed(&mut self) {
        self.view.send_replace(View {
            record: Arc::new(self.record.clone()),
            is_gone: false,
        });
        self.save();
    }

    pub(super) fn save(&mut self) {
        if self.saves.under_way {
            self.saves.wanted = true;
            return;
        }
        self.saves.under_way = true;
        let (store, record) = (self.parts.store.clone(), self.record.clone());
        let folder = Arc::clone(&self.folder);
        self.beside.spawn(async move {
            let _held = folder.lock().await;
            if let Err(problem) = blocking(move || store.save(&record)).await {
                tracing::error!(%problem, "a container's record could not be saved");
            }
            Outcome::Saved
        });
    }

    pub(super) fn start(&mut self, watcher: Option<Watcher>) {
        self.phase = Phase::Starting;
        self.record.life.begin();
        let (parts, record, image) = (Arc::clone(&self.parts), self.record.clone(), self.image.take());
        let folder = Arc::clone(&self.folder);
        self.beside.spawn(async move {
            let started = launch::launch(&parts, record, image, watcher, &folder).await;
            Outcome::Started(started.map(Box::new))
        });
    }

    pub(super) fn wait(&mut self) {
        let (parts, id, attempt) = (Arc::clone(&self.parts), self.record.id, self.record.life.attempt);
        self.beside.spawn(async move {
            loop {
                match parts.runtime.wait(id, attempt).await {
                    Ok(exit) => return Outcome::Exited(attempt, exit),
                    Err(problem) => tracing::error!(%problem, container = %id, "cannot wait for it, trying again"),
                }
                tokio::time::sleep(WORKER_RECOVERY_WAIT.to_std()).await;
            }
        });
    }

    fn stop_signal(&self) -> i32 {
        let spec = self.record.spec.container.stop_signal.as_deref();
        let image = self.record.image.stop_signal.as_deref();
        spec.or(image).and_then(signal::number).unwrap_or(libc::SIGTERM)
    }

    pub(super) fn stop(&mut self, stop: Stop) {
        let grace = stop.grace.unwrap_or(self.record.spec.container.stop_grace());
        if grace == DurationMs::ZERO {
            return self.kill_all();
        }
        self.phase = Phase::Stopping {
            kill_at: self.now().after(grace),
        };
        let signal = stop.signal.unwrap_or_else(|| self.stop_signal());
        let is_frozen = self.record.life.state.status == ContainerStatus::Paused;
        let (parts, id, attempt) = (Arc::clone(&self.parts), self.record.id, self.record.life.attempt);
        self.beside.spawn(async move {
            let sent = parts.runtime.signal(id, attempt, signal).await;
            let sent = match sent {
                // A frozen process hears the signal when it is thawed.
                Ok(()) if is_frozen => parts.runtime.freeze(id, false).await,
                sent => sent,
            };
            if let Err(problem) = sent {
                tracing::warn!(%problem, container = %id, "cannot signal it; it is killed when the grace is over");
            }
            Outcome::Done
        });
        self.changed();
    }

    pub(super) fn kill_all(&mut self) {
        self.phase = Phase::Stopping {
            kill_at: self.now().after(KILL_AGAIN),
        };
        let (parts, id, attempt) = (Arc::clone(&self.parts), self.record.id, self.record.life.attempt);
        self.beside.spawn(async move {
            if let Err(problem) = parts.runtime.kill(id, attempt).await {
                tracing::warn!(%problem, container = %id, "cannot kill it, trying again");
            }
            Outcome::Done
        });
    }

    pub(super) fn on_kill(&mut self, signal: i32, reply: Reply) {
        if !matches!(self.phase, Phase::Up | Phase::Stopping { .. }) {
            return answer(reply, Err(self.conflict("does not run", "")));
        }
        let is_last = signal == libc::SIGKILL || signal == self.stop_signal();
        if is_last {
            self.record.life.stopped_by_hand = true;
        }
        let is_frozen = self.record.life.state.status == ContainerStatus::Paused;
        let (parts, id, attempt) = (Arc::clone(&self.parts), self.record.id, self.record.life.attempt);
        if signal == libc::SIGKILL {
            self.ending.push(reply);
            self.beside.spawn(async move {
                let mut sent = parts.runtime.signal(id, attempt, signal).await;
                if sent.is_ok() && is_frozen {
                    sent = parts.runtime.freeze(id, false).await;
                }
                if let Err(problem) = sent {
                    tracing::warn!(%problem, container = %id, "cannot kill it");
                }
                Outcome::Done
            });
            return;
        }
        self.beside.spawn(async move {
            answer(reply, parts.runtime.signal(id, attempt, signal).await);
            Outcome::Done
        });
    }

    pub(super) fn on_freeze(&mut self, frozen: bool, reply: Reply) {
        let refusal = match (self.phase, self.record.life.state.status, frozen) {
            (Phase::Up, ContainerStatus::Paused, true) => Some("is paused already"),
            (Phase::Up, ContainerStatus::Running, false) => Some("is not paused"),
            (Phase::Up, _, _) => None,
            _ => Some("does not run"),
        };
        if let Some(reason) = refusal {
            return answer(reply, Err(self.conflict(reason, "")));
        }
        let (parts, id) = (Arc::clone(&self.parts), self.record.id);
        self.beside.spawn(async move {
            let result = parts.runtime.freeze(id, frozen).await;
            Outcome::Frozen { frozen, result, reply }
        });
    }

    pub(super) fn on_update(&mut self, changes: Changes, reply: Reply) {
        let Changes { resources, restart } = changes;
        if let Some(restart) = restart {
            if self.record.spec.auto_remove && restart.condition != gantry_model::spec::RestartCondition::None {
                let reason = "goes when it ends, so it cannot be started again by a policy";
                return answer(reply, Err(self.conflict(reason, "")));
            }
            self.record.spec.restart = restart;
        }
        let Some(resources) = resources else {
            self.changed();
            return answer(reply, Ok(()));
        };
        self.record.spec.resources = resources.clone();
        self.changed();
        if !self.record.life.has_process() {
            return answer(reply, Ok(()));
        }
        let (parts, id) = (Arc::clone(&self.parts), self.record.id);
        self.beside.spawn(async move {
            answer(reply, parts.runtime.limit(id, resources).await);
            Outcome::Done
        });
    }

    pub(super) fn probe(&mut self, now: Timestamp) {
        let Some(check) = self.record.life.begin_check(now) else {
            return;
        };
        let command = probe_command(&check.test, self.record.image.shell.clone());
        let (parts, id, attempt) = (Arc::clone(&self.parts), self.record.id, self.record.life.attempt);
        self.beside.spawn(async move {
            let result = parts.runtime.probe(id, attempt, command, check.timeout).await;
            Outcome::Probed(attempt, result.is_ok_and(|(code, _)| code == 0))
        });
    }

    /// Its process has ended: what it has on the network is given back, then whatever was asked for follows.
    pub(super) fn end(&mut self) {
        self.phase = Phase::Ending;
        if self.record.spec.auto_remove && self.record.life.ends > 0 {
            // The next one may have the name at once.
            self.parts.free_name(self.record.id, &self.record.name);
        }
        self.changed();
        let (parts, record) = (Arc::clone(&self.parts), self.record.clone());
        self.beside.spawn(async move {
            let mut released = launch::release_network(&parts, &record).await;
            for _ in 1..RELEASE_ATTEMPTS {
                if released.is_ok() {
                    break;
                }
                tokio::time::sleep(RELEASE_RETRY.to_std()).await;
                released = launch::release_network(&parts, &record).await;
            }
            Outcome::Released(released)
        });
    }

    pub(super) fn remove(&mut self, volumes: bool, reply: Option<Reply>) {
        self.phase = Phase::Removing;
        self.record.life.state.status = ContainerStatus::Removing;
        self.changed();
        let (parts, record) = (Arc::clone(&self.parts), self.record.clone());
        let folder = Arc::clone(&self.folder);
        self.beside.spawn(async move {
            let removed = remove(&parts, &record, volumes, &folder).await;
            Outcome::Removed(removed, reply)
        });
    }
}

async fn remove(parts: &Parts, record: &super::Record, volumes: bool, folder: &Folder) -> Result<(), Problem> {
    let id = record.id;
    parts.runtime.release(id).await?;
    launch::release_network(parts, record).await?;
    if volumes {
        parts.volumes.remove(id).await?;
    } else {
        parts.volumes.keep(id).await?;
    }
    let store = parts.store.clone();
    let _held = folder.lock().await;
    blocking(move || store.forget(id)).await
}
