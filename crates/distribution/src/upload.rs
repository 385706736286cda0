//! Uploads of blobs: mounted from another repository, in one piece, or in chunks that go on where a connection broke.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use gantry_model::{Digest, ImageReference};
use hyper::body::Incoming;
use hyper::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION};
use hyper::{Method, Response, StatusCode};
use url::Url;

use crate::auth::Scope;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::{Asked, Cause, Result};
use crate::headers;
use crate::limits::MONOLITHIC_BYTES_MAX;
use crate::options::Keychain;
use crate::payload::Payload;
use crate::progress::{Phase, Track};
use crate::transport::Call;

const OCTETS: &str = "application/octet-stream";
/// How often the bytes that went are looked at.
const TICK: Duration = Duration::from_millis(100);

/// A blob to be sent.
pub(crate) struct Outbound<'a> {
    pub(crate) repository: &'a ImageReference,
    pub(crate) keychain: &'a Keychain,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) file: Arc<File>,
    /// Another repository of the registry that has it.
    pub(crate) mount_from: Option<&'a str>,
}

/// An upload that the registry knows.
struct Session {
    location: Url,
    offset: u64,
}

/// How a request for an upload went.
enum Started {
    Mounted,
    Session(Session),
}

impl Client {
    /// Makes sure that the registry has a blob; says how it came to have it.
    pub(crate) async fn push_blob(&self, blob: &Outbound<'_>, track: &Track<'_>) -> Result<Phase> {
        let endpoint = Endpoint::origin(blob.repository.registry(), &self.transport.options)?;
        let asked = Asked::new(
            blob.repository.registry(),
            blob.repository.repository(),
            format!("blob {}", blob.digest),
        );
        track.at(Phase::Waiting, 0);
        let slot = self.transport.uploads(&endpoint).acquire_owned().await;
        let _slot = slot.expect("these slots are never closed");
        let upload = Upload {
            client: self,
            endpoint: &endpoint,
            asked: &asked,
            blob,
            track,
        };
        upload.run().await
    }
}

struct Upload<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    asked: &'a Asked,
    blob: &'a Outbound<'a>,
    track: &'a Track<'a>,
}

impl<'a> Upload<'a> {
    async fn run(&self) -> Result<Phase> {
        let transport = &self.client.transport;
        let mut backoff = Backoff::new(transport.options.timing);
        let mut session: Option<Session> = None;
        loop {
            let before = session.as_ref().map(|session| session.offset);
            let cause = match self.advance(&mut session).await {
                Ok(Some(phase)) => return Ok(phase),
                Ok(None) => {
                    backoff.progress();
                    continue;
                }
                Err(cause) => cause,
            };
            self.track.retrying(before.unwrap_or(0), &cause);
            // An upload that the registry no longer knows, or disagrees about, begins anew.
            let is_lost = matches!(
                &cause,
                Cause::NotFound { .. }
                    | Cause::Status {
                        status: StatusCode::RANGE_NOT_SATISFIABLE,
                        ..
                    }
            );
            let cause = if is_lost && session.is_some() {
                Cause::Broken(cause.to_string())
            } else {
                cause
            };
            transport.wait_or_fail(&mut backoff, self.asked, cause).await?;
            session = match session.take() {
                Some(old) => self.resumed(old).await,
                None => None,
            };
            if session.as_ref().map(|session| session.offset) > before {
                backoff.progress();
            }
        }
    }

    /// One step: look, start, send a chunk, or end; the phase once the registry has the blob.
    async fn advance(&self, session: &mut Option<Session>) -> Result<Option<Phase>, Cause> {
        let Some(open) = session else {
            if self.exists().await? {
                return Ok(Some(Phase::Exists));
            }
            return match self.start().await? {
                Started::Mounted => Ok(Some(Phase::Mounted)),
                Started::Session(fresh) => {
                    *session = Some(fresh);
                    Ok(None)
                }
            };
        };
        let left = self.blob.size - open.offset;
        if left == 0 || (open.offset == 0 && left <= MONOLITHIC_BYTES_MAX) {
            self.finish(open).await?;
            return Ok(Some(Phase::Done));
        }
        self.send_chunk(open).await?;
        Ok(None)
    }

    async fn exists(&self) -> Result<bool, Cause> {
        let path = format!("{}/blobs/{}", self.blob.repository.repository(), self.blob.digest);
        let mut call = self.call(self.endpoint.url(&path), Method::HEAD);
        call.scope = Scope::push(self.blob.repository.repository());
        match self.client.transport.attempt(&call, &[StatusCode::OK]).await {
            Ok(_) => Ok(true),
            Err(Cause::NotFound { .. }) => Ok(false),
            Err(cause) => Err(cause),
        }
    }

    async fn start(&self) -> Result<Started, Cause> {
        if let Some(from) = self.blob.mount_from {
            let mut call = self.start_call();
            call.scope = call.scope.and_pull(from);
            call.url
                .query_pairs_mut()
                .append_pair("mount", &self.blob.digest.to_string())
                .append_pair("from", from);
            let wanted = [StatusCode::CREATED, StatusCode::ACCEPTED];
            match self.client.transport.attempt(&call, &wanted).await {
                Ok(response) if response.status() == StatusCode::CREATED => return Ok(Started::Mounted),
                Ok(response) => return self.session(&call.url, &response, 0).map(Started::Session),
                Err(cause) if cause.may_pass() => return Err(cause),
                // Not to be read from there; it can still be sent.
                Err(cause) => tracing::debug!(asked = %self.asked, %cause, from, "registry: not mounted"),
            }
        }
        let call = self.start_call();
        let response = self.client.transport.attempt(&call, &[StatusCode::ACCEPTED]).await?;
        self.session(&call.url, &response, 0).map(Started::Session)
    }

    fn start_call(&self) -> Call<'_> {
        let path = format!("{}/blobs/uploads/", self.blob.repository.repository());
        self.call(self.endpoint.url(&path), Method::POST)
    }

    async fn send_chunk(&self, session: &mut Session) -> Result<(), Cause> {
        let left = self.blob.size - session.offset;
        let len = left.min(self.client.transport.options.chunk_bytes.max(1));
        let mut call = self
            .call(session.location.clone(), Method::PATCH)
            .header(CONTENT_TYPE, OCTETS);
        if session.offset > 0 || len < left {
            let last = session.offset + len - 1;
            call = call.header(CONTENT_RANGE, &format!("{}-{last}", session.offset));
        }
        call.payload = Payload::File {
            file: self.blob.file.clone(),
            offset: session.offset,
            len,
        };
        let wanted = [StatusCode::ACCEPTED, StatusCode::NO_CONTENT, StatusCode::CREATED];
        let response = self.watched(&call, session.offset, &wanted).await?;
        let next = self.session(&call.url, &response, session.offset + len)?;
        // Less than was sent is fine, since the rest is sent again; anything else is another upload.
        if next.offset > self.blob.size || next.offset < session.offset {
            let (offset, size) = (next.offset, self.blob.size);
            return Err(Cause::malformed(format!(
                "the registry counts {offset} bytes of an upload of {size}"
            )));
        }
        *session = next;
        Ok(())
    }

    /// Ends the upload, with the whole blob if nothing of it was sent before.
    async fn finish(&self, session: &Session) -> Result<(), Cause> {
        let mut url = session.location.clone();
        url.query_pairs_mut()
            .append_pair("digest", &self.blob.digest.to_string());
        let mut call = self.call(url, Method::PUT).header(CONTENT_TYPE, OCTETS);
        call.patience = self.client.transport.options.timing.commit;
        if session.offset < self.blob.size {
            call.payload = Payload::File {
                file: self.blob.file.clone(),
                offset: session.offset,
                len: self.blob.size - session.offset,
            };
        }
        let wanted = [StatusCode::CREATED, StatusCode::OK, StatusCode::NO_CONTENT];
        match self.watched(&call, session.offset, &wanted).await {
            Ok(_) => Ok(()),
            // The answer may have been lost, not the upload.
            Err(cause) if cause.may_pass() || matches!(cause, Cause::NotFound { .. }) => {
                if self.exists().await.unwrap_or(false) {
                    return Ok(());
                }
                Err(cause)
            }
            Err(cause) => Err(cause),
        }
    }

    /// Where the registry is with an upload; none when it no longer knows it.
    async fn resumed(&self, old: Session) -> Option<Session> {
        let call = self.call(old.location.clone(), Method::GET);
        let wanted = [StatusCode::NO_CONTENT, StatusCode::ACCEPTED, StatusCode::OK];
        let response = self.client.transport.attempt(&call, &wanted).await.ok()?;
        let offset = headers::uploaded(response.headers())?;
        let next = self.session(&old.location, &response, offset).unwrap_or(Session {
            location: old.location,
            offset,
        });
        (next.offset <= self.blob.size).then_some(next)
    }

    /// Sends, and tells how much has gone.
    async fn watched(&self, call: &Call<'_>, base: u64, wanted: &[StatusCode]) -> Result<Response<Incoming>, Cause> {
        let sending = self.client.transport.attempt(call, wanted);
        tokio::pin!(sending);
        loop {
            match tokio::time::timeout(TICK, &mut sending).await {
                Ok(outcome) => return outcome,
                Err(_) => self
                    .track
                    .at(Phase::Uploading, base + call.moved.load(Ordering::Relaxed)),
            }
        }
    }

    fn call(&self, url: Url, method: Method) -> Call<'_> {
        let mut call = self
            .client
            .transport
            .get(self.asked, self.endpoint, self.blob.keychain, "");
        call.scope = Scope::push(self.blob.repository.repository());
        call.method = method;
        call.url = url;
        call.payload = Payload::Bytes(Bytes::new());
        call
    }

    fn session(&self, from: &Url, response: &Response<Incoming>, expected: u64) -> Result<Session, Cause> {
        let location = response
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok());
        let location = location.ok_or_else(|| Cause::malformed("an upload without Location"))?;
        Ok(Session {
            location: self.client.transport.safe_join(from, location, self.endpoint)?,
            offset: match expected {
                0 => 0,
                expected => headers::uploaded(response.headers()).unwrap_or(expected),
            },
        })
    }
}
