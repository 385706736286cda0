//! Who gets in, as what, and what those who don't are told.

use crate::support::*;
use gantry_api::v1::{EnrollRequest, RenewRequest};
use gantry_env::{Env, System};
use gantry_model::object::Role;
use gantry_model::{Class, DurationMs, NodeId};
use gantry_pki::{Authority, Token};
use gantry_rpc::{
    Channels, Credentials, REQUEST_BYTES_MAX, Remote, Repeat, ServerPool, WithLimits, enroll, enroll_channel, status,
};
use tonic::Code;

fn token(authority: &Authority, role: Role) -> String {
    Token::create(role, authority.digest(), DurationMs::secs(60), &System)
        .0
        .to_string()
}

#[tokio::test]
async fn a_member_of_the_right_role_is_known_by_its_id() {
    let authority = authority();
    let server = server(&authority).await;
    let mut client = client(&server.address, &credentials(&authority, Role::Agent));
    assert_eq!(whoami(&mut client).await.as_deref(), Ok(ID));
}

#[tokio::test]
async fn a_member_of_another_role_is_denied_and_told_which_role_it_takes() {
    let authority = authority();
    let server = server(&authority).await;
    let mut client = client(&server.address, &credentials(&authority, Role::Admin));
    let status = client
        .renew(RenewRequest::default())
        .await
        .expect_err("admins do not renew here");
    assert_eq!(status.code(), Code::PermissionDenied);
    let problem = status::to_problem(&status, "server");
    assert!(problem.reason.contains("role agent"), "{problem}");
    assert_eq!(problem.object, format!("admin {ID}"));
}

#[tokio::test]
async fn without_a_certificate_only_enrolment_is_open() {
    let authority = authority();
    let server = server(&authority).await;
    let channel = enroll_channel(&server.address, authority.digest()).expect("a channel");
    let mut client = gantry_api::v1::enrollment_client::EnrollmentClient::new(channel).with_limits();
    let status = client
        .renew(RenewRequest::default())
        .await
        .expect_err("nobody is not an agent");
    assert_eq!(status.code(), Code::Unauthenticated);
    let problem = status::to_problem(&status, "server");
    assert_eq!(problem.class, Class::Denied);
    assert!(problem.remedy.contains("gantry cluster join"), "{problem}");
}

#[tokio::test]
async fn a_certificate_of_another_cluster_fails_the_handshake() {
    let (ours, theirs) = (authority(), authority());
    let server = server(&ours).await;
    let foreign = credentials(&theirs, Role::Agent);
    let problem = whoami(&mut client(&server.address, &foreign))
        .await
        .expect_err("another cluster");
    assert_eq!(problem.class, Class::Unavailable);
    assert!(problem.reason.contains("not of the expected cluster"), "{problem}");
    // One that trusts our authority but shows a certificate of another gets no further.
    let mut mixed = identity(&theirs, Role::Agent);
    mixed.ca_pem = ours.certificate_pem().to_string();
    let mixed = Credentials::new(mixed).expect("usable credentials");
    let problem = whoami(&mut client(&server.address, &mixed))
        .await
        .expect_err("a foreign certificate");
    assert_eq!(problem.class, Class::Denied, "{problem}");
    assert!(
        problem.reason.contains("refused this client's certificate"),
        "{problem}"
    );
}

#[tokio::test]
async fn an_expired_certificate_fails_the_handshake_on_either_side() {
    let authority = authority();
    let running = server(&authority).await;
    let late = Credentials::new(expired(&authority, Role::Agent)).expect("usable credentials");
    let problem = whoami(&mut client(&running.address, &late))
        .await
        .expect_err("expired client");
    assert_eq!(problem.class, Class::Denied, "{problem}");
    let late = server_with(&authority, expired(&authority, Role::Server)).await;
    let agent = credentials(&authority, Role::Agent);
    let problem = whoami(&mut client(&late.address, &agent))
        .await
        .expect_err("expired server");
    assert!(problem.reason.contains("has expired"), "{problem}");
}

#[tokio::test]
async fn an_agent_cannot_pose_as_a_server_nor_as_another_agent() {
    let authority = authority();
    let posing = server_with(&authority, identity(&authority, Role::Agent)).await;
    let agent = credentials(&authority, Role::Agent);
    let problem = whoami(&mut client(&posing.address, &agent))
        .await
        .expect_err("not a server");
    assert!(problem.reason.contains("another member than expected"), "{problem}");
    let channels = Channels::new(agent);
    let own: NodeId = ID.parse().expect("an id");
    channels
        .probe(&posing.address, Remote::Agent(own))
        .await
        .expect("it is that agent");
    assert!(channels.probe(&posing.address, Remote::Agent(NodeId(7))).await.is_err());
}

#[tokio::test]
async fn a_newcomer_joins_with_a_token_and_refuses_another_authority() {
    let authority = authority();
    let running = server(&authority).await;
    let servers = ["127.0.0.1:1".to_string(), running.address.clone()];
    let enrolled = enroll(&servers, &token(&authority, Role::Agent), "alpha", PATIENCE)
        .await
        .expect("joined");
    assert_eq!(
        (enrolled.identity.role, enrolled.identity.id.as_str()),
        (Role::Agent, ID)
    );
    assert_eq!(enrolled.cluster_name, "alpha");
    let joined = Credentials::new(enrolled.identity).expect("usable credentials");
    assert_eq!(whoami(&mut client(&running.address, &joined)).await.as_deref(), Ok(ID));

    let other = crate::support::authority();
    let problem = enroll(&servers[1..], &token(&other, Role::Agent), "alpha", PATIENCE)
        .await
        .expect_err("another authority");
    assert!(problem.reason.contains("not of the expected cluster"), "{problem}");
    let problem = enroll(&servers, "GNTRY-1-agent-x", "alpha", PATIENCE)
        .await
        .expect_err("a typo");
    assert!(problem.reason.contains("not copied whole"), "{problem}");
}

/// An impostor relays the real authority's certificate, which is public, but signs with its own.
#[tokio::test]
async fn showing_the_pinned_authority_is_not_enough() {
    let (ours, theirs) = (authority(), authority());
    let mut impostor = identity(&theirs, Role::Server);
    impostor.ca_pem = ours.certificate_pem().to_string();
    let running = server_with(&theirs, impostor).await;
    let problem = enroll(
        std::slice::from_ref(&running.address),
        &token(&ours, Role::Agent),
        "alpha",
        PATIENCE,
    )
    .await;
    assert!(
        problem
            .expect_err("an impostor")
            .reason
            .contains("not of the expected cluster")
    );
}

#[tokio::test]
async fn a_message_over_the_limit_is_named_with_both_sizes() {
    let authority = authority();
    let server = server(&authority).await;
    let mut client = client(&server.address, &credentials(&authority, Role::Agent));
    for size in [REQUEST_BYTES_MAX, 100 << 20] {
        let request = EnrollRequest {
            name: "x".repeat(size),
            ..EnrollRequest::default()
        };
        let status = client.enroll(request).await.expect_err("too large");
        let problem = status::to_problem(&status, "server");
        assert_eq!(problem.class, Class::Exhausted, "{problem}");
        assert!(problem.reason.contains("larger than the limit of 16 MiB"), "{problem}");
    }
}

#[tokio::test]
async fn a_call_goes_to_the_next_server_when_one_is_away_and_says_why_when_all_are() {
    let authority = authority();
    let running = server(&authority).await;
    let agent = credentials(&authority, Role::Agent);
    let renew = |channel| async move {
        let mut client = gantry_api::v1::enrollment_client::EnrollmentClient::new(channel).with_limits();
        client.renew(RenewRequest::default()).await
    };
    let pool = ServerPool::new(vec!["127.0.0.1:1".to_string(), running.address.clone()], agent.clone());
    assert_eq!(
        pool.call(Repeat::OnlyUnsent, renew)
            .await
            .map(|reply| reply.id)
            .as_deref(),
        Ok(ID)
    );
    pool.reach().await.expect("one is there");

    let pool = ServerPool::new(vec!["127.0.0.1:1".to_string()], agent);
    let before = System.monotonic();
    let problem = pool.call(Repeat::Harmless, renew).await.expect_err("nobody is there");
    assert_eq!(
        (problem.class, problem.object.as_str()),
        (Class::Unavailable, "server 127.0.0.1:1")
    );
    assert_eq!(problem.reason, "connection refused");
    assert!(!problem.remedy.is_empty() && System.monotonic().0 - before.0 < 5_000);
    assert_eq!(
        pool.reach().await.expect_err("nobody is there").reason,
        "connection refused"
    );
}
