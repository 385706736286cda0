//! Containers that people run by hand on this node.
//!
//! ```text
//!   service ─ Engine ─ commands → actors ─ drivers → containers, volumes, the local network
//!                 └──── views ←───┘
//! ```
//!
//! **Invariant:** the cluster knows nothing of them: they are made, run and go while no server answers.
//! **Invariant:** they outlive the agent; their records outlive the machine's run, and restart policies count from there.
//! Deliberately not here: the wire (`service`), and how containers and networks are made (`drivers`).

pub(crate) mod actor;
pub(crate) mod filters;
pub(crate) mod launch;
mod life;
mod names;
mod parts;
mod ports;
pub(crate) mod record;
pub(crate) mod resolver;
pub(crate) mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_env::{Env, FreshIds};
use gantry_model::container::{Container, ContainerStatus, NetworkMode, RunSpec};
use gantry_model::phase::Health;
use gantry_model::spec::{ContainerSpec, PortMode, PortSpec, Protocol, RestartCondition};
use gantry_model::{Class, Digest, Problem, ReplicaId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::disk::ImageFacts;
use crate::drivers::{Launch, ReadyImage, blocking};
use crate::shared::Shared;
use actor::{Actor, Changes, Command, Reply, Stop, gone};
use filters::Filters;
use launch::{Watcher, local_ports};
use parts::Parts;
pub(crate) use parts::{Entry, Machine, View};
use record::Record;

/// Commands that wait for an actor, which takes them in no time.
const COMMANDS_WAITING: usize = 16;

/// See the module.
#[derive(Clone)]
pub(crate) struct Engine {
    parts: Arc<Parts>,
    tasks: Arc<tokio::sync::Mutex<JoinSet<()>>>,
    shutdown: CancellationToken,
}

/// Until when somebody waits for a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// It rests.
    NotRunning,
    /// It ends once more.
    NextExit,
    /// Nothing is left of it.
    Removed,
    /// Its health checks succeed.
    Healthy,
}

impl Engine {
    /// The containers that a former agent left, and room for more.
    ///
    /// # Errors
    /// When their folder cannot be read.
    pub(crate) async fn open(
        shared: Arc<Shared>,
        machine: Machine,
        env: Arc<dyn Env>,
        node: String,
        host_name: String,
        shutdown: CancellationToken,
    ) -> Result<Self, Problem> {
        let store = machine.store.clone();
        let found = blocking(move || store.load()).await?;
        let engine = Self {
            parts: Arc::new(Parts::new(shared, machine, env, node, host_name)),
            tasks: Arc::default(),
            shutdown,
        };
        engine.adopt(found).await;
        Ok(engine)
    }

    async fn adopt(&self, found: Vec<(ReplicaId, Option<Record>)>) {
        let known: BTreeSet<ReplicaId> = found.iter().map(|(id, _)| *id).collect();
        let (records, damaged): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, record)| record.is_some());
        for record in records.iter().filter_map(|(_, record)| record.as_ref()) {
            if let Some(address) = record.address {
                self.parts
                    .bridge
                    .adopt(record.id, address, local_ports(address, &record.ports));
                self.parts.adopt_ports(record);
            }
            // Names were unique when they were saved.
            drop(self.parts.take_name(record.id, Some(&record.name)));
        }
        if !records.is_empty()
            && let Err(problem) = self.parts.bridge.ready(self.parts.cluster_pools()).await
        {
            tracing::error!(%problem, "the network of containers run by hand is not as it should be");
        }
        for record in records.into_iter().filter_map(|(_, record)| record) {
            self.spawn(record, None, true).await;
        }
        self.remove_leftovers(damaged.into_iter().map(|(id, _)| id).collect(), &known)
            .await;
    }

    /// A container without a record was cut off while it was made or removed; a namespace without a container likewise.
    async fn remove_leftovers(&self, mut left: Vec<ReplicaId>, known: &BTreeSet<ReplicaId>) {
        match self.parts.bridge.attached().await {
            Ok(attached) => left.extend(attached.into_iter().filter(|id| !known.contains(id))),
            Err(problem) => tracing::warn!(%problem, "cannot look for leftovers of the local network"),
        }
        for id in left {
            let remove = async {
                self.parts.runtime.release(id).await?;
                self.parts.bridge.detach(id).await?;
                let store = self.parts.store.clone();
                blocking(move || store.forget(id)).await
            };
            match remove.await {
                Ok(()) => tracing::info!(container = %id, "a leftover was removed"),
                Err(problem) => tracing::warn!(%problem, container = %id, "a leftover could not be removed"),
            }
        }
    }

    /// Waits until all actors have ended, after shutdown.
    pub(crate) async fn finished(&self) {
        let mut tasks = self.tasks.lock().await;
        while tasks.join_next().await.is_some() {}
    }

    /// What the actors share.
    pub(crate) fn parts(&self) -> &Arc<Parts> {
        &self.parts
    }

    async fn spawn(&self, record: Record, image: Option<ReadyImage>, recover: bool) -> Entry {
        let (commands, inbox) = mpsc::channel(COMMANDS_WAITING);
        let id = record.id;
        let (mut actor, view) = Actor::new(Arc::clone(&self.parts), record, image, inbox, self.shutdown.clone());
        if recover {
            actor = actor.recover();
        }
        let entry = Entry { commands, view };
        self.parts.enter(id, entry.clone());
        let mut tasks = self.tasks.lock().await;
        while tasks.try_join_next().is_some() {}
        tasks.spawn(actor.run());
        entry
    }

    /// Makes a container of an image that is here; it does not run yet.
    pub(crate) async fn create(&self, spec: RunSpec, image: ReadyImage) -> Result<(ReplicaId, Entry), Problem> {
        let spec = checked(spec, &image)?;
        let id = self.parts.env.replica_id();
        let name = self.parts.take_name(id, spec.name.as_deref())?;
        let record = Record {
            id,
            image_digest: image.digest.to_string(),
            image: ImageFacts {
                shell: image.config.shell.clone(),
                stop_signal: image.config.stop_signal.clone(),
            },
            command: command(&spec.container, &image),
            created_at: self.parts.shared.clock.now(),
            address: None,
            ports: Vec::new(),
            life: Default::default(),
            name,
            spec,
        };
        let (store, saved) = (self.parts.store.clone(), record.clone());
        if let Err(problem) = blocking(move || store.create(&saved)).await {
            self.parts.leave(id);
            return Err(problem);
        }
        Ok((id, self.spawn(record, Some(image), false).await))
    }

    /// How the root of a container is put together; none when it is a replica.
    pub(crate) async fn outline(&self, id: ReplicaId) -> Result<Option<Launch>, Problem> {
        let Some((_, entry)) = self.parts.find(&id.to_string())? else {
            return Ok(None);
        };
        let record = entry.view.borrow().record.as_ref().clone();
        launch::outline(&self.parts, record).await.map(Some)
    }

    /// A container by name, id, or the beginning of an id.
    pub(crate) fn find(&self, text: &str) -> Result<(ReplicaId, Entry), Problem> {
        let found = self.parts.find(text)?;
        found.ok_or_else(|| missing(text, &self.parts.node))
    }

    /// The same; none when there is none.
    pub(crate) fn look_up(&self, text: &str) -> Result<Option<(ReplicaId, Entry)>, Problem> {
        self.parts.find(text)
    }

    /// What people see of a container.
    pub(crate) fn inspect(&self, text: &str) -> Result<Container, Problem> {
        let (_, entry) = self.find(text)?;
        Ok(self.shown(&entry))
    }

    /// The same, of one that was found before.
    pub(crate) fn shown(&self, entry: &Entry) -> Container {
        entry.view.borrow().record.to_container(&self.parts.node)
    }

    /// Containers that pass, newest first.
    pub(crate) fn list(&self, all: bool, filters: &Filters) -> Vec<Container> {
        let mut records: Vec<Arc<Record>> = self.records();
        let all = all || filters.wants_ended();
        records.retain(|record| (all || !record.life.is_at_rest()) && filters.pass(record));
        records.sort_by_key(|record| (std::cmp::Reverse(record.created_at), record.id));
        records
            .iter()
            .map(|record| record.to_container(&self.parts.node))
            .collect()
    }

    /// All records.
    pub(crate) fn records(&self) -> Vec<Arc<Record>> {
        let entries = self.parts.entries();
        entries
            .iter()
            .map(|entry| Arc::clone(&entry.view.borrow().record))
            .collect()
    }

    /// Images that containers were made from.
    pub(crate) fn images(&self) -> Vec<Digest> {
        let records = self.records();
        records
            .iter()
            .filter_map(|record| record.image_digest.parse().ok())
            .collect()
    }

    async fn ask(&self, text: &str, command: impl FnOnce(Reply) -> Command) -> Result<Container, Problem> {
        let (id, entry) = self.find(text)?;
        self.tell(id, &entry, command).await?;
        Ok(self.shown(&entry))
    }

    async fn tell(&self, id: ReplicaId, entry: &Entry, command: impl FnOnce(Reply) -> Command) -> Result<(), Problem> {
        let (reply, answer) = oneshot::channel();
        entry.commands.send(command(reply)).await.map_err(|_| gone(id))?;
        answer.await.map_err(|_| gone(id))?
    }

    /// Starts it; somebody may watch from the first byte.
    pub(crate) async fn start(&self, id: ReplicaId, entry: &Entry, watcher: Option<Watcher>) -> Result<(), Problem> {
        self.tell(id, entry, |reply| Command::Start { watcher, reply }).await
    }

    /// Stops it, and starts it again when asked to.
    pub(crate) async fn stop(&self, text: &str, stop: Stop, then_start: bool) -> Result<Container, Problem> {
        self.ask(text, |reply| Command::Stop {
            stop,
            then_start,
            reply,
        })
        .await
    }

    /// Signals its first process.
    pub(crate) async fn kill(&self, text: &str, signal: i32) -> Result<Container, Problem> {
        self.ask(text, |reply| Command::Kill { signal, reply }).await
    }

    /// Freezes or thaws it.
    pub(crate) async fn freeze(&self, text: &str, frozen: bool) -> Result<Container, Problem> {
        self.ask(text, |reply| Command::Freeze { frozen, reply }).await
    }

    /// Changes limits and restart policy.
    pub(crate) async fn update(
        &self,
        text: &str,
        resources: Option<gantry_model::spec::Resources>,
        restart: Option<gantry_model::spec::RestartPolicy>,
    ) -> Result<Container, Problem> {
        let changes = Box::new(Changes { resources, restart });
        let update = |reply| Command::Update { changes, reply };
        self.ask(text, update).await
    }

    /// Gives it another name.
    pub(crate) async fn rename(&self, text: &str, name: &str) -> Result<Container, Problem> {
        let (id, entry) = self.find(text)?;
        if entry.view.borrow().record.name == name {
            let reason = "has this name already";
            return Err(Problem::new(Class::Conflict, format!("container {name}"), reason));
        }
        let name = self.parts.take_name(id, Some(name))?;
        self.tell(id, &entry, |reply| Command::Rename { name, reply }).await?;
        Ok(self.shown(&entry))
    }

    /// Removes it.
    pub(crate) async fn remove(&self, text: &str, force: bool, volumes: bool) -> Result<(), Problem> {
        let (id, entry) = self.find(text)?;
        let remove = |reply| Command::Remove { force, volumes, reply };
        self.tell(id, &entry, remove).await
    }

    /// Removes containers that have ended and pass; their ids.
    pub(crate) async fn prune(&self, filters: &Filters) -> Result<Vec<ReplicaId>, Problem> {
        let mut removed = Vec::new();
        for record in self.records() {
            let rests = matches!(
                record.life.state.status,
                ContainerStatus::Created | ContainerStatus::Exited
            );
            if rests && filters.pass(&record) && self.remove(&record.id.to_string(), false, false).await.is_ok() {
                removed.push(record.id);
            }
        }
        Ok(removed)
    }

    /// Waits for a container; how it last ended.
    pub(crate) async fn wait(&self, text: &str, until: Until) -> Result<i32, Problem> {
        let (id, entry) = self.find(text)?;
        wait(id, entry.view, until).await
    }

    /// Ids of all containers.
    pub(crate) fn ids(&self) -> Vec<ReplicaId> {
        self.parts.ids()
    }
}

async fn wait(id: ReplicaId, mut view: watch::Receiver<View>, until: Until) -> Result<i32, Problem> {
    let before = view.borrow().record.life.ends;
    let holds = |view: &View| {
        let life = &view.record.life;
        match until {
            Until::NotRunning => life.is_at_rest(),
            Until::NextExit => life.ends > before,
            Until::Removed => false,
            Until::Healthy => life.state.health == Health::Healthy || life.is_at_rest(),
        }
    };
    let seen = view
        .wait_for(|view| view.is_gone || holds(view))
        .await
        .map(|view| Arc::clone(&view.record));
    // An actor that ended with the agent leaves its last view.
    let record = seen.unwrap_or_else(|_| Arc::clone(&view.borrow().record));
    let state = &record.life.state;
    if until == Until::Healthy && state.health != Health::Healthy {
        return Err(Problem::new(
            Class::Conflict,
            format!("container {id}"),
            "ended before it was healthy",
        ));
    }
    Ok(state.exit_code.unwrap_or(0))
}

fn missing(text: &str, node: &str) -> Problem {
    Problem::new(
        Class::NotFound,
        format!("container {text}"),
        format!("is not on node {node}"),
    )
    .remedy("`gantry container ls --all` lists them")
}

/// The command that will run, image defaults included: the image's own counts only with its own entrypoint.
fn command(container: &ContainerSpec, image: &ReadyImage) -> Vec<String> {
    let (entrypoint, default) = match &container.entrypoint {
        Some(entrypoint) => (entrypoint, &[][..]),
        None => (&image.config.entrypoint, &image.config.cmd[..]),
    };
    let rest = container.command.as_deref().unwrap_or(default);
    entrypoint.iter().chain(rest).cloned().collect()
}

/// What can be refused before anything is made, and what the image adds.
fn checked(mut spec: RunSpec, image: &ReadyImage) -> Result<RunSpec, Problem> {
    let object = format!("container {}", spec.name.as_deref().unwrap_or(&spec.container.image));
    let refused = |reason: &str| Problem::new(Class::Invalid, object.clone(), reason);
    if let NetworkMode::Named(name) = &spec.network {
        return Err(launch::named(name));
    }
    if command(&spec.container, image).is_empty() {
        return Err(refused("neither the image nor the command line says what to run").remedy("add a command"));
    }
    if spec.auto_remove && spec.restart.condition != RestartCondition::None {
        return Err(refused("cannot both go when it ends and be started again by a policy")
            .remedy("leave out --rm or --restart"));
    }
    if spec.publish_all {
        let exposed = image.config.exposed_ports.iter().filter_map(|text| exposed(text));
        let known: Vec<(u16, Protocol)> = spec.ports.iter().map(|port| (port.target, port.protocol)).collect();
        spec.ports
            .extend(exposed.filter(|port| !known.contains(&(port.target, port.protocol))));
    }
    if spec.network != NetworkMode::Bridge {
        // As in Docker, nothing is published where there is no network of its own.
        spec.ports.clear();
    }
    spec.container.image_digest = Some(image.digest.to_string());
    Ok(spec)
}

/// `80/tcp` or `80` of an image.
fn exposed(text: &str) -> Option<PortSpec> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    Some(PortSpec {
        target: number.parse().ok()?,
        published: None,
        protocol: match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        },
        mode: PortMode::Host,
        host_ip: None,
        name: None,
    })
}
