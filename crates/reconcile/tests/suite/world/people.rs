//! What people do: services applied, scaled, updated, rolled back, deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::object::{RevisionRecord, Rollout, RolloutKind, Service};
use gantry_model::spec::{
    CanaryStep, ContainerSpec, Dependency, DependencyCondition, EndpointMode, FailureAction, Mode, Placement, PortMode,
    PortSpec, Protocol, Resources, RestartPolicy, RolloutStrategy, ServiceSpec, StartOrder, Stateful, UpdateConfig,
    UpdateOrder,
};
use gantry_model::{ByteSize, DurationMs, MilliCpu, Name, ServiceId};
use gantry_state::{Object, Op};

use super::{Dice, World};

/// A spec without any wish.
pub fn plain(mode: Mode) -> ServiceSpec {
    ServiceSpec {
        mode,
        container: ContainerSpec {
            image: "app:1".to_string(),
            ..ContainerSpec::default()
        },
        resources: Resources::default(),
        placement: Placement::default(),
        restart: RestartPolicy::default(),
        update: UpdateConfig::default(),
        rollback: UpdateConfig::default(),
        endpoint_mode: EndpointMode::Vip,
        ports: Vec::new(),
        expose: Vec::new(),
        networks: BTreeMap::new(),
        depends_on: BTreeMap::new(),
        labels: BTreeMap::new(),
        restart_generation: 0,
        ..ServiceSpec::default()
    }
}

pub fn replicated(replicas: u32) -> ServiceSpec {
    plain(Mode::Replicated { replicas })
}

/// Any spec that can be fulfilled by a healthy cluster of three nodes.
pub fn random_spec(dice: &mut Dice) -> ServiceSpec {
    let mode = match dice.below(10) {
        0..=5 => Mode::Replicated {
            replicas: dice.below(6) as u32,
        },
        6 | 7 => Mode::Global,
        8 => Mode::ReplicatedJob {
            completions: dice.below(5) as u32,
            parallelism: dice.below(3) as u32,
        },
        _ => Mode::GlobalJob,
    };
    let mut spec = plain(mode);
    spec.update = random_update(dice);
    spec.rollback = random_update(dice);
    spec.resources.cpu_reservation = MilliCpu(dice.below(3) * 100);
    spec.resources.memory_reservation = ByteSize::mib(dice.below(3) * 64);
    if dice.one_in(4) {
        let text = ["node.labels.zone==a", "node.labels.zone!=a"][dice.below(2) as usize];
        spec.placement
            .constraints
            .push(text.parse().expect("a valid constraint"));
    }
    if dice.one_in(5) {
        spec.placement.max_replicas_per_node = 1 + dice.below(3) as u32;
    }
    if dice.one_in(6) {
        spec.ports.push(PortSpec {
            target: 80,
            published: Some(8000 + dice.below(2) as u16),
            protocol: Protocol::Tcp,
            mode: PortMode::Host,
            host_ip: None,
            name: None,
        });
    }
    if dice.one_in(6) && matches!(spec.mode, Mode::Replicated { .. }) {
        let starts = [StartOrder::Ordered, StartOrder::Parallel];
        spec.stateful = Some(Stateful {
            start: starts[dice.below(2) as usize],
            exclusive: dice.one_in(2),
        });
    }
    if spec.mode.is_job() && dice.one_in(2) {
        spec.job.backoff_limit = Some(dice.below(8) as u32);
        spec.job.deadline = dice.one_in(3).then(|| DurationMs::secs(300));
    }
    if dice.one_in(5) {
        let name = Name::new(["web", "db", "job"][dice.below(3) as usize]).expect("a valid name");
        let conditions = [DependencyCondition::Started, DependencyCondition::Healthy];
        let dependency = Dependency {
            condition: conditions[dice.below(2) as usize],
            restart: false,
            required: dice.one_in(2),
        };
        spec.depends_on.insert(name, dependency);
    }
    spec
}

fn random_update(dice: &mut Dice) -> UpdateConfig {
    let actions = [FailureAction::Pause, FailureAction::Continue, FailureAction::Rollback];
    let orders = [UpdateOrder::StopFirst, UpdateOrder::StartFirst];
    UpdateConfig {
        parallelism: dice.below(4) as u32,
        delay: DurationMs::secs(dice.below(3) * 5),
        failure_action: actions[dice.below(3) as usize],
        monitor: DurationMs::secs(dice.below(3) * 5),
        max_failure_permille: (dice.below(3) * 250) as u32,
        order: orders[dice.below(2) as usize],
        batch_percent: dice.one_in(4).then(|| 1 + dice.below(100) as u32),
        progress_deadline: DurationMs::secs(dice.below(3) * 60),
        strategy: random_strategy(dice),
    }
}

/// Stages that end by themselves, so that what heals converges without a person.
fn random_strategy(dice: &mut Dice) -> RolloutStrategy {
    let hold = Some(DurationMs::secs(dice.below(20)));
    match dice.below(6) {
        0 => RolloutStrategy::BlueGreen { hold },
        1 => RolloutStrategy::Canary {
            steps: vec![CanaryStep { percent: 20, hold }, CanaryStep { percent: 60, hold }],
        },
        _ => RolloutStrategy::Rolling,
    }
}

impl World {
    /// Applies a new service, or a new revision of one; a scale alone keeps the revision.
    pub fn apply_spec(&mut self, name: &str, spec: ServiceSpec) -> ServiceId {
        let namespace = Name::new("shop").expect("a valid name");
        let name = Name::new(name).expect("a valid name");
        let Some(present) = self.state.service_named(&namespace, &name).cloned() else {
            return self.create(namespace, name, spec);
        };
        let number = 1 + self
            .state
            .revisions_of(present.id)
            .map(|one| one.number)
            .max()
            .unwrap_or(0);
        self.start_rollout(&present, spec, number, RolloutKind::Update);
        present.id
    }

    fn create(&mut self, namespace: Name, name: Name, spec: ServiceSpec) -> ServiceId {
        let id = ServiceId(self.fresh_id());
        let spec = Arc::new(spec);
        let service = Service {
            id,
            namespace,
            name,
            ports: spec.ports.clone(),
            spec: spec.clone(),
            revision: 1,
            networks: BTreeMap::new(),
            rollout: None,
            deleting: false,
            owner: None,
            job: Default::default(),
            created_at: self.now,
            updated_at: self.now,
        };
        self.write(vec![
            revision(&service, 1, spec, self.now),
            Op::Put(Box::new(Object::Service(service))),
        ]);
        id
    }

    fn start_rollout(&mut self, present: &Service, spec: ServiceSpec, to: u32, kind: RolloutKind) {
        let spec = Arc::new(spec);
        let mut service = present.clone();
        service.ports.clone_from(&spec.ports);
        service.spec = spec.clone();
        service.revision = to;
        service.updated_at = self.now;
        service.rollout = Some(Rollout::new(present.revision, to, kind, self.now));
        self.write(vec![
            revision(&service, to, spec, self.now),
            Op::Put(Box::new(Object::Service(service))),
        ]);
    }

    pub fn scale(&mut self, id: ServiceId, replicas: u32) {
        self.edit_service(id, |service| {
            if let Mode::Replicated { .. } = service.spec.mode {
                let mut spec = (*service.spec).clone();
                spec.mode = Mode::Replicated { replicas };
                service.spec = Arc::new(spec);
            }
        });
    }

    pub fn edit_service(&mut self, id: ServiceId, edit: impl FnOnce(&mut Service)) {
        let Some(service) = self.state.service(id) else { return };
        let mut service = service.clone();
        edit(&mut service);
        self.write(vec![Op::Put(Box::new(Object::Service(service)))]);
    }

    /// Back to an earlier revision that is still kept.
    pub fn roll_back(&mut self, id: ServiceId) {
        let Some(service) = self.state.service(id).cloned() else {
            return;
        };
        let kept: Vec<u32> = self
            .state
            .revisions_of(id)
            .map(|one| one.number)
            .filter(|one| *one != service.revision)
            .collect();
        let Some(to) = self.dice.pick(&kept) else { return };
        let spec = self.state.revision_of(id, to).expect("it was just listed").spec.clone();
        self.start_rollout(&service, (*spec).clone(), to, RolloutKind::Rollback);
    }

    pub fn delete_service(&mut self, id: ServiceId) {
        self.edit_service(id, |service| service.deleting = true);
    }
}

fn revision(service: &Service, number: u32, spec: Arc<ServiceSpec>, now: gantry_model::Timestamp) -> Op {
    Op::Put(Box::new(Object::Revision(RevisionRecord {
        service: service.id,
        number,
        spec,
        created_at: now,
        cause: "apply".to_string(),
    })))
}
