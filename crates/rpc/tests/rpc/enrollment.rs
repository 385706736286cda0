//! A newcomer waits for a cluster that is not there yet, and not for one that will never take it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::*;
use gantry_env::System;
use gantry_model::object::Role;
use gantry_model::{Class, DurationMs};
use gantry_pki::{Authority, Token};
use gantry_rpc::{Patience, enroll};
use tokio::net::TcpListener;
use tokio::sync::Notify;

fn token(authority: &Authority) -> String {
    Token::create(Role::Agent, authority.digest(), DurationMs::secs(60), &System)
        .0
        .to_string()
}

#[tokio::test]
async fn a_newcomer_waits_while_the_cluster_is_being_initialised() {
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let authority = authority();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let running = server_on(listener, &authority, identity(&authority, Role::Server), 3);
    let patience = Patience {
        tell: |problem| TOLD.lock().expect("no panic").push(problem.reason.clone()),
        ..PATIENCE
    };
    let servers = ["127.0.0.1:1".to_string(), running.address.clone()];
    let enrolled = enroll(&servers, &token(&authority), "alpha", patience).await;
    assert_eq!(enrolled.expect("joined in the end").cluster_name, "alpha");
    assert_eq!(
        *TOLD.lock().expect("no panic"),
        ["is being initialised"],
        "it says once what it waits for"
    );
}

#[tokio::test]
async fn a_newcomer_waits_until_somebody_listens() {
    static TOLD: Notify = Notify::const_new();
    let authority = authority();
    // An address of this test's own, so that nobody else takes the port meanwhile.
    let address = "127.77.1.1:7600";
    let servers = [address.to_string()];
    let patience = Patience {
        tell: |_| TOLD.notify_one(),
        ..PATIENCE
    };
    let secret = token(&authority);
    let joining = tokio::spawn(async move { enroll(&servers, &secret, "alpha", patience).await });
    TOLD.notified().await;
    let listener = TcpListener::bind(address).await.expect("free");
    let _running = server_on(listener, &authority, identity(&authority, Role::Server), 0);
    joining.await.expect("no panic").expect("joined in the end");
}

#[tokio::test]
async fn patience_ends() {
    let patience = Patience {
        limit: DurationMs(300),
        ..PATIENCE
    };
    let servers = ["127.0.0.1:1".to_string()];
    let problem = enroll(&servers, &token(&authority()), "alpha", patience).await;
    assert_eq!(problem.expect_err("nobody listens").class, Class::Unavailable);
}

#[tokio::test]
async fn a_server_of_another_cluster_is_final_unless_another_may_come_up() {
    static TOLD: AtomicU32 = AtomicU32::new(0);
    let (ours, theirs) = (authority(), authority());
    let running = server(&theirs).await;
    let patience = Patience {
        limit: DurationMs(300),
        tell: |_| {
            TOLD.fetch_add(1, Ordering::Relaxed);
        },
    };
    let alone = [running.address.clone()];
    let problem = enroll(&alone, &token(&ours), "alpha", patience).await;
    assert_eq!(problem.expect_err("another cluster").class, Class::Denied);
    assert_eq!(TOLD.load(Ordering::Relaxed), 0, "it did not wait");

    let with_another = [running.address.clone(), "127.0.0.1:1".to_string()];
    let problem = enroll(&with_another, &token(&ours), "alpha", patience).await;
    assert_eq!(problem.expect_err("nobody listens").class, Class::Unavailable);
    assert!(TOLD.load(Ordering::Relaxed) > 0, "it waited for the other");
}
