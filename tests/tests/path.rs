//! The whole path: a Compose file onto a cluster, and everything a person does with it.

use gantry_tests::{Cluster, Lab, Shape, until};

const SHAPE: Shape = Shape {
    servers: 1,
    agents: 2,
    lease_s: 3,
};

const MANIFEST: &str = r#"
name: shop
services:
  web:
    image: busybox:${VERSION:-v1}
    command: ["sh", "-c", "echo $$GREETING from $$(hostname); mkdir -p /www; echo $$VERSION > /www/index.html; exec httpd -f -p 80 -h /www"]
    environment:
      GREETING: hello
      VERSION: ${VERSION:-v1}
    ports: ["8080:80"]
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/"]
      interval: 1s
      start_interval: 200ms
      start_period: 10s
    stop_grace_period: 1s
    deploy:
      replicas: 2
      update_config: { order: start-first, monitor: 500ms }
"#;

#[test]
fn a_compose_file_runs_scales_rolls_and_goes() {
    let cluster = Cluster::start(SHAPE);
    cluster.import_busybox(&["busybox:v1", "busybox:v2"]);
    let manifest = cluster.manifest("compose.yaml", MANIFEST);

    let plan = cluster.gantry(&["plan", "-f", &manifest]).ok();
    assert!(plan.contains("web"), "{plan}");
    assert!(
        cluster.replicas("web").expect("an answer").is_empty(),
        "a plan changes nothing"
    );

    let _ = cluster.gantry(&["apply", "-f", &manifest, "--wait"]).ok();
    let replicas = cluster.until_ready("web", 2);
    assert_ne!(
        cluster.host_of(&replicas[0]),
        cluster.host_of(&replicas[1]),
        "spread over both nodes"
    );

    for host in cluster.agents() {
        let url = format!("http://{}:8080/", Lab::address(&host));
        until(&format!("{host} answers on the published port"), || {
            let answer = cluster.lab.exec("h1", &["curl", "-s", "-m", "2", &url]);
            if answer.out.trim() == "v1" {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        });
    }
    let again = cluster.json(&["apply", "-f", &manifest]).expect("it applies again");
    assert!(
        !again.to_string().contains("\"update\"") && !again.to_string().contains("\"create\""),
        "{again}"
    );

    let logs = cluster.gantry(&["logs", "web", "-n", "shop"]).ok();
    assert_eq!(logs.matches("hello from").count(), 2, "{logs}");
    let inside = cluster.gantry(&["exec", "web.1", "-n", "shop", "--", "sh", "-c", "hostname; exit 7"]);
    assert_eq!(inside.code, 7, "{inside:?}");
    let missing = cluster.gantry(&["exec", "web.1", "-n", "shop", "--", "/no/such/program"]);
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(missing.err.contains("/no/such/program"), "{missing:?}");
    let name = cluster
        .gantry(&["exec", "web.1", "--", "wget", "-q", "-O", "-", "http://web/"])
        .ok();
    assert_eq!(name.trim(), "v1", "the service's name leads to its virtual address");

    let _ = cluster.gantry(&["service", "scale", "web=5", "-n", "shop"]).ok();
    let _ = cluster.until_ready("web", 5);
    let mut rolled = cluster.command("h1", &["apply", "-f", &manifest, "--wait"]);
    let rolled = rolled.env("VERSION", "v2").output().expect("gantry runs");
    assert!(rolled.status.success(), "{rolled:?}");
    let _ = cluster.until_ready("web", 2);
    let answer = cluster
        .lab
        .exec("h1", &["curl", "-s", "-m", "2", "http://10.77.0.2:8080/"])
        .ok();
    assert_eq!(answer.trim(), "v2");

    let history = cluster
        .json(&["service", "history", "web", "-n", "shop"])
        .expect("a history");
    assert_eq!(history.as_array().map(Vec::len), Some(2), "{history}");
    let _ = cluster.gantry(&["service", "rollback", "web", "-n", "shop"]).ok();
    until("it is back at v1", || {
        let answer = cluster
            .lab
            .exec("h1", &["curl", "-s", "-m", "2", "http://10.77.0.2:8080/"]);
        if answer.out.trim() == "v1" {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    });

    let _ = cluster.gantry(&["node", "drain", "h2"]).ok();
    until("h2 is empty", || {
        let replicas = cluster.replicas("web")?;
        let elsewhere = replicas.iter().all(|replica| cluster.host_of(replica) == "h3");
        let ready = replicas
            .iter()
            .filter(|replica| replica["observed"]["ready"] == true)
            .count();
        if elsewhere && ready == 2 {
            Ok(())
        } else {
            Err(format!("{replicas:?}"))
        }
    });
    let _ = cluster.gantry(&["node", "activate", "h2"]).ok();

    let why = cluster.gantry(&["explain", "web", "-n", "shop"]).ok();
    assert!(why.contains("shop/web"), "{why}");
    let events = cluster.gantry(&["events"]).ok();
    assert!(events.contains("rollout") || events.contains("running"), "{events}");

    let _ = cluster.gantry(&["delete", "-f", &manifest, "--wait"]).ok();
    until("nothing is left", || {
        let namespaces = cluster.json(&["namespace", "ls"])?;
        if namespaces.as_array().is_some_and(Vec::is_empty) {
            Ok(())
        } else {
            Err(namespaces.to_string())
        }
    });
}
