//! Problems ⇄ gRPC statuses: the only place where one becomes the other.
//!
//! The whole problem travels as JSON in the `gantry-problem-bin` trailer; code and message are for clients that do not know it.

use std::error::Error;

use gantry_model::{Class, Problem};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::ConnectFailure;

/// The trailer with the problem as JSON.
pub const PROBLEM_TRAILER: &str = "gantry-problem-bin";

/// The trailer in which a server names the leader.
pub const LEADER_TRAILER: &str = "gantry-leader";

/// Longest text of a problem on the wire, in bytes: trailers have to fit into HTTP/2's header limit of 16 KiB after base 64.
const TEXT_BYTES_MAX: usize = 2048;

/// The code of a class.
#[must_use]
pub const fn code(class: Class) -> Code {
    match class {
        Class::Invalid => Code::InvalidArgument,
        Class::NotFound => Code::NotFound,
        Class::Conflict => Code::Aborted,
        Class::Denied => Code::PermissionDenied,
        Class::Exhausted => Code::ResourceExhausted,
        Class::Unavailable => Code::Unavailable,
        Class::Timeout => Code::DeadlineExceeded,
        Class::Internal => Code::Internal,
    }
}

/// The class of a code, for statuses that carry no problem.
#[must_use]
pub const fn class(code: Code) -> Class {
    match code {
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Class::Invalid,
        Code::NotFound => Class::NotFound,
        Code::Aborted | Code::AlreadyExists | Code::FailedPrecondition => Class::Conflict,
        Code::PermissionDenied | Code::Unauthenticated => Class::Denied,
        Code::ResourceExhausted => Class::Exhausted,
        Code::Unavailable | Code::Cancelled => Class::Unavailable,
        Code::DeadlineExceeded => Class::Timeout,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => Class::Internal,
    }
}

/// The status that carries a problem.
#[must_use]
pub fn from_problem(problem: &Problem) -> Status {
    with_code(code(problem.class), problem)
}

/// As [`from_problem`], for a caller that is not known at all.
pub(crate) fn unauthenticated(problem: &Problem) -> Status {
    with_code(Code::Unauthenticated, problem)
}

/// The status of a server that is not the leader: `FAILED_PRECONDITION`, with the leader's address where it is known.
#[must_use]
pub fn not_leader(leader: Option<&str>) -> Status {
    let problem = Problem::new(Class::Unavailable, "this server", "is not the leader");
    let mut status = with_code(Code::FailedPrecondition, &problem);
    if let Some(value) = leader.and_then(|address| address.parse().ok()) {
        status.metadata_mut().insert(LEADER_TRAILER, value);
    }
    status
}

/// The leader's address that a status names.
#[must_use]
pub fn leader(status: &Status) -> Option<String> {
    let value = status.metadata().get(LEADER_TRAILER)?;
    value.to_str().ok().map(ToString::to_string)
}

fn with_code(code: Code, problem: &Problem) -> Status {
    let problem = Problem {
        class: problem.class,
        object: shorten(&problem.object),
        reason: shorten(&problem.reason),
        remedy: shorten(&problem.remedy),
    };
    let mut metadata = MetadataMap::new();
    let json = serde_json::to_vec(&problem).expect("a problem is three texts and a word");
    metadata.insert_bin(PROBLEM_TRAILER, MetadataValue::from_bytes(&json));
    let message = if problem.object.is_empty() {
        problem.reason
    } else {
        format!("{}: {}", problem.object, problem.reason)
    };
    Status::with_metadata(code, message, metadata)
}

fn shorten(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_string();
    }
    let end = (0..=TEXT_BYTES_MAX)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    format!("{}…", &text[..end])
}

/// The problem in a status; `whom` is who was asked, such as `server 10.0.0.1:7600`.
#[must_use]
pub fn to_problem(status: &Status, whom: &str) -> Problem {
    if let Some(problem) = carried(status) {
        return problem;
    }
    if let Some(failure) = connect_failure(status) {
        return failure.to_problem(whom);
    }
    if let Some(alert) = certificate_alert(status) {
        return Problem::new(
            Class::Denied,
            whom,
            format!("refused this client's certificate ({alert})"),
        )
        .remedy("the certificate is of another cluster, expired or revoked: join again with a new token");
    }
    let message = status.message();
    if status.code() == Code::OutOfRange && message.contains("message length too large") {
        return too_large(whom, message);
    }
    // Only statuses made on this side have a source: the connection broke before the server's own arrived.
    let broken = status.source().is_some() && status.code() != Code::DeadlineExceeded;
    let class = if broken {
        Class::Unavailable
    } else {
        class(status.code())
    };
    let reason = match (status.code(), message) {
        (Code::Unimplemented, "") => "does not know this call".to_string(),
        (_, "") => status.code().description().to_string(),
        (_, message) => transport_words(message),
    };
    let problem = Problem::new(class, whom, reason);
    match (status.code(), class) {
        (Code::Unimplemented, _) => problem.remedy("both sides must run compatible versions of gantry"),
        (_, Class::Unavailable) => problem.remedy("check that the server runs and that the network lets it be reached"),
        _ => problem,
    }
}

fn carried(status: &Status) -> Option<Problem> {
    let bytes = status.metadata().get_bin(PROBLEM_TRAILER)?.to_bytes().ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// tonic says `error decoding: message length too large: found 20 bytes, the limit is: 10 bytes`.
fn too_large(whom: &str, message: &str) -> Problem {
    let mut numbers = message
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|text| text.parse::<u64>().ok())
        .map(gantry_model::ByteSize);
    let reason = match (numbers.next(), numbers.next()) {
        (Some(actual), Some(limit)) => format!("the message of {actual} is larger than the limit of {limit}"),
        _ => "the message is too large".to_string(),
    };
    Problem::new(Class::Exhausted, whom, reason)
        .remedy("split the application into several, or take large configs out of it")
}

fn transport_words(message: &str) -> String {
    match message {
        "transport error" | "h2 protocol error: http2 error" => "the connection broke".to_string(),
        other => other.to_string(),
    }
}

/// Whether the request behind the status never left this process, so that sending it elsewhere cannot do it twice.
#[must_use]
pub fn surely_not_sent(status: &Status) -> bool {
    connect_failure(status).is_some()
}

/// Whether the other end showed a certificate of another authority than the expected one.
pub(crate) fn is_of_another_cluster(status: &Status) -> bool {
    connect_failure(status).is_some_and(ConnectFailure::is_of_another_cluster)
}

fn connect_failure(status: &Status) -> Option<&ConnectFailure> {
    sources(status).find_map(|error| error.downcast_ref::<ConnectFailure>())
}

/// With TLS 1.3 the client learns only after its handshake that the server refused its certificate. h2 keeps only kind and
/// text of an I/O error, so the text is all there is.
fn certificate_alert(status: &Status) -> Option<String> {
    sources(status)
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .filter(|error| error.kind() == std::io::ErrorKind::InvalidData)
        .find_map(|error| {
            error
                .to_string()
                .split_once("fatal alert: ")
                .map(|(_, alert)| alert.to_string())
        })
}

fn sources(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next = status.source();
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: [Class; 8] = [
        Class::Invalid,
        Class::NotFound,
        Class::Conflict,
        Class::Denied,
        Class::Exhausted,
        Class::Unavailable,
        Class::Timeout,
        Class::Internal,
    ];

    #[test]
    fn every_problem_round_trips() {
        for class in CLASSES {
            let problem = Problem::new(class, "service shop/wéb", "reason\nin two lines").remedy("do: 100 %");
            let status = from_problem(&problem);
            assert_eq!(to_problem(&status, "server x"), problem);
            assert_eq!(super::class(status.code()), class, "{class:?}");
        }
    }

    #[test]
    fn a_huge_problem_is_cut_instead_of_breaking_the_connection() {
        let problem = Problem::new(Class::Invalid, "x", "ä".repeat(100_000));
        let received = to_problem(&from_problem(&problem), "server x");
        assert!(received.reason.ends_with('…') && received.reason.len() < TEXT_BYTES_MAX + 8);
    }

    #[test]
    fn a_foreign_status_names_whom_was_asked() {
        let status = Status::new(
            Code::OutOfRange,
            "Error, decoded message length too large: found 20971520 bytes, the limit is: 16777216 bytes",
        );
        let problem = to_problem(&status, "server a:1");
        assert_eq!(
            problem.reason,
            "the message of 20 MiB is larger than the limit of 16 MiB"
        );
        assert_eq!(problem.class, Class::Exhausted);
        let problem = to_problem(&Status::new(Code::Unavailable, "transport error"), "server a:1");
        assert_eq!(
            (problem.class, problem.object.as_str()),
            (Class::Unavailable, "server a:1")
        );
        assert!(!problem.remedy.is_empty());
    }

    #[test]
    fn the_leader_is_named_in_a_trailer() {
        assert_eq!(
            leader(&not_leader(Some("10.0.0.1:7600"))).as_deref(),
            Some("10.0.0.1:7600")
        );
        assert_eq!(leader(&not_leader(None)), None);
    }
}
