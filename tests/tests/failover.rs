//! The control plane under failure: a leader that dies, a minority that is cut off, all servers gone.

use std::collections::BTreeSet;
use std::time::Duration;

use gantry_tests::{Cluster, Container, Shape, Stopwatch, until, within};
use serde_json::Value;

/// An election by default settings, and the time that a look takes.
const FAILOVER_MAX: Duration = Duration::from_millis(3000);

/// Longest wait of a person for a server that cannot answer: a round of calls with their time limit.
const REFUSAL_MAX: Duration = Duration::from_secs(30);

const SHAPE: Shape = Shape {
    servers: 3,
    agents: 2,
    lease_s: 3,
};

const MANIFEST: &str = r#"
name: shop
services:
  web:
    image: busybox:v1
    command: ["sh", "-c", "echo $$VERSION > /tmp/index.html; exec httpd -f -p 80 -h /tmp"]
    environment: { VERSION: "${VERSION:-v1}" }
    ports: ["8080:80"]
    stop_grace_period: 1s
    deploy:
      replicas: ${REPLICAS:-4}
      update_config: { order: stop-first, monitor: 300ms, delay: 700ms }
"#;

#[test]
fn a_killed_leader_is_replaced_within_three_seconds_and_its_rollout_goes_on() {
    let cluster = Cluster::start(SHAPE);
    cluster.import_busybox(&["busybox:v1"]);
    let manifest = cluster.manifest("compose.yaml", MANIFEST);
    let _ = cluster
        .gantry_with(&[("REPLICAS", "6")], &["apply", "-f", &manifest, "--wait"])
        .ok();
    let before = cluster.until_ready("web", 6);
    let _ = cluster
        .gantry(&["node", "update", "h4", "--label-add", "acknowledged=yes"])
        .ok();
    let _ = cluster
        .gantry_with(&[("REPLICAS", "6"), ("VERSION", "v2")], &["apply", "-f", &manifest])
        .ok();
    until("the rollout is under way", || {
        let replaced = cluster
            .replicas("web")?
            .iter()
            .filter(|replica| replica["revision"] == 2)
            .count();
        if (1..6).contains(&replaced) {
            Ok(())
        } else {
            Err(replaced.to_string())
        }
    });

    let old = cluster.leader();
    let other = cluster
        .servers()
        .into_iter()
        .find(|host| *host != old)
        .expect("three servers");
    let untouched = cluster.containers_everywhere();
    let watch = Stopwatch::start();
    cluster.process("server", &old).kill();
    let new = within(FAILOVER_MAX, "another server leads", || {
        cluster
            .leader_by(&other)?
            .filter(|leader| *leader != old)
            .ok_or_else(|| "the old one".to_string())
    });
    println!(
        "FIGURE failover: {} ms from kill -9 to another leader in `cluster status`",
        watch.ms()
    );

    let labels = cluster.json(&["node", "inspect", "h4"]).expect("the nodes are known");
    assert!(labels.to_string().contains("\"acknowledged\":\"yes\""), "{labels}");
    for container in cluster.containers_everywhere() {
        let same = |earlier: &&Container| earlier.replica == container.replica;
        if let Some(earlier) = untouched.iter().find(same) {
            assert_eq!(earlier, &container, "a container was restarted");
        }
    }

    until("the rollout ends", || {
        let service = cluster.json(&["service", "inspect", "web"])?;
        let rollout = &service["rollout"];
        if rollout["state"] == "completed" && rollout["to"] == 2 {
            Ok(())
        } else {
            Err(rollout.to_string())
        }
    });
    println!(
        "FIGURE failover: {} ms from kill -9 to the end of the rollout, led by {new}",
        watch.ms()
    );
    let after = cluster.until_ready("web", 6);
    assert!(after.iter().all(|replica| replica["revision"] == 2), "{after:?}");
    assert!(
        after.iter().all(|replica| replica["observed"]["restarts"] == 0),
        "{after:?}"
    );
    assert_eq!(before.len(), after.len());

    cluster.start_server(&old);
    until("the killed server follows", || {
        let status = cluster.json_of(&old, &["cluster", "status"])?;
        if status["leader"] == cluster.json(&["cluster", "status"])?["leader"] {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

#[test]
fn a_minority_accepts_no_write_and_serves_no_stale_read() {
    let cluster = Cluster::start(SHAPE);
    let alone = cluster.leader();
    let majority: Vec<String> = cluster.servers().into_iter().filter(|host| *host != alone).collect();
    let _ = cluster
        .gantry(&["node", "update", "h4", "--label-add", "step=before"])
        .ok();
    cluster.lab.part(&alone);

    let new = within(FAILOVER_MAX * 2, "the majority leads itself", || {
        cluster
            .leader_by(&majority[0])?
            .filter(|leader| *leader != alone)
            .ok_or_else(|| "the old one".to_string())
    });
    let written = cluster.gantry_by(&new, &["node", "update", "h4", "--label-add", "step=during"]);
    let _ = written.ok();

    let watch = Stopwatch::start();
    let write = cluster
        .gantry_by(&alone, &["node", "update", "h5", "--label-add", "lost=yes"])
        .refused(1);
    println!(
        "FIGURE partition: the cut-off leader refuses a write after {} ms: {}",
        watch.ms(),
        write.trim()
    );
    assert!(watch.elapsed() < REFUSAL_MAX, "{:?}", watch.elapsed());
    let watch = Stopwatch::start();
    let read = cluster.gantry_by(&alone, &["node", "inspect", "h4"]).refused(1);
    println!(
        "FIGURE partition: the cut-off leader refuses a read after {} ms: {}",
        watch.ms(),
        read.trim()
    );
    assert!(watch.elapsed() < REFUSAL_MAX, "{:?}", watch.elapsed());
    for message in [write, read] {
        assert!(
            message.contains("error:") && (message.contains("leader") || message.contains("majority")),
            "{message}"
        );
    }

    cluster.lab.unpart();
    until("the one that was cut off catches up", || {
        let node = cluster.json_of(&alone, &["node", "inspect", "h4"])?;
        if node.to_string().contains("\"step\":\"during\"") {
            Ok(())
        } else {
            Err(node.to_string())
        }
    });
    let other = cluster.json_of(&alone, &["node", "inspect", "h5"]).expect("it answers");
    assert!(
        !other.to_string().contains("\"lost\""),
        "a refused write was kept: {other}"
    );
    let leaders: BTreeSet<_> = cluster
        .servers()
        .iter()
        .map(|host| cluster.leader_by(host).expect("every server answers"))
        .collect();
    assert_eq!(leaders.len(), 1, "{leaders:?}");
}

#[test]
fn with_every_server_dead_services_serve_and_restart_and_nothing_is_forgotten() {
    let cluster = Cluster::start(SHAPE);
    cluster.import_busybox(&["busybox:v1"]);
    let manifest = cluster.manifest("compose.yaml", MANIFEST);
    let _ = cluster.gantry(&["apply", "-f", &manifest, "--wait"]).ok();
    let before = cluster.until_ready("web", 4);
    let mut expected = cluster.containers_everywhere();
    assert_eq!(expected.len(), 4, "{expected:?}");

    for host in cluster.servers() {
        cluster.process("server", &host).kill();
    }
    all_serve(&cluster);
    let victim = expected.pop_first().expect("four containers");
    let _ = cluster
        .lab
        .exec(&victim.host, &["kill", "-9", &victim.pid.to_string()])
        .ok();
    let watch = Stopwatch::start();
    let fresh = until("the agent starts the killed container again by itself", || {
        let pid = cluster.containers(&victim.host).get(&victim.replica).copied();
        pid.filter(|pid| *pid != victim.pid).ok_or_else(|| format!("{pid:?}"))
    });
    println!(
        "FIGURE no servers: a killed container runs again after {} ms",
        watch.ms()
    );
    expected.insert(Container {
        pid: fresh,
        ..victim.clone()
    });
    all_serve(&cluster);

    for host in cluster.servers() {
        cluster.start_server(&host);
    }
    cluster.until_servers(3);
    cluster.until_nodes_ready(2);
    let after = cluster.until_ready("web", 4);
    assert_eq!(ids(&before), ids(&after), "the same replicas");
    until("the restart is reported", || {
        let replicas = cluster.replicas("web")?;
        let restarted: Vec<_> = replicas
            .iter()
            .filter(|replica| replica["observed"]["restarts"] == 1)
            .collect();
        match restarted.as_slice() {
            [one] if one["id"] == *victim.replica && one["observed"]["last_exit"]["code"] == 137 => Ok(()),
            _ => Err(format!("{replicas:?}")),
        }
    });
    assert_eq!(expected, cluster.containers_everywhere(), "nothing else was restarted");
    all_serve(&cluster);
}

/// Every node answers on the published port.
fn all_serve(cluster: &Cluster) {
    for host in cluster.agents() {
        until("the published port answers", || {
            match cluster.fetch(&host, 8080)?.as_str() {
                "v1" => Ok(()),
                other => Err(other.to_string()),
            }
        });
    }
}

fn ids(replicas: &[Value]) -> BTreeSet<String> {
    replicas.iter().map(|replica| replica["id"].to_string()).collect()
}
