//! A machine that only pretends: containers are entries in a table. It outlives the agents of a test, as a real one does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt;
use futures::future::BoxFuture;
use gantry_image::ImageConfig;
use gantry_lifecycle::{Attempt, Failure, Found};
use gantry_model::net::Ipv4Net;
use gantry_model::phase::Exit;
use gantry_model::spec::{ContainerSpec, Mount, Resources};
use gantry_model::{Digest, DurationMs, Problem, ReplicaId, Timestamp};
use gantry_netplan::Plan;
use gantry_network::{Connections, Disturbance, LocalAttachment, LocalPort};
use tokio::sync::{Semaphore, watch};

use crate::drivers::{
    Attached, AttachedOutput, Bridge, Drivers, Images, Launch, LaunchFailure, Network, ReadyImage, ReadyMount, Running,
    Runtime, VolumeOwner, Volumes,
};

/// See the module.
#[derive(Clone)]
pub(crate) struct Machine {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    /// Applications of the network wait for a permit each; plenty unless a test takes them away.
    pub(crate) gate: Arc<Semaphore>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) containers: BTreeMap<ReplicaId, Container>,
    pub(crate) launches: u32,
    pub(crate) plans: Vec<Arc<Plan>>,
    pub(crate) attached: BTreeSet<ReplicaId>,
    /// Connections of clients.
    pub(crate) connections: BTreeMap<ReplicaId, Connections>,
    /// What the next looks at connections see, before `connections` holds.
    pub(crate) looks: VecDeque<Connections>,
    /// Ports on which all programs accept connections; none when that is unknown.
    pub(crate) listening: Option<BTreeSet<u16>>,
    pub(crate) volumes_removed: BTreeSet<ReplicaId>,
    pub(crate) volumes_kept: BTreeSet<ReplicaId>,
    /// Addresses of containers run by hand.
    pub(crate) bridged: BTreeMap<ReplicaId, Ipv4Addr>,
    pub(crate) published: BTreeSet<LocalPort>,
    pub(crate) frozen: BTreeSet<ReplicaId>,
    pub(crate) limits: BTreeMap<ReplicaId, Resources>,
    /// Launches that fail with this exit status.
    pub(crate) launch_fails: Option<i32>,
    /// Preparations that fail before one succeeds.
    pub(crate) image_failures: u32,
    /// The program ignores its stop signal.
    pub(crate) is_stubborn: bool,
    pub(crate) is_unhealthy: bool,
    pub(crate) probes: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) attempt: Attempt,
    pub(crate) pid: u32,
    pub(crate) exit: Option<Exit>,
    pub(crate) signals: Vec<i32>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            state: Arc::default(),
            changed: watch::Sender::new(()),
            gate: Arc::new(Semaphore::new(10_000)),
        }
    }

    pub(crate) fn drivers(&self) -> Drivers {
        Drivers {
            runtime: Arc::new(self.clone()),
            images: Arc::new(self.clone()),
            network: Arc::new(self.clone()),
            volumes: Arc::new(self.clone()),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }

    pub(crate) fn container(&self, replica: u64) -> Option<Container> {
        self.state().containers.get(&ReplicaId(replica)).cloned()
    }

    /// Ends a container by itself.
    pub(crate) fn exit(&self, replica: u64, code: i32) {
        self.end(ReplicaId(replica), code);
    }

    fn end(&self, replica: ReplicaId, code: i32) {
        let exit = Exit {
            code,
            oom_killed: false,
            at: Timestamp(1),
        };
        if let Some(container) = self.state().containers.get_mut(&replica) {
            container.exit.get_or_insert(exit);
        }
        self.changed.send_replace(());
    }
}

impl Runtime for Machine {
    fn launch(&self, launch: Arc<Launch>, attempt: Attempt) -> BoxFuture<'_, Result<Running, LaunchFailure>> {
        async move {
            let mut state = self.state();
            if let Some(exit_code) = state.launch_fails {
                return Err(LaunchFailure {
                    reason: "no such program".to_string(),
                    retryable: false,
                    exit_code,
                });
            }
            state.launches += 1;
            let pid = 1000 + state.launches;
            let container = Container {
                attempt,
                pid,
                exit: None,
                signals: Vec::new(),
            };
            let id = launch.id;
            let before = state.containers.insert(id, container);
            assert!(
                before.is_none_or(|before| before.exit.is_some()),
                "{id} would run twice"
            );
            Ok(Running {
                pid,
                started_at: Timestamp(1),
            })
        }
        .boxed()
    }

    fn proceed(&self, _replica: ReplicaId) -> BoxFuture<'_, Result<Timestamp, LaunchFailure>> {
        async move { Ok(Timestamp(1)) }.boxed()
    }

    fn attach(&self, _replica: ReplicaId, _stdin: bool) -> BoxFuture<'_, Result<Attached, Problem>> {
        async move {
            let empty = || std::fs::File::open("/dev/null").expect("every machine has it").into();
            Ok(Attached {
                stdin: None,
                output: AttachedOutput::Pipes {
                    stdout: empty(),
                    stderr: empty(),
                },
            })
        }
        .boxed()
    }

    fn close_stdin(&self, _replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>> {
        async move { Ok(()) }.boxed()
    }

    fn resize(&self, _replica: ReplicaId, _rows: u16, _columns: u16) -> BoxFuture<'_, Result<(), Problem>> {
        async move { Ok(()) }.boxed()
    }

    fn freeze(&self, replica: ReplicaId, frozen: bool) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            let mut state = self.state();
            if frozen {
                state.frozen.insert(replica);
            } else {
                state.frozen.remove(&replica);
            }
            Ok(())
        }
        .boxed()
    }

    fn limit(&self, replica: ReplicaId, resources: Resources) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            self.state().limits.insert(replica, resources);
            Ok(())
        }
        .boxed()
    }

    fn find(&self, replica: ReplicaId, attempt: Attempt) -> BoxFuture<'_, Result<Found, Problem>> {
        async move {
            Ok(match self.state().containers.get(&replica) {
                Some(Container { pid, exit: None, .. }) => Found::Running {
                    pid: *pid,
                    started_at: Timestamp(1),
                },
                Some(container) if container.attempt == attempt => {
                    Found::Exited(container.exit.expect("the arm before has those without"))
                }
                Some(_) | None => Found::Nothing,
            })
        }
        .boxed()
    }

    fn wait(&self, replica: ReplicaId, _attempt: Attempt) -> BoxFuture<'_, Result<Exit, Problem>> {
        async move {
            let mut changed = self.changed.subscribe();
            loop {
                let exit = self
                    .state()
                    .containers
                    .get(&replica)
                    .and_then(|container| container.exit);
                if let Some(exit) = exit {
                    return Ok(exit);
                }
                changed.changed().await.expect("the machine is there");
            }
        }
        .boxed()
    }

    fn signal(&self, replica: ReplicaId, _attempt: Attempt, signal: i32) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            let is_stubborn = {
                let mut state = self.state();
                if let Some(container) = state.containers.get_mut(&replica) {
                    container.signals.push(signal);
                }
                state.is_stubborn
            };
            if !is_stubborn {
                self.end(replica, 128 + signal);
            }
            Ok(())
        }
        .boxed()
    }

    fn kill(&self, replica: ReplicaId, _attempt: Attempt) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            self.end(replica, 137);
            Ok(())
        }
        .boxed()
    }

    fn probe(
        &self,
        _replica: ReplicaId,
        _attempt: Attempt,
        _command: Vec<String>,
        _timeout: DurationMs,
    ) -> BoxFuture<'_, Result<(i32, String), Problem>> {
        async move {
            let mut state = self.state();
            state.probes += 1;
            let status = i32::from(state.is_unhealthy);
            Ok((status, "checked".to_string()))
        }
        .boxed()
    }

    fn release(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            self.state().containers.remove(&replica);
            Ok(())
        }
        .boxed()
    }
}

impl Images for Machine {
    fn ensure<'a>(&'a self, container: &'a ContainerSpec) -> BoxFuture<'a, Result<ReadyImage, Failure>> {
        async move {
            let mut state = self.state();
            if state.image_failures > 0 {
                state.image_failures -= 1;
                return Err(Failure {
                    reason: format!("image {} is on no node", container.image),
                    retryable: true,
                });
            }
            Ok(ReadyImage {
                digest: Digest::from_hex(&"a".repeat(64)).expect("64 digits"),
                config: image_config(),
                layers: Vec::new(),
            })
        }
        .boxed()
    }
}

fn image_config() -> ImageConfig {
    ImageConfig {
        os: "linux".into(),
        architecture: "amd64".into(),
        variant: None,
        created_at: None,
        env: Vec::new(),
        entrypoint: Vec::new(),
        cmd: Vec::new(),
        user: String::new(),
        working_dir: String::new(),
        exposed_ports: BTreeSet::new(),
        volumes: BTreeSet::new(),
        healthcheck: None,
        stop_signal: None,
        labels: BTreeMap::new(),
        shell: Vec::new(),
        diff_ids: Vec::new(),
    }
}

impl Network for Machine {
    fn apply(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            self.gate.acquire().await.expect("never closed").forget();
            self.state().plans.push(plan);
            Ok(())
        }
        .boxed()
    }

    fn heal(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<(), Problem>> {
        self.apply(plan)
    }

    fn disturbed(&self) -> BoxFuture<'_, Disturbance> {
        std::future::pending().boxed()
    }

    fn repair(&self, plan: Arc<Plan>, _disturbance: Disturbance) -> BoxFuture<'_, Result<(), Problem>> {
        self.apply(plan)
    }

    fn resume(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<(), Problem>> {
        self.apply(plan)
    }

    fn connections(&self, replica: ReplicaId) -> BoxFuture<'_, Result<Option<Connections>, Problem>> {
        async move {
            let mut state = self.state();
            if !state.attached.contains(&replica) {
                return Ok(None);
            }
            let now = state.connections.get(&replica).copied().unwrap_or_default();
            Ok(Some(state.looks.pop_front().unwrap_or(now)))
        }
        .boxed()
    }

    fn listening(&self, replica: ReplicaId) -> BoxFuture<'_, Result<Option<BTreeSet<u16>>, Problem>> {
        async move {
            let state = self.state();
            Ok(state.listening.clone().filter(|_| state.attached.contains(&replica)))
        }
        .boxed()
    }

    fn attach(&self, replica: ReplicaId, _address: Ipv4Addr) -> BoxFuture<'_, Result<PathBuf, Problem>> {
        async move {
            self.state().attached.insert(replica);
            Ok(PathBuf::from("/run/netns").join(replica.to_string()))
        }
        .boxed()
    }

    fn detach(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            self.state().attached.remove(&replica);
            Ok(())
        }
        .boxed()
    }

    fn attached(&self) -> BoxFuture<'_, Result<Vec<ReplicaId>, Problem>> {
        async move { Ok(self.state().attached.iter().copied().collect()) }.boxed()
    }
}

impl Volumes for Machine {
    fn ensure<'a>(
        &'a self,
        _owner: &'a VolumeOwner,
        _mounts: &'a [Mount],
        _image: &'a ImageConfig,
    ) -> BoxFuture<'a, Result<Vec<ReadyMount>, Failure>> {
        async move { Ok(Vec::new()) }.boxed()
    }

    fn remove(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            self.state().volumes_removed.insert(replica);
            Ok(())
        }
        .boxed()
    }

    fn keep(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            self.state().volumes_kept.insert(replica);
            Ok(())
        }
        .boxed()
    }
}

impl Bridge for Machine {
    fn adopt(&self, container: ReplicaId, address: Ipv4Addr, ports: Vec<LocalPort>) {
        let mut state = self.state();
        state.bridged.insert(container, address);
        state.published.extend(ports);
    }

    fn ready(&self, _avoid: Vec<Ipv4Net>) -> BoxFuture<'_, Result<(), Problem>> {
        async move { Ok(()) }.boxed()
    }

    fn heal(&self) -> BoxFuture<'_, Result<(), Problem>> {
        async move { Ok(()) }.boxed()
    }

    fn attach(&self, container: ReplicaId, _avoid: Vec<Ipv4Net>) -> BoxFuture<'_, Result<LocalAttachment, Problem>> {
        async move {
            let mut state = self.state();
            let next = u8::try_from(state.bridged.len() + 2).expect("tests have few containers");
            let address = *state
                .bridged
                .entry(container)
                .or_insert(Ipv4Addr::new(172, 30, 0, next));
            Ok(LocalAttachment {
                namespace: PathBuf::from("/run/netns-local").join(container.to_string()),
                address,
                gateway: Ipv4Addr::new(172, 30, 0, 1),
            })
        }
        .boxed()
    }

    fn serve_names(&self, _avoid: Vec<Ipv4Net>) -> BoxFuture<'_, Result<(), Problem>> {
        async move { Ok(()) }.boxed()
    }

    fn detach(&self, container: ReplicaId) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            self.state().bridged.remove(&container);
            Ok(())
        }
        .boxed()
    }

    fn publish(&self, ports: Vec<LocalPort>, _avoid: Vec<Ipv4Net>) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            self.state().published.extend(ports);
            Ok(())
        }
        .boxed()
    }

    fn withdraw(&self, ports: Vec<LocalPort>) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            self.state().published.retain(|port| !ports.contains(port));
            Ok(())
        }
        .boxed()
    }

    fn attached(&self) -> BoxFuture<'_, Result<Vec<ReplicaId>, Problem>> {
        async move { Ok(self.state().bridged.keys().copied().collect()) }.boxed()
    }
}
