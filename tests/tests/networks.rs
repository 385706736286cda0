//! Who reaches whom in a cluster: networks of two namespaces, one that they share, one without a way out, policies, published
//! ports. Real containers on two nodes; every pair of services is tried from and to both nodes, by address and by name.

use std::collections::BTreeMap;

use gantry_tests::{Cluster, Lab, Shape, until};
use serde_json::Value;

const SHAPE: Shape = Shape {
    servers: 1,
    agents: 2,
    lease_s: 3,
};

const BASE: &str = r#"
x-base: &base
  image: busybox:v1
  command: ["sh", "-c", "echo $NAME > /tmp/index.html; exec httpd -f -p 80 -h /tmp"]
  stop_grace_period: 0s
  healthcheck: { test: ["CMD", "test", "-e", "/tmp/index.html"], interval: 5s, start_period: 20s, start_interval: 100ms }
  deploy: { mode: global }
"#;

const SHOP: &str = r#"
name: shop
services:
  web: { <<: *base, environment: { NAME: web }, networks: [front], ports: ["8080:80"] }
  api: { <<: *base, environment: { NAME: api }, networks: { front: , back: { aliases: [backend] } }, x-gantry: ${POLICY} }
  db: { <<: *base, environment: { NAME: db }, networks: [back] }
  seller: { <<: *base, environment: { NAME: seller }, networks: [partners] }
networks:
  front:
  back: { internal: true }
  partners: { external: true, name: partners }
"#;

const BANK: &str = r#"
name: bank
services:
  teller: { <<: *base, environment: { NAME: teller } }
  buyer: { <<: *base, environment: { NAME: buyer }, networks: [partners] }
networks:
  partners: { external: true, name: partners }
"#;

/// Services in pairs that share a network; each also reaches itself.
const SHARED: [(&str, &str); 3] = [("web", "api"), ("api", "db"), ("seller", "buyer")];
const SERVICES: [&str; 6] = ["web", "api", "db", "seller", "teller", "buyer"];

type Replicas = BTreeMap<&'static str, Vec<Value>>;

#[test]
fn services_reach_those_they_share_a_network_with_and_nobody_else() {
    let cluster = Cluster::start(SHAPE);
    cluster.import_busybox(&["busybox:v1"]);
    apply(&cluster, "shop", SHOP, "{}");
    apply(&cluster, "bank", BANK, "{}");
    let replicas: Replicas = SERVICES
        .into_iter()
        .map(|name| (name, cluster.until_ready(name, SHAPE.agents)))
        .collect();

    matrix_is(&cluster, &replicas, &|from, to| {
        from == to || SHARED.contains(&(from, to)) || SHARED.contains(&(to, from))
    });
    aliases_are_those_of_the_network(&cluster, &replicas);
    only_some_networks_lead_outside(&cluster, &replicas);

    // In place: who may connect changes around running replicas.
    apply(&cluster, "shop", SHOP, "{ policy: [{ from: [db], ports: [80] }] }");
    matrix_is(&cluster, &replicas, &|from, to| match (from, to) {
        ("db", "api") => true,
        (_, "api") => false,
        _ => from == to || SHARED.contains(&(from, to)) || SHARED.contains(&(to, from)),
    });
    let now = cluster.until_ready("api", SHAPE.agents);
    let ids = |list: &[Value]| list.iter().map(|one| one["id"].to_string()).collect::<Vec<_>>();
    assert_eq!(ids(&now), ids(&replicas["api"]), "a policy replaces no replica");
}

fn apply(cluster: &Cluster, name: &str, manifest: &str, policy: &str) {
    let text = format!("{BASE}{manifest}")
        .replace("${POLICY}", policy)
        .replace("$NAME", "$$NAME");
    let path = cluster.manifest(&format!("{name}.yaml"), &text);
    let _ = cluster.gantry(&["apply", "-f", &path]).ok();
}

fn exec(cluster: &Cluster, replica: &Value, command: &str) -> String {
    let id = replica["id"].as_str().expect("a replica has an id");
    cluster.gantry(&["exec", id, "--", "sh", "-c", command]).out
}

/// Asks every target from inside the replica; what each answered, or nothing.
fn ask(cluster: &Cluster, replica: &Value, targets: &[String]) -> Vec<String> {
    let list = targets.join(" ");
    let probe = format!("for t in {list}; do echo \"$t=$(timeout 2 wget -q -O - http://$t/ 2>/dev/null)\"; done");
    let answers = exec(cluster, replica, &probe);
    answers
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.1.to_string()))
        .collect()
}

/// Waits until exactly the expected services answer, from each replica of each service to each replica of each.
fn matrix_is(cluster: &Cluster, replicas: &Replicas, expected: &dyn Fn(&str, &str) -> bool) {
    for (from, clients) in replicas {
        for client in clients {
            let (mut targets, mut wanted) = (Vec::new(), Vec::new());
            for (to, servers) in replicas {
                let addresses = servers.iter().filter_map(|server| server["address"].as_str());
                for place in addresses.chain([*to]) {
                    // What a replica sends to its own address never leaves it.
                    let is_itself = client["address"].as_str() == Some(place);
                    let answers = is_itself || expected(from, to);
                    wanted.push(if answers { to.to_string() } else { String::new() });
                    targets.push(place.to_string());
                }
            }
            until(&format!("{from} reaches whom it may"), || {
                let answers = ask(cluster, client, &targets);
                if answers == wanted {
                    return Ok(());
                }
                let pairs = targets.iter().zip(&wanted).zip(&answers);
                let wrong = pairs.filter(|((_, wanted), answer)| wanted != answer);
                Err(format!("{:?}", wrong.collect::<Vec<_>>()))
            });
        }
    }
}

fn aliases_are_those_of_the_network(cluster: &Cluster, replicas: &Replicas) {
    for (from, expected) in [("db", "api"), ("web", ""), ("teller", "")] {
        let answers = ask(cluster, &replicas[from][0], &["backend".to_string()]);
        assert_eq!(answers, [expected], "{from} asks for an alias on network back");
    }
}

fn only_some_networks_lead_outside(cluster: &Cluster, replicas: &Replicas) {
    let server = Lab::address("h1");
    for (from, leads_outside) in [("web", true), ("api", true), ("db", false), ("teller", true)] {
        for replica in &replicas[from] {
            let said = exec(
                cluster,
                replica,
                &format!("nc -w 2 {server} 7600 </dev/null >/dev/null 2>&1 && echo out"),
            );
            assert_eq!(said.trim() == "out", leads_outside, "{from}: {said}");
        }
    }
    // Published ports are for everybody who gets to a node.
    let nodes: Vec<String> = cluster
        .agents()
        .iter()
        .map(|host| format!("{}:8080", Lab::address(host)))
        .collect();
    for from in ["teller", "buyer", "web"] {
        assert_eq!(
            ask(cluster, &replicas[from][0], &nodes),
            ["web", "web"],
            "{from} asks the published port"
        );
    }
    assert_eq!(
        ask(cluster, &replicas["db"][0], &nodes),
        ["", ""],
        "nodes are outside of an internal network"
    );
}
