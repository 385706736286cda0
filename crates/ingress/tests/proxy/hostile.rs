//! Clients that mean harm: nothing of theirs passes, and the others are served all the while.

use std::time::Duration;

use super::rig::{Rig, replicas, rule, service, until};

/// Requests that two parsers may read in two ways, each followed by what the second one would take for a request.
const AMBIGUOUS: &[(&str, &str)] = &[
    (
        "two lengths",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcde",
    ),
    (
        "a list of lengths",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 6\r\n\r\nabcde",
    ),
    (
        "a signed length",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\nabcde",
    ),
    (
        "a folded header",
        "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n content-length: 5\r\n\r\n",
    ),
    (
        "a space before the colon",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length : 5\r\n\r\nabcde",
    ),
    (
        "chunked, but not at the end",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    ),
    (
        "an unknown coding",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunks in HTTP/1.0",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
    ("no host", "GET / HTTP/1.1\r\n\r\n"),
    (
        "another host in the target",
        "GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    ("a null in a header", "GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n"),
    (
        "a bare carriage return",
        "GET / HTTP/1.1\r\nhost: a\r\nx: 1\rcontent-length: 5\r\n\r\n",
    ),
    ("no version", "GET /\r\nhost: a\r\n\r\n"),
];

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let (port, replicas) = replicas(1);
    let rig = Rig::new(|_| {});
    rig.apply(&[service(vec![rule("*", "/", port)], &[1])]);
    for (what, request) in AMBIGUOUS {
        let mut client = rig.client();
        client.send(request);
        client.send("GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n");
        if let Some(answer) = client.answer(false) {
            assert!((400..500).contains(&answer.status), "{what}: {}", answer.head);
        }
    }
    assert_eq!(
        replicas[0].heads(),
        Vec::<String>::new(),
        "nothing of it reached a replica"
    );
    assert_eq!(rig.get("a", "/").0, 200);
}

#[test]
fn the_framing_a_replica_sees_is_our_own() {
    let (port, replicas) = replicas(1);
    let rig = Rig::new(|_| {});
    rig.apply(&[service(vec![rule("*", "/", port)], &[1])]);
    // Both a length and chunks: whatever is made of it, the replica sees one request with one framing.
    let mut client = rig.client();
    client.send(
        "POST /one HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n",
    );
    let _ = client.answer(false);
    for head in replicas[0].heads() {
        assert!(head.starts_with("POST /one "), "{head}");
        let (length, chunks) = (head.contains("content-length"), head.contains("transfer-encoding"));
        assert!(length != chunks, "{head}");
    }
    // A broken chunk ends the connection, and no answer is made up.
    let mut client = rig.client();
    client.send("POST /two HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n");
    if let Some(answer) = client.answer(false) {
        assert!((400..500).contains(&answer.status), "{}", answer.head);
    }
    assert!(replicas[0].heads().iter().all(|head| !head.starts_with("POST /two")));
    assert_eq!(rig.get("a", "/").0, 200);
}

#[test]
fn slow_and_silent_clients_are_let_go_and_keep_nobody_waiting() {
    let (port, _replicas) = replicas(1);
    let rig = Rig::new(|config| {
        config.limits.head_timeout = Duration::from_secs(3);
        config.limits.body_timeout = Duration::from_secs(3);
    });
    rig.apply(&[service(vec![rule("*", "/", port)], &[1])]);
    let mut silent = rig.client();
    let mut first_byte = rig.client();
    first_byte.send("P");
    let mut half_a_head = rig.client();
    half_a_head.send("GET / HTTP/1.1\r\nhost: a\r\nx-");
    let mut half_a_body = rig.client();
    half_a_body.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc");
    assert_eq!(rig.get("a", "/").0, 200);
    assert!(silent.is_closed() && first_byte.is_closed() && half_a_head.is_closed());
    assert_eq!(half_a_body.answer(false).map(|answer| answer.status), Some(408));
    until("all are gone", || rig.report().connections == 0);
}

#[test]
fn heads_are_bounded() {
    let (port, replicas) = replicas(1);
    let rig = Rig::new(|_| {});
    rig.apply(&[service(vec![rule("*", "/", port)], &[1])]);
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(1000));
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let path = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "z".repeat(200_000));
    for request in [many, long, path] {
        if let Some(answer) = rig.client().ask(&request) {
            assert!(matches!(answer.status, 400 | 414 | 431), "{}", answer.head);
        }
    }
    assert_eq!(replicas[0].count(), 0);
    assert_eq!(rig.get("a", "/").0, 200);
}

#[test]
fn one_client_does_not_take_all_places() {
    let (port, _replicas) = replicas(1);
    let rig = Rig::new(|config| {
        config.workers = 1;
        config.limits.connections_per_client = 3;
    });
    rig.apply(&[service(vec![rule("*", "/", port)], &[1])]);
    let mut held: Vec<_> = (0..3).map(|_| rig.client()).collect();
    for client in &mut held {
        assert!(client.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").is_some());
    }
    assert!(rig.client().is_closed());
    assert_eq!(rig.report().turned_away, 1);
    drop(held);
    until("the places are free", || rig.report().connections == 0);
    assert_eq!(rig.get("a", "/").0, 200);
}
