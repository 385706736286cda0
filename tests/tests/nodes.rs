//! A node that is cut off is replaced, and what it ran meanwhile goes when it is back.

use std::time::Duration;

use gantry_tests::{Cluster, Shape, Stopwatch, until, within};

const LEASE_S: u32 = 3;

/// The promise is lease + 2 s; the rest is the time that a look takes.
const REPLACED_MAX: Duration = Duration::from_millis(LEASE_S as u64 * 1000 + 2500);

const REPLICAS: usize = 6;

const SHAPE: Shape = Shape {
    servers: 1,
    agents: 3,
    lease_s: LEASE_S,
};

const MANIFEST: &str = r#"
name: shop
services:
  web:
    image: busybox:v1
    command: ["sleep", "100000"]
    stop_grace_period: 0s
    deploy: { replicas: 6 }
"#;

#[test]
fn a_lost_nodes_replicas_run_elsewhere_and_its_own_stop_when_it_is_back() {
    let cluster = Cluster::start(SHAPE);
    cluster.import_busybox(&["busybox:v1"]);
    let manifest = cluster.manifest("compose.yaml", MANIFEST);
    let _ = cluster.gantry(&["apply", "-f", &manifest, "--wait"]).ok();
    let _ = cluster.until_ready("web", REPLICAS);
    let lost = cluster.containers("h4");
    assert_eq!(lost.len(), 2, "{lost:?}");

    let elsewhere = |cluster: &Cluster| {
        ["h2", "h3"]
            .map(|host| cluster.containers(host).len())
            .iter()
            .sum::<usize>()
    };
    let watch = Stopwatch::start();
    cluster.lab.cut("h4");
    within(
        REPLACED_MAX,
        "all replicas run on the other nodes",
        || match elsewhere(&cluster) {
            REPLICAS => Ok(()),
            count => Err(count.to_string()),
        },
    );
    println!(
        "FIGURE node loss: {} ms from the cut to {REPLICAS} containers elsewhere, lease {LEASE_S} s",
        watch.ms()
    );
    assert_eq!(
        cluster.containers("h4"),
        lost,
        "a node that is cut off lets its replicas run"
    );
    let why = cluster.gantry(&["node", "ls"]).ok();
    assert!(why.contains("down"), "{why}");

    cluster.lab.heal("h4");
    let watch = Stopwatch::start();
    until("the surplus is gone", || {
        let surplus: Vec<_> = cluster
            .containers("h4")
            .into_keys()
            .filter(|id| lost.contains_key(id))
            .collect();
        let count = cluster.containers_everywhere().len();
        if surplus.is_empty() && count == REPLICAS {
            Ok(())
        } else {
            Err(format!("{count} run, {surplus:?}"))
        }
    });
    println!(
        "FIGURE node loss: {} ms from the return to exactly {REPLICAS} containers",
        watch.ms()
    );
    cluster.until_nodes_ready(3);
    let replicas = cluster.until_ready("web", REPLICAS);
    assert!(
        replicas.iter().all(|replica| replica["observed"]["restarts"] == 0),
        "{replicas:?}"
    );
    assert_eq!(cluster.containers_everywhere().len(), REPLICAS);
}
