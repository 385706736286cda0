//! Downloads: a blob's bytes from mirrors or the registry, going on where a connection broke.

use std::time::Duration;

use bytes::Bytes;
use gantry_image::Descriptor;
use gantry_model::ImageReference;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::RANGE;

use crate::backoff::Backoff;
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::{Asked, Cause, Result};
use crate::headers;
use crate::options::{Keychain, Timing};
use crate::transport::Transport;

/// Attempts at a mirror; the registry itself stands behind it.
const MIRROR_ATTEMPTS_MAX: u32 = 2;

impl Transport {
    /// How patient to be with an endpoint.
    pub(crate) fn timing_of(&self, endpoint: &Endpoint) -> Timing {
        let mut timing = self.options.timing;
        if endpoint.is_mirror {
            timing.attempts_max = timing.attempts_max.min(MIRROR_ATTEMPTS_MAX);
        }
        timing
    }
}

/// The bytes of one blob from some offset on. What it gives is as long as announced; the digest is for its reader to check.
pub struct BlobReader<'a> {
    client: &'a Client,
    keychain: &'a Keychain,
    asked: Asked,
    endpoints: Vec<Endpoint>,
    at: usize,
    path: String,
    size: u64,
    position: u64,
    body: Option<Incoming>,
    /// Bytes of a body that begins too early, since the registry knows no ranges.
    skip: u64,
    backoff: Backoff,
    slot: Option<tokio::sync::OwnedSemaphorePermit>,
    retried: Option<String>,
}

impl Client {
    /// Begins to read a blob of a repository at `offset`. Nothing is asked before the first piece is.
    ///
    /// # Errors
    /// When the repository's registry or a mirror of it has no valid address.
    pub fn blob<'a>(
        &'a self,
        repository: &ImageReference,
        blob: &Descriptor,
        offset: u64,
        keychain: &'a Keychain,
    ) -> Result<BlobReader<'a>> {
        let endpoints = self.transport.sources(repository.registry())?;
        let backoff = Backoff::new(self.transport.timing_of(&endpoints[0]));
        let what = format!("blob {}", blob.digest);
        Ok(BlobReader {
            client: self,
            keychain,
            asked: Asked::new(&endpoints[0].name, repository.repository(), what),
            endpoints,
            at: 0,
            path: format!("{}/blobs/{}", repository.repository(), blob.digest),
            size: blob.size.unwrap_or(0),
            position: offset,
            body: None,
            skip: 0,
            backoff,
            slot: None,
            retried: None,
        })
    }
}

impl BlobReader<'_> {
    /// Reads from the registry itself alone, after a mirror has sent something wrong.
    pub(crate) fn read_from_origin(&mut self) {
        self.go_to(self.endpoints.len() - 1);
    }

    pub(crate) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Why something was tried again since this was asked last.
    pub(crate) fn take_retried(&mut self) -> Option<String> {
        self.retried.take()
    }

    /// The next bytes; none when all have come.
    ///
    /// # Errors
    /// When neither mirrors nor the registry give the rest, whatever was tried.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.position < self.size {
            let cause = match self.piece().await {
                Ok(piece) => {
                    self.position += piece.len() as u64;
                    self.backoff.progress();
                    return Ok(Some(piece));
                }
                Err(cause) => cause,
            };
            self.body = None;
            self.retried = Some(cause.to_string());
            self.after(cause).await?;
        }
        // Free for the next blob while this one is being verified.
        self.slot = None;
        Ok(None)
    }

    /// Waits for the next attempt, or turns to the next endpoint.
    async fn after(&mut self, cause: Cause) -> Result<()> {
        let transport = &self.client.transport;
        let Some(wait) = self.backoff.after(&cause, transport.env.as_ref()) else {
            if self.at + 1 == self.endpoints.len() {
                return Err(cause.at(&self.asked));
            }
            transport.pass_over(&self.endpoints[self.at], &self.asked, &cause);
            self.go_to(self.at + 1);
            return Ok(());
        };
        tracing::info!(asked = %self.asked, %cause, position = self.position, "registry: trying again");
        tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
        Ok(())
    }

    fn go_to(&mut self, at: usize) {
        self.at = at;
        self.body = None;
        self.slot = None;
        self.asked.registry.clone_from(&self.endpoints[at].name);
        self.backoff = Backoff::new(self.client.transport.timing_of(&self.endpoints[at]));
    }

    async fn piece(&mut self) -> Result<Bytes, Cause> {
        loop {
            let mut body = match self.body.take() {
                Some(body) => body,
                None => self.open().await?,
            };
            let piece = self.client.transport.next_piece(&mut body).await?;
            let Some(mut piece) = piece else {
                return Err(Cause::WrongSize {
                    expected: self.size,
                    found: self.position,
                });
            };
            self.body = Some(body);
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
            self.skip -= skipped as u64;
            let piece = piece.split_off(skipped);
            if (piece.len() as u64) > self.size - self.position {
                return Err(Cause::WrongSize {
                    expected: self.size,
                    found: self.position + piece.len() as u64,
                });
            }
            if !piece.is_empty() {
                return Ok(piece);
            }
        }
    }

    /// Waits until it may download.
    pub(crate) async fn wait_for_slot(&mut self) {
        if self.slot.is_none() {
            let slots = self.client.transport.downloads(&self.endpoints[self.at]);
            self.slot = Some(slots.acquire_owned().await.expect("these slots are never closed"));
        }
    }

    /// Asks for the rest.
    async fn open(&mut self) -> Result<Incoming, Cause> {
        self.wait_for_slot().await;
        let endpoint = &self.endpoints[self.at];
        let transport = &self.client.transport;
        let mut call = transport.get(&self.asked, endpoint, self.keychain, &self.path);
        if self.position > 0 {
            call = call.header(RANGE, &format!("bytes={}-", self.position));
        }
        let response = transport
            .attempt(&call, &[StatusCode::OK, StatusCode::PARTIAL_CONTENT])
            .await?;
        let length = headers::content_length(response.headers());
        let (begins_at, whole) = match response.status() {
            StatusCode::PARTIAL_CONTENT => headers::content_range(response.headers())
                .ok_or_else(|| Cause::malformed("a part of the blob without Content-Range"))?,
            _ => (0, length),
        };
        if begins_at > self.position {
            return Err(Cause::malformed(format!(
                "asked for the blob from byte {} on, the answer begins at {begins_at}",
                self.position
            )));
        }
        if let Some(found) = whole.filter(|whole| *whole != self.size) {
            let media_type = headers::media_type(response.headers());
            if media_type == "text/html" {
                return Err(crate::transport::not_a_registry(response.status(), media_type, b""));
            }
            return Err(Cause::WrongSize {
                expected: self.size,
                found,
            });
        }
        self.skip = self.position - begins_at;
        Ok(response.into_body())
    }
}
