//! `deploy`: how many, where, and how a new revision is rolled out. Defaults are Swarm's.

use gantry_model::spec::{
    Constraint, ConstraintKey, ConstraintOp, EndpointMode, FailureAction, Mode, Placement, Preference, UpdateConfig,
    UpdateOrder,
};

use super::keys;
use super::scalar::{choice, count, parsed, scalar, some_text};
use crate::yaml::cursor::Cursor;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Replicated,
    Global,
    ReplicatedJob,
    GlobalJob,
}

const MODES: &[(&str, Word)] = &[
    ("replicated", Word::Replicated),
    ("global", Word::Global),
    ("replicated-job", Word::ReplicatedJob),
    ("global-job", Word::GlobalJob),
];

const ENDPOINT_MODES: &[(&str, EndpointMode)] = &[("vip", EndpointMode::Vip), ("dnsrr", EndpointMode::Dnsrr)];
const ORDERS: &[(&str, UpdateOrder)] = &[
    ("stop-first", UpdateOrder::StopFirst),
    ("start-first", UpdateOrder::StartFirst),
];
const UPDATE_ACTIONS: &[(&str, FailureAction)] = &[
    ("pause", FailureAction::Pause),
    ("continue", FailureAction::Continue),
    ("rollback", FailureAction::Rollback),
];

/// What may follow when a rollback fails: not another rollback.
const ROLLBACK_ACTIONS: &[(&str, FailureAction)] =
    &[("pause", FailureAction::Pause), ("continue", FailureAction::Continue)];

/// `deploy.mode` with `deploy.replicas` or `scale`, which must agree.
pub(crate) fn mode(service: &Cursor<'_>) -> Mode {
    let deploy = service.get("deploy");
    let word = deploy
        .as_ref()
        .and_then(|deploy| deploy.read("mode", |at| choice(at, MODES)));
    let replicas_at = deploy.as_ref().and_then(|deploy| deploy.get("replicas"));
    let scale_at = service.get("scale");
    let wanted = replicas_at.as_ref().and_then(count);
    let scaled = scale_at.as_ref().and_then(count);
    if let (Some(wanted), Some(scaled), Some(at)) = (wanted, scaled, &scale_at)
        && wanted != scaled
    {
        at.error(format!("scale {scaled} differs from deploy.replicas {wanted}"));
    }
    let given = wanted.or(scaled);
    let replicas = given.unwrap_or(1);
    match word.unwrap_or(Word::Replicated) {
        Word::Replicated => Mode::Replicated { replicas },
        Word::ReplicatedJob => Mode::ReplicatedJob {
            completions: replicas,
            parallelism: replicas,
        },
        global @ (Word::Global | Word::GlobalJob) => {
            for at in replicas_at.iter().chain(&scale_at) {
                at.error_with(
                    "a global service has one replica per node",
                    "remove it, or use mode: replicated",
                );
            }
            if global == Word::Global {
                Mode::Global
            } else {
                Mode::GlobalJob
            }
        }
    }
}

/// `deploy.endpoint_mode`.
pub(crate) fn endpoint_mode(deploy: &Cursor<'_>) -> EndpointMode {
    deploy
        .read("endpoint_mode", |at| choice(at, ENDPOINT_MODES))
        .unwrap_or_default()
}

/// `deploy.placement` and what `platform` demands of the node.
pub(crate) fn placement(service: &Cursor<'_>, mode: Mode) -> Placement {
    let mut placement = Placement::default();
    if let Some(deploy) = service.get("deploy")
        && let Some(at) = deploy.get("placement")
    {
        at.check_keys(keys::PLACEMENT);
        if let Some(list) = at.get("constraints") {
            placement.constraints = list.items().iter().filter_map(parsed).collect();
        }
        if let Some(list) = at.get("preferences") {
            placement.preferences = list.items().iter().filter_map(preference).collect();
        }
        if let Some(most) = at.get("max_replicas_per_node") {
            placement.max_replicas_per_node = count(&most).unwrap_or(0);
            if placement.max_replicas_per_node > 0 && matches!(mode, Mode::Global | Mode::GlobalJob) {
                most.error_with("a global service has one replica per node anyway", "remove it");
            }
        }
    }
    if let Some(platform) = service.get("platform") {
        placement.constraints.extend(platform_constraints(&platform));
    }
    placement
}

fn preference(at: &Cursor<'_>) -> Option<Preference> {
    at.check_keys(keys::PREFERENCE);
    let Some(spread) = at.get("spread") else {
        at.error("'spread' is missing");
        return None;
    };
    parsed::<ConstraintKey>(&spread).map(Preference::Spread)
}

/// `OS[/ARCHITECTURE[/VARIANT]]`; the variant chooses within an image, not a node.
fn platform_constraints(at: &Cursor<'_>) -> Vec<Constraint> {
    let Some(text) = some_text(at) else { return Vec::new() };
    let mut parts = text.split('/');
    let (system, architecture) = (parts.next().unwrap_or_default(), parts.next());
    if system != "linux" || architecture == Some("") {
        at.error_with(
            format!("platform '{text}' is not supported"),
            "use linux/ARCHITECTURE, such as linux/amd64",
        );
        return Vec::new();
    }
    let equal = |key: ConstraintKey, value: &str| Constraint {
        key,
        op: ConstraintOp::Equal,
        value: value.to_string(),
    };
    let mut constraints = vec![equal(ConstraintKey::Os, system)];
    if let Some(architecture) = architecture {
        let known_as = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        constraints.push(equal(ConstraintKey::Arch, known_as));
    }
    constraints
}

/// `deploy.update_config`.
pub(crate) fn update(deploy: &Cursor<'_>) -> UpdateConfig {
    let config = deploy.read("update_config", |at| Some(rollout(at, UPDATE_ACTIONS)));
    config.unwrap_or_default()
}

/// `deploy.rollback_config`.
pub(crate) fn rollback(deploy: &Cursor<'_>) -> UpdateConfig {
    let config = deploy.read("rollback_config", |at| Some(rollout(at, ROLLBACK_ACTIONS)));
    config.unwrap_or_default()
}

fn rollout(at: &Cursor<'_>, actions: &[(&str, FailureAction)]) -> UpdateConfig {
    at.check_keys(keys::UPDATE_CONFIG);
    let default = UpdateConfig::default();
    UpdateConfig {
        parallelism: at.read("parallelism", count).unwrap_or(default.parallelism),
        delay: at.read("delay", parsed).unwrap_or(default.delay),
        failure_action: at
            .read("failure_action", |at| choice(at, actions))
            .unwrap_or(default.failure_action),
        monitor: at.read("monitor", parsed).unwrap_or(default.monitor),
        max_failure_permille: at
            .read("max_failure_ratio", permille)
            .unwrap_or(default.max_failure_permille),
        order: at.read("order", |at| choice(at, ORDERS)).unwrap_or(default.order),
        ..default
    }
}

/// A ratio from 0 to 1 in thousandths, rounded.
fn permille(at: &Cursor<'_>) -> Option<u32> {
    let text = scalar(at)?.text.trim();
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Some((ratio * 1000.0).round() as u32),
        Ok(_) | Err(_) => {
            at.error(format!("'{text}' is not a ratio from 0 to 1"));
            None
        }
    }
}
