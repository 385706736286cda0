//! One request: which route it is for, what becomes of it there, what is noted of it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use gantry_model::ReplicaId;
use gantry_model::spec::{IngressRedirect, IngressRule};
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, LOCATION, RETRY_AFTER, SET_COOKIE, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

use crate::access_log::Line;
use crate::body::{BodyFault, ClientBody, ServerBody};
use crate::connection::Client;
use crate::forward::{Answer, ForwardError, Journey, forward};
use crate::headers;
use crate::stats::RouteStats;
use crate::target;
use crate::upgrade;
use crate::worker::{Common, Worker};

/// What the access log says of a request; kept until its answer is over.
pub(crate) struct Record {
    common: Arc<Common>,
    client: std::net::IpAddr,
    scheme: &'static str,
    method: Method,
    host: String,
    uri: Uri,
    version: Version,
    began_us: u64,
    answered_us: u64,
    status: u16,
    service: String,
    replica: Option<ReplicaId>,
    attempts: u32,
}

impl Record {
    /// Writes the line, if there is a log.
    pub(crate) fn write(&self, bytes: u64) {
        let Some(log) = &self.common.log else { return };
        log.write(&Line {
            time_ms: self.common.env.now().0,
            client: self.client,
            method: self.method.as_str(),
            scheme: self.scheme,
            host: &self.host,
            path: self.uri.path_and_query().map_or("*", |path| path.as_str()),
            version: match self.version {
                Version::HTTP_10 => "1.0",
                Version::HTTP_2 => "2",
                _ => "1.1",
            },
            status: self.status,
            bytes,
            took_us: self.common.env.monotonic_us().saturating_sub(self.began_us),
            answered_us: self.answered_us.saturating_sub(self.began_us),
            service: &self.service,
            replica: self.replica.map(|replica| replica.to_string()),
            attempts: self.attempts,
        });
    }
}

/// Where an answer comes from.
struct Outcome {
    response: Response<ServerBody>,
    service: String,
    stats: Option<Arc<RouteStats>>,
    replica: Option<ReplicaId>,
    attempts: u32,
}

impl Outcome {
    fn own(response: Response<ServerBody>) -> Self {
        Self {
            response,
            service: String::new(),
            stats: None,
            replica: None,
            attempts: 0,
        }
    }
}

/// Answers a request, always.
pub(crate) async fn answer(worker: Rc<Worker>, client: Rc<Client>, request: Request<Incoming>) -> Response<ServerBody> {
    let began_us = (worker.clock)();
    let mut record = worker.common.log.is_some().then(|| {
        Box::new(Record {
            common: Arc::clone(&worker.common),
            client: client.origin.address,
            scheme: client.origin.scheme(),
            method: request.method().clone(),
            host: target::host(request.version(), request.uri(), request.headers()).unwrap_or_default(),
            uri: request.uri().clone(),
            version: request.version(),
            began_us,
            answered_us: began_us,
            status: 0,
            service: String::new(),
            replica: None,
            attempts: 0,
        })
    });
    let outcome = outcome(&worker, &client, request).await;
    let answered_us = (worker.clock)();
    let status = outcome.response.status().as_u16();
    match &outcome.stats {
        Some(stats) => stats.answered(status, answered_us.saturating_sub(began_us)),
        None => drop(worker.common.unrouted.fetch_add(1, Relaxed)),
    }
    if let Some(record) = &mut record {
        record.answered_us = answered_us;
        record.status = status;
        record.service = outcome.service;
        record.replica = outcome.replica;
        record.attempts = outcome.attempts;
    }
    outcome.response.map(|body| body.record(record))
}

async fn outcome(worker: &Rc<Worker>, client: &Rc<Client>, request: Request<Incoming>) -> Outcome {
    let (uri, headers) = (request.uri(), request.headers());
    let found = target::host(request.version(), uri, headers)
        .and_then(|host| Ok((host, target::path(uri.path())?.into_owned())));
    let (host, path) = match found {
        Ok(found) => found,
        Err(error) => {
            let mut response = text(StatusCode::BAD_REQUEST, &error.to_string());
            // What follows on the connection is not to be trusted either.
            if request.version() != Version::HTTP_2 {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            return Outcome::own(response);
        }
    };
    let routing = Rc::clone(&worker.routing.borrow());
    let Some(used) = routing.find(&host, &path) else {
        return Outcome::own(text(StatusCode::NOT_FOUND, "no route is for this host and path"));
    };
    let mut outcome = Outcome {
        response: Response::new(ServerBody::text(Bytes::new())),
        service: used.route.service.clone(),
        stats: Some(Arc::clone(used.stats)),
        replica: None,
        attempts: 0,
    };
    let rule = &used.route.rule;
    if let Some(own) = own_answer(worker, client, &request, rule, &host) {
        outcome.response = own;
        return outcome;
    }
    let sticky = rule.sticky.as_deref();
    let sticky = sticky.and_then(|name| headers::cookie(request.headers(), name)?.parse().ok());
    let journey = Journey {
        host: &host,
        path: &path,
        sticky,
    };
    let mut request = request;
    let upgrading = Upgrading::of(&mut request);
    let request = prepare(worker, client, request, rule, upgrading.as_ref());
    match forward(worker, &journey, request).await {
        Ok(answer) => {
            outcome.replica = Some(answer.lease.replica());
            outcome.attempts = answer.attempts;
            outcome.response = finish(client, answer, rule, sticky, upgrading, used.stats);
        }
        Err(error) => {
            used.stats.unserved.fetch_add(1, Relaxed);
            tracing::debug!(%error, host, path, "a request was not served");
            outcome.response = failed(&error);
        }
    }
    outcome
}

/// What is answered without asking a replica.
fn own_answer(
    worker: &Worker,
    client: &Client,
    request: &Request<Incoming>,
    rule: &IngressRule,
    host: &str,
) -> Option<Response<ServerBody>> {
    if client.origin.is_https {
        // By another host's connection: the client has to open one that shows the right certificate.
        let own = worker.common.certificates.0.load().pattern(host);
        if own != client.certificate {
            return Some(text(
                StatusCode::MISDIRECTED_REQUEST,
                "this host has another certificate",
            ));
        }
    }
    let origin = match &rule.redirect {
        Some(IngressRedirect::Https) if !client.origin.is_https => Some(format!("https://{host}")),
        Some(IngressRedirect::To(origin)) => Some(origin.clone()),
        Some(IngressRedirect::Https) | None => None,
    };
    if let Some(origin) = origin {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let location = HeaderValue::from_str(&format!("{origin}{path}"));
        let mut response = text(StatusCode::PERMANENT_REDIRECT, "");
        response.headers_mut().insert(LOCATION, location.ok()?);
        return Some(response);
    }
    if request.method() == Method::CONNECT {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "tunnels are not made here");
        response.headers_mut().insert(
            ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"),
        );
        return Some(response);
    }
    let body_max = rule.body_max.map_or(u64::MAX, |most| most.0);
    let is_larger = request.body().size_hint().lower() > body_max;
    is_larger.then(|| failed(&ForwardError::Body(BodyFault::TooLarge)))
}

/// A request that wants its connection to become something else.
struct Upgrading {
    to: HeaderValue,
    client: hyper::upgrade::OnUpgrade,
}

impl Upgrading {
    fn of(request: &mut Request<Incoming>) -> Option<Self> {
        if request.version() != Version::HTTP_11 {
            return None;
        }
        let to = headers::upgrade(request.headers())?;
        // Requests would be smuggled past the rules.
        if to.as_bytes().to_ascii_lowercase().starts_with(b"h2c") {
            return None;
        }
        let client = hyper::upgrade::on(request);
        Some(Self { to, client })
    }
}

/// The request as a replica gets it.
fn prepare(
    worker: &Worker,
    client: &Client,
    request: Request<Incoming>,
    rule: &IngressRule,
    upgrading: Option<&Upgrading>,
) -> Request<ClientBody> {
    let (parts, body) = request.into_parts();
    let Parts {
        method,
        uri,
        mut headers,
        ..
    } = parts;
    let authority = uri
        .authority()
        .and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    let host = authority
        .or_else(|| headers.remove(HOST))
        .unwrap_or_else(|| HeaderValue::from_static(""));
    headers::to_replica(&mut headers, &client.origin, &host);
    headers.insert(HOST, host);
    if let Some(upgrading) = upgrading {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrading.to.clone());
    }
    let body_max = rule.body_max.map_or(u64::MAX, |most| most.0);
    let body = ClientBody::new(body, body_max, worker.common.limits.body_timeout);
    let announces = [Method::POST, Method::PUT, Method::PATCH].contains(&method);
    if announces && matches!(body, ClientBody::Empty) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    *request.headers_mut() = headers;
    request
}

/// The answer as the client gets it.
fn finish(
    client: &Rc<Client>,
    answer: Answer,
    rule: &IngressRule,
    was_with: Option<ReplicaId>,
    upgrading: Option<Upgrading>,
    stats: &RouteStats,
) -> Response<ServerBody> {
    let Answer {
        mut response, lease, ..
    } = answer;
    let replica = lease.replica();
    let switched_to = response.headers().get(UPGRADE).cloned();
    headers::strip(response.headers_mut());
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let mut response = match upgrading.filter(|_| switches) {
        Some(upgrading) => {
            let from_replica = hyper::upgrade::on(&mut response);
            upgrade::join(Rc::clone(client), upgrading.client, from_replica, lease);
            stats.upgrades.fetch_add(1, Relaxed);
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, switched_to.unwrap_or(upgrading.to));
            response.map(|_| ServerBody::text(Bytes::new()))
        }
        // Nobody asked for it.
        None if switches => failed(&ForwardError::Broken),
        None => response.map(|body| ServerBody::of_replica(body, lease)),
    };
    *response.version_mut() = Version::HTTP_11;
    if let Some(name) = rule.sticky.as_deref().filter(|_| was_with != Some(replica)) {
        let path = rule.path.to_string();
        let secure = if client.origin.is_https { "; Secure" } else { "" };
        let cookie = format!(
            "{name}={replica}; Path={}; HttpOnly; SameSite=Lax{secure}",
            path.trim_start_matches('=')
        );
        if let Ok(value) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(SET_COOKIE, value);
        }
    }
    response
}

fn failed(error: &ForwardError) -> Response<ServerBody> {
    let status = match error {
        ForwardError::NoReplica => StatusCode::SERVICE_UNAVAILABLE,
        ForwardError::Unreachable | ForwardError::Broken => StatusCode::BAD_GATEWAY,
        ForwardError::Late => StatusCode::GATEWAY_TIMEOUT,
        ForwardError::Body(BodyFault::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
        ForwardError::Body(BodyFault::Silent) => StatusCode::REQUEST_TIMEOUT,
        ForwardError::Body(BodyFault::Broken) => StatusCode::BAD_REQUEST,
    };
    let mut response = text(status, &error.to_string());
    if matches!(error, ForwardError::NoReplica) {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn text(status: StatusCode, words: &str) -> Response<ServerBody> {
    let line = if words.is_empty() {
        String::new()
    } else {
        format!("{words}\n")
    };
    let mut response = Response::new(ServerBody::text(Bytes::from(line)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
