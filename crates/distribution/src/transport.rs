//! One request to a registry: connection, credentials, redirects, deadlines, and what an answer means.
//!
//! **Invariant:** `Authorization` goes to the scheme, host and port of the endpoint and nowhere else.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gantry_env::Env;
use gantry_model::DurationMs;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue, LOCATION, USER_AGENT, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use url::Url;

use crate::auth::{Auth, Scope};
use crate::backoff::Backoff;
use crate::challenge::Challenge;
use crate::connect::{ConnectError, Connector};
use crate::endpoint::{Endpoint, Protection, protection_of};
use crate::error::{Asked, Cause, Result};
use crate::headers;
use crate::limits::{ANSWER_BYTES_MAX, ERROR_BYTES_MAX, REDIRECTS_MAX};
use crate::options::{Keychain, Options};
use crate::payload::{Outgoing, Payload};
use crate::proxy::Proxies;
use crate::tls;

/// Unused connections are kept this long; load balancers close theirs after 60 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// A mirror that failed is not asked again for so long.
const MIRROR_AWAY: DurationMs = DurationMs(60_000);
/// Characters of a registry's words that are shown.
const MESSAGE_CHARS_MAX: usize = 300;

type HttpClient = legacy::Client<Connector, Outgoing>;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) keychain: &'a Keychain,
    pub(crate) scope: Scope,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
    /// For the answer, once the payload is sent.
    pub(crate) patience: Duration,
    /// Counts the payload's bytes as they go.
    pub(crate) moved: Arc<AtomicU64>,
}

impl Call<'_> {
    pub(crate) fn header(mut self, name: hyper::header::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// An answer, and whether the endpoint itself gave it rather than a host it redirected to.
struct Answer {
    response: Response<Incoming>,
    is_own: bool,
}

/// Connections, tokens and limits, shared by all operations of a client.
pub(crate) struct Transport {
    pub(crate) options: Options,
    pub(crate) env: Arc<dyn Env>,
    auth: Auth,
    proxies: Proxies,
    /// Mirrors that are passed over for now, by the monotonic clock.
    away: Mutex<HashMap<String, DurationMs>>,
    clients: Mutex<HashMap<(String, Protection), HttpClient>>,
    /// Whether a host with [`Protection::Any`] has TLS.
    has_tls: Mutex<HashMap<String, bool>>,
    downloads: Mutex<HashMap<String, Arc<Semaphore>>>,
    uploads: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Transport")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Transport {
    pub(crate) fn new(options: Options, env: Arc<dyn Env>) -> Self {
        Self {
            options,
            env,
            auth: Auth::default(),
            proxies: Proxies::from_env(),
            away: Mutex::default(),
            clients: Mutex::default(),
            has_tls: Mutex::default(),
            downloads: Mutex::default(),
            uploads: Mutex::default(),
        }
    }

    /// Where a registry's content is asked for: its mirrors, but for those that did not answer lately, then itself.
    pub(crate) fn sources(&self, registry: &str) -> Result<Vec<Endpoint>> {
        let mut endpoints = Endpoint::for_pull(registry, &self.options)?;
        let now = self.env.monotonic();
        let mut away = lock(&self.away);
        away.retain(|_, until| now < *until);
        endpoints.retain(|endpoint| !endpoint.is_mirror || !away.contains_key(&endpoint.name));
        Ok(endpoints)
    }

    /// Notes what a mirror failed with; one that is away is not asked for every layer anew.
    pub(crate) fn pass_over(&self, mirror: &Endpoint, asked: &Asked, cause: &Cause) {
        tracing::warn!(%asked, %cause, mirror = mirror.name, "registry: mirror passed over");
        if cause.may_pass() {
            let until = self.env.monotonic() + MIRROR_AWAY;
            lock(&self.away).insert(mirror.name.clone(), until);
        }
    }

    /// The slots for downloads from this endpoint.
    pub(crate) fn downloads(&self, endpoint: &Endpoint) -> Arc<Semaphore> {
        slots(&self.downloads, endpoint, self.options.downloads_max)
    }

    /// The slots for uploads to this endpoint.
    pub(crate) fn uploads(&self, endpoint: &Endpoint) -> Arc<Semaphore> {
        slots(&self.uploads, endpoint, self.options.uploads_max)
    }

    /// A request without payload.
    pub(crate) fn get<'a>(
        &self,
        asked: &'a Asked,
        endpoint: &'a Endpoint,
        keychain: &'a Keychain,
        path: &str,
    ) -> Call<'a> {
        Call {
            asked,
            endpoint,
            keychain,
            scope: Scope::pull(&asked.repository),
            method: Method::GET,
            url: endpoint.url(path),
            headers: HeaderMap::new(),
            payload: Payload::EMPTY,
            patience: self.options.timing.stall,
            moved: Arc::default(),
        }
    }

    /// Sends until there is an answer with one of these statuses, or no sense in trying again.
    pub(crate) async fn send(&self, call: &Call<'_>, wanted: &[StatusCode]) -> Result<Response<Incoming>> {
        let mut backoff = Backoff::new(self.timing_of(call.endpoint));
        loop {
            let cause = match self.attempt(call, wanted).await {
                Ok(response) => return Ok(response),
                Err(cause) => cause,
            };
            self.wait_or_fail(&mut backoff, call.asked, cause).await?;
        }
    }

    /// Sleeps until the next attempt makes sense, or fails.
    pub(crate) async fn wait_or_fail(&self, backoff: &mut Backoff, asked: &Asked, cause: Cause) -> Result<()> {
        let Some(wait) = backoff.after(&cause, self.env.as_ref()) else {
            return Err(cause.at(asked));
        };
        tracing::info!(%asked, %cause, wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), "registry: trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// One attempt, credentials included.
    pub(crate) async fn attempt(&self, call: &Call<'_>, wanted: &[StatusCode]) -> Result<Response<Incoming>, Cause> {
        let has_tls = self.has_tls(call.endpoint).await?;
        let sent = self.auth.ready(self, call).await?;
        let mut answer = self.follow(call, has_tls, sent.as_ref()).await?;
        if answer.response.status() == StatusCode::UNAUTHORIZED && answer.is_own {
            let values = answer.response.headers().get_all(WWW_AUTHENTICATE);
            let challenge = Challenge::best(values.iter().filter_map(|value| value.to_str().ok()));
            if let Some(challenge) = challenge {
                let fresh = self.auth.answer(self, call, challenge).await?;
                if fresh.is_some() && fresh != sent {
                    answer = self.follow(call, has_tls, fresh.as_ref()).await?;
                }
            }
        }
        if wanted.contains(&answer.response.status()) {
            return Ok(answer.response);
        }
        let logged_in = call.keychain.get(&call.endpoint.name).is_some();
        Err(self.refusal(answer.response, logged_in).await)
    }

    /// Whether to speak TLS with the endpoint; where both are allowed, TLS is tried first, as Docker does.
    async fn has_tls(&self, endpoint: &Endpoint) -> Result<bool, Cause> {
        match endpoint.protection {
            Protection::Verified => return Ok(true),
            Protection::Plain => return Ok(false),
            Protection::Any => {}
        }
        if let Some(known) = lock(&self.has_tls).get(&endpoint.name) {
            return Ok(*known);
        }
        let url = endpoint.url("");
        let with_tls = self.probe(&url).await;
        let has_tls = match with_tls {
            Ok(()) => true,
            Err(refusal @ (Cause::Tls { .. } | Cause::PlainHttp { .. } | Cause::Connect { .. })) => {
                self.probe(&with_scheme(&url, "http")).await.map_err(|_| refusal)?;
                false
            }
            Err(other) => return Err(other),
        };
        lock(&self.has_tls).insert(endpoint.name.clone(), has_tls);
        Ok(has_tls)
    }

    async fn probe(&self, url: &Url) -> Result<(), Cause> {
        let request = Request::get(url.as_str()).body(Payload::EMPTY.open(Arc::default()));
        let request = request.map_err(|error| Cause::malformed(error.to_string()))?;
        let client = self.client(url, Protection::Any)?;
        self.exchange(&client, request, self.options.timing.stall, &Arc::default(), url)
            .await
            .map(drop)
    }

    /// Sends, and follows redirects.
    async fn follow(
        &self,
        call: &Call<'_>,
        has_tls: bool,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Cause> {
        let mut url = if has_tls {
            call.url.clone()
        } else {
            with_scheme(&call.url, "http")
        };
        let home = if has_tls {
            call.endpoint.base.clone()
        } else {
            with_scheme(&call.endpoint.base, "http")
        };
        for _ in 0..=REDIRECTS_MAX {
            let is_own = url.origin() == home.origin();
            let client = self.client(&url, self.protection_at(&url, call.endpoint))?;
            let request = self.request(call, &url, authorization.filter(|_| is_own))?;
            let response = self
                .exchange(&client, request, call.patience, &call.moved, &url)
                .await?;
            let Some(target) = redirect_target(&call.method, &response) else {
                return Ok(Answer { response, is_own });
            };
            url = self.safe_join(&url, target, call.endpoint)?;
        }
        Err(Cause::RedirectLoop {
            count: REDIRECTS_MAX,
            to: shown(&url),
        })
    }

    /// The address that a registry names, relative to another, unless following it would leave TLS.
    pub(crate) fn safe_join(&self, from: &Url, target: &str, endpoint: &Endpoint) -> Result<Url, Cause> {
        let mut url = from
            .join(target)
            .map_err(|error| Cause::malformed(format!("Location '{}': {error}", clean(target))))?;
        // A registry behind a proxy that ends TLS often believes that it is reached without.
        if from.scheme() == "https" && url.scheme() == "http" && url.host() == from.host() {
            let is_same_port = url.port() == from.port() || url.port() == Some(80);
            if is_same_port {
                url = with_scheme(&url, "https");
            }
        }
        let leaves_tls = from.scheme() == "https" && url.scheme() != "https";
        if leaves_tls && endpoint.protection == Protection::Verified || !matches!(url.scheme(), "http" | "https") {
            return Err(Cause::UnsafeRedirect { to: shown(&url) });
        }
        Ok(url)
    }

    /// The protection that a connection to this address must have on behalf of the endpoint.
    pub(crate) fn protection_at(&self, url: &Url, endpoint: &Endpoint) -> Protection {
        let is_same_host = url.host() == endpoint.base.host() && url.port() == endpoint.base.port();
        if is_same_host {
            return endpoint.protection;
        }
        protection_of(&host_of(url), &self.options)
    }

    fn request(
        &self,
        call: &Call<'_>,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Request<Outgoing>, Cause> {
        call.moved.store(0, Ordering::Relaxed);
        let request = Request::builder().method(call.method.clone()).uri(url.as_str());
        let mut request = request
            .body(call.payload.open(call.moved.clone()))
            .map_err(|error| Cause::malformed(format!("address {}: {error}", shown(url))))?;
        *request.headers_mut() = call.headers.clone();
        if let Ok(agent) = HeaderValue::from_str(&self.options.user_agent) {
            request.headers_mut().insert(USER_AGENT, agent);
        }
        if let Some(authorization) = authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }

    /// Sends one request and waits for the head of its answer, as long as bytes go out or `patience` lasts.
    pub(crate) async fn exchange(
        &self,
        client: &HttpClient,
        request: Request<Outgoing>,
        patience: Duration,
        moved: &Arc<AtomicU64>,
        url: &Url,
    ) -> Result<Response<Incoming>, Cause> {
        let answer = client.request(request);
        tokio::pin!(answer);
        let mut before = moved.load(Ordering::Relaxed);
        loop {
            match tokio::time::timeout(patience, &mut answer).await {
                Ok(answer) => return answer.map_err(|error| broken(&error, url)),
                Err(_) => {
                    let now = moved.load(Ordering::Relaxed);
                    if now == before {
                        return Err(Cause::Stalled {
                            seconds: patience.as_secs(),
                        });
                    }
                    before = now;
                }
            }
        }
    }

    /// The client for a host.
    pub(crate) fn client(&self, url: &Url, protection: Protection) -> Result<HttpClient, Cause> {
        let name = host_of(url);
        let key = (name, protection);
        if let Some(client) = lock(&self.clients).get(&key) {
            return Ok(client.clone());
        }
        let config = tls::client_config(&key.0, protection, &self.options)?;
        let connector = Connector::new(Arc::new(config), self.proxies.clone(), self.options.timing.connect);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        lock(&self.clients).insert(key, client.clone());
        Ok(client)
    }

    /// A whole body of bounded size.
    pub(crate) async fn read(&self, response: Response<Incoming>, limit: u64) -> Result<Bytes, Cause> {
        let announced = headers::content_length(response.headers());
        if announced.is_some_and(|announced| announced > limit) {
            return Err(Cause::TooLarge { limit });
        }
        let mut body = response.into_body();
        let mut bytes = BytesMut::new();
        while let Some(piece) = self.next_piece(&mut body).await? {
            if (bytes.len() + piece.len()) as u64 > limit {
                return Err(Cause::TooLarge { limit });
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// The next bytes of a body; none at its end.
    pub(crate) async fn next_piece(&self, body: &mut Incoming) -> Result<Option<Bytes>, Cause> {
        let stall = self.options.timing.stall;
        loop {
            let frame = tokio::time::timeout(stall, body.frame()).await;
            let frame = frame.map_err(|_| Cause::Stalled {
                seconds: stall.as_secs(),
            })?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(Cause::Broken(with_sources(&error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A JSON answer; anything else is a page that no registry sends.
    pub(crate) async fn json<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, Cause> {
        let (status, media_type) = (response.status(), headers::media_type(response.headers()));
        let bytes = self.read(response, ANSWER_BYTES_MAX).await?;
        serde_json::from_slice(&bytes).map_err(|error| match bytes.trim_ascii_start().first() {
            Some(b'{' | b'[') => Cause::malformed(format!("JSON: {error}")),
            _ => not_a_registry(status, media_type, &bytes),
        })
    }

    /// What an answer that was not wanted means.
    async fn refusal(&self, response: Response<Incoming>, logged_in: bool) -> Cause {
        let status = response.status();
        let media_type = headers::media_type(response.headers());
        let wait_seconds = headers::retry_after(response.headers(), self.env.now());
        // The words only explain; without them the status still tells.
        let bytes = self.read(response, ERROR_BYTES_MAX).await.unwrap_or_default();
        let message = message_of(&bytes);
        let is_page = media_type == "text/html" || bytes.trim_ascii_start().starts_with(b"<");
        match status {
            StatusCode::TOO_MANY_REQUESTS => Cause::RateLimited {
                status,
                message,
                wait_seconds,
            },
            StatusCode::SERVICE_UNAVAILABLE if wait_seconds.is_some() => Cause::RateLimited {
                status,
                message,
                wait_seconds,
            },
            _ if is_page => not_a_registry(status, media_type, &bytes),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Cause::Denied {
                status,
                message,
                logged_in,
            },
            StatusCode::NOT_FOUND => Cause::NotFound { status, message },
            _ => Cause::Status { status, message },
        }
    }
}

pub(crate) fn not_a_registry(status: StatusCode, media_type: String, bytes: &[u8]) -> Cause {
    let start = clean(&String::from_utf8_lossy(&bytes[..bytes.len().min(120)]));
    let media_type = if media_type.is_empty() {
        "no content type".to_string()
    } else {
        media_type
    };
    Cause::NotARegistry {
        status,
        media_type,
        start,
    }
}

fn redirect_target<'a>(method: &Method, response: &'a Response<Incoming>) -> Option<&'a str> {
    let follows = match response.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
            *method == Method::GET || *method == Method::HEAD
        }
        _ => false,
    };
    follows
        .then(|| response.headers().get(LOCATION)?.to_str().ok())
        .flatten()
}

fn broken(error: &legacy::Error, url: &Url) -> Cause {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(connect) = inner.downcast_ref::<ConnectError>() {
            return connect.cause(&host_of(url));
        }
        source = inner.source();
    }
    Cause::Broken(with_sources(error))
}

/// An error and what caused it, on one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<ErrorItem>,
    #[serde(default)]
    details: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct ErrorItem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The registry's own words (OCI distribution specification, "Error Codes"), or those of its token service.
fn message_of(bytes: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<ErrorBody>(bytes) else {
        return clean(&String::from_utf8_lossy(bytes));
    };
    let items = body.errors.iter().map(|error| match error.message.is_empty() {
        true => error.code.clone(),
        false => format!("{} ({})", error.message, error.code),
    });
    let words: Vec<_> = items
        .chain([body.details.clone(), body.message.clone()])
        .filter(|word| !word.is_empty())
        .collect();
    clean(&words.join("; "))
}

/// Foreign text for a terminal: one line, no control characters, not too long.
pub(crate) fn clean(text: &str) -> String {
    let words: String = text
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(MESSAGE_CHARS_MAX)
        .collect();
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Scheme and host alone: the rest of an address often holds a secret.
pub(crate) fn shown(url: &Url) -> String {
    format!("{}://{}", url.scheme(), host_of(url))
}

/// `host[:port]`, as the folders of certificates are named.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_string(), |port| format!("{host}:{port}"))
}

fn with_scheme(url: &Url, scheme: &str) -> Url {
    let mut url = url.clone();
    // Between http and https this always succeeds; another port than the default stays.
    let _ = url.set_scheme(scheme);
    url
}

fn slots(all: &Mutex<HashMap<String, Arc<Semaphore>>>, endpoint: &Endpoint, max: usize) -> Arc<Semaphore> {
    let mut all = lock(all);
    let slots = all.entry(endpoint.name.clone());
    slots.or_insert_with(|| Arc::new(Semaphore::new(max.max(1)))).clone()
}

/// A panicking holder leaves these maps whole: every change is one insertion.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
