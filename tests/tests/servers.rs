//! Servers come, go and change places while the cluster works.

use gantry_tests::{Cluster, Lab, Shape, until};
use serde_json::Value;

const SHAPE: Shape = Shape {
    servers: 3,
    agents: 1,
    lease_s: 3,
};

#[test]
fn servers_are_promoted_demoted_removed_and_handed_leadership_live() {
    let cluster = Cluster::start(SHAPE);

    let first = cluster.leader();
    let heir = cluster
        .servers()
        .into_iter()
        .find(|host| *host != first)
        .expect("three servers");
    let _ = cluster.gantry(&["cluster", "transfer-leader", &address(&heir)]).ok();
    assert_eq!(cluster.leader(), heir);
    writes(&cluster, "transferred");

    let follower = cluster
        .servers()
        .into_iter()
        .find(|host| *host != heir && host != "h1")
        .unwrap_or("h1".to_string());
    let _ = cluster.gantry(&["cluster", "demote", &address(&follower)]).ok();
    assert_eq!(server(&cluster, &follower)["voter"], false);
    writes(&cluster, "demoted");
    let _ = cluster.gantry(&["cluster", "promote", &address(&follower)]).ok();
    assert_eq!(server(&cluster, &follower)["voter"], true);

    let _ = cluster.gantry(&["cluster", "transfer-leader", &address("h1")]);
    until("h1 leads", || {
        if cluster.leader() == "h1" {
            Ok(())
        } else {
            Err(String::new())
        }
    });
    let _ = cluster.gantry(&["cluster", "remove", &address("h3")]).ok();
    let status = cluster.json(&["cluster", "status"]).expect("a status");
    assert_eq!(status["servers"].as_array().map(Vec::len), Some(2), "{status}");
    writes(&cluster, "removed");
    let unknown = cluster.gantry(&["cluster", "remove", "10.9.9.9:7600"]).refused(1);
    assert!(
        unknown.contains("10.9.9.9:7600") && unknown.contains("not a member"),
        "{unknown}"
    );

    let old = cluster.token("agent");
    let rotated = cluster
        .json(&["cluster", "token", "rotate", "agent"])
        .expect("a new token");
    let fresh = rotated["token"].as_str().expect("it is printed");
    assert_ne!(fresh, old);
    let join = [
        "agent",
        "--join",
        "10.77.0.1:7600",
        "--token",
        &old,
        "--name",
        "h2",
        "--advertise",
        "10.77.0.2:7601",
    ];
    let error = cluster.gantry_on("h2", &join).refused(1);
    assert!(error.contains("token"), "{error}");
    cluster.until_nodes_ready(1);
}

fn address(host: &str) -> String {
    format!("{}:7600", Lab::address(host))
}

fn server(cluster: &Cluster, host: &str) -> Value {
    let status = cluster.json(&["cluster", "status"]).expect("a status");
    let servers = status["servers"].as_array().cloned().unwrap_or_default();
    let found = servers.into_iter().find(|server| server["address"] == address(host));
    found.expect("the server is a member")
}

/// A write is accepted and read again.
fn writes(cluster: &Cluster, value: &str) {
    let label = format!("step={value}");
    let _ = cluster.gantry(&["node", "update", "h4", "--label-add", &label]).ok();
    let node = cluster.json(&["node", "inspect", "h4"]).expect("the node is known");
    assert_eq!(node["labels"]["step"], value, "{node}");
}
