//! What a request carries, in a form that can be sent again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::limits::READ_BYTES;

/// Pieces of a file that wait for the network.
const PIECES_AHEAD: usize = 4;

/// The body of a request; every attempt makes a fresh [`Outgoing`] of it.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    Bytes(Bytes),
    File { file: Arc<File>, offset: u64, len: u64 },
}

impl Payload {
    pub(crate) const EMPTY: Self = Self::Bytes(Bytes::new());

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Begins to read; `moved` counts the bytes that were handed to the connection.
    pub(crate) fn open(&self, moved: Arc<AtomicU64>) -> Outgoing {
        let source = match self {
            Self::Bytes(bytes) => Source::Bytes(bytes.clone()),
            Self::File { file, offset, len } => Source::File(read_ahead(file.clone(), *offset, *len)),
        };
        Outgoing {
            source,
            left: self.len(),
            moved,
        }
    }
}

/// Reads on a thread for blocking work; the channel holds it back when the network is slower than the disk.
fn read_ahead(file: Arc<File>, offset: u64, len: u64) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(READ_BYTES).min(READ_BYTES);
            let mut piece = vec![0; wanted];
            let read = file.read_exact_at(&mut piece, at).map(|()| Bytes::from(piece));
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
            at += wanted as u64;
        }
    });
    receiver
}

enum Source {
    Bytes(Bytes),
    File(mpsc::Receiver<io::Result<Bytes>>),
}

/// A body on its way.
pub(crate) struct Outgoing {
    source: Source,
    left: u64,
    moved: Arc<AtomicU64>,
}

impl Outgoing {
    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        match &mut self.source {
            Source::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Source::Bytes(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Source::File(receiver) => receiver.poll_recv(context),
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.next(context).map(|next| {
            let piece = next?;
            Some(piece.map(|piece| {
                self.left = self.left.saturating_sub(piece.len() as u64);
                self.moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
                Frame::data(piece)
            }))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
