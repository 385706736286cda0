//! An agent that dies leaves its containers alone, and the next one takes them over.

use gantry_tests::{Cluster, Shape, until};

const SHAPE: Shape = Shape {
    servers: 1,
    agents: 1,
    lease_s: 3,
};

const MANIFEST: &str = r#"
name: shop
services:
  web:
    image: busybox:v1
    command: ["sleep", "100000"]
    stop_grace_period: 0s
    deploy: { replicas: 3 }
  once:
    image: busybox:v1
    command: ["sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 42"]
    stop_grace_period: 0s
    deploy: { restart_policy: { condition: none } }
"#;

#[test]
fn containers_survive_their_agent_and_are_adopted_by_another_build() {
    let cluster = Cluster::start(SHAPE);
    cluster.import_busybox(&["busybox:v1"]);
    let manifest = cluster.manifest("compose.yaml", MANIFEST);
    let _ = cluster.gantry(&["apply", "-f", &manifest, "--wait"]).ok();
    let before = cluster.until_ready("web", 3);
    let once = cluster.until_ready("once", 1).remove(0);
    let once = once["id"].as_str().expect("a replica has an id").to_string();
    let running = cluster.containers("h2");
    assert_eq!(running.len(), 4, "{running:?}");

    cluster.process("agent", "h2").kill();
    assert_eq!(cluster.containers("h2"), running, "containers outlive their agent");
    cluster.start_agent("h2");
    until("the agent took its containers over", || {
        let answer = cluster.gantry(&["exec", "web.1", "--", "true"]);
        if answer.code == 0 { Ok(()) } else { Err(answer.err) }
    });
    assert_eq!(cluster.containers("h2"), running, "the same build starts nothing again");

    cluster.process("agent", "h2").kill();
    let go = format!("/proc/{}/root/tmp/go", running[&once]);
    let _ = cluster.lab.exec("h2", &["touch", &go]).ok();
    until("a container ends with no agent there", || {
        if cluster.containers("h2").contains_key(&once) {
            Err("it runs".to_string())
        } else {
            Ok(())
        }
    });
    let copy = cluster.lab.folder("h2").join("gantry-of-another-build");
    std::fs::copy(gantry_tests::binary(), &copy).expect("the binary can be copied");
    cluster.start_agent_of("h2", &copy.to_string_lossy());
    until("its exit status is reported", || {
        let all = cluster.json(&["ps", "-a"])?;
        let replica = all
            .as_array()
            .into_iter()
            .flatten()
            .find(|replica| replica["id"] == *once);
        match replica.map(|replica| &replica["observed"]) {
            Some(observed) if observed["last_exit"]["code"] == 42 && observed["phase"] == "failed" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let after = cluster.until_ready("web", 3);
    let mut expected = running;
    expected.remove(&once);
    assert_eq!(cluster.containers("h2"), expected, "another build starts nothing again");
    for (one, other) in before.iter().zip(&after) {
        assert_eq!(one["id"], other["id"]);
        assert_eq!(other["observed"]["restarts"], 0, "{other}");
    }
}
