//! Who may do what: tokens, passwords, and that neither goes where it does not belong.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gantry_distribution::{Keychain, Platforms, PullRequest};
use gantry_model::Class;
use gantry_model::build::RegistryAuth;

use crate::fake::{Answer, Fake, Seen};
use crate::image::Image;
use crate::{client, nobody, plain, reference, store};

/// `user:secret`
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

fn user(registry: &Fake) -> Keychain {
    let auth = RegistryAuth::Basic {
        user: "user".into(),
        password: "secret".into(),
    };
    Keychain::of(&registry.name(), auth)
}

/// Has the registry ask for tokens of `service`, which gives out `token-1`, `token-2`… with this life.
fn ask_for_tokens(registry: &Fake, service: &Fake, life_seconds: u64) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let (given, valid) = (count.clone(), count.clone());
    service.answer_with(move |seen| {
        if !seen.target.starts_with("/token") {
            return None;
        }
        let is_known = match seen.method.as_str() {
            "GET" => seen.header("authorization") == Some(BASIC),
            _ => seen.header("content-type") == Some("application/x-www-form-urlencoded"),
        };
        if !is_known {
            return Some(Answer::new(401).body(r#"{"details":"incorrect username or password"}"#));
        }
        let number = given.fetch_add(1, Ordering::SeqCst) + 1;
        Some(Answer::new(200).body(format!(r#"{{"token":"token-{number}","expires_in":{life_seconds}}}"#)))
    });
    let realm = service.url("/token");
    let challenge = move |seen: &Seen| {
        let wanted = format!("Bearer token-{}", valid.load(Ordering::SeqCst));
        if seen.header("authorization") == Some(&wanted) && valid.load(Ordering::SeqCst) > 0 {
            return None;
        }
        let value = format!(r#"Bearer realm="{realm}",service="fake",scope="repository:app:pull""#);
        Some(Answer::new(401).header("WWW-Authenticate", value))
    };
    registry.answer_with(challenge);
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_once_and_used_until_it_ends() {
    let (registry, service) = (Fake::start().await, Fake::start().await);
    registry.hold("app", "v1", &Image::new(1, &[10, 20, 30]));
    let tokens = ask_for_tokens(&registry, &service, 300);
    let (_dir, store) = store();
    let (name, keychain) = (reference(&registry, "app:v1"), user(&registry));
    let request = PullRequest {
        reference: &name,
        platforms: Platforms::Own,
        keychain: &keychain,
        unpack: false,
    };
    let client = client(plain(&[&registry, &service]));
    client.pull(&store, request, &|_| {}).await.expect("the token opens it");
    assert_eq!(tokens.load(Ordering::SeqCst), 1);
    let asked = &service.seen()[0].target;
    assert!(
        asked.contains("service=fake") && asked.contains("scope=repository%3Aapp%3Apull"),
        "{asked}"
    );
    let refused = registry
        .seen()
        .iter()
        .filter(|seen| seen.header("authorization").is_none())
        .count();
    assert_eq!(refused, 1, "the way in is remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_not_shared_between_callers() {
    let (registry, service) = (Fake::start().await, Fake::start().await);
    registry.hold("app", "v1", &Image::new(1, &[10]));
    ask_for_tokens(&registry, &service, 300);
    let client = client(plain(&[&registry, &service]));
    let name = reference(&registry, "app:v1");
    client
        .resolve(&name, &user(&registry))
        .await
        .expect("the right password");
    let problem = client
        .resolve(&name, &nobody())
        .await
        .expect_err("no password")
        .problem();
    assert_eq!(problem.class, Class::Denied);
    let text = problem.to_string();
    assert!(
        text.contains("incorrect username or password") && text.contains("gantry login"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_registry_no_longer_takes_is_replaced() {
    let (registry, service) = (Fake::start().await, Fake::start().await);
    registry.hold("app", "v1", &Image::new(1, &[10]));
    let tokens = ask_for_tokens(&registry, &service, 300);
    let client = client(plain(&[&registry, &service]));
    let (name, keychain) = (reference(&registry, "app:v1"), user(&registry));
    client.resolve(&name, &keychain).await.expect("a token");
    // As if the service had forgotten what it gave: from now on the registry takes the next one only.
    tokens.fetch_add(1, Ordering::SeqCst);
    client.resolve(&name, &keychain).await.expect("a new token");
    assert_eq!(service.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_exchanged_by_post() {
    let (registry, service) = (Fake::start().await, Fake::start().await);
    registry.hold("app", "v1", &Image::new(1, &[10]));
    ask_for_tokens(&registry, &service, 300);
    let client = client(plain(&[&registry, &service]));
    let keychain = Keychain::of(&registry.name(), RegistryAuth::Identity("refresh me".into()));
    client
        .resolve(&reference(&registry, "app:v1"), &keychain)
        .await
        .expect("a token");
    assert_eq!(service.seen()[0].method, "POST");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_stay_with_the_registry_when_it_redirects() {
    let (registry, storage) = (Fake::start().await, Fake::start().await);
    let image = Image::new(2, &[5_000]);
    registry.hold("app", "v1", &image);
    storage.hold("app", "v1", &image);
    let target = storage.clone();
    registry.answer_with(move |seen| {
        if seen.header("authorization") != Some(BASIC) {
            return Some(Answer::new(401).header("WWW-Authenticate", r#"Basic realm="x""#));
        }
        let is_blob = seen.target.contains("/blobs/");
        is_blob.then(|| Answer::new(307).header("Location", target.url(&seen.target)))
    });
    let (_dir, store) = store();
    let (name, keychain) = (reference(&registry, "app:v1"), user(&registry));
    let request = PullRequest {
        reference: &name,
        platforms: Platforms::Own,
        keychain: &keychain,
        unpack: false,
    };
    let client = client(plain(&[&registry, &storage]));
    client.pull(&store, request, &|_| {}).await.expect("the storage has it");
    assert!(!storage.seen().is_empty());
    for seen in storage.seen() {
        assert_eq!(seen.header("authorization"), None, "{}", seen.line());
    }
    // A host that asks for a password after a redirect gets none.
    storage.answer_with(|_| Some(Answer::new(401).header("WWW-Authenticate", r#"Basic realm="give""#)));
    let (_dir, fresh) = crate::store();
    let request = PullRequest {
        reference: &name,
        platforms: Platforms::Own,
        keychain: &keychain,
        unpack: false,
    };
    let problem = client
        .pull(&fresh, request, &|_| {})
        .await
        .expect_err("refused")
        .problem();
    assert_eq!(problem.class, Class::Denied);
    assert!(storage.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_and_not_repeated() {
    let registry = Fake::start().await;
    registry.answer_with(|_| {
        let words = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        Some(
            Answer::new(401)
                .header("WWW-Authenticate", r#"Basic realm="x""#)
                .body(words),
        )
    });
    let client = client(plain(&[&registry]));
    let problem = client
        .check_login(&registry.name(), &user(&registry))
        .await
        .expect_err("wrong")
        .problem();
    assert_eq!(problem.class, Class::Denied);
    assert!(problem.to_string().contains("authentication required"), "{problem}");
    assert_eq!(registry.seen().len(), 2, "once without, once with");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_token_is_sent_as_it_is() {
    let registry = Fake::start().await;
    registry.answer_with(|seen| {
        let is_known = seen.header("authorization") == Some("Bearer given");
        (!is_known).then(|| Answer::new(401))
    });
    let client = client(plain(&[&registry]));
    let keychain = Keychain::of(&registry.name(), RegistryAuth::Bearer("given".into()));
    client
        .check_login(&registry.name(), &keychain)
        .await
        .expect("the token is right");
    assert_eq!(registry.seen().len(), 1);
}
