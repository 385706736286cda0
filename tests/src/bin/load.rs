//! Asks a web server for a page, over and over, until standard input ends, and prints what came of it as one line of JSON.
//!
//! `load keep|fresh HOST:PORT PATH CONNECTIONS PAUSE_MS`
//!
//! With `fresh` each request has a connection of its own. With `keep` connections are kept for as long as the server keeps them,
//! and a request on a kept connection that is closed before the first byte of an answer is asked once more on a new one, as
//! RFC 9112 (9.3.1) lets every client do and browsers, curl and Go's client do; such requests are counted apart.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gantry_tests::{Stopwatch, machine_ms};
use nix::errno::Errno;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};
use nix::sys::time::{TimeVal, TimeValLike};
use serde_json::json;

/// No request takes longer, the slow page included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Failures that are described.
const DESCRIBED_MAX: usize = 5;

/// What to ask.
struct Plan {
    keep: bool,
    target: String,
    path: String,
    pause: Duration,
    since: Stopwatch,
    over: AtomicBool,
}

/// What came of one connection's requests.
#[derive(Default)]
struct Tally {
    requests: u64,
    failed: u64,
    asked_again: u64,
    slowest_ms: u128,
    last_failed_at_ms: u64,
    failures: Vec<String>,
}

/// How a request failed.
struct Failure {
    reason: String,
    /// Not a byte of an answer came.
    unanswered: bool,
}

type Connection = BufReader<TcpStream>;

fn main() {
    let mut words = std::env::args().skip(1);
    let mut word = || words.next().unwrap_or_default();
    let (mode, target, path) = (word(), word(), word());
    let number = |text: String| {
        text.parse::<u64>()
            .expect("usage: keep|fresh HOST:PORT PATH CONNECTIONS PAUSE_MS")
    };
    let (connections, pause) = (number(word()), number(word()));
    let plan = Arc::new(Plan {
        keep: mode == "keep",
        target,
        path,
        pause: Duration::from_millis(pause),
        since: Stopwatch::start(),
        over: AtomicBool::new(false),
    });
    let client = |_| {
        let plan = Arc::clone(&plan);
        std::thread::spawn(move || plan.run())
    };
    let clients: Vec<_> = (0..connections).map(client).collect();
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    plan.over.store(true, Ordering::Relaxed);
    let mut sum = Tally::default();
    for client in clients {
        sum.add(client.join().expect("a client does not panic"));
    }
    println!(
        "{}",
        json!({"requests": sum.requests, "failed": sum.failed, "asked_again": sum.asked_again,
            "slowest_ms": sum.slowest_ms as u64, "last_failed_at_ms": sum.last_failed_at_ms, "failures": sum.failures})
    );
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.asked_again += other.asked_again;
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
        self.last_failed_at_ms = self.last_failed_at_ms.max(other.last_failed_at_ms);
        self.failures.extend(other.failures);
        self.failures.truncate(DESCRIBED_MAX);
    }
}

impl Plan {
    fn run(&self) -> Tally {
        let (mut tally, mut kept) = (Tally::default(), None);
        while !self.over.load(Ordering::Relaxed) {
            let (watch, began_at_ms) = (Stopwatch::start(), machine_ms());
            let mut done = self.request(&mut kept);
            if let Err(failure) = &done
                && failure.unanswered
                && kept.take().is_some()
            {
                tally.asked_again += 1;
                done = self.request(&mut kept);
            }
            tally.requests += 1;
            tally.slowest_ms = tally.slowest_ms.max(watch.ms());
            if let Err(failure) = done {
                kept = None;
                tally.failed += 1;
                tally.last_failed_at_ms = began_at_ms;
                let (at, took) = (self.since.ms(), watch.ms());
                tally
                    .failures
                    .push(format!("at {at} ms, after {took} ms: {}", failure.reason));
            }
            std::thread::sleep(self.pause);
        }
        tally.failures.truncate(DESCRIBED_MAX);
        tally
    }

    /// One request; the connection stays in `kept` when it failed there, or may be used again.
    fn request(&self, kept: &mut Option<Connection>) -> Result<(), Failure> {
        let fresh = |error: io::Error| Failure {
            reason: format!("connecting: {error}"),
            unanswered: true,
        };
        if let Some(connection) = kept {
            let keeps = self.ask(connection)?;
            if !keeps {
                *kept = None;
            }
            return Ok(());
        }
        let mut connection = self.connect().map_err(fresh)?;
        if self.ask(&mut connection)? && self.keep {
            *kept = Some(connection);
        }
        Ok(())
    }

    fn connect(&self) -> io::Result<Connection> {
        let addresses: Vec<SocketAddr> = self.target.to_socket_addrs()?.collect();
        let address = addresses.first().ok_or_else(|| io::Error::other("no address"))?;
        let stream = connect(*address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    }

    /// Asks, reads the whole answer, and says whether the server keeps the connection.
    fn ask(&self, connection: &mut Connection) -> Result<bool, Failure> {
        let choice = if self.keep { "keep-alive" } else { "close" };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: {choice}\r\n\r\n",
            self.path, self.target
        );
        let mut first = String::new();
        let begun = connection
            .get_mut()
            .write_all(request.as_bytes())
            .and_then(|()| connection.read_line(&mut first));
        let failure = |reason: String, unanswered| Failure { reason, unanswered };
        match begun {
            Ok(0) => return Err(failure("closed without an answer".into(), true)),
            Ok(_) => {}
            Err(error) => return Err(failure(format!("asking: {error}"), first.is_empty())),
        }
        if !first.starts_with("HTTP/1.1 200") {
            return Err(failure(format!("answer {first:?}"), false));
        }
        let rest = read_rest(connection);
        rest.map_err(|error| failure(format!("in the answer: {error}"), false))
    }
}

/// A failure names the port that the connection had here, by which it is found in connection tables.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let SocketAddr::V4(address) = address else {
        return TcpStream::connect_timeout(&address, PATIENCE);
    };
    let socket = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Linux bounds connecting by the limit for sending (socket(7)).
    socket::setsockopt(
        &socket,
        SendTimeout,
        &TimeVal::seconds(PATIENCE.as_secs().cast_signed()),
    )?;
    match socket::connect(socket.as_raw_fd(), &SockaddrIn::from(address)) {
        Ok(()) => Ok(TcpStream::from(socket)),
        Err(errno) => {
            let own: Result<SockaddrIn, _> = socket::getsockname(socket.as_raw_fd());
            let port = own.map(|own| own.port()).unwrap_or_default();
            let error = match errno {
                Errno::EINPROGRESS => io::Error::new(io::ErrorKind::TimedOut, "no answer"),
                errno => io::Error::from(errno),
            };
            Err(io::Error::new(error.kind(), format!("from port {port}: {error}")))
        }
    }
}

/// Headers and body; whether the server keeps the connection.
fn read_rest(connection: &mut Connection) -> io::Result<bool> {
    let (mut length, mut keeps) = (0, true);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(": ") {
            None => break,
            Some(("content-length", value)) => length = value.parse().map_err(io::Error::other)?,
            Some(("connection", value)) => keeps = value != "close",
            Some(_) => {}
        }
    }
    let read = io::copy(&mut connection.take(length), &mut io::sink())?;
    if read < length {
        return Err(io::Error::other(format!("{read} of {length} bytes")));
    }
    Ok(keeps)
}
