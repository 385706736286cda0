//! What `x-gantry` says of rollouts, jobs, cron jobs and stateful services.

use gantry_model::spec::{
    CanaryStep, Concurrency, Mode, MountKind, PROGRESS_DEADLINE, RolloutStrategy, ScaleTarget, ServiceSpec, StartOrder,
    Stateful,
};
use gantry_model::{ByteSize, DurationMs};

use super::common::{line, load_texts};

/// The one service of a manifest without errors.
fn service(fields: &str) -> ServiceSpec {
    let text = format!(
        "services:\n  a:\n    image: i\n    {}\n",
        fields.replace('\n', "\n    ")
    );
    let loaded = load_texts(&[&text]);
    assert!(!loaded.has_errors(), "{text}{:?}", loaded.diagnostics);
    let application = loaded.application.expect("valid");
    application.services.into_values().next().expect("one")
}

/// The first message about a service with these fields, without its place.
fn complaint(fields: &str) -> String {
    let text = format!(
        "services:\n  a:\n    image: i\n    {}\n",
        fields.replace('\n', "\n    ")
    );
    let loaded = load_texts(&[&text]);
    let first = loaded.diagnostics.first().map(line).unwrap_or_default();
    first
        .split_once("a.")
        .map_or(first.clone(), |(_, rest)| rest.to_string())
}

#[test]
fn a_rollout_has_stages_batches_and_a_deadline() {
    let plain = service("deploy: {replicas: 2}");
    assert_eq!(plain.update.progress_deadline, PROGRESS_DEADLINE);
    let canary = service(
        "x-gantry:\n  rollout: {batch: 25%, progress_deadline: 2m, canary: [{percent: 10, hold: 5m}, {percent: 50}]}",
    );
    assert_eq!(canary.update.batch_percent, Some(25));
    assert_eq!(canary.update.progress_deadline, DurationMs::secs(120));
    let steps = vec![
        CanaryStep {
            percent: 10,
            hold: Some(DurationMs::secs(300)),
        },
        CanaryStep {
            percent: 50,
            hold: None,
        },
    ];
    assert_eq!(canary.update.strategy, RolloutStrategy::Canary { steps });
    let blue_green = service("x-gantry: {rollout: {batch: 3, blue_green: {}}}").update;
    assert_eq!((blue_green.parallelism, blue_green.batch_percent), (3, None));
    assert_eq!(blue_green.strategy, RolloutStrategy::BlueGreen { hold: None });
}

#[test]
fn a_service_is_scaled_between_bounds() {
    let scaled = service(
        "deploy: {replicas: 9, resources: {reservations: {cpus: '0.5'}}}\nx-gantry:\n  autoscale: {min: 2, max: 6, cpu: 70%, memory: 300m, schedule: [{from: '0 8 * * mon-fri', time_zone: Europe/Berlin, min: 4, max: 8}]}",
    );
    assert_eq!(scaled.mode, Mode::Replicated { replicas: 6 }, "within the bounds");
    let autoscale = scaled.autoscale.expect("it is scaled");
    assert_eq!((autoscale.min, autoscale.max), (2, 6));
    assert_eq!(autoscale.cpu, Some(ScaleTarget::Percent(70)));
    assert_eq!(autoscale.memory, Some(ScaleTarget::Each(ByteSize::mib(300))));
    let [day] = autoscale.schedule.as_slice() else {
        panic!("{autoscale:?}")
    };
    assert_eq!(
        (day.from.to_string().as_str(), day.time_zone.as_str()),
        ("0 8 * * mon-fri", "Europe/Berlin")
    );
    assert_eq!((day.min, day.max), (4, 8));
    for (fields, message) in [
        (
            "x-gantry: {autoscale: {max: 3}}",
            "x-gantry.autoscale: nothing says when to scale",
        ),
        (
            "x-gantry: {autoscale: {cpu: 70%}}",
            "x-gantry.autoscale: 'max' is missing",
        ),
        (
            "x-gantry: {autoscale: {min: 4, max: 3, cpu: '0.5'}}",
            "x-gantry.autoscale.max: max 3 is less than min 4",
        ),
        (
            "x-gantry: {autoscale: {max: 3, cpu: 70%}}",
            "x-gantry.autoscale.cpu: a share needs a reservation",
        ),
        (
            "x-gantry: {autoscale: {max: 3, cpu: lots}}",
            "x-gantry.autoscale.cpu: 'lots' is neither a share",
        ),
        (
            "deploy: {mode: global}\nx-gantry: {autoscale: {max: 3, cpu: '1'}}",
            "x-gantry.autoscale: only a replicated service is scaled",
        ),
    ] {
        let found = complaint(fields);
        assert!(found.starts_with(message), "{fields}: {found}");
    }
}

#[test]
fn a_job_has_limits_and_indexes() {
    let job = service(
        "deploy: {mode: replicated-job, replicas: 2}\nx-gantry:\n  job: {completions: 10, indexed: true, backoff_limit: 6, deadline: 1h, ttl: 1h30m}",
    );
    assert_eq!(
        job.mode,
        Mode::ReplicatedJob {
            completions: 10,
            parallelism: 2
        }
    );
    assert_eq!(job.job.backoff_limit, Some(6));
    assert_eq!(
        (job.job.deadline, job.job.ttl),
        (Some(DurationMs::secs(3600)), Some(DurationMs::secs(5400)))
    );
    let index = &job.container.environment["JOB_COMPLETION_INDEX"];
    assert_eq!(index.as_deref(), Some("{{.Task.Index}}"));
}

#[test]
fn a_cron_job_has_a_schedule_and_perhaps_more() {
    let short = service("deploy: {mode: replicated-job}\nx-gantry: {cron: '0 3 * * *'}")
        .cron
        .expect("a cron job");
    assert_eq!(short.schedule.to_string(), "0 3 * * *");
    assert_eq!(
        (short.time_zone.as_str(), short.history_succeeded, short.history_failed),
        ("UTC", 3, 1)
    );
    let long = service(
        "deploy: {mode: replicated-job}\nx-gantry:\n  cron: {schedule: '@daily', time_zone: Europe/Berlin, concurrency: forbid, starting_deadline: 1m, suspend: true, history: {succeeded: 0, failed: 5}}",
    );
    let long = long.cron.expect("a cron job");
    assert_eq!(
        (long.time_zone.as_str(), long.concurrency),
        ("Europe/Berlin", Concurrency::Forbid)
    );
    assert_eq!(
        (long.history_succeeded, long.history_failed, long.suspend),
        (0, 5, true)
    );
    assert_eq!(long.starting_deadline, Some(DurationMs::secs(60)));
}

#[test]
fn a_stateful_service_has_ordered_slots_with_volumes_of_their_own() {
    let loaded = load_texts(&["\
services:
  db: {image: i, volumes: ['data:/data', 'shared:/shared'], x-gantry: {stateful: {exclusive: true}}}
volumes:
  data: {x-gantry: {per_slot: true}}
  shared:
"]);
    assert!(!loaded.has_errors(), "{:?}", loaded.diagnostics);
    let application = loaded.application.expect("valid");
    let db = application.services.values().next().expect("one");
    let stateful = Stateful {
        start: StartOrder::Ordered,
        exclusive: true,
    };
    assert_eq!(db.stateful, Some(stateful));
    let names: Vec<&str> = db
        .container
        .mounts
        .iter()
        .filter_map(|mount| match &mount.kind {
            MountKind::Volume { node_name, .. } => node_name.as_deref(),
            MountKind::Bind { .. } | MountKind::Tmpfs { .. } => None,
        })
        .collect();
    assert_eq!(names, ["shop_data.{{.Task.Slot}}", "shop_shared"]);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    for (fields, message) in [
        ("x-gantry: {cron: '0 3 * * *'}", "x-gantry.cron: a cron job is a job"),
        (
            "deploy: {mode: replicated-job}\nx-gantry: {cron: '0 3 * *'}",
            "x-gantry.cron: '0 3 * *' is not a schedule: it has five fields",
        ),
        (
            "deploy: {mode: replicated-job}\nx-gantry: {cron: {schedule: '@daily', time_zone: Europe/Gotham}}",
            "x-gantry.cron.time_zone: time zone 'Europe/Gotham' is not known",
        ),
        ("x-gantry: {job: {ttl: 1m}}", "x-gantry.job: the service is not a job"),
        (
            "x-gantry: {rollout: {batch: 120%}}",
            "x-gantry.rollout.batch: '120%' is not a share",
        ),
        (
            "x-gantry: {rollout: {canary: [{percent: 50}, {percent: 10}]}}",
            "x-gantry.rollout.canary: the percents of a canary rise",
        ),
        (
            "x-gantry: {rollout: {canary: [{percent: 50}], blue_green: {}}}",
            "x-gantry.rollout.blue_green: a rollout is either",
        ),
        (
            "deploy: {mode: global}\nx-gantry: {stateful: {}}",
            "x-gantry.stateful: a global service has nodes",
        ),
        (
            "deploy: {update_config: {order: start-first}}\nx-gantry: {stateful: {exclusive: true}}",
            "x-gantry.stateful.exclusive: an exclusive replica",
        ),
        (
            "deploy: {mode: global-job}\nx-gantry: {job: {completions: 3}}",
            "x-gantry.job.completions: a global job runs once per node",
        ),
    ] {
        let found = complaint(fields);
        assert!(found.starts_with(message), "{fields}: {found}");
    }
}
