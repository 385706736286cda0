//! What a manifest can ask for, kept by a running cluster: order, files, limits, health, placement, rollouts.

use std::path::Path;
use std::process::Stdio;

use gantry_tests::{Cluster, Lab, Shape, program_rootfs, until};
use serde_json::Value;

const SHAPE: Shape = Shape {
    servers: 1,
    agents: 2,
    lease_s: 3,
};

#[test]
fn a_cluster_keeps_what_a_manifest_asks_for() {
    let cluster = Cluster::start(SHAPE);
    cluster.import_busybox(&["busybox:v1"]);
    dependencies_start_first(&cluster);
    files_appear_and_a_changed_secret_rolls(&cluster);
    memory_beyond_the_limit_is_reported_and_restarted(&cluster);
    an_unhealthy_container_is_replaced(&cluster);
    commands_and_logs_reach_replicas(&cluster);
    datagrams_reach_a_published_port(&cluster);
    global_and_constrained_services_follow_nodes(&cluster);
    a_failed_update_rolls_back_by_itself(&cluster);
    images_move_between_nodes_and_archives(&cluster);
}

/// Applies a manifest of the namespace `name`, whose services run `busybox:v1` and stop at once.
fn apply(cluster: &Cluster, name: &str, services: &str) -> String {
    let text = format!(
        "name: {name}\nx-base: &base {{image: 'busybox:v1', command: [sleep, '100000'], stop_grace_period: 0s}}\n{services}"
    );
    let path = cluster.manifest(&format!("{name}.yaml"), &text);
    let _ = cluster.gantry(&["apply", "-f", &path]).ok();
    path
}

fn delete(cluster: &Cluster, manifest: &str) {
    let _ = cluster
        .gantry(&["delete", "-f", manifest, "--wait", "--timeout", "60s"])
        .ok();
}

fn exec(cluster: &Cluster, replica: &str, command: &str) -> String {
    cluster
        .gantry(&["exec", replica, "--", "sh", "-c", command])
        .ok()
        .trim()
        .to_string()
}

fn dependencies_start_first(cluster: &Cluster) {
    let manifest = apply(
        cluster,
        "order",
        r#"
services:
  last:
    <<: *base
    depends_on: { middle: { condition: service_healthy } }
  middle:
    <<: *base
    depends_on: { first: { condition: service_completed_successfully } }
    command: ["sh", "-c", "sleep 1; touch /tmp/up; sleep 100000"]
    healthcheck: { test: ["CMD", "test", "-e", "/tmp/up"], interval: 200ms, start_period: 20s, start_interval: 200ms }
  first:
    <<: *base
    command: ["sh", "-c", "sleep 0.5"]
    deploy: { mode: replicated-job }
"#,
    );
    let last = cluster.until_ready("last", 1).remove(0);
    let middle = cluster.until_ready("middle", 1).remove(0);
    let all = cluster.json(&["ps", "-a"]).expect("replicas");
    let first = all
        .as_array()
        .into_iter()
        .flatten()
        .find(|replica| replica["service_name"] == "first");
    let ended = first
        .and_then(|first| first["observed"]["last_exit"]["at"].as_u64())
        .expect("the job has ended");
    let time = |replica: &Value, field: &str| replica["observed"][field].as_u64().expect("a time");
    assert!(ended <= time(&middle, "started_at"), "{all}");
    assert!(time(&middle, "ready_since") <= time(&last, "started_at"), "{all}");
    delete(cluster, &manifest);
}

fn files_appear_and_a_changed_secret_rolls(cluster: &Cluster) {
    let text = |secret: &str| {
        std::fs::write(cluster.folder().join("password.txt"), secret).expect("the secret can be written");
        r#"
services:
  files:
    <<: *base
    configs: [{ source: motd, target: /etc/motd, mode: 0440 }]
    secrets: [{ source: password, mode: 0400 }]
    deploy: { update_config: { monitor: 200ms } }
configs: { motd: { content: "welcome" } }
secrets: { password: { file: ./password.txt } }
"#
    };
    let _ = apply(cluster, "files", text("password-one"));
    let before = cluster.until_ready("files", 1).remove(0);
    assert_eq!(
        exec(cluster, "files.1", "cat /etc/motd; stat -c ' %a' /etc/motd"),
        "welcome 440"
    );
    assert_eq!(
        exec(
            cluster,
            "files.1",
            "cat /run/secrets/password; stat -c ' %a' /run/secrets/password"
        ),
        "password-one 400"
    );
    let shown = cluster.gantry(&["service", "inspect", "files", "-o", "json"]).ok();
    assert!(!shown.contains("password-one"), "a secret is never shown: {shown}");

    let manifest = apply(cluster, "files", text("password-two"));
    until("the changed secret rolled the service", || {
        match cluster.replicas("files")?.as_slice() {
            [one] if one["id"] != before["id"] && one["observed"]["ready"] == true => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(exec(cluster, "files.1", "cat /run/secrets/password"), "password-two");
    delete(cluster, &manifest);
}

fn memory_beyond_the_limit_is_reported_and_restarted(cluster: &Cluster) {
    let manifest = apply(
        cluster,
        "hungry",
        r#"
services:
  hungry:
    <<: *base
    mem_limit: 16m
    command: ["sh", "-c", "sleep 0.2; exec dd if=/dev/zero of=/dev/null bs=64M count=1"]
"#,
    );
    until(
        "the kill for memory is reported and the container started again",
        || {
            let replicas = cluster.json(&["ps", "-a", "hungry"])?;
            let seen = replicas.as_array().into_iter().flatten().any(|replica| {
                let observed = &replica["observed"];
                observed["last_exit"]["oom_killed"] == true && observed["restarts"].as_u64() >= Some(2)
            });
            if seen { Ok(()) } else { Err(replicas.to_string()) }
        },
    );
    until("the explanation names memory", || {
        let why = cluster.gantry(&["explain", "hungry"]).out;
        if why.contains("memory") { Ok(()) } else { Err(why) }
    });
    delete(cluster, &manifest);
}

fn an_unhealthy_container_is_replaced(cluster: &Cluster) {
    let manifest = apply(
        cluster,
        "sick",
        r#"
services:
  sick:
    <<: *base
    command: ["sh", "-c", "touch /tmp/well; sleep 100000"]
    healthcheck: { test: ["CMD", "test", "-e", "/tmp/well"], interval: 200ms, retries: 2, start_period: 5s, start_interval: 100ms }
"#,
    );
    let _ = cluster.until_ready("sick", 1);
    let before = cluster.containers_everywhere();
    let _ = cluster.gantry(&["exec", "sick.1", "--", "rm", "/tmp/well"]).ok();
    until("another container has taken its place", || {
        let now = cluster.containers_everywhere();
        if now.len() == 1 && now != before {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    let _ = cluster.until_ready("sick", 1);
    let events = cluster.gantry(&["events"]).ok();
    assert!(events.contains("restarted: health check failed"), "{events}");
    delete(cluster, &manifest);
}

fn commands_and_logs_reach_replicas(cluster: &Cluster) {
    let manifest = apply(cluster, "talk", "services:\n  talk:\n    <<: *base\n");
    let _ = cluster.until_ready("talk", 1);
    for code in [0, 7, 255] {
        let answer = cluster.gantry(&["exec", "talk.1", "--", "sh", "-c", &format!("exit {code}")]);
        assert_eq!(answer.code, code, "{answer:?}");
    }
    assert_eq!(
        cluster.gantry(&["exec", "talk.1", "--", "sh", "-c", "kill -9 $$"]).code,
        137
    );
    let missing = cluster.gantry(&["exec", "talk.1", "--", "no-such-program"]);
    assert!(missing.err.contains("not found in PATH"), "{missing:?}");
    assert_ne!(missing.code, 0);

    let path = cluster.folder().join("followed");
    let file = std::fs::File::create(&path).expect("a file for the log");
    let mut follow = cluster.command("h1", &["logs", "-f", "talk"]);
    let mut follow = follow.stdin(Stdio::null()).stdout(file).spawn().expect("gantry runs");
    for word in ["one", "two"] {
        let _ = exec(cluster, "talk.1", &format!("echo word-{word} >/proc/1/fd/1"));
        until("the followed log shows what is written", || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.contains(&format!("word-{word}")) {
                Ok(())
            } else {
                Err(text)
            }
        });
    }
    delete(cluster, &manifest);
    until("following ends with the service", || match follow.try_wait() {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn datagrams_reach_a_published_port(cluster: &Cluster) {
    let root = program_rootfs(cluster.folder(), Path::new(env!("CARGO_BIN_EXE_udp-echo")));
    let _ = cluster
        .gantry(&["image", "import", &root.to_string_lossy(), "echo:v1"])
        .ok();
    let manifest = apply(
        cluster,
        "udp",
        r#"
services:
  udp: { image: "echo:v1", command: ["/program"], stop_grace_period: 0s, ports: ["9053:53/udp"] }
"#,
    );
    let _ = cluster.until_ready("udp", 1);
    for host in cluster.agents() {
        let ask = format!(
            "exec 3<>/dev/udp/{}/9053; echo hello >&3; timeout 1 head -n 1 <&3",
            Lab::address(&host)
        );
        until("a datagram is answered", || {
            let answer = cluster.lab.exec("h1", &["bash", "-c", &ask]);
            if answer.out.trim() == "got hello" {
                Ok(())
            } else {
                Err(format!("{host}: {answer:?}"))
            }
        });
    }
    delete(cluster, &manifest);
    let _ = cluster.gantry(&["image", "rm", "echo:v1"]).ok();
}

fn global_and_constrained_services_follow_nodes(cluster: &Cluster) {
    let _ = cluster.gantry(&["node", "update", "h3", "--label-add", "zone=b"]).ok();
    let manifest = apply(
        cluster,
        "place",
        r#"
services:
  everywhere:
    <<: *base
    deploy: { mode: global }
  there:
    <<: *base
    deploy: { replicas: 3, placement: { constraints: [node.labels.zone == b] } }
"#,
    );
    let mut hosts: Vec<String> = cluster
        .until_ready("everywhere", 2)
        .iter()
        .map(|replica| cluster.host_of(replica))
        .collect();
    hosts.sort();
    assert_eq!(hosts, cluster.agents(), "one on every node");
    let there = cluster.until_ready("there", 3);
    assert!(
        there.iter().all(|replica| cluster.host_of(replica) == "h3"),
        "{there:?}"
    );
    delete(cluster, &manifest);
}

fn a_failed_update_rolls_back_by_itself(cluster: &Cluster) {
    let services = |state: &str| {
        format!(
            r#"
services:
  web:
    <<: *base
    environment: {{ STATE: {state} }}
    healthcheck: {{ test: ["CMD-SHELL", "test $$STATE = good"], interval: 200ms, retries: 2 }}
    deploy:
      replicas: 2
      update_config: {{ failure_action: rollback, monitor: 3s, order: start-first }}
      rollback_config: {{ monitor: 200ms }}
"#
        )
    };
    let _ = apply(cluster, "back", &services("good"));
    let _ = cluster.until_ready("web", 2);
    let manifest = apply(cluster, "back", &services("bad"));
    until("the update failed and was rolled back", || {
        let service = cluster.json(&["service", "inspect", "web"])?;
        let rollout = &service["rollout"];
        if rollout["kind"] == "rollback" && rollout["state"] == "completed" {
            Ok(())
        } else {
            Err(rollout.to_string())
        }
    });
    let _ = cluster.until_ready("web", 2);
    assert_eq!(exec(cluster, "web.1", "echo $STATE"), "good");
    let history = cluster.json(&["service", "history", "web"]).expect("a history");
    assert!(history.as_array().map(Vec::len) >= Some(2), "{history}");
    delete(cluster, &manifest);
}

fn images_move_between_nodes_and_archives(cluster: &Cluster) {
    let images = |cluster: &Cluster| cluster.json(&["image", "ls"]).expect("images");
    let manifest = apply(
        cluster,
        "spread",
        "services:\n  all:\n    <<: *base\n    deploy: { mode: global }\n",
    );
    let _ = cluster.until_ready("all", 2);
    until("both nodes hold the image", || {
        let list = images(cluster);
        match list[0]["nodes"].as_array().map(Vec::len) {
            Some(2) => Ok(()),
            _ => Err(list.to_string()),
        }
    });
    delete(cluster, &manifest);
    let archive = cluster.folder().join("saved.tar").to_string_lossy().into_owned();
    // docker's form has no manifest to keep the digest of, only the configuration.
    for (form, kept) in [(&[][..], "config_digest"), (&["--oci"][..], "digest")] {
        let _ = cluster
            .gantry(&[&["image", "save", "busybox:v1", "--to", &archive][..], form].concat())
            .ok();
        let before = images(cluster)[0][kept].clone();
        let _ = cluster.gantry(&["image", "rm", "busybox:v1"]).ok();
        assert_eq!(images(cluster).as_array().map(Vec::len), Some(0));
        let loaded = cluster.gantry(&["image", "load", &archive]).ok();
        assert!(loaded.contains("busybox:v1"), "{loaded}");
        assert_eq!(images(cluster)[0][kept], before, "{kept} of {form:?}");
        let manifest = apply(cluster, "loaded", "services:\n  loaded:\n    <<: *base\n");
        let _ = cluster.until_ready("loaded", 1);
        delete(cluster, &manifest);
    }
}
