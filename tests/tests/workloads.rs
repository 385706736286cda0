//! Workloads beyond the plain service, as a person drives them: rollouts in stages, steered by hand, jobs, cron jobs, stateful
//! services.

use gantry_tests::{Cluster, Shape, until};
use serde_json::Value;

const SHAPE: Shape = Shape {
    servers: 1,
    agents: 2,
    lease_s: 5,
};

#[test]
fn workloads_are_steered_by_hand() {
    let cluster = Cluster::start(SHAPE);
    cluster.import_busybox(&["busybox:v1"]);
    a_canary_waits_for_its_promotion(&cluster);
    a_blue_green_rollout_is_taken_back_before_it_has_traffic(&cluster);
    a_rollout_is_paused_and_resumed(&cluster);
    a_job_runs_each_index_once_and_says_why_it_failed(&cluster);
    a_cron_job_is_run_by_hand_and_suspended(&cluster);
    slots_of_a_stateful_service_keep_their_volumes(&cluster);
    a_plan_says_how_many_more_fit_and_who_would_be_missed(&cluster);
    a_drain_says_what_it_waits_for(&cluster);
    a_service_is_scaled_by_what_it_uses(&cluster);
}

/// Applies a manifest of the namespace `name`, whose services run `busybox:v1` and stop at once; returns what was said.
fn apply(cluster: &Cluster, name: &str, services: &str, further: &[&str]) -> gantry_tests::Answer {
    let text = format!(
        "name: {name}\nx-base: &base {{image: 'busybox:v1', command: [sleep, '100000'], stop_grace_period: 0s}}\n{services}"
    );
    let path = cluster.manifest(&format!("{name}.yaml"), &text);
    cluster.gantry(&[&["apply", "-f", &path][..], further].concat())
}

fn delete(cluster: &Cluster, name: &str) {
    let everything = ["delete", "-n", name, "--all", "--wait", "--timeout", "60s"];
    let _ = cluster.gantry(&everything).ok();
}

fn revisions(cluster: &Cluster, service: &str) -> Result<Vec<u64>, String> {
    let mut revisions: Vec<u64> = cluster
        .replicas(service)?
        .iter()
        .filter_map(|replica| replica["revision"].as_u64())
        .collect();
    revisions.sort_unstable();
    Ok(revisions)
}

fn rollout(cluster: &Cluster, service: &str) -> Value {
    let service = cluster.json(&["service", "inspect", service]).expect("the service");
    service["rollout"].clone()
}

fn a_canary_waits_for_its_promotion(cluster: &Cluster) {
    let services = |version: &str| {
        format!(
            "services:\n  web:\n    <<: *base\n    environment: {{ VERSION: {version} }}\n    \
             deploy: {{ replicas: 3, update_config: {{ parallelism: 0, monitor: 200ms }} }}\n    \
             x-gantry: {{ rollout: {{ canary: [{{ percent: 33 }}] }}, disruption: {{ max_unavailable: 1 }} }}\n"
        )
    };
    let _ = apply(cluster, "canary", &services("one"), &["--wait"]).ok();
    let refused = cluster.gantry(&["service", "promote", "web"]).refused(1);
    assert!(refused.contains("no rollout in progress"), "{refused}");

    let followed = apply(cluster, "canary", &services("two"), &["--wait"]);
    assert!(
        followed.err.contains("gantry service promote web"),
        "it says what it waits for: {followed:?}"
    );
    let _ = followed.ok();
    assert_eq!(revisions(cluster, "web"), Ok(vec![1, 1, 2]));
    let list = cluster.gantry(&["service", "ls"]).ok();
    assert!(list.contains("to 2, waits for promote"), "{list}");
    let why = cluster.gantry(&["explain", "web"]).ok();
    assert!(
        why.contains("33 % of the replicas run revision 2") && why.contains("gantry service abort web"),
        "{why}"
    );
    let _ = cluster.gantry(&["service", "promote", "web", "--wait"]).ok();
    assert_eq!(revisions(cluster, "web"), Ok(vec![2, 2, 2]));
    delete(cluster, "canary");
}

fn a_blue_green_rollout_is_taken_back_before_it_has_traffic(cluster: &Cluster) {
    let services = |version: &str| {
        format!(
            "services:\n  web:\n    <<: *base\n    environment: {{ VERSION: {version} }}\n    \
             deploy: {{ replicas: 2, update_config: {{ monitor: 200ms }}, rollback_config: {{ monitor: 200ms }} }}\n    \
             x-gantry: {{ rollout: {{ blue_green: {{}} }} }}\n"
        )
    };
    let _ = apply(cluster, "green", &services("blue"), &["--wait"]).ok();
    let _ = apply(cluster, "green", &services("green"), &["--wait"]).ok();
    assert_eq!(
        revisions(cluster, "web"),
        Ok(vec![1, 1, 2, 2]),
        "both stand side by side"
    );
    let held = |replica: &&Value| replica["held"] == true;
    let replicas = cluster.replicas("web").expect("replicas");
    assert!(
        replicas.iter().filter(held).all(|replica| replica["revision"] == 2),
        "{replicas:?}"
    );
    assert_eq!(replicas.iter().filter(held).count(), 2, "green has no traffic yet");
    let shown = cluster.gantry(&["ps"]).ok();
    assert!(shown.contains("held"), "it is seen which have no traffic: {shown}");

    let _ = cluster.gantry(&["service", "abort", "web", "--wait"]).ok();
    assert_eq!(revisions(cluster, "web"), Ok(vec![1, 1]));
    let list = cluster.gantry(&["service", "ls"]).ok();
    assert!(list.contains("rolled back to 1"), "{list}");
    let after = cluster.replicas("web").expect("replicas");
    assert!(
        after
            .iter()
            .all(|one| one["observed"]["restarts"] == 0 && replicas.iter().any(|before| before["id"] == one["id"])),
        "what served goes on serving: {after:?}"
    );
    delete(cluster, "green");
}

fn a_rollout_is_paused_and_resumed(cluster: &Cluster) {
    let services = "services:\n  web:\n    <<: *base\n    \
                    deploy: { replicas: 3, update_config: { parallelism: 1, delay: 2s, monitor: 200ms } }\n";
    let _ = apply(cluster, "pause", services, &["--wait"]).ok();
    let _ = cluster.gantry(&["service", "restart", "web"]).ok();
    let _ = cluster.gantry(&["service", "pause", "web"]).ok();
    let again = cluster.gantry(&["service", "pause", "web"]).refused(1);
    assert!(again.contains("paused already"), "{again}");
    let why = cluster.gantry(&["explain", "web"]).ok();
    assert!(
        why.contains("paused by a person") && why.contains("gantry service resume web"),
        "{why}"
    );
    assert_eq!(rollout(cluster, "web")["state"], "paused");
    // The batch that was under way may finish; the next one does not begin.
    let old = revisions(cluster, "web").expect("replicas");
    assert!(old.iter().filter(|revision| **revision == 1).count() >= 2, "{old:?}");
    let _ = cluster.gantry(&["service", "resume", "web", "--wait"]).ok();
    assert_eq!(revisions(cluster, "web"), Ok(vec![2, 2, 2]));
    delete(cluster, "pause");
}

fn a_job_runs_each_index_once_and_says_why_it_failed(cluster: &Cluster) {
    let services = r#"services:
  each:
    <<: *base
    command: ["sh", "-c", "echo index-$$JOB_COMPLETION_INDEX"]
    deploy: { mode: replicated-job }
    x-gantry: { job: { completions: 3, parallelism: 2, indexed: true } }
"#;
    let _ = apply(cluster, "jobs", services, &["--wait"]).ok();
    let list = cluster.gantry(&["service", "ls"]).ok();
    assert!(list.contains("3/3 completed"), "{list}");
    let mut lines: Vec<String> = cluster
        .gantry(&["logs", "each"])
        .ok()
        .lines()
        .filter_map(|line| Some(line.split_once("index-")?.1.to_string()))
        .collect();
    lines.sort();
    assert_eq!(lines, ["0", "1", "2"]);

    let services = r#"services:
  broken:
    <<: *base
    command: ["sh", "-c", "exit 3"]
    deploy: { mode: replicated-job, restart_policy: { condition: none } }
    x-gantry: { job: { backoff_limit: 1, ttl: 1s } }
"#;
    let failed = apply(cluster, "broken", services, &["--wait"]).refused(1);
    assert!(
        failed.contains("the job failed: it failed 2 times, 1 are allowed") && failed.contains("exit status 3"),
        "a failure that is let pass does not end the waiting: {failed}"
    );
    until("the job is deleted when its time to live is over", || {
        let list = cluster.json(&["service", "ls", "-n", "broken"])?;
        match list.as_array().map(Vec::len) {
            Some(0) => Ok(()),
            _ => Err(list.to_string()),
        }
    });
    delete(cluster, "jobs");
}

fn a_cron_job_is_run_by_hand_and_suspended(cluster: &Cluster) {
    let services = r#"services:
  backup:
    <<: *base
    command: ["true"]
    deploy: { mode: replicated-job }
    x-gantry: { cron: { schedule: "0 3 29 2 *", time_zone: Europe/Berlin, concurrency: forbid } }
"#;
    let _ = apply(cluster, "night", services, &["--wait"]).ok();
    let list = cluster.gantry(&["cron", "ls"]).ok();
    assert!(list.contains("night/backup") && list.contains("-02-29 03:00"), "{list}");
    let _ = cluster.gantry(&["cron", "run", "backup"]).ok();
    until("the run by hand has completed", || {
        let runs = cluster.gantry(&["cron", "runs", "backup"]).out;
        if runs.contains("completed") { Ok(()) } else { Err(runs) }
    });
    until("the cron job knows of its success", || {
        let list = cluster.json(&["cron", "ls"])?;
        match list[0]["job"]["last_success"].as_u64() {
            Some(_) => Ok(()),
            None => Err(list.to_string()),
        }
    });
    let _ = cluster.gantry(&["cron", "suspend", "backup"]).ok();
    assert!(cluster.gantry(&["cron", "ls"]).ok().contains("suspended"));
    let _ = cluster.gantry(&["cron", "resume", "backup"]).ok();
    assert!(!cluster.gantry(&["cron", "ls"]).ok().contains("suspended"));
    delete(cluster, "night");
}

fn slots_of_a_stateful_service_keep_their_volumes(cluster: &Cluster) {
    let services = r#"services:
  db:
    <<: *base
    hostname: "db-{{.Task.Slot}}"
    volumes: ["data:/data"]
    deploy: { replicas: 2, update_config: { monitor: 200ms } }
    x-gantry: { stateful: { start: ordered, exclusive: true } }
volumes:
  data: { x-gantry: { per_slot: true } }
"#;
    let _ = apply(cluster, "state", services, &["--wait"]).ok();
    let exec = |slot: u32, command: &str| {
        let name = format!("db.{slot}");
        let answer = cluster.gantry(&["exec", &name, "--", "sh", "-c", command]);
        answer.ok().trim().to_string()
    };
    let replicas = cluster.until_ready("db", 2);
    let started = |slot: u64| {
        let replica = replicas.iter().find(|one| one["slot"]["index"] == slot);
        let observed = &replica.expect("the slot is filled")["observed"];
        (
            observed["started_at"].as_u64().expect("it started"),
            observed["ready_since"].as_u64().expect("it is ready"),
        )
    };
    assert!(started(1).1 <= started(2).0, "in order: {replicas:?}");
    for slot in [1, 2] {
        assert_eq!(exec(slot, "hostname"), format!("db-{slot}"));
        let _ = exec(slot, &format!("echo {slot} > /data/mine"));
    }
    let _ = cluster.gantry(&["service", "restart", "db", "--wait"]).ok();
    for slot in [1, 2] {
        assert_eq!(exec(slot, "cat /data/mine"), slot.to_string());
    }
    delete(cluster, "state");
}

fn a_plan_says_how_many_more_fit_and_who_would_be_missed(cluster: &Cluster) {
    let services =
        "services:\n  web:\n    <<: *base\n    deploy: { replicas: 2, placement: { max_replicas_per_node: 2 } }\n";
    let _ = apply(cluster, "room", services, &["--wait"]).ok();
    let manifest = cluster.folder().join("room.yaml").to_string_lossy().into_owned();
    let plan = cluster
        .json(&["plan", "-f", &manifest, "--what-if", "--without", "h2"])
        .expect("a plan");
    assert_eq!(plan["room"][0]["more"], 2, "two nodes, two each, two there: {plan}");
    let loss = &plan["losses"][0];
    assert_eq!(
        (&loss["service"], &loss["stranded"]),
        (&Value::from("web"), &Value::from(0)),
        "{plan}"
    );
    let both = cluster.gantry(&["plan", "--without", "h2", "--without", "h3"]).ok();
    let row = both
        .lines()
        .find(|line| line.starts_with("room/web"))
        .unwrap_or_default();
    let numbers: Vec<&str> = row.split_whitespace().skip(1).take(2).collect();
    assert_eq!(numbers, ["0", "2"], "nowhere to go: {both}");
    delete(cluster, "room");
}

fn a_drain_says_what_it_waits_for(cluster: &Cluster) {
    let refused = cluster
        .gantry(&["node", "update", "h2", "--label-add", "gantry.reserved.cpu=half"])
        .refused(1);
    assert!(refused.contains("does not fit gantry.reserved.cpu"), "{refused}");
    let _ = cluster
        .gantry(&["node", "update", "h2", "--label-add", "home=yes"])
        .ok();
    let services =
        "services:\n  cat:\n    <<: *base\n    deploy: { placement: { constraints: [node.labels.home == yes] } }\n";
    let _ = apply(cluster, "drain", services, &["--wait"]).ok();
    let waited = cluster.gantry(&["node", "drain", "h2", "--timeout", "5s"]).refused(1);
    assert!(
        waited.contains("1 replica(s) are still there after 5s: drain/cat.1: its successor has no node"),
        "{waited}"
    );
    let why = cluster.gantry(&["explain", "h2"]).ok();
    assert!(
        why.contains("drain: 1 replica(s) are still here") && why.contains("its successor"),
        "{why}"
    );
    let _ = cluster
        .gantry(&["node", "update", "h3", "--label-add", "home=yes"])
        .ok();
    let _ = cluster.gantry(&["node", "drain", "h2", "--wait"]).ok();
    assert!(cluster.containers("h2").is_empty(), "it is empty");
    let [cat] = &cluster.until_ready("cat", 1)[..] else {
        panic!("one cat")
    };
    assert_eq!(cluster.host_of(cat), "h3");
    let _ = cluster.gantry(&["node", "activate", "h2"]).ok();
    delete(cluster, "drain");
}

fn a_service_is_scaled_by_what_it_uses(cluster: &Cluster) {
    let services = r#"services:
  busy:
    <<: *base
    command: ["sh", "-c", "while :; do :; done"]
    cpus: 0.1
    x-gantry: { autoscale: { min: 1, max: 2, cpu: "0.02" } }
"#;
    let _ = apply(cluster, "scale", services, &["--wait"]).ok();
    let _ = cluster.until_ready("busy", 2);
    let why = cluster.gantry(&["explain", "busy"]).ok();
    assert!(
        why.contains("is scaled between 1 and 2 replicas; last 1 to 2 replicas: processor time is at"),
        "{why}"
    );
    let refused = cluster.gantry(&["service", "scale", "busy=5"]).refused(1);
    assert!(
        refused.contains("is scaled by the cluster, between 1 and 2 replicas"),
        "{refused}"
    );
    let again = apply(cluster, "scale", services, &[]).ok();
    assert!(again.contains("(unchanged)"), "the manifest does not undo it: {again}");
    delete(cluster, "scale");
}
