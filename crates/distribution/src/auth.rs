//! Credentials as headers: Basic, and tokens of a registry's token service, kept until they end.
//!
//! **Invariant:** a token is given only to the caller whose credentials it was made for.
//! **Invariant:** credentials go to a token service over TLS, unless the registry itself is allowed to do without.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_model::build::RegistryAuth;
use gantry_model::{Digest, DurationMs};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use url::Url;
use url::form_urlencoded;

use crate::challenge::Challenge;
use crate::endpoint::{Protection, protection_of};
use crate::error::Cause;
use crate::limits::{ANSWER_BYTES_MAX, TOKEN_LIFE_DEFAULT, TOKEN_MARGIN, TOKENS_MAX};
use crate::payload::Payload;
use crate::transport::{Call, Transport, clean, host_of, lock, shown};
use crate::verify::digest_of;

const CLIENT_ID: &str = "gantry";

/// What a token is to allow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scope(Vec<String>);

impl Scope {
    /// Of the registry as a whole.
    pub(crate) const NONE: Self = Self(Vec::new());

    pub(crate) fn pull(repository: &str) -> Self {
        Self::of(repository, "pull")
    }

    pub(crate) fn push(repository: &str) -> Self {
        Self::of(repository, "pull,push")
    }

    pub(crate) fn delete(repository: &str) -> Self {
        Self::of(repository, "delete,pull")
    }

    /// As well, to read from another repository.
    pub(crate) fn and_pull(mut self, repository: &str) -> Self {
        self.0.push(format!("repository:{repository}:pull"));
        self
    }

    fn of(repository: &str, actions: &str) -> Self {
        if repository.is_empty() {
            return Self::NONE;
        }
        Self(vec![format!("repository:{repository}:{actions}")])
    }

    /// Ours, and what the registry itself asks for.
    fn with(&self, asked: Option<&str>) -> Vec<String> {
        let mut scopes = self.0.clone();
        for scope in asked.into_iter().flat_map(|asked| asked.split(' ')) {
            if !scope.is_empty() && !scopes.iter().any(|ours| ours == scope) {
                scopes.push(scope.to_string());
            }
        }
        scopes
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    realm: String,
    service: String,
    scope: Scope,
    /// Of the credentials, so that they are not kept here.
    caller: Digest,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    /// By the monotonic clock.
    ends_at: DurationMs,
}

/// A token service's answer; it names the token one way or the other.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// What endpoints ask for, and the tokens at hand.
#[derive(Default)]
pub(crate) struct Auth {
    challenges: Mutex<HashMap<String, Challenge>>,
    tokens: Mutex<HashMap<TokenKey, Token>>,
}

impl Auth {
    /// The header for a call, as far as it is known what the endpoint wants.
    pub(crate) async fn ready(&self, transport: &Transport, call: &Call<'_>) -> Result<Option<HeaderValue>, Cause> {
        if let Some(RegistryAuth::Bearer(token)) = call.keychain.get(&call.endpoint.name) {
            return bearer(token).map(Some);
        }
        let known = lock(&self.challenges).get(&call.endpoint.name).cloned();
        match known {
            None => Ok(None),
            Some(Challenge::Basic) => basic(call.keychain.get(&call.endpoint.name)),
            Some(Challenge::Bearer { realm, service, .. }) => {
                let key = token_key(call, &realm, &service);
                if let Some(header) = self.kept(transport, &key) {
                    return Ok(Some(header));
                }
                self.fetch(transport, call, key, None).await.map(Some)
            }
        }
    }

    /// The header that answers a refusal.
    pub(crate) async fn answer(
        &self,
        transport: &Transport,
        call: &Call<'_>,
        challenge: Challenge,
    ) -> Result<Option<HeaderValue>, Cause> {
        lock(&self.challenges).insert(call.endpoint.name.clone(), challenge.clone());
        if let Some(RegistryAuth::Bearer(token)) = call.keychain.get(&call.endpoint.name) {
            return bearer(token).map(Some);
        }
        match challenge {
            Challenge::Basic => basic(call.keychain.get(&call.endpoint.name)),
            Challenge::Bearer {
                realm,
                service,
                scope,
                error,
            } => {
                tracing::debug!(asked = %call.asked, error = error.unwrap_or_default(), "registry: asking for a token");
                let key = token_key(call, &realm, &service);
                self.fetch(transport, call, key, scope.as_deref()).await.map(Some)
            }
        }
    }

    fn kept(&self, transport: &Transport, key: &TokenKey) -> Option<HeaderValue> {
        let token = lock(&self.tokens).get(key)?.clone();
        (transport.env.monotonic() < token.ends_at).then_some(token.header)
    }

    async fn fetch(
        &self,
        transport: &Transport,
        call: &Call<'_>,
        key: TokenKey,
        asked: Option<&str>,
    ) -> Result<HeaderValue, Cause> {
        let scopes = key.scope.with(asked);
        let credential = call.keychain.get(&call.endpoint.name);
        let realm = token_service(transport, call, &key.realm)?;
        let answer = request_token(transport, call, &realm, &key.service, &scopes, credential).await?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| Cause::malformed(format!("{} gives no token", shown(&realm))))?;
        let header = bearer(&token)?;
        let life = answer
            .expires_in
            .map_or(TOKEN_LIFE_DEFAULT.as_secs(), |life| life.min(86_400));
        let life = life.saturating_sub(TOKEN_MARGIN.as_secs()).max(1);
        let now = transport.env.monotonic();
        let mut tokens = lock(&self.tokens);
        tokens.retain(|_, token| now < token.ends_at);
        if tokens.len() < TOKENS_MAX {
            let ends_at = now + DurationMs(life * 1000);
            tokens.insert(
                key,
                Token {
                    header: header.clone(),
                    ends_at,
                },
            );
        }
        Ok(header)
    }
}

fn token_key(call: &Call<'_>, realm: &str, service: &str) -> TokenKey {
    let caller = match call.keychain.get(&call.endpoint.name) {
        None => String::new(),
        Some(RegistryAuth::Basic { user, password }) => format!("basic {user}:{password}"),
        Some(RegistryAuth::Identity(token)) => format!("identity {token}"),
        Some(RegistryAuth::Bearer(token)) => format!("bearer {token}"),
    };
    TokenKey {
        realm: realm.to_string(),
        service: service.to_string(),
        scope: call.scope.clone(),
        caller: digest_of(caller.as_bytes()),
    }
}

/// The address of the token service, if it is as safe as the registry.
fn token_service(transport: &Transport, call: &Call<'_>, realm: &str) -> Result<Url, Cause> {
    let url = Url::parse(realm).map_err(|error| Cause::malformed(format!("realm '{}': {error}", clean(realm))))?;
    let may_be_plain = call.endpoint.protection != Protection::Verified
        || protection_of(&host_of(&url), &transport.options) == Protection::Plain;
    match url.scheme() {
        "https" => Ok(url),
        "http" if may_be_plain => Ok(url),
        _ => Err(Cause::UnsafeRedirect { to: shown(&url) }),
    }
}

async fn request_token(
    transport: &Transport,
    call: &Call<'_>,
    realm: &Url,
    service: &str,
    scopes: &[String],
    credential: Option<&RegistryAuth>,
) -> Result<TokenAnswer, Cause> {
    let (payload, request) = match credential {
        Some(RegistryAuth::Identity(token)) => post_request(realm, service, scopes, token),
        Some(RegistryAuth::Basic { .. } | RegistryAuth::Bearer(_)) | None => {
            get_request(realm, service, scopes, credential)?
        }
    };
    let request = request
        .body(payload.open(Arc::default()))
        .map_err(|error| Cause::malformed(format!("realm: {error}")))?;
    let client = transport.client(realm, transport.protection_at(realm, call.endpoint))?;
    let stall = transport.options.timing.stall;
    let response = transport
        .exchange(&client, request, stall, &Arc::default(), realm)
        .await?;
    let status = response.status();
    if status.is_success() {
        return transport.json(response).await;
    }
    let bytes = transport.read(response, ANSWER_BYTES_MAX).await.unwrap_or_default();
    let words = clean(&String::from_utf8_lossy(&bytes));
    let message = format!("token service {}: {words}", shown(realm));
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => Cause::Denied {
            status,
            message,
            logged_in: credential.is_some(),
        },
        StatusCode::TOO_MANY_REQUESTS => Cause::RateLimited {
            status,
            message,
            wait_seconds: None,
        },
        _ => Cause::Status { status, message },
    })
}

/// Docker's "Token Authentication": name and password by Basic.
fn get_request(
    realm: &Url,
    service: &str,
    scopes: &[String],
    credential: Option<&RegistryAuth>,
) -> Result<(Payload, hyper::http::request::Builder), Cause> {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if !service.is_empty() {
            query.append_pair("service", service);
        }
        for scope in scopes {
            query.append_pair("scope", scope);
        }
        if let Some(RegistryAuth::Basic { user, .. }) = credential {
            query.append_pair("account", user);
        }
        query.append_pair("client_id", CLIENT_ID);
    }
    let mut request = Request::builder().method(Method::GET).uri(url.as_str());
    if let Some(header) = basic(credential)? {
        request = request.header(AUTHORIZATION, header);
    }
    Ok((Payload::EMPTY, request))
}

/// Docker's "OAuth2 Token Authentication": an identity token is a refresh token.
fn post_request(
    realm: &Url,
    service: &str,
    scopes: &[String],
    identity: &str,
) -> (Payload, hyper::http::request::Builder) {
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "refresh_token")
        .append_pair("service", service)
        .append_pair("scope", &scopes.join(" "))
        .append_pair("client_id", CLIENT_ID)
        .append_pair("refresh_token", identity)
        .finish();
    let request = Request::builder()
        .method(Method::POST)
        .uri(realm.as_str())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    (Payload::Bytes(form.into()), request)
}

fn basic(credential: Option<&RegistryAuth>) -> Result<Option<HeaderValue>, Cause> {
    match credential {
        Some(RegistryAuth::Basic { user, password }) => {
            sensitive(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).map(Some)
        }
        Some(RegistryAuth::Identity(_) | RegistryAuth::Bearer(_)) | None => Ok(None),
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Cause> {
    sensitive(&format!("Bearer {token}"))
}

fn sensitive(text: &str) -> Result<HeaderValue, Cause> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Cause::malformed("a token with control characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_join_without_repeats() {
        let scope = Scope::push("a/b").and_pull("c");
        assert_eq!(
            scope.with(Some("repository:c:pull repository:d:pull")),
            ["repository:a/b:pull,push", "repository:c:pull", "repository:d:pull"]
        );
        assert_eq!(Scope::pull(""), Scope::NONE);
        assert_eq!(Scope::NONE.with(None), Vec::<String>::new());
    }
}
