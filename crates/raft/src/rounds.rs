//! Confirmations by a majority, shared by all who wait for one.
//!
//! **Invariant:** who waits is answered by a round that began after it asked.

use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

/// Who waits for the next round, and whether one is under way.
#[derive(Debug)]
pub struct Rounds<T> {
    inner: Mutex<Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    next: Vec<oneshot::Sender<T>>,
    running: bool,
}

impl<T> Default for Rounds<T> {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Waiting {
                next: Vec::new(),
                running: false,
            }),
        }
    }
}

impl<T: Clone> Rounds<T> {
    /// Waits for the next round. Returns where its answer arrives, and whether the caller has to see that rounds are run.
    pub fn join(&self) -> (oneshot::Receiver<T>, bool) {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.next.push(sender);
        (receiver, !std::mem::replace(&mut inner.running, true))
    }

    /// Runs rounds for as long as somebody waits.
    pub async fn run<F: Future<Output = T>>(&self, round: impl Fn() -> F) {
        while let Some(waiting) = self.take() {
            let answer = round().await;
            for waiter in waiting {
                // Who does not wait any more has given up.
                let _ = waiter.send(answer.clone());
            }
        }
    }

    fn take(&self) -> Option<Vec<oneshot::Sender<T>>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.next.is_empty() {
            inner.running = false;
            return None;
        }
        Some(std::mem::take(&mut inner.next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn those_who_ask_during_a_round_share_the_next() {
        let rounds = Rounds::default();
        let count = AtomicU32::new(0);
        let (first, runs) = rounds.join();
        assert!(runs);
        let late = Mutex::new(Vec::new());
        let round = || async {
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            if number == 1 {
                let (one, another) = (rounds.join(), rounds.join());
                assert!(!one.1 && !another.1, "a round is under way");
                late.lock().expect("no reader panics").extend([one.0, another.0]);
            }
            number
        };
        rounds.run(round).await;
        assert_eq!(first.await, Ok(1));
        let late = std::mem::take(&mut *late.lock().expect("no reader panics"));
        for waiter in late {
            assert_eq!(waiter.await, Ok(2));
        }
        assert_eq!(count.load(Ordering::Relaxed), 2);
        assert!(rounds.join().1, "whoever comes next runs rounds again");
    }
}
