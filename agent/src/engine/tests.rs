//! Containers by hand on a machine that pretends.

use std::sync::Arc;

use gantry_env::System;
use gantry_model::container::{Container, ContainerStatus, NetworkMode, RunSpec};
use gantry_model::spec::{PortMode, PortSpec, Protocol, RestartCondition, RestartPolicy};
use gantry_model::{Class, DurationMs, ReplicaId};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::actor::Stop;
use super::filters::Filters;
use super::store::RecordStore;
use super::testing::run_spec;
use super::{Engine, Machine, Until};
use crate::board::Board;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::drivers::Images;
use crate::shared::Shared;
use crate::testing::machine::Machine as Pretended;
use crate::testing::until;

/// A disk and a machine, which outlive agents.
struct Place {
    data: TempDir,
    run: TempDir,
    machine: Pretended,
}

/// One life of an agent.
struct Agent {
    engine: Engine,
    machine: Pretended,
    shutdown: CancellationToken,
}

impl Place {
    fn new() -> Self {
        Self {
            data: tempfile::tempdir().expect("a folder"),
            run: tempfile::tempdir().expect("a folder"),
            machine: Pretended::new(),
        }
    }

    async fn start(&self) -> Agent {
        let shared = Arc::new(Shared {
            drivers: self.machine.drivers(),
            board: Board::default(),
            disk: Disk::open(self.data.path(), self.run.path()).expect("the former agent has ended"),
            clock: Clock::new(Arc::new(System)),
            surroundings: Default::default(),
            ingress: Default::default(),
        });
        let machine = Machine {
            runtime: Arc::new(self.machine.clone()),
            volumes: Arc::new(self.machine.clone()),
            bridge: Arc::new(self.machine.clone()),
            store: RecordStore::open(self.data.path()).expect("opened"),
        };
        let shutdown = CancellationToken::new();
        let (node, host) = ("alpha".to_string(), "alpha.local".to_string());
        let engine = Engine::open(shared, machine, Arc::new(System), node, host, shutdown.clone()).await;
        Agent {
            engine: engine.expect("opened"),
            machine: self.machine.clone(),
            shutdown,
        }
    }
}

impl Agent {
    async fn create(&self, spec: RunSpec) -> ReplicaId {
        self.try_create(spec).await.expect("made")
    }

    async fn try_create(&self, spec: RunSpec) -> Result<ReplicaId, gantry_model::Problem> {
        let image = self.machine.ensure(&spec.container).await.expect("the image is there");
        self.engine.create(spec, image).await.map(|(id, _)| id)
    }

    async fn start(&self, name: &str) -> Result<(), gantry_model::Problem> {
        let (id, entry) = self.engine.find(name)?;
        self.engine.start(id, &entry, None).await
    }

    async fn run(&self, spec: RunSpec) -> ReplicaId {
        let name = spec.name.clone().expect("tests name theirs");
        let id = self.create(spec).await;
        self.start(&name).await.expect("started");
        id
    }

    fn container(&self, name: &str) -> Container {
        self.engine.inspect(name).expect("it is there")
    }

    async fn until_status(&self, name: &str, status: ContainerStatus) {
        let what = format!("{name} is {}", status.as_str());
        until(&what, || {
            self.engine
                .inspect(name)
                .is_ok_and(|shown| shown.state.status == status)
        })
        .await;
    }

    async fn until_gone(&self, name: &str) {
        until(&format!("{name} is gone"), || self.engine.inspect(name).is_err()).await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.engine.finished().await;
    }
}

fn port(published: Option<u16>) -> PortSpec {
    PortSpec {
        target: 80,
        published,
        protocol: Protocol::Tcp,
        mode: PortMode::Host,
        host_ip: None,
        name: None,
    }
}

fn restarting(name: &str, condition: RestartCondition) -> RunSpec {
    RunSpec {
        restart: RestartPolicy {
            condition,
            ..RestartPolicy::default()
        },
        ..run_spec(name)
    }
}

#[tokio::test]
async fn a_container_is_made_started_stopped_started_again_and_removed() {
    let place = Place::new();
    let agent = place.start().await;
    let spec = RunSpec {
        ports: vec![port(None)],
        ..run_spec("web")
    };
    let id = agent.create(spec).await;
    assert_eq!(agent.container("web").state.status, ContainerStatus::Created);
    assert_eq!(agent.machine.state().launches, 0);
    agent.start("web").await.expect("started");
    agent.start("web").await.expect("it runs already");
    let shown = agent.container("web");
    assert_eq!(shown.state.status, ContainerStatus::Running);
    assert!(
        shown.address.is_some() && shown.ports[0].published.is_some(),
        "{shown:?}"
    );
    assert_eq!(agent.machine.state().published.len(), 1);

    let stopped = agent
        .engine
        .stop(&id.to_string()[..6], Stop::default(), false)
        .await
        .expect("stopped");
    assert_eq!(
        (stopped.state.status, stopped.state.exit_code),
        (ContainerStatus::Exited, Some(143))
    );
    assert_eq!(
        (stopped.address, stopped.ports.len()),
        (None, 0),
        "what it had is others' now"
    );
    assert!(agent.machine.state().bridged.is_empty() && agent.machine.state().published.is_empty());

    let again = agent
        .engine
        .stop("web", Stop::default(), true)
        .await
        .expect("started again");
    assert_eq!(again.state.status, ContainerStatus::Running);
    let refused = agent.engine.remove("web", false, false).await.expect_err("it runs");
    assert!(
        refused.class == Class::Conflict && refused.remedy.contains("--force"),
        "{refused}"
    );
    agent.engine.remove("web", true, false).await.expect("forced");
    assert!(agent.engine.inspect("web").is_err());
    let state = agent.machine.state();
    assert!(
        state.containers.is_empty() && state.bridged.is_empty(),
        "nothing is left"
    );
    assert!(
        state.volumes_kept.contains(&id),
        "its anonymous volumes stay unless asked otherwise"
    );
    drop(state);
    assert!(!place.data.path().join("containers").join(id.to_string()).exists());
}

#[tokio::test]
async fn names_are_unique_made_up_and_changed() {
    let place = Place::new();
    let agent = place.start().await;
    agent.create(run_spec("web")).await;
    let taken = agent.try_create(run_spec("web")).await.expect_err("taken");
    assert!(
        taken.class == Class::Conflict && taken.remedy.contains("gantry rm web"),
        "{taken}"
    );
    let unnamed = agent
        .create(RunSpec {
            name: None,
            ..run_spec("x")
        })
        .await;
    let name = agent.container(&unnamed.to_string()).name;
    assert!(name.contains('_'), "{name}");
    let renamed = agent.engine.rename("web", "shop").await.expect("renamed");
    assert_eq!(renamed.name, "shop");
    agent.create(run_spec("web")).await;
    assert_eq!(
        agent.engine.rename("web", "shop").await.expect_err("taken").class,
        Class::Conflict
    );
    for wrong in ["-x", "a", "a b", &ReplicaId(5).to_string()] {
        assert!(agent.try_create(run_spec(wrong)).await.is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn what_goes_with_its_end_goes_and_frees_its_name_at_once() {
    let place = Place::new();
    let agent = place.start().await;
    let spec = RunSpec {
        auto_remove: true,
        ..run_spec("once")
    };
    let id = agent.run(spec.clone()).await;
    let engine = agent.engine.clone();
    let waiting = tokio::spawn(async move { engine.wait(&id.to_string(), Until::Removed).await });
    agent.machine.exit(id.0, 3);
    assert_eq!(waiting.await.expect("no crash").expect("it ended"), 3);
    agent.until_gone("once").await;
    assert!(agent.machine.state().volumes_removed.contains(&id));
    agent.run(spec).await;
    let both = RunSpec {
        auto_remove: true,
        ..restarting("both", RestartCondition::Any)
    };
    assert_eq!(
        agent.try_create(both).await.expect_err("a contradiction").class,
        Class::Invalid
    );
}

#[tokio::test]
async fn a_program_that_cannot_be_run_leaves_docker_s_exit_status() {
    let place = Place::new();
    let agent = place.start().await;
    agent.machine.state().launch_fails = Some(127);
    let id = agent.create(run_spec("typo")).await;
    let problem = agent.start("typo").await.expect_err("it is not there");
    assert!(problem.reason.contains("no such program"), "{problem}");
    until("its network is given back", || agent.machine.state().bridged.is_empty()).await;
    let shown = agent.container("typo");
    assert_eq!(
        (shown.state.status, shown.state.exit_code),
        (ContainerStatus::Created, Some(127))
    );
    agent.machine.state().launch_fails = None;
    agent.start("typo").await.expect("now it is");
    assert_eq!(agent.container("typo").id, id);
}

#[tokio::test]
async fn policies_start_again_until_somebody_stops_it() {
    let place = Place::new();
    let agent = place.start().await;
    let id = agent.run(restarting("loop", RestartCondition::OnFailure)).await;
    for round in 1..=2u32 {
        agent.machine.exit(id.0, 1);
        until("it runs again", || agent.machine.state().launches == round + 1).await;
        agent.until_status("loop", ContainerStatus::Running).await;
    }
    assert_eq!(agent.container("loop").state.restarts, 2);
    agent.machine.exit(id.0, 1);
    agent.until_status("loop", ContainerStatus::Restarting).await;
    let stopped = agent
        .engine
        .stop("loop", Stop::default(), false)
        .await
        .expect("stopped");
    assert_eq!(stopped.state.status, ContainerStatus::Exited);
    agent.start("loop").await.expect("started");
    agent.engine.kill("loop", nix::libc::SIGKILL).await.expect("killed");
    assert_eq!(agent.container("loop").state.status, ContainerStatus::Exited);
    let dead = agent.engine.kill("loop", 15).await.expect_err("it does not run");
    assert_eq!(dead.class, Class::Conflict);
}

#[tokio::test]
async fn one_that_ignores_its_signal_is_killed_when_the_grace_is_over() {
    let place = Place::new();
    let agent = place.start().await;
    agent.machine.state().is_stubborn = true;
    agent.run(run_spec("stubborn")).await;
    let stop = Stop {
        grace: Some(DurationMs(20)),
        signal: Some(12),
    };
    let stopped = agent.engine.stop("stubborn", stop, false).await.expect("stopped");
    assert_eq!(stopped.state.exit_code, Some(137));
    let shown = agent.container("stubborn");
    let container = agent.machine.container(shown.id.0).expect("its record stays");
    assert_eq!(container.signals, [12]);
}

#[tokio::test]
async fn freezing_changes_the_state_and_is_refused_where_it_means_nothing() {
    let place = Place::new();
    let agent = place.start().await;
    agent.run(run_spec("web")).await;
    assert!(agent.engine.freeze("web", false).await.is_err(), "it is not frozen");
    let frozen = agent.engine.freeze("web", true).await.expect("frozen");
    assert_eq!(frozen.state.status, ContainerStatus::Paused);
    assert!(agent.start("web").await.is_err());
    let stopped = agent.engine.stop("web", Stop::default(), false).await.expect("stopped");
    assert_eq!(stopped.state.status, ContainerStatus::Exited);
    assert!(
        agent.machine.state().frozen.is_empty(),
        "it was thawed to hear its signal"
    );
}

#[tokio::test]
async fn the_next_agent_adopts_what_runs_and_starts_what_docker_would() {
    let place = Place::new();
    let agent = place.start().await;
    let published = RunSpec {
        ports: vec![port(Some(65_001))],
        ..run_spec("kept")
    };
    let kept = agent.run(published).await;
    let lost = agent.run(run_spec("lost")).await;
    let always = agent.run(restarting("always", RestartCondition::Any)).await;
    let unless = RunSpec {
        unless_stopped: true,
        ..restarting("unless", RestartCondition::Any)
    };
    agent.run(unless).await;
    agent
        .engine
        .stop("unless", Stop::default(), false)
        .await
        .expect("stopped");
    let once = agent
        .run(RunSpec {
            auto_remove: true,
            ..run_spec("once")
        })
        .await;
    let address = agent.container("kept").address;
    agent.stop().await;
    // A restart of the machine would take all; here two vanish, and one ends meanwhile.
    place.machine.state().containers.remove(&lost);
    place.machine.state().containers.remove(&always);
    place.machine.exit(once.0, 0);
    let launches = place.machine.state().launches;

    let agent = place.start().await;
    until("what is always to run is started", || {
        place.machine.state().launches > launches
    })
    .await;
    agent.until_status("always", ContainerStatus::Running).await;
    agent.until_status("kept", ContainerStatus::Running).await;
    agent.until_status("lost", ContainerStatus::Exited).await;
    agent.until_gone("once").await;
    assert_eq!(agent.container("lost").state.exit_code, Some(255));
    assert_eq!(agent.container("unless").state.status, ContainerStatus::Exited);
    assert_eq!(agent.container("kept").address, address);
    assert_eq!(place.machine.state().launches, launches + 1, "only one was started");
    let clash = RunSpec {
        ports: vec![port(Some(65_001))],
        ..run_spec("late")
    };
    agent.create(clash).await;
    let refused = agent.start("late").await.expect_err("the port is taken");
    assert!(refused.reason.contains("container kept"), "{refused}");
    agent.machine.exit(kept.0, 0);
    agent.until_status("kept", ContainerStatus::Exited).await;
    until("the port is free", || agent.machine.state().published.is_empty()).await;
    agent.start("late").await.expect("free");
}

#[tokio::test]
async fn lists_are_filtered_and_pruning_takes_what_has_ended() {
    let place = Place::new();
    let agent = place.start().await;
    agent.run(run_spec("up")).await;
    agent.create(run_spec("made")).await;
    let names = |all, filters: &[&str]| {
        let texts: Vec<String> = filters.iter().map(ToString::to_string).collect();
        let filters = Filters::parse(&texts).expect("valid");
        let mut names: Vec<_> = agent
            .engine
            .list(all, &filters)
            .into_iter()
            .map(|shown| shown.name)
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(false, &[]), ["up"]);
    assert_eq!(names(true, &[]), ["made", "up"]);
    assert_eq!(names(false, &["status=created"]), ["made"]);
    let removed = agent.engine.prune(&Filters::default()).await.expect("pruned");
    assert_eq!(removed.len(), 1);
    assert_eq!(names(true, &[]), ["up"]);
}

#[tokio::test]
async fn networks_of_the_cluster_and_of_containers_that_rest_are_refused() {
    let place = Place::new();
    let agent = place.start().await;
    let with = |name: &str, network| RunSpec {
        network,
        ..run_spec(name)
    };
    let named = agent
        .try_create(with("one", NetworkMode::Named("shop_default".into())))
        .await;
    assert!(named.expect_err("for services").remedy.contains("gantry apply"));
    agent.create(with("two", NetworkMode::Container("nobody".into()))).await;
    assert!(agent.start("two").await.is_err());
    agent.create(run_spec("resting")).await;
    agent
        .create(with("three", NetworkMode::Container("resting".into())))
        .await;
    let refused = agent.start("three").await.expect_err("it does not run");
    assert!(refused.reason.contains("does not run"), "{refused}");
    agent.start("resting").await.expect("started");
    agent.start("three").await.expect("joined");
    assert_eq!(agent.container("three").address, None);
}

#[tokio::test]
async fn limits_and_policy_change_while_it_runs() {
    let place = Place::new();
    let agent = place.start().await;
    let id = agent.run(run_spec("web")).await;
    let resources = gantry_model::spec::Resources {
        pids_limit: Some(7),
        ..Default::default()
    };
    let policy = restarting("x", RestartCondition::Any).restart;
    let updated = agent
        .engine
        .update("web", Some(resources.clone()), Some(policy.clone()))
        .await
        .expect("updated");
    assert_eq!((&updated.spec.resources, &updated.spec.restart), (&resources, &policy));
    assert_eq!(agent.machine.state().limits.get(&id), Some(&resources));
}
