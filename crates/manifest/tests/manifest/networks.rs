//! Networks and who may connect over them.

use gantry_model::Name;
use gantry_model::spec::{Application, NetworkAttachment};

use super::common::{line, load_texts};

fn application(text: &str) -> Application {
    let loaded = load_texts(&[text]);
    let lines: Vec<String> = loaded.diagnostics.iter().map(line).collect();
    assert!(lines.is_empty(), "{lines:?}");
    loaded.application.expect("nothing is wrong")
}

fn check(text: &str, expected: &[&str]) {
    let loaded = load_texts(&[text]);
    let lines: Vec<String> = loaded.diagnostics.iter().map(line).collect();
    assert_eq!(lines, expected, "in:\n{text}");
}

fn attachment<'a>(application: &'a Application, service: &str, network: &str) -> &'a NetworkAttachment {
    let name = |text: &str| Name::new(text).expect("a name");
    &application.services[&name(service)].networks[&name(network)]
}

#[test]
fn what_a_network_is_goes_with_every_service_on_it() {
    let application = application(
        "name: shop
services:
  api: {image: i, networks: {front: {aliases: [www]}, back: }}
  db:
    image: i
    networks: [back, partners]
    x-gantry: {policy: [{from: [api, bank/*, 192.0.2.0/24], ports: [5432, 8000-8010/udp]}]}
  shut: {image: i, x-gantry: {policy: []}}
networks:
  front:
  back: {internal: true, x-gantry: {policy: [{from: api}]}}
  partners: {external: true, name: all-partners}
",
    );
    let back = attachment(&application, "db", "back");
    assert!(back.internal && back.network == "shop_back");
    let policy = serde_json::to_string(&back.policy).expect("a policy is data");
    assert_eq!(policy, r#"[{"from":["shop/api"]}]"#);
    assert_eq!(attachment(&application, "api", "back").policy, back.policy);
    let front = attachment(&application, "api", "front");
    assert!(!front.internal && front.policy.is_none() && front.aliases == ["www"]);
    assert_eq!(attachment(&application, "db", "partners").network, "all-partners");
    assert_eq!(attachment(&application, "shut", "default").network, "shop_default");
    let policy = |service: &str| {
        let name = Name::new(service).expect("a name");
        serde_json::to_string(&application.services[&name].policy).expect("a policy is data")
    };
    let expected = r#"[{"from":["shop/api","bank/*","192.0.2.0/24"],"ports":["5432/tcp","8000-8010/udp"]}]"#;
    assert_eq!(policy("db"), expected);
    assert_eq!((policy("shut").as_str(), policy("api").as_str()), ("[]", "null"));
}

#[test]
fn mistakes_in_policies_are_pointed_at() {
    check(
        "services: {a: {image: i, x-gantry: {policy: [{from: [a b], ports: [http]}]}}}",
        &[
            "error 1:54 services.a.x-gantry.policy[0].from[0]: 'a b' is nobody: write SERVICE, NAMESPACE/SERVICE, NAMESPACE/*, or a network such as 192.0.2.0/24",
            "error 1:68 services.a.x-gantry.policy[0].ports[0]: 'http' is no port: write PORT, FIRST-LAST, and /udp behind it where it is not TCP",
        ],
    );
    check(
        "services: {a: {image: i, x-gantry: {policy: all}}}",
        &[
            "error 1:45 services.a.x-gantry.policy: expected a list of rules, found a single value (write `policy: [{from: [SERVICE], ports: [PORT]}]`, or `policy: []` to let nobody in)",
        ],
    );
    check(
        "services: {a: {image: i, x-gantry: {policy: [{from: [], port: 80}]}}}",
        &[
            "error 1:47 services.a.x-gantry.policy[0].from: the list is empty (remove it if anybody is meant, or remove the rule)",
            "error 1:57 services.a.x-gantry.policy[0].port: unknown key 'port' (did you mean 'ports'?)",
        ],
    );
}

#[test]
fn what_docker_knows_and_has_no_meaning_here_is_said() {
    check(
        "services: {a: {image: i, networks: [n]}}\nnetworks: {n: {attachable: true}}",
        &["warning 2:28 networks.n.attachable: has no effect: containers run by hand are on a network of their node"],
    );
    check(
        "services: {a: {image: i, networks: {n: {ipv4_address: 10.0.0.2}}}}\nnetworks: {n: {ipam: {driver: default}}}",
        &[
            "error 1:41 services.a.networks.n.ipv4_address: 'ipv4_address' is not supported yet (replicas get addresses from the cluster; use the service's name or an alias)",
            "warning 2:16 networks.n.ipam: 'ipam' has no effect: subnets come from the cluster's pool",
        ],
    );
}
