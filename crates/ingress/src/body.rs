//! Bodies on their way through: a client's with its limits, a replica's with the connection it comes by.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use crate::request::Record;
use crate::upstream::Lease;

/// What went wrong with a client's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFault {
    #[error("the body is larger than the route allows")]
    TooLarge,
    #[error("the client went silent in the middle of its body")]
    Silent,
    #[error("the client broke off in the middle of its body")]
    Broken,
}

/// How far a body is, seen from outside.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) fault: Cell<Option<BodyFault>>,
    pub(crate) ended: Cell<bool>,
}

/// The body of a request.
pub(crate) enum ClientBody {
    Empty,
    Streaming(Box<Streaming>),
}

/// See [`ClientBody`].
pub(crate) struct Streaming {
    inner: Incoming,
    left: u64,
    silence_max: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    progress: Rc<Progress>,
}

impl ClientBody {
    /// A body of at most so many bytes.
    pub(crate) fn new(inner: Incoming, bytes_max: u64, silence_max: Duration) -> Self {
        if inner.is_end_stream() {
            return Self::Empty;
        }
        Self::Streaming(Box::new(Streaming {
            inner,
            left: bytes_max,
            silence_max,
            waiting: None,
            progress: Rc::default(),
        }))
    }

    /// How far it is; none where there is none.
    pub(crate) fn progress(&self) -> Option<Rc<Progress>> {
        match self {
            Self::Empty => None,
            Self::Streaming(streaming) => Some(Rc::clone(&streaming.progress)),
        }
    }
}

impl Streaming {
    fn fail(&self, fault: BodyFault) -> BodyFault {
        self.progress.fault.set(Some(fault));
        fault
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
            let wait = || Box::pin(tokio::time::sleep(self.silence_max));
            let waiting = self.waiting.get_or_insert_with(wait);
            ready!(waiting.as_mut().poll(context));
            return Poll::Ready(Some(Err(self.fail(BodyFault::Silent))));
        };
        self.waiting = None;
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return Poll::Ready(Some(Err(self.fail(BodyFault::Broken)))),
            None => {
                self.progress.ended.set(true);
                return Poll::Ready(None);
            }
        };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match self.left.checked_sub(length) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Some(Err(self.fail(BodyFault::TooLarge)))),
        }
        if self.inner.is_end_stream() {
            self.progress.ended.set(true);
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(streaming) => streaming.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(streaming) => streaming.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(streaming) => streaming.inner.size_hint(),
        }
    }
}

/// The body of an answer: a replica's, or a line of our own.
pub(crate) struct ServerBody {
    kind: Kind,
    sent: u64,
    /// Noted when the body is over, or given up.
    record: Option<Box<Record>>,
}

enum Kind {
    Text(Option<Bytes>),
    Replica { inner: Incoming, lease: Lease },
}

impl ServerBody {
    pub(crate) fn text(text: Bytes) -> Self {
        let kind = if text.is_empty() {
            Kind::Text(None)
        } else {
            Kind::Text(Some(text))
        };
        Self {
            kind,
            sent: 0,
            record: None,
        }
    }

    pub(crate) fn of_replica(inner: Incoming, mut lease: Lease) -> Self {
        if inner.is_end_stream() {
            lease.done();
        }
        Self {
            kind: Kind::Replica { inner, lease },
            sent: 0,
            record: None,
        }
    }

    pub(crate) fn record(mut self, record: Option<Box<Record>>) -> Self {
        self.record = record;
        self
    }
}

impl Drop for ServerBody {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            record.write(self.sent);
        }
    }
}

impl Body for ServerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        match &mut this.kind {
            Kind::Text(text) => Poll::Ready(text.take().map(|text| {
                this.sent += text.len() as u64;
                Ok(Frame::data(text))
            })),
            Kind::Replica { inner, lease } => {
                let frame = ready!(Pin::new(&mut *inner).poll_frame(context));
                let is_over = frame.is_none() || inner.is_end_stream();
                if is_over && !matches!(frame, Some(Err(_))) {
                    lease.done();
                }
                if let Some(Ok(frame)) = &frame {
                    this.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Text(text) => text.is_none(),
            Kind::Replica { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Kind::Replica { inner, .. } => inner.size_hint(),
        }
    }
}
