//! The applied state as this server's readers see it, and the ordered changes that led to it.
//!
//! **Invariant:** a [`ChangeFeed`] starts exactly at the state it was handed out with and misses nothing until it says so.
//! Deliberately not here: filtering; a reader looks at every change, which costs what changed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use gantry_state::{Change, State};
use tokio::sync::{mpsc, watch};

/// Updates that wait for one reader before it is cut off; each holds on to what its state does not share with the next.
pub const FEED_UPDATES_MAX: usize = 1024;

/// What happened to the state.
#[derive(Debug, Clone)]
pub enum Update {
    /// These changes led to this state. They may be none, when only events were recorded.
    Changes {
        /// The state after them.
        state: State,
        /// In order.
        changes: Arc<[Change]>,
    },
    /// The state was replaced by a snapshot: start anew from it.
    Reset {
        /// The state now.
        state: State,
    },
}

/// A feed that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// The reader fell more than [`FEED_UPDATES_MAX`] updates behind: start anew with a new feed.
    #[error("the reader fell too far behind the changes")]
    Lagged,
    /// The server stopped.
    #[error("the server stopped")]
    Closed,
}

/// Ordered updates since the state it was handed out with.
#[derive(Debug)]
pub struct ChangeFeed {
    updates: mpsc::Receiver<Update>,
    lagged: Arc<AtomicBool>,
}

impl ChangeFeed {
    /// The next update. Cancel-safe.
    ///
    /// # Errors
    /// When there will be none: see [`FeedError`].
    pub async fn next(&mut self) -> Result<Update, FeedError> {
        match self.updates.recv().await {
            Some(update) => Ok(update),
            None if self.lagged.load(Ordering::Acquire) => Err(FeedError::Lagged),
            None => Err(FeedError::Closed),
        }
    }
}

#[derive(Debug)]
struct Subscriber {
    updates: mpsc::Sender<Update>,
    lagged: Arc<AtomicBool>,
}

/// The published state; written by the state machine alone.
#[derive(Debug)]
pub struct Feed {
    current: ArcSwap<State>,
    revision: watch::Sender<u64>,
    /// `None` once closed. Also orders publishing against subscribing.
    subscribers: Mutex<Option<Vec<Subscriber>>>,
}

impl Feed {
    pub fn new(state: State) -> Self {
        Self {
            revision: watch::Sender::new(state.revision()),
            current: ArcSwap::from_pointee(state),
            subscribers: Mutex::new(Some(Vec::new())),
        }
    }

    pub fn state(&self) -> State {
        State::clone(&self.current.load())
    }

    /// Rises with every entry applied; for waiting.
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub fn watch_from(&self) -> (State, ChangeFeed) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, updates) = mpsc::channel(FEED_UPDATES_MAX);
        let lagged = Arc::new(AtomicBool::new(false));
        if let Some(subscribers) = subscribers.as_mut() {
            subscribers.push(Subscriber {
                updates: sender,
                lagged: lagged.clone(),
            });
        }
        (self.state(), ChangeFeed { updates, lagged })
    }

    pub fn publish(&self, update: &Update) {
        let (Update::Changes { state, .. } | Update::Reset { state }) = update;
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        self.current.store(Arc::new(state.clone()));
        if let Some(subscribers) = subscribers.as_mut() {
            subscribers.retain(|subscriber| subscriber.offer(update));
        }
        drop(subscribers);
        self.revision.send_replace(state.revision());
    }

    /// Ends every feed.
    pub fn close(&self) {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Subscriber {
    /// Whether it is still there and keeping up.
    fn offer(&self, update: &Update) -> bool {
        match self.updates.try_send(update.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lagged.store(true, Ordering::Release);
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_is_told_that_it_lagged_and_a_new_feed_starts_at_the_present() {
        let feed = Feed::new(State::default());
        let (_, mut slow) = feed.watch_from();
        let mut state = State::default();
        for index in 1..=FEED_UPDATES_MAX as u64 + 1 {
            state.skip(index);
            let state = state.clone();
            feed.publish(&Update::Changes {
                state,
                changes: Arc::new([]),
            });
        }
        for _ in 0..FEED_UPDATES_MAX {
            assert!(slow.next().await.is_ok());
        }
        assert_eq!(slow.next().await.unwrap_err(), FeedError::Lagged);
        let (state, mut fresh) = feed.watch_from();
        assert_eq!(state.revision(), FEED_UPDATES_MAX as u64 + 1);
        feed.close();
        assert_eq!(fresh.next().await.unwrap_err(), FeedError::Closed);
    }
}
