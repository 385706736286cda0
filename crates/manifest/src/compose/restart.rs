//! `restart` and `deploy.restart_policy`.

use gantry_model::DurationMs;
use gantry_model::spec::{Mode, RestartCondition, RestartPolicy};

use super::keys;
use super::scalar::{choice, count, parsed, scalar};
use crate::yaml::cursor::Cursor;

/// Swarm's delay between restarts (`api/defaults` of SwarmKit).
const SWARM_DELAY: DurationMs = DurationMs::secs(5);

const CONDITIONS: &[(&str, RestartCondition)] = &[
    ("none", RestartCondition::None),
    ("on-failure", RestartCondition::OnFailure),
    ("any", RestartCondition::Any),
];

/// The policy that was asked for, if any: `deploy.restart_policy` wins over `restart`.
pub(crate) fn restart(service: &Cursor<'_>, mode: Mode) -> Option<RestartPolicy> {
    let mut policy = service.read("restart", engine_policy);
    if let Some(deploy) = service.get("deploy")
        && let Some(at) = deploy.get("restart_policy")
    {
        policy = Some(swarm_policy(&at, mode));
    }
    if !mode.is_job() {
        return policy;
    }
    if policy
        .as_ref()
        .is_some_and(|policy| policy.condition == RestartCondition::Any)
    {
        service.error_key(
            "a job cannot be restarted after it succeeded",
            Some("use restart_policy.condition on-failure or none".to_string()),
        );
    }
    Some(policy.unwrap_or(RestartPolicy {
        condition: RestartCondition::OnFailure,
        ..RestartPolicy::default()
    }))
}

/// `no`, `always`, `unless-stopped`, `on-failure[:N]`, with Docker Engine's back-off.
fn engine_policy(at: &Cursor<'_>) -> Option<RestartPolicy> {
    let text = &scalar(at)?.text;
    let (word, attempts) = match text.split_once(':') {
        Some((word, attempts)) => (word, Some(attempts)),
        None => (text.as_str(), None),
    };
    let condition = match word {
        "no" | "false" => RestartCondition::None,
        "always" | "unless-stopped" => RestartCondition::Any,
        "on-failure" => RestartCondition::OnFailure,
        _ => {
            at.error_with(
                format!("'{text}' is not a restart policy"),
                "use no, always, unless-stopped, on-failure or on-failure:N",
            );
            return None;
        }
    };
    let max_attempts = match attempts.map(str::parse::<u32>) {
        None => None,
        Some(Ok(attempts)) if condition == RestartCondition::OnFailure => {
            Some(attempts).filter(|attempts| *attempts > 0)
        }
        Some(Ok(_) | Err(_)) => {
            at.error_with(
                format!("'{text}' is not a restart policy"),
                "a number of attempts goes with on-failure only",
            );
            return None;
        }
    };
    Some(RestartPolicy {
        condition,
        max_attempts,
        ..RestartPolicy::default()
    })
}

fn swarm_policy(at: &Cursor<'_>, mode: Mode) -> RestartPolicy {
    at.check_keys(keys::RESTART_POLICY);
    let delay = at.read("delay", parsed).unwrap_or(SWARM_DELAY);
    let condition = if mode.is_job() {
        RestartCondition::OnFailure
    } else {
        RestartCondition::Any
    };
    RestartPolicy {
        condition: at.read("condition", |at| choice(at, CONDITIONS)).unwrap_or(condition),
        delay,
        delay_max: delay,
        max_attempts: at.read("max_attempts", count).filter(|attempts| *attempts > 0),
        window: at.read("window", parsed).unwrap_or(DurationMs::ZERO),
    }
}
