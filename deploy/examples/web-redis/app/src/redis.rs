//! The two commands of Redis that the page needs, over a few kept connections (RESP2, the protocol of redis.io).
//!
//! **Invariant:** a connection goes back to the pool only after a whole, well-formed reply.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Redis' port.
const PORT: u16 = 6379;
/// One attempt, connecting included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// A visitor waits while Redis is restarted on another node rather than being turned away.
const ATTEMPTS: u32 = 20;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(250);
/// Connections kept; a burst opens more and drops them.
const IDLE_MAX: usize = 32;
/// Longest reply line taken; the commands used here answer in less than 64 bytes.
const LINE_BYTES_MAX: u64 = 4096;

type Connection = BufReader<TcpStream>;

/// A client of one Redis server, found by name anew for every connection.
pub struct Redis {
    host: String,
    idle: RefCell<Vec<Connection>>,
}

impl Redis {
    /// Does not connect yet.
    pub fn new(host: String) -> Self {
        Self {
            host,
            idle: RefCell::default(),
        }
    }

    /// Adds one to a counter and returns it; tries again for a while when Redis is away. An attempt that broke off may have
    /// counted, which a visit counter can bear.
    pub async fn increment(&self, key: &str) -> io::Result<i64> {
        let command = format!("*2\r\n$4\r\nINCR\r\n${}\r\n{key}\r\n", key.len());
        let mut attempt = 1;
        loop {
            match self.call(command.as_bytes()).await {
                Ok(reply) => {
                    return reply
                        .strip_prefix(':')
                        .and_then(|count| count.parse().ok())
                        .ok_or_else(|| odd(&reply));
                }
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(_) => {
                    attempt += 1;
                    // Connections kept from before the failure lead nowhere.
                    self.idle.borrow_mut().clear();
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Whether Redis answers.
    pub async fn ping(&self) -> io::Result<()> {
        let reply = self.call(b"*1\r\n$4\r\nPING\r\n").await?;
        if reply == "+PONG" { Ok(()) } else { Err(odd(&reply)) }
    }

    async fn call(&self, command: &[u8]) -> io::Result<String> {
        let attempt = async {
            let kept = self.idle.borrow_mut().pop();
            let mut connection = match kept {
                Some(connection) => connection,
                None => {
                    let stream = TcpStream::connect((self.host.as_str(), PORT)).await?;
                    stream.set_nodelay(true)?;
                    BufReader::new(stream)
                }
            };
            connection.write_all(command).await?;
            let reply = read_line(&mut connection).await?;
            let mut idle = self.idle.borrow_mut();
            if idle.len() < IDLE_MAX && connection.buffer().is_empty() {
                idle.push(connection);
            }
            Ok::<String, io::Error>(reply)
        };
        let reply = timeout(ATTEMPT_TIMEOUT, attempt).await.map_err(|_| timed_out())??;
        // `-LOADING` right after Redis started, `-READONLY`, `-ERR`: not the answer, so not a success.
        if reply.starts_with('-') {
            Err(odd(&reply))
        } else {
            Ok(reply)
        }
    }
}

async fn read_line(connection: &mut Connection) -> io::Result<String> {
    use tokio::io::AsyncReadExt;
    let mut line = String::new();
    connection.take(LINE_BYTES_MAX).read_line(&mut line).await?;
    match line.strip_suffix("\r\n") {
        Some(reply) => Ok(reply.to_string()),
        None => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "redis closed the connection",
        )),
    }
}

fn odd(reply: &str) -> io::Error {
    io::Error::other(format!("redis answered '{reply}'"))
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "redis did not answer in time")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reply_to(answer: &'static [u8]) -> io::Result<String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = async {
            let (mut stream, _) = listener.accept().await?;
            stream.write_all(answer).await
        };
        let client = async {
            let mut connection = BufReader::new(TcpStream::connect(address).await?);
            read_line(&mut connection).await
        };
        let (served, reply) = tokio::join!(server, client);
        served?;
        reply
    }

    #[tokio::test(flavor = "current_thread")]
    async fn replies_are_whole_lines() {
        assert_eq!(reply_to(b":42\r\n").await.expect("a reply"), ":42");
        assert!(reply_to(b":4").await.is_err(), "cut off");
        assert!(reply_to(b"").await.is_err(), "closed");
    }
}
