//! A request on its way to a replica, and to another one when that cannot have an effect twice.
//!
//! | what happened | sent again |
//! |---|---|
//! | no connection could be made | always: nothing was sent |
//! | a kept connection turned out to be closed before the request was written | always, without counting |
//! | the connection broke before an answer | a safe or idempotent request without a body (RFC 9110, 9.2.2) |
//! | the answer did not begin in time | never: it may be under way |

use std::rc::Rc;

use gantry_model::ReplicaId;
use gantry_model::spec::UpstreamProtocol;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::{Method, Request, Response, Version};

use crate::body::{BodyFault, ClientBody, Progress};
use crate::routing::Wish;
use crate::upstream::{ConnectError, Http1, Lease, Upstream, micros};
use crate::worker::Worker;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("no replica is ready")]
    NoReplica,
    #[error("no replica can be reached")]
    Unreachable,
    #[error("the replica broke off before it answered")]
    Broken,
    #[error("the replica did not answer in time")]
    Late,
    #[error(transparent)]
    Body(BodyFault),
}

/// An answer that has begun.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
    pub(crate) attempts: u32,
}

/// Which requests these are, as far as it matters for where they go.
pub(crate) struct Journey<'a> {
    pub(crate) host: &'a str,
    /// The path that rules are compared with.
    pub(crate) path: &'a str,
    pub(crate) sticky: Option<ReplicaId>,
}

enum Attempt {
    Answered(Response<Incoming>, Lease),
    /// Nothing was written.
    NotSent(Request<ClientBody>, NotSent),
    /// Something may have been written.
    Lost,
    Failed(ForwardError),
}

enum NotSent {
    /// The replica cannot be reached.
    Unreachable,
    /// The connection or the upstream went away meanwhile.
    Stale,
}

/// Sends a request to a replica of the route that the journey has at present.
pub(crate) async fn forward(
    worker: &Worker,
    journey: &Journey<'_>,
    mut request: Request<ClientBody>,
) -> Result<Answer, ForwardError> {
    let mut tried: Vec<ReplicaId> = Vec::new();
    let mut attempts = 0;
    loop {
        let now_us = (worker.clock)();
        let routing = Rc::clone(&worker.routing.borrow());
        let used = routing
            .find(journey.host, journey.path)
            .ok_or(ForwardError::NoReplica)?;
        let rule = &used.route.rule;
        let wish = Wish {
            sticky: journey.sticky,
            tried: &tried,
            now_us,
        };
        // Where all were tried, one of them may be better by now.
        let again = || used.choice.pick(Wish { tried: &[], ..wish });
        let upstream = used.choice.pick(wish).or_else(again).ok_or(ForwardError::NoReplica)?;
        let is_last = attempts >= rule.retries;
        let spare = if is_last { None } else { spare(&request) };
        attempts += 1;
        match attempt(worker, &upstream, request, rule.timeout.to_std()).await {
            Attempt::Answered(response, lease) => {
                return Ok(Answer {
                    response,
                    lease,
                    attempts,
                });
            }
            Attempt::NotSent(back, NotSent::Stale) => {
                attempts -= 1;
                request = back;
            }
            Attempt::NotSent(back, NotSent::Unreachable) => {
                upstream.rest_until((worker.clock)().saturating_add(micros(worker.common.limits.rest)));
                if is_last {
                    return Err(ForwardError::Unreachable);
                }
                used.stats.retries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tried.push(upstream.replica());
                request = back;
            }
            Attempt::Lost => {
                request = spare.ok_or(ForwardError::Broken)?;
                used.stats.retries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tried.push(upstream.replica());
            }
            Attempt::Failed(error) => return Err(error),
        }
    }
}

/// A copy of what may be sent twice.
fn spare(request: &Request<ClientBody>) -> Option<Request<ClientBody>> {
    let idempotent = [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::PUT,
        Method::DELETE,
    ];
    if !matches!(request.body(), ClientBody::Empty) || !idempotent.contains(request.method()) {
        return None;
    }
    let mut copy = Request::new(ClientBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

async fn attempt(
    worker: &Worker,
    upstream: &Rc<Upstream>,
    request: Request<ClientBody>,
    within: std::time::Duration,
) -> Attempt {
    let limits = &worker.common.limits;
    let lease = Lease::new(Rc::clone(upstream), Rc::clone(&worker.clock), limits.idle_per_replica);
    let progress = request.body().progress();
    match upstream.protocol {
        UpstreamProtocol::Http => {
            let sender = match sender(worker, upstream, &request).await {
                Ok(sender) => sender,
                Err(error) => return unreachable(upstream, &error, request),
            };
            http1(upstream, sender, request, lease, Wait { within, progress }).await
        }
        UpstreamProtocol::H2c => {
            let sender = upstream.connect_shared(limits.connect_timeout).await;
            let mut sender = match sender {
                Ok(sender) => sender,
                Err(error) => return unreachable(upstream, &error, request),
            };
            let request = for_http2(request);
            if sender.ready().await.is_err() || upstream.is_retired() {
                return Attempt::NotSent(request, NotSent::Stale);
            }
            let answering = sender.try_send_request(request);
            Wait { within, progress }.answer(answering, lease).await
        }
    }
}

fn unreachable(upstream: &Upstream, error: &ConnectError, request: Request<ClientBody>) -> Attempt {
    let (replica, address) = (upstream.replica(), upstream.backend.address);
    tracing::debug!(%error, %replica, %address, "a replica cannot be reached");
    Attempt::NotSent(request, NotSent::Unreachable)
}

/// A connection that is ready: a kept one, or a new one.
async fn sender(worker: &Worker, upstream: &Upstream, request: &Request<ClientBody>) -> Result<Http1, ConnectError> {
    let limits = &worker.common.limits;
    // What must not be sent twice does not meet a connection that its server may be closing.
    let age_max = if spare(request).is_some() {
        limits.idle_timeout
    } else {
        limits.fresh_enough
    };
    while let Some(mut sender) = upstream.take_idle((worker.clock)(), age_max) {
        if sender.ready().await.is_ok() {
            return Ok(sender);
        }
    }
    upstream.connect(limits.connect_timeout).await
}

async fn http1(
    upstream: &Upstream,
    mut sender: Http1,
    request: Request<ClientBody>,
    mut lease: Lease,
    wait: Wait,
) -> Attempt {
    if upstream.is_retired() {
        return Attempt::NotSent(request, NotSent::Stale);
    }
    let answering = sender.try_send_request(request);
    // The lease may give it back only after the answer has begun.
    let answered = wait.answer(answering, lease).await;
    match answered {
        Attempt::Answered(response, held) => {
            lease = held;
            lease.hold(sender);
            Attempt::Answered(response, lease)
        }
        other => other,
    }
}

/// HTTP/2 names the host in the target (RFC 9113, 8.3.1).
fn for_http2(mut request: Request<ClientBody>) -> Request<ClientBody> {
    let host = request.headers_mut().remove(hyper::header::HOST);
    let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = hyper::Uri::builder()
        .scheme("http")
        .authority(host)
        .path_and_query(path)
        .build();
    if let Ok(uri) = uri {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_2;
    request
}

/// How long to wait for an answer.
struct Wait {
    within: std::time::Duration,
    progress: Option<Rc<Progress>>,
}

impl Wait {
    async fn answer(
        self,
        answering: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<ClientBody>>>>,
        lease: Lease,
    ) -> Attempt {
        let mut answering = std::pin::pin!(answering);
        let mut was_sent = self.is_sent();
        let answered = loop {
            match tokio::time::timeout(self.within, answering.as_mut()).await {
                Ok(answered) => break answered,
                Err(_) if was_sent => return Attempt::Failed(ForwardError::Late),
                // The time counts from when the request is there as a whole; until then the client's silence is limited.
                Err(_) => was_sent = self.is_sent(),
            }
        };
        let mut error = match answered {
            Ok(response) => return Attempt::Answered(response, lease),
            Err(error) => error,
        };
        let fault = self.progress.as_ref().and_then(|progress| progress.fault.get());
        match (fault, error.take_message()) {
            (Some(fault), _) => Attempt::Failed(ForwardError::Body(fault)),
            (None, Some(request)) => Attempt::NotSent(request, NotSent::Stale),
            (None, None) => Attempt::Lost,
        }
    }

    fn is_sent(&self) -> bool {
        self.progress.as_ref().is_none_or(|progress| progress.ended.get())
    }
}
