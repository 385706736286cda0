//! Certificates and authorities are replaced while connections live.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::*;
use gantry_api::v1::EnrollReply;
use gantry_env::{Env, Seeded, System};
use gantry_model::object::Role;
use gantry_model::{Class, DurationMs, Problem};
use gantry_pki::{Authority, Validity};
use gantry_rpc::{Credentials, renewal};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn live_connections_outlast_a_replacement_and_new_ones_use_the_new_identity() {
    let (old, new) = (authority(), authority());
    let server = server(&old).await;
    let agent = credentials(&old, Role::Agent);
    let mut live = client(&server.address, &agent);
    assert_eq!(whoami(&mut live).await.as_deref(), Ok(ID));

    server
        .credentials
        .replace(identity(&new, Role::Server))
        .expect("replaced");
    assert_eq!(
        whoami(&mut live).await.as_deref(),
        Ok(ID),
        "the live connection goes on"
    );
    let problem = whoami(&mut client(&server.address, &agent))
        .await
        .expect_err("the old authority");
    assert!(problem.reason.contains("not of the expected cluster"), "{problem}");

    agent.replace(identity(&new, Role::Agent)).expect("replaced");
    assert_eq!(whoami(&mut client(&server.address, &agent)).await.as_deref(), Ok(ID));
}

#[tokio::test]
async fn an_unusable_identity_leaves_the_old_one_in_use() {
    let authority = authority();
    let server = server(&authority).await;
    let agent = credentials(&authority, Role::Agent);
    let mut broken = identity(&authority, Role::Agent);
    broken.key_pem = identity(&authority, Role::Agent).key_pem;
    assert!(agent.replace(broken).is_err(), "a key of another certificate");
    assert_eq!(whoami(&mut client(&server.address, &agent)).await.as_deref(), Ok(ID));
}

fn signed(authority: &Authority, csr: &[u8]) -> EnrollReply {
    let validity = Validity::starting(System.now(), DurationMs::secs(3600));
    EnrollReply {
        certificate_pem: authority
            .sign(csr, &subject(Role::Agent), validity, &System)
            .expect("signed"),
        authority_pem: authority.certificate_pem().to_string(),
        ..EnrollReply::default()
    }
}

/// Time is virtual: the loop sleeps to the due moment and after a failure, and neither takes real time.
#[tokio::test(start_paused = true)]
async fn renewal_happens_when_due_survives_a_failure_and_is_saved() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Arc::new(authority());
    let credentials = credentials(&authority, Role::Agent);
    let before = credentials.identity();
    let env = Seeded::new(1, System.now());
    let calls = Arc::new(AtomicUsize::new(0));
    let stop = CancellationToken::new();
    let renew = {
        let (authority, calls) = (authority.clone(), calls.clone());
        move |csr: Vec<u8>| {
            let (authority, call) = (authority.clone(), calls.fetch_add(1, Ordering::SeqCst));
            async move {
                match call {
                    0 => Err(Problem::new(Class::Unavailable, "server", "away")),
                    _ => Ok(signed(&authority, &csr)),
                }
            }
        }
    };
    let renewing = renewal::run(credentials.clone(), folder.path(), renew, &env, stop.clone());
    let observing = async {
        // The clock that the loop reads moves with the virtual time that its sleeps take.
        let step = Duration::from_secs(30);
        while credentials.identity() == before {
            tokio::time::sleep(step).await;
            env.advance(DurationMs::secs(step.as_secs()));
        }
        stop.cancel();
    };
    tokio::join!(renewing, observing);
    assert_eq!(calls.load(Ordering::SeqCst), 2, "one failure, one success");
    let saved = file_of(folder.path());
    assert_eq!(saved.key_pem.trim_end(), credentials.identity().key_pem.trim_end());
    let peer = before.peer().expect("a peer");
    let life = peer.not_after.since(peer.not_before).0;
    assert!(
        env.now().0 >= peer.not_before.0 + life / 2,
        "not before half of its life"
    );
    assert!(Credentials::new(saved).is_ok());
}

#[tokio::test]
async fn a_certificate_for_another_key_is_not_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = authority();
    let credentials = credentials(&authority, Role::Agent);
    let before = credentials.identity();
    let foreign = gantry_pki::KeyRequest::generate().expect("a request").csr_der;
    let outcome = renewal::renew_once(&credentials, folder.path(), &|_csr| async {
        Ok(signed(&authority, &foreign))
    })
    .await;
    assert!(outcome.is_err());
    assert_eq!(credentials.identity(), before);
    assert!(!gantry_pki::Identity::exists(folder.path()));
}
