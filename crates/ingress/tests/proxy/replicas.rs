//! Replicas that come, go, refuse and break: what clients notice of it.

use std::sync::atomic::Ordering::SeqCst;

use super::rig::{Rig, replicas, rule, service, until};

#[test]
fn a_replica_that_left_the_table_gets_nothing_more() {
    let (port, replicas) = replicas(2);
    let rig = Rig::new(|_| {});
    let all = || vec![rule("*", "/", port)];
    rig.apply(&[service(all(), &[1, 2])]);
    let mut clients: Vec<_> = (0..8).map(|_| rig.client()).collect();
    for client in &mut clients {
        for _ in 0..4 {
            assert!(
                client
                    .ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                    .is_some_and(|answer| answer.status == 200)
            );
        }
    }
    assert!(replicas[0].count() > 0 && replicas[1].count() > 0);
    // One request is under way on the replica that leaves.
    rig.apply(&[service(all(), &[1])]);
    let before = replicas[0].count();
    let mut busy = rig.client();
    busy.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n");
    until("the request is under way", || replicas[0].count() == before + 1);
    rig.apply(&[service(all(), &[2])]);
    let left = replicas[0].count();
    for client in &mut clients {
        for _ in 0..4 {
            let answer = client.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("an answer");
            assert_eq!((answer.status, answer.body.as_str()), (200, "replica 2"));
        }
    }
    assert_eq!(replicas[0].count(), left);
    assert_eq!(
        busy.answer(false).map(|answer| answer.body),
        Some("replica 1".to_string()),
        "what was under way ends"
    );
    until("no idle connection is kept", || replicas[0].seen.open.load(SeqCst) == 0);
    rig.apply(&[service(all(), &[])]);
    let none = rig
        .client()
        .ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("an answer");
    assert_eq!((none.status, none.body.as_str()), (503, "no replica is ready\n"));
}

#[test]
fn a_replica_that_cannot_be_reached_is_passed_over() {
    let (port, replicas) = replicas(2);
    let rig = Rig::new(|_| {});
    // Nobody listens at 3.
    rig.apply(&[service(vec![rule("*", "/", port)], &[1, 2, 3])]);
    for _ in 0..30 {
        assert_eq!(rig.get("a", "/").0, 200);
        let post = rig
            .client()
            .ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab")
            .expect("an answer");
        assert_eq!(post.status, 200, "nothing was sent, so it can be sent to another");
    }
    let report = rig.report().routes.remove(0);
    assert!(
        report.retries >= 1 && report.retries < 20,
        "it rests for a while: {report:?}"
    );
    assert_eq!(replicas[0].count() + replicas[1].count(), 60);
    rig.apply(&[service(vec![rule("*", "/", port)], &[3])]);
    assert_eq!(rig.get("a", "/").0, 502);
}

#[test]
fn what_breaks_off_is_asked_again_only_where_that_has_no_effect_twice() {
    let (port, replicas) = replicas(2);
    let rig = Rig::new(|_| {});
    rig.apply(&[service(vec![rule("*", "/", port)], &[1, 2])]);
    replicas[0].seen.breaks.store(1, SeqCst);
    replicas[1].seen.breaks.store(1, SeqCst);
    assert_eq!(rig.get("a", "/").0, 200, "two breaks, three attempts");
    let seen = |index: usize| replicas[index].count();
    until("both were tried", || seen(0) + seen(1) >= 2);
    for replica in &replicas {
        replica.seen.breaks.store(100, SeqCst);
    }
    let before = seen(0) + seen(1);
    let post = rig
        .client()
        .ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab")
        .expect("an answer");
    assert_eq!((post.status, seen(0) + seen(1)), (502, before + 1), "once and no more");
}

#[test]
fn a_kept_connection_that_its_server_closed_is_no_failure() {
    let (port, replicas) = replicas(1);
    let rig = Rig::new(|_| {});
    rig.apply(&[service(vec![rule("*", "/", port)], &[1])]);
    let mut client = rig.client();
    for _ in 0..50 {
        let closed = client.ask("GET /close HTTP/1.1\r\nhost: a\r\n\r\n").expect("an answer");
        assert_eq!(closed.status, 200);
        // Whether or not the close has been seen by now.
        let post = client.ask("POST / HTTP/1.1\r\nhost: a\r\n\r\n").expect("an answer");
        assert!(matches!(post.status, 200 | 502), "{}", post.status);
        let get = client.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("an answer");
        assert_eq!(get.status, 200);
    }
    assert!(replicas[0].count() >= 100);
}
