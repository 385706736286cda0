//! Calls to whichever server answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use gantry_env::{Env, System};
use gantry_model::{Class, Problem};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::limits::CALL_TIMEOUT;
use crate::{Channels, Credentials, Remote, status};

/// Wait before all servers are asked again, within which an election usually ends.
const ROUND_PAUSE: Duration = Duration::from_millis(250);

/// Rounds over all servers for a call that may be repeated: with the pauses about as long as two elections.
const ROUNDS_MAX: usize = 12;

/// No round starts later than this: a server that itself looks for a leader answers late, and a person waits for this.
const ROUNDS_MS_MAX: u64 = 5_000;

/// Whether a call may reach the cluster twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It has the same effect done twice: another server is asked whenever one does not answer.
    Harmless,
    /// Another server is asked only when the call surely was not sent.
    OnlyUnsent,
}

/// The servers of the cluster as their clients see them.
#[derive(Clone)]
pub struct ServerPool {
    inner: Arc<Inner>,
}

struct Inner {
    channels: Channels,
    addresses: ArcSwap<Vec<String>>,
    /// Index of the server that answered last.
    preferred: AtomicUsize,
}

impl ServerPool {
    /// Servers at `host:port` each.
    #[must_use]
    pub fn new(addresses: Vec<String>, credentials: Credentials) -> Self {
        Self::with_channels(addresses, Channels::new(credentials))
    }

    /// As [`ServerPool::new`], sharing the channels of the process.
    #[must_use]
    pub fn with_channels(addresses: Vec<String>, channels: Channels) -> Self {
        Self {
            inner: Arc::new(Inner {
                channels,
                addresses: ArcSwap::from_pointee(addresses),
                preferred: AtomicUsize::new(0),
            }),
        }
    }

    /// The addresses in use.
    #[must_use]
    pub fn addresses(&self) -> Arc<Vec<String>> {
        self.inner.addresses.load_full()
    }

    /// Uses these from now on, and prefers the first.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        self.inner.addresses.store(Arc::new(addresses));
        self.inner.preferred.store(0, Ordering::Relaxed);
    }

    /// The channel to one address of the pool.
    #[must_use]
    pub fn channel(&self, address: &str) -> Channel {
        self.inner.channels.channel(address, Remote::AnyServer)
    }

    /// Calls one server after another until one answers, for at most [`CALL_TIMEOUT`] each. What a server says of the
    /// request itself is an answer; being away, or without a leader, is not.
    ///
    /// # Errors
    /// The problem that the answering server named, or that of the last one asked.
    pub async fn call<T, F, Fut>(&self, repeat: Repeat, call: F) -> Result<T, Problem>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut last = self.no_address();
        let started = System.monotonic();
        for round in 0..ROUNDS_MAX {
            if System.monotonic().0.saturating_sub(started.0) > ROUNDS_MS_MAX {
                break;
            }
            if round > 0 {
                tokio::time::sleep(ROUND_PAUSE).await;
            }
            let mut worth_another_round = false;
            for (index, address) in self.in_order() {
                match tokio::time::timeout(CALL_TIMEOUT, call(self.channel(&address))).await {
                    Ok(Ok(response)) => {
                        self.inner.preferred.store(index, Ordering::Relaxed);
                        return Ok(response.into_inner());
                    }
                    Ok(Err(status)) => {
                        let unsent = status::surely_not_sent(&status);
                        last = status::to_problem(&status, &Remote::AnyServer.object(&address));
                        if last.class != Class::Unavailable || (repeat == Repeat::OnlyUnsent && !unsent) {
                            return Err(last);
                        }
                        worth_another_round |= !unsent;
                    }
                    Err(_) if repeat == Repeat::OnlyUnsent => return Err(timeout(&address)),
                    Err(_) => last = timeout(&address),
                }
            }
            // Servers that cannot even be reached will not be there a moment later either; one without a leader will.
            if !worth_another_round {
                break;
            }
        }
        Err(last)
    }

    /// The channel to a server that can be reached now, for calls whose input can be sent only once.
    ///
    /// # Errors
    /// When none can be reached: the last one's problem.
    pub async fn reach(&self) -> Result<Channel, Problem> {
        let mut last = self.no_address();
        for (index, address) in self.in_order() {
            match self.inner.channels.probe(&address, Remote::AnyServer).await {
                Ok(()) => {
                    self.inner.preferred.store(index, Ordering::Relaxed);
                    return Ok(self.channel(&address));
                }
                Err(failure) => last = failure.to_problem(&Remote::AnyServer.object(&address)),
            }
        }
        Err(last)
    }

    /// All addresses, beginning with the one that answered last.
    fn in_order(&self) -> Vec<(usize, String)> {
        let addresses = self.addresses();
        let first = self.inner.preferred.load(Ordering::Relaxed);
        (0..addresses.len())
            .map(|offset| (first + offset) % addresses.len())
            .map(|index| (index, addresses[index].clone()))
            .collect()
    }

    fn no_address(&self) -> Problem {
        Problem::new(Class::Invalid, "cluster", "no server address is known").remedy("name one with --server HOST:PORT")
    }
}

fn timeout(address: &str) -> Problem {
    let reason = format!(
        "no answer within {} s; whether it was done is not known",
        CALL_TIMEOUT.as_secs()
    );
    Problem::new(Class::Timeout, Remote::AnyServer.object(address), reason)
}
