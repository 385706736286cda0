//! Ordinary requests: where they go, what a replica sees, what a client gets.

use gantry_model::spec::IngressRedirect;
use gantry_model::{ByteSize, DurationMs};

use super::rig::{Client, Rig, header, replicas, rule, service, until};

#[test]
fn requests_go_by_host_and_path() {
    let (port, _replicas) = replicas(2);
    let rig = Rig::new(|_| {});
    let mut api = service(vec![rule("shop.example.com", "/api", port)], &[2]);
    api.name = "api".parse().expect("a name");
    rig.apply(&[service(vec![rule("*.example.com", "/", port)], &[1]), api]);
    for (host, path, expect) in [
        ("shop.example.com", "/", (200, "replica 1")),
        ("SHOP.example.com:80", "/api/x", (200, "replica 2")),
        ("shop.example.com", "/apis", (200, "replica 1")),
        ("shop.example.com", "/x/%2e%2e/api", (200, "replica 2")),
        ("other.org", "/", (404, "no route is for this host and path\n")),
    ] {
        let (status, body) = rig.get(host, path);
        assert_eq!((status, body.as_str()), expect, "{host}{path}");
    }
    let report = rig.report();
    assert_eq!(report.unrouted, 1);
    assert_eq!(report.routes.iter().map(|route| route.requests).sum::<u64>(), 4);
}

#[test]
fn a_replica_sees_the_request_and_who_made_it() {
    let (port, replicas) = replicas(1);
    let rig = Rig::new(|_| {});
    rig.apply(&[service(vec![rule("*", "/", port)], &[1])]);
    let mut client = rig.client();
    let request = "POST /a/../b?q=%20 HTTP/1.1\r\nHost: shop:8080\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: x-mine\r\n\
                   X-Mine: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let answer = client.ask(request).expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, "replica 1"));
    assert_eq!(
        header(&answer.head, "keep-alive"),
        None,
        "that was between ingress and replica: {}",
        answer.head
    );
    let seen = replicas[0].heads().remove(0);
    assert!(seen.starts_with("POST /a/../b?q=%20 HTTP/1.1\r\n"), "{seen}");
    for (name, value) in [
        ("host", Some("shop:8080")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-host", Some("shop:8080")),
        ("x-forwarded-proto", Some("http")),
        ("x-mine", None),
        ("connection", None),
    ] {
        assert_eq!(header(&seen, name).as_deref(), value, "{name} in {seen}");
    }
    assert!(seen.ends_with("abc"), "{seen}");
    let empty = client
        .ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        .expect("on the same connection");
    assert_eq!(empty.status, 200);
    assert_eq!(header(&replicas[0].heads()[1], "content-length").as_deref(), Some("0"));
    let head = client
        .ask("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("on the same connection");
    assert_eq!(header(&head.head, "content-length").as_deref(), Some("9"));
    assert_eq!(
        replicas[0].seen.open.load(std::sync::atomic::Ordering::SeqCst),
        1,
        "one connection served all"
    );
}

#[test]
fn redirects_keep_the_path() {
    let (port, _replicas) = replicas(1);
    let rig = Rig::new(|_| {});
    let mut secure = rule("secure.example.com", "/", port);
    secure.redirect = Some(IngressRedirect::Https);
    let mut away = rule("example.com", "/", port);
    away.redirect = Some(IngressRedirect::To("https://www.example.com".into()));
    rig.apply(&[service(vec![secure, away], &[1])]);
    for (host, location) in [
        ("secure.example.com:80", "https://secure.example.com/a?b"),
        ("example.com", "https://www.example.com/a?b"),
    ] {
        let answer = rig
            .client()
            .ask(&format!("GET /a?b HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .expect("an answer");
        assert_eq!(
            (answer.status, header(&answer.head, "location").as_deref()),
            (308, Some(location))
        );
    }
}

#[test]
fn a_client_comes_back_to_its_replica() {
    let (port, _replicas) = replicas(3);
    let rig = Rig::new(|_| {});
    let mut sticky = rule("*", "/", port);
    sticky.sticky = Some("stay".into());
    rig.apply(&[service(vec![sticky.clone()], &[1, 2, 3])]);
    let first = rig
        .client()
        .ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("an answer");
    let cookie = header(&first.head, "set-cookie").expect("a cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("Path=/"), "{cookie}");
    let pair = cookie.split(';').next().expect("a pair");
    for _ in 0..9 {
        let request = format!("GET / HTTP/1.1\r\nhost: a\r\ncookie: x=1; {pair}\r\n\r\n");
        let again = rig.client().ask(&request).expect("an answer");
        assert_eq!(again.body, first.body);
        assert_eq!(header(&again.head, "set-cookie"), None);
    }
    let gone: u64 = first.body.trim_start_matches("replica ").parse().expect("a number");
    let left: Vec<u64> = (1..=3).filter(|id| *id != gone).collect();
    rig.apply(&[service(vec![sticky], &left)]);
    let moved = rig
        .client()
        .ask(&format!("GET / HTTP/1.1\r\nhost: a\r\ncookie: {pair}\r\n\r\n"))
        .expect("an answer");
    assert_ne!(moved.body, first.body);
    assert!(header(&moved.head, "set-cookie").is_some(), "its new replica is noted");
}

#[test]
fn a_connection_may_become_another_protocol() {
    let (port, replicas) = replicas(1);
    let rig = Rig::new(|_| {});
    rig.apply(&[service(vec![rule("*", "/", port)], &[1])]);
    let mut client = rig.client();
    let request =
        "GET /switch HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n";
    let answer = client.ask(request).expect("an answer");
    assert_eq!(
        (answer.status, header(&answer.head, "upgrade").as_deref()),
        (101, Some("websocket"))
    );
    assert_eq!(
        header(&replicas[0].heads()[0], "sec-websocket-key").as_deref(),
        Some("x")
    );
    for text in ["hello", "again"] {
        client.send(text);
        let mut echoed = [0; 5];
        std::io::Read::read_exact(&mut client.reader, &mut echoed).expect("an echo");
        assert_eq!(echoed, text.as_bytes());
    }
    drop(client);
    until("the replica's end is closed as well", || {
        replicas[0].seen.open.load(std::sync::atomic::Ordering::SeqCst) == 0
    });
    assert_eq!(rig.report().routes[0].upgrades, 1);
}

#[test]
fn limits_of_a_rule_hold() {
    let (port, replicas) = replicas(1);
    let rig = Rig::new(|_| {});
    let mut limited = rule("*", "/", port);
    limited.body_max = Some(ByteSize(4));
    limited.timeout = DurationMs(200);
    rig.apply(&[service(vec![limited], &[1])]);
    let send = |request: &str| rig.client().ask(request).map(|answer| answer.status);
    assert_eq!(
        send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nabcde"),
        Some(413)
    );
    assert_eq!(replicas[0].count(), 0, "its length says enough");
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n";
    assert_eq!(send(chunked), Some(413));
    assert_eq!(
        send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nabcd"),
        Some(200)
    );
    assert_eq!(send("GET /never HTTP/1.1\r\nhost: a\r\n\r\n"), Some(504));
}

#[test]
fn every_request_is_noted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let (port, _replicas) = replicas(1);
    let rig = Rig::new(|config| config.access_log = Some(path.clone()));
    rig.apply(&[service(vec![rule("a", "/", port)], &[1])]);
    assert_eq!(rig.get("a", "/x?y").0, 200);
    assert_eq!(rig.get("b", "/").0, 404);
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    until("both lines are written", || read().lines().count() == 2);
    let lines: Vec<serde_json::Value> = read()
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let served = lines.iter().find(|line| line["status"] == 200).expect("a line");
    assert_eq!(
        (served["path"].as_str(), served["bytes"].as_u64()),
        (Some("/x?y"), Some(9))
    );
    assert_eq!(
        (served["service"].as_str(), served["client"].as_str()),
        (Some("shop/web"), Some("127.0.0.1"))
    );
    assert!(
        lines
            .iter()
            .any(|line| line["status"] == 404 && line["replica"].is_null())
    );
}

#[test]
fn nothing_listens_without_a_rule() {
    let (port, _replicas) = replicas(1);
    let rig = Rig::new(|_| {});
    rig.apply(&[]);
    assert_eq!(rig.report().http, None);
    rig.apply(&[service(vec![rule("*", "/", port)], &[1])]);
    let address = rig.http();
    assert_eq!(rig.report().https, None, "no rule has a certificate");
    rig.apply(&[]);
    assert_eq!(rig.report().http, None);
    until("the socket is closed", || {
        std::net::TcpStream::connect(address).is_err()
    });
}

#[test]
fn requests_under_way_end_before_the_ingress_does() {
    let (port, replicas) = replicas(1);
    let rig = Rig::new(|_| {});
    rig.apply(&[service(vec![rule("*", "/", port)], &[1])]);
    let address = rig.http();
    let mut idle = rig.client();
    assert_eq!(
        idle.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .map(|answer| answer.status),
        Some(200)
    );
    let mut busy = Client::connect(address);
    busy.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n");
    until("the request is under way", || replicas[0].count() == 2);
    rig.runtime.block_on(rig.ingress.drain(super::rig::PATIENCE));
    assert_eq!(busy.answer(false).map(|answer| answer.status), Some(200));
    assert!(busy.is_closed() && idle.is_closed());
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody new comes in");
}
