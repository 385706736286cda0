//! The output of a replica or container, from the file that its shim writes.

use std::path::Path;
use std::time::Duration;

use gantry_api::v1::{LogRecord, LogsRequest};
use gantry_model::{Class, Problem, Timestamp};
use gantry_rpc::status::from_problem;
use gantry_runtime::logs::{Range, Reader, Record, Stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Answers, NodeService, STREAM_WAITING};
use crate::drivers::blocking;

/// Records read at once.
const BATCH: usize = 256;
/// How often a followed log is looked at: soon enough for a person, cheap enough for hundreds of followers.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Opens the stream of a log.
pub(super) async fn open(service: &NodeService, request: LogsRequest) -> Result<Answers<LogRecord>, Problem> {
    let target = service.target(&request.replica).await?;
    let range = Range {
        tail: usize::try_from(request.tail).ok(),
        since: (request.since_ms > 0).then_some(Timestamp(request.since_ms)),
    };
    let path = target.containers.log(target.id);
    let reader = blocking(move || open_reader(&path, range)).await?;
    let (sender, stream) = mpsc::channel(STREAM_WAITING);
    let follower = Follower {
        goes_on: target.goes_on,
        replica: target.name,
        node: service.node.clone(),
        until_ns: (request.until_ms > 0).then(|| request.until_ms.saturating_mul(1_000_000)),
        follow: request.follow,
        sender,
        shutdown: service.shutdown.clone(),
    };
    tokio::spawn(follower.run(reader));
    Ok(ReceiverStream::new(stream))
}

fn open_reader(path: &Path, range: Range) -> Result<Reader, Problem> {
    Reader::open(path, range).map_err(|error| unreadable(&error))
}

fn unreadable(error: &std::io::Error) -> Problem {
    Problem::new(Class::Internal, "log", format!("cannot be read: {error}"))
}

/// Sends records until there are no more to come.
struct Follower {
    /// Whether it may still print something.
    goes_on: Box<dyn Fn() -> bool + Send + Sync>,
    replica: String,
    node: String,
    until_ns: Option<u64>,
    follow: bool,
    sender: mpsc::Sender<Result<LogRecord, Status>>,
    shutdown: CancellationToken,
}

impl Follower {
    async fn run(self, mut reader: Reader) {
        loop {
            // Asked before reading: what is written until the end is read after it.
            let goes_on = self.follow && (self.goes_on)();
            let batch;
            (reader, batch) = match blocking(move || read(reader)).await {
                Ok(read) => read,
                Err(problem) => {
                    // Whoever asked may be gone, which is no concern here.
                    let _ = self.sender.send(Err(from_problem(&problem))).await;
                    return;
                }
            };
            let is_end = batch.is_empty();
            for record in batch {
                if !self.send(record).await {
                    return;
                }
            }
            if is_end && !goes_on {
                return;
            }
            if is_end && !self.pause().await {
                return;
            }
        }
    }

    /// Returns whether to go on.
    async fn pause(&self) -> bool {
        tokio::select! {
            () = self.shutdown.cancelled() => false,
            () = self.sender.closed() => false,
            () = tokio::time::sleep(FOLLOW_INTERVAL) => true,
        }
    }

    async fn send(&self, record: Record) -> bool {
        let at_ns = nanoseconds(&record.time);
        if self.until_ns.is_some_and(|until| at_ns > until) {
            return false;
        }
        let record = LogRecord {
            replica: self.replica.clone(),
            at_ns,
            stream: match record.stream {
                Stream::Stdout => 1,
                Stream::Stderr => 2,
            },
            line: record.text.into(),
            node: self.node.clone(),
            partial: record.is_partial,
        };
        tokio::select! {
            () = self.shutdown.cancelled() => false,
            sent = self.sender.send(Ok(record)) => sent.is_ok(),
        }
    }
}

fn read(mut reader: Reader) -> Result<(Reader, Vec<Record>), Problem> {
    let mut batch = Vec::new();
    while batch.len() < BATCH {
        match reader.next_record().map_err(|error| unreadable(&error))? {
            Some(record) => batch.push(record),
            None => break,
        }
    }
    Ok((reader, batch))
}

fn nanoseconds(time: &str) -> u64 {
    let time: Option<jiff::Timestamp> = time.parse().ok();
    time.and_then(|time| u64::try_from(time.as_nanosecond()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_of_records_are_read() {
        assert_eq!(super::nanoseconds("1970-01-01T00:00:01.000000005Z"), 1_000_000_005);
        assert_eq!(super::nanoseconds("nonsense"), 0);
    }
}
