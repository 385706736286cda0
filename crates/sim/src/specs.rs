//! Specs of all kinds, and how containers made from them behave.

use gantry_model::spec::{
    Dependency, DependencyCondition, FailureAction, HealthCheck, HealthTest, Mode, Placement, PortMode, PortSpec,
    Protocol, Resources, RestartCondition, ServiceSpec, StartOrder, Stateful, UpdateConfig, UpdateOrder,
};
use gantry_model::{ByteSize, DurationMs, MilliCpu, Name};

use crate::dice::Dice;

/// The services of a run.
pub const NAMES: &[&str] = &["web", "api", "db", "batch"];
/// The image that every container is made from.
pub const IMAGE: &str = "docker.io/library/app:1";
/// Its digest.
pub const DIGEST: &str = "sha256:5c94ea7af11f0f4e1ff8a2d4e5a4b0f0a4e84f2c3f1b8ad8d2a5b5e1cbb3a111";
/// The variable that says how a container behaves.
const CONDUCT: &str = "CONDUCT";

/// How a container behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    /// It runs until it is stopped; a job's ends well.
    Good,
    /// It ends badly soon after its start, each time.
    Crashes,
    /// It ends badly now and then.
    Flaky,
    /// Its health checks never succeed.
    Ill,
    /// Its preparation fails.
    Missing,
}

impl Conduct {
    const fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Crashes => "crashes",
            Self::Flaky => "flaky",
            Self::Ill => "ill",
            Self::Missing => "missing",
        }
    }

    /// The conduct of a spec's containers.
    #[must_use]
    pub fn of(spec: &ServiceSpec) -> Self {
        let word = spec.container.environment.get(CONDUCT).cloned().flatten();
        [Self::Crashes, Self::Flaky, Self::Ill, Self::Missing]
            .into_iter()
            .find(|one| Some(one.word()) == word.as_deref())
            .unwrap_or(Self::Good)
    }
}

/// A spec without any wish.
#[must_use]
pub fn plain(mode: Mode) -> ServiceSpec {
    // By its document, which needs only what has no default.
    let document = serde_json::json!({
        "mode": mode,
        "container": { "image": IMAGE, "stop_grace_period": 2_000 },
        "networks": { "default": { "network": "shop_default" } },
    });
    serde_json::from_value(document).expect("a valid spec")
}

/// Any spec of the kind that the name stands for, so that a service can be applied again and again.
pub fn random(name: &str, dice: &mut Dice) -> ServiceSpec {
    let mode = match name {
        "api" if dice.one_in(1) => Mode::Global,
        "batch" => Mode::ReplicatedJob {
            completions: dice.between(1, 4) as u32,
            parallelism: dice.below(3) as u32,
        },
        _ => Mode::Replicated {
            replicas: dice.below(6) as u32,
        },
    };
    let mut spec = plain(mode);
    let version = dice.below(3).to_string();
    spec.container.environment.insert("VERSION".to_string(), Some(version));
    behave(&mut spec, dice);
    spec.update = update(dice);
    spec.rollback = update(dice);
    spec.resources.cpu_reservation = MilliCpu(dice.below(3) * 300);
    spec.resources.memory_reservation = ByteSize::mib(dice.below(3) * 256);
    wishes(&mut spec, name, dice);
    if name == "db" && dice.one_in(2) {
        let start = dice.pick(&[StartOrder::Ordered, StartOrder::Parallel]);
        spec.stateful = Some(Stateful {
            start: start.unwrap_or(StartOrder::Parallel),
            exclusive: dice.one_in(2),
        });
    }
    spec
}

fn behave(spec: &mut ServiceSpec, dice: &mut Dice) {
    let conduct = match dice.below(14) {
        0 => Conduct::Crashes,
        1 => Conduct::Flaky,
        2 => Conduct::Ill,
        3 => Conduct::Missing,
        _ => Conduct::Good,
    };
    let word = Some(conduct.word().to_string());
    spec.container.environment.insert(CONDUCT.to_string(), word);
    if conduct == Conduct::Ill || dice.one_in(3) {
        spec.container.healthcheck = Some(HealthCheck {
            interval: DurationMs(1_000),
            timeout: DurationMs(1_000),
            retries: 2,
            ..HealthCheck::with_defaults(HealthTest::Shell("true".to_string()))
        });
    }
    if dice.one_in(3) {
        let conditions = [RestartCondition::None, RestartCondition::OnFailure];
        spec.restart.condition = dice.pick(&conditions).unwrap_or(RestartCondition::Any);
        spec.restart.max_attempts = dice.one_in(2).then_some(2);
    }
}

fn wishes(spec: &mut ServiceSpec, name: &str, dice: &mut Dice) {
    if dice.one_in(4) {
        let text = dice.pick(&["node.labels.zone==a", "node.labels.zone!=a"]);
        let constraint = text.map(|text| text.parse().expect("a valid constraint"));
        spec.placement.constraints.extend(constraint);
    }
    if dice.one_in(5) {
        spec.placement.max_replicas_per_node = dice.between(1, 3) as u32;
    }
    if dice.one_in(3) && name != "batch" {
        let mode = if dice.one_in(2) {
            PortMode::Host
        } else {
            PortMode::Ingress
        };
        spec.ports.push(PortSpec {
            target: 80,
            published: Some(8000 + (name.len() as u16)),
            protocol: Protocol::Tcp,
            mode,
            host_ip: None,
            name: None,
        });
    }
    if dice.one_in(5) && name != "db" {
        let conditions = [DependencyCondition::Started, DependencyCondition::Healthy];
        let dependency = Dependency {
            condition: dice.pick(&conditions).unwrap_or(DependencyCondition::Started),
            restart: false,
            required: dice.one_in(2),
        };
        spec.depends_on
            .insert(Name::new("db").expect("a valid name"), dependency);
    }
}

fn update(dice: &mut Dice) -> UpdateConfig {
    let actions = [FailureAction::Pause, FailureAction::Continue, FailureAction::Rollback];
    let orders = [UpdateOrder::StopFirst, UpdateOrder::StartFirst];
    UpdateConfig {
        parallelism: dice.below(4) as u32,
        delay: DurationMs::secs(dice.below(3) * 2),
        failure_action: dice.pick(&actions).unwrap_or(FailureAction::Pause),
        monitor: DurationMs::secs(dice.below(3) * 2),
        max_failure_permille: (dice.below(3) * 250) as u32,
        order: dice.pick(&orders).unwrap_or(UpdateOrder::StopFirst),
        ..UpdateConfig::default()
    }
}

/// The spec that a service gets when everything heals: nothing in its way.
#[must_use]
pub fn healed(spec: &ServiceSpec) -> ServiceSpec {
    let mut healed = spec.clone();
    healed.container.environment.remove(CONDUCT);
    healed.placement = Placement::default();
    healed.resources = Resources::default();
    healed.ports.clear();
    healed.depends_on.clear();
    healed
}
