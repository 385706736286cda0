//! What people do to rollouts, cron jobs, configs and secrets, decided on a state and applied to it.

use std::collections::BTreeMap;

use gantry_env::Seeded;
use gantry_leader::admission::{self, Decision, Steer, SteerCron};
use gantry_model::object::{
    ClusterConfig, ClusterRecord, ImageRecord, Rollout, RolloutKind, RolloutState, RootCertificate, Service, TagRecord,
};
use gantry_model::spec::{
    Application, CanaryStep, ContainerSpec, CronSpec, DataKind, DataMount, DataSpec, Mode, RolloutStrategy, ServiceSpec,
};
use gantry_model::{Bytes64, Class, Name, NodeId, Problem, Timestamp};
use gantry_state::{Object, Op, Outcome, State, Transaction};

const IMAGE: &str = "docker.io/library/app:1";

fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

struct Cluster {
    state: State,
    env: Seeded,
}

impl Cluster {
    fn new() -> Self {
        let now = Timestamp(1_795_446_030_000);
        let digest = format!("sha256:{}", "1".repeat(64));
        let image = serde_json::json!({
            "digest": digest, "config_digest": digest, "size": 1, "platform": "linux/amd64", "nodes": [NodeId(1)],
        });
        let image: ImageRecord = serde_json::from_value(image).expect("a valid record");
        let tag = TagRecord {
            reference: IMAGE.to_string(),
            digest,
            updated_at: now,
        };
        let cluster = ClusterRecord {
            name: "test".to_string(),
            created_at: now,
            root: RootCertificate {
                certificate_pem: String::new(),
                key_pem: String::new(),
            },
            config: ClusterConfig::default(),
            subnets_given: 0,
        };
        let mut made = Self {
            state: State::default(),
            env: Seeded::new(1, now),
        };
        let objects = [Object::Cluster(cluster), Object::Image(image), Object::Tag(tag)];
        let ops = objects.into_iter().map(|object| Op::Put(Box::new(object))).collect();
        made.commit(&Transaction::new(now, ops));
        made
    }

    fn commit(&mut self, transaction: &Transaction) {
        let (outcome, _) = self.state.apply(self.state.revision() + 1, 1, transaction);
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    }

    fn apply(&mut self, application: &Application, keep_missing: bool) -> Vec<String> {
        let decision = admission::apply(&self.state, &self.env, application, keep_missing).expect("it is valid");
        self.commit(&decision.transaction);
        let changed = decision.changes.iter().filter(|change| change.rollout);
        changed.map(|change| change.name.clone()).collect()
    }

    fn service(&self, service: &str) -> Service {
        let found = self.state.service_named(&name("shop"), &name(service));
        found.expect("it exists").clone()
    }

    fn rollout(&self, service: &str) -> Rollout {
        self.service(service).rollout.expect("it has a rollout")
    }

    fn steer(&mut self, service: &str, steer: Steer) -> Result<(), Problem> {
        let decision: Decision = admission::steer(&self.state, &self.env, &self.service(service), steer)?;
        self.commit(&decision.transaction);
        Ok(())
    }

    fn edit(&mut self, service: &str, edit: impl FnOnce(&mut Service)) {
        let mut edited = self.service(service);
        edit(&mut edited);
        self.commit(&Transaction::new(
            Timestamp(1),
            vec![Op::Put(Box::new(Object::Service(edited)))],
        ));
    }
}

fn spec() -> ServiceSpec {
    ServiceSpec {
        container: ContainerSpec {
            image: IMAGE.to_string(),
            ..ContainerSpec::default()
        },
        ..ServiceSpec::default()
    }
}

fn application(services: &[(&str, ServiceSpec)]) -> Application {
    Application {
        namespace: name("shop"),
        services: services.iter().map(|(key, spec)| (name(key), spec.clone())).collect(),
        networks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        configs: BTreeMap::new(),
        secrets: BTreeMap::new(),
    }
}

/// A service with a canary of two steps under way.
fn canary() -> Cluster {
    let mut cluster = Cluster::new();
    let mut web = spec();
    let step = |percent| CanaryStep { percent, hold: None };
    web.update.strategy = RolloutStrategy::Canary {
        steps: vec![step(10), step(50)],
    };
    cluster.apply(&application(&[("web", web.clone())]), false);
    web.container.environment.insert("V".to_string(), Some("2".to_string()));
    assert_eq!(cluster.apply(&application(&[("web", web)]), false), ["web"]);
    cluster
}

#[test]
fn a_rollout_is_paused_and_resumed_and_its_failures_are_let_pass() {
    let mut cluster = canary();
    cluster.steer("web", Steer::Pause).expect("it runs");
    assert_eq!(cluster.rollout("web").state, RolloutState::Paused);
    let again = cluster.steer("web", Steer::Pause).expect_err("it is paused");
    assert_eq!(again.class, Class::Conflict);
    cluster.edit("web", |service| {
        let rollout = service.rollout.as_mut().expect("it has a rollout");
        rollout.failed.push(gantry_model::ReplicaId(7));
    });
    cluster.steer("web", Steer::Resume).expect("it is paused");
    let rollout = cluster.rollout("web");
    assert_eq!((rollout.state, rollout.forgiven), (RolloutState::Running, 1));
    assert!(rollout.resumed_at.is_some() && rollout.message.is_empty());
}

#[test]
fn a_stage_is_promoted_once_it_is_reached_or_all_of_them_at_once() {
    let mut cluster = canary();
    let early = cluster
        .steer("web", Steer::Promote { all: false })
        .expect_err("not reached");
    assert!(early.to_string().contains("stage 1 of 2 is not reached yet"), "{early}");
    cluster.edit("web", |service| {
        let rollout = service.rollout.as_mut().expect("it has a rollout");
        rollout.stage_reached_at = Some(Timestamp(5));
    });
    cluster
        .steer("web", Steer::Promote { all: false })
        .expect("it is reached");
    let rollout = cluster.rollout("web");
    assert_eq!((rollout.stage, rollout.stage_reached_at), (1, None));
    cluster.steer("web", Steer::Promote { all: true }).expect("all of them");
    assert_eq!(cluster.rollout("web").stage, 2);
    let late = cluster.steer("web", Steer::Promote { all: true });
    assert_eq!(late.expect_err("no stage is left").class, Class::Conflict);
}

#[test]
fn an_aborted_rollout_goes_back_to_where_it_came_from() {
    let mut cluster = canary();
    cluster.steer("web", Steer::Abort).expect("it runs");
    let rollout = cluster.rollout("web");
    assert_eq!((rollout.kind, rollout.from, rollout.to), (RolloutKind::Rollback, 2, 1));
    assert_eq!(cluster.service("web").revision, 1);
    assert!(
        cluster.steer("web", Steer::Abort).is_err(),
        "it is on its way back already"
    );
}

#[test]
fn an_update_half_way_that_is_superseded_would_go_back_to_what_was_rolled_out_in_full() {
    let mut cluster = canary();
    let mut web = ServiceSpec::clone(&cluster.service("web").spec);
    web.container.environment.insert("V".to_string(), Some("3".to_string()));
    cluster.apply(&application(&[("web", web)]), false);
    let rollout = cluster.rollout("web");
    assert_eq!((rollout.from, rollout.to), (1, 3));
}

#[test]
fn without_a_rollout_there_is_nothing_to_steer() {
    let mut cluster = Cluster::new();
    cluster.apply(&application(&[("web", spec())]), false);
    for steer in [Steer::Pause, Steer::Resume, Steer::Promote { all: true }, Steer::Abort] {
        assert_eq!(cluster.steer("web", steer).expect_err("none").class, Class::Conflict);
    }
}

fn cron() -> ServiceSpec {
    let mut job = spec();
    job.mode = Mode::ReplicatedJob {
        completions: 1,
        parallelism: 1,
    };
    job.cron = Some(CronSpec::with_defaults("0 3 * * *".parse().expect("a valid schedule")));
    job
}

#[test]
fn a_cron_job_is_run_by_hand_and_keeps_its_runs_when_it_is_applied_again() {
    let mut cluster = Cluster::new();
    cluster.apply(&application(&[("backup", cron())]), false);
    let run = |cluster: &mut Cluster| {
        let service = cluster.service("backup");
        let (decision, run) = admission::steer_cron(&cluster.state, &cluster.env, &service, SteerCron::Run)?;
        cluster.commit(&decision.transaction);
        Ok::<_, Problem>(run.expect("a run has a name"))
    };
    let made = run(&mut cluster).expect("it is a cron job");
    assert!(made.as_str().starts_with("backup-20261123"), "{made}");
    let service = cluster.service(made.as_str());
    assert_eq!(service.owner, Some(cluster.service("backup").id));
    assert!(service.spec.cron.is_none());
    assert_eq!(run(&mut cluster).expect_err("the same minute").class, Class::Conflict);
    cluster.apply(&application(&[("backup", cron())]), false);
    assert!(
        !cluster.service(made.as_str()).deleting,
        "it is not in the manifest, and stays all the same"
    );
    let taken = application(&[("backup", cron()), (made.as_str(), spec())]);
    let refused = admission::apply(&cluster.state, &cluster.env, &taken, false);
    assert_eq!(refused.expect_err("the name is the run's").class, Class::Conflict);
}

#[test]
fn a_suspended_cron_job_keeps_its_revision() {
    let mut cluster = Cluster::new();
    cluster.apply(&application(&[("backup", cron()), ("web", spec())]), false);
    for (steer, suspended) in [(SteerCron::Suspend, true), (SteerCron::Resume, false)] {
        let service = cluster.service("backup");
        let decided = admission::steer_cron(&cluster.state, &cluster.env, &service, steer).expect("a cron job");
        cluster.commit(&decided.0.transaction);
        let service = cluster.service("backup");
        assert_eq!(service.spec.cron.as_ref().map(|cron| cron.suspend), Some(suspended));
        assert_eq!(service.revision, 1);
    }
    let web = cluster.service("web");
    let refused = admission::steer_cron(&cluster.state, &cluster.env, &web, SteerCron::Run);
    assert_eq!(refused.expect_err("it is no cron job").class, Class::Invalid);
}

#[test]
fn new_content_of_a_secret_reaches_its_users_beside_the_manifest_by_a_rollout() {
    let mut cluster = Cluster::new();
    let secret = |text: &str| DataSpec {
        content: Some(Bytes64(text.as_bytes().to_vec())),
        shared_name: None,
        labels: BTreeMap::new(),
    };
    let mut user = spec();
    user.container.secrets.push(DataMount {
        source: name("token"),
        id: None,
        target: "/run/secrets/token".to_string(),
        uid: 0,
        gid: 0,
        mode: 0o444,
    });
    let mut both = application(&[("web", user), ("other", spec())]);
    both.secrets.insert(name("token"), secret("one"));
    cluster.apply(&both, false);
    let mut rotation = application(&[]);
    rotation.secrets.insert(name("token"), secret("two"));
    assert_eq!(cluster.apply(&rotation, true), ["web"]);
    let newest = cluster
        .state
        .data_named(DataKind::Secret, &name("shop"), &name("token"));
    let web = cluster.service("web");
    assert_eq!(web.spec.container.secrets[0].id, newest.map(|record| record.id));
    assert!(web.rollout.is_some() && cluster.service("other").rollout.is_none());
    assert!(
        cluster.apply(&rotation, true).is_empty(),
        "the same content again changes nothing"
    );
}
