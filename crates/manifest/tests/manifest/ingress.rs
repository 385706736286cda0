//! What `x-gantry: {ingress: …}` and Traefik's labels say of a service.

use gantry_model::DurationMs;
use gantry_model::spec::{IngressRedirect, IngressRule, UpstreamProtocol};

use super::common::{line, load_texts};

/// The rules of the one service of a manifest, and what is complained about.
fn rules(fields: &str) -> (Vec<IngressRule>, Vec<String>) {
    let text = format!(
        "services:\n  a:\n    image: i\n    {}\nsecrets:\n  site: {{external: true}}\n",
        fields.replace('\n', "\n    ")
    );
    let loaded = load_texts(&[&text]);
    let complaints = loaded.diagnostics.iter().map(line).collect();
    let services = loaded
        .application
        .into_iter()
        .flat_map(|application| application.services.into_values());
    (services.flat_map(|service| service.ingress).collect(), complaints)
}

fn shown(rules: &[IngressRule]) -> Vec<String> {
    rules.iter().map(ToString::to_string).collect()
}

#[test]
fn a_rule_says_all_that_there_is_to_say() {
    let (rules, complaints) = rules(
        "x-gantry:\n  ingress:\n    - {host: Shop.example.com, path: /api, port: 8080, tls: {secret: site}, sticky: true, \
         timeout: 5s, retries: 1, redirect: https, protocol: grpc, body_max: 1m}\n    - {host: '*', path: =/x, port: 80}",
    );
    assert_eq!(complaints, Vec::<String>::new());
    assert_eq!(shown(&rules), ["shop.example.com/api", "*=/x"]);
    let rule = &rules[0];
    assert_eq!(
        (rule.port, rule.protocol, rule.retries),
        (Some(8080), UpstreamProtocol::H2c, 1)
    );
    assert_eq!(rule.sticky.as_deref(), Some("gantry-a"));
    assert_eq!(
        (rule.timeout, rule.redirect.clone()),
        (DurationMs::secs(5), Some(IngressRedirect::Https))
    );
    assert_eq!(
        rule.secrets().map(|secret| secret.source.as_str()).collect::<Vec<_>>(),
        ["site"]
    );
}

#[test]
fn a_port_is_needed_only_where_there_is_a_choice() {
    let (one, complaints) = rules("expose: ['3000']\nx-gantry: {ingress: {host: a}}");
    assert_eq!((one[0].port, complaints.len()), (Some(3000), 0));
    let (_, complaints) = rules("ports: ['80', '81']\nx-gantry: {ingress: {host: a}}");
    assert!(
        complaints[0].contains("'port' is missing, and the service exposes several"),
        "{complaints:?}"
    );
    let (away, complaints) = rules("x-gantry: {ingress: {host: a, redirect: 'https://www.a.b/'}}");
    assert_eq!((away[0].port, complaints.len()), (None, 0));
    assert_eq!(away[0].redirect, Some(IngressRedirect::To("https://www.a.b".into())));
}

#[test]
fn mistakes_are_found_where_they_are() {
    for (ingress, message) in [
        ("[{path: /}]", "'host' is missing"),
        ("[{host: 'a b', port: 1}]", "is not a host"),
        ("[{host: a, path: b, port: 1}]", "is not a path"),
        ("[{host: a, port: 0}]", "not a whole number"),
        (
            "[{host: a, port: 1, tls: {secret: other}}]",
            "secret 'other' is not declared",
        ),
        ("[{host: a, port: 1, tls: yes}]", "expected a mapping"),
        ("[{host: a, port: 1, redirect: 'ftp://x'}]", "nowhere to redirect to"),
        ("[{host: a, port: 1, redirect: https}]", "nothing serves HTTPS"),
        ("[{host: a, port: 1, retires: 1}]", "unknown key 'retires'"),
        ("[{host: a, port: 1, sticky: {cookie: 'a b'}}]", "cannot name a cookie"),
        (
            "[{host: a, port: 1}, {host: A, port: 2}]",
            "there is a rule for a/ already",
        ),
    ] {
        let (_, complaints) = rules(&format!("x-gantry: {{ingress: {ingress}}}"));
        assert!(
            complaints.first().is_some_and(|one| one.contains(message)),
            "{ingress}: {complaints:?}"
        );
    }
}

#[test]
fn labels_of_traefik_are_rules_where_they_mean_the_same() {
    let (read, complaints) = rules(
        "labels:\n  traefik.enable: 'true'\n  traefik.http.routers.web.rule: Host(`a.b`) && PathPrefix(`/x`)\n  \
         traefik.http.routers.web.entrypoints: web\n  traefik.http.services.web.loadbalancer.server.port: '3000'",
    );
    assert_eq!((shown(&read), complaints), (vec!["a.b/x".to_string()], Vec::new()));
    assert_eq!(read[0].port, Some(3000));
    let (read, complaints) = rules(
        "expose: ['80']\ndeploy:\n  labels:\n    - traefik.http.routers.w.rule=Host(`a`)\n    \
         - traefik.http.routers.w.middlewares=auth\n    - traefik.http.routers.w.tls=true",
    );
    assert_eq!(shown(&read), ["a/"]);
    assert_eq!(complaints.len(), 2, "{complaints:?}");
    assert!(
        complaints[0].contains("middlewares") && complaints[1].contains("certificates"),
        "{complaints:?}"
    );
    let (read, complaints) = rules("labels: {traefik.http.routers.w.rule: 'HostRegexp(`.*`)'}\nexpose: ['80']");
    assert_eq!((read.len(), complaints.len()), (0, 1), "{complaints:?}");
    let (own, _) = rules("labels: {traefik.http.routers.w.rule: 'Host(`a`)'}\nx-gantry: {ingress: {host: b, port: 1}}");
    assert_eq!(shown(&own), ["b/"], "what is said here counts");
    let (off, _) = rules("labels: {traefik.enable: 'false', traefik.http.routers.w.rule: 'Host(`a`)'}\nexpose: ['80']");
    assert!(off.is_empty());
}
