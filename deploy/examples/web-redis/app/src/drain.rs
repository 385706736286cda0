//! Ending without dropping a request.
//!
//! After SIGTERM the server goes on as before for a while, but asks every client to use another connection next time. Then it
//! takes no new connections, lets the ones it has end by themselves, and closes what is idle at last.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;

/// New connections are still accepted this long after SIGTERM: balancers need a moment to look elsewhere.
pub const ACCEPT_FOR: Duration = Duration::from_secs(1);
/// Clients with kept connections have this long after that to send their next request and be told to close.
pub const LINGER_FOR: Duration = Duration::from_secs(4);
/// Requests that still run then have this long to end. All together stay below the usual grace period of 10 s.
pub const FINISH_FOR: Duration = Duration::from_secs(4);

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not at all.
    Serving,
    /// Every answer closes its connection.
    Draining,
    /// Idle connections close at once.
    Closing,
}

/// The stage, and how many connections are open.
#[derive(Clone)]
pub struct Drain {
    stage: watch::Sender<Stage>,
    open: Rc<Cell<usize>>,
    closed: watch::Sender<()>,
}

/// An open connection; dropped with it.
pub struct Connected {
    drain: Drain,
}

impl Drain {
    pub fn new() -> Self {
        Self {
            stage: watch::Sender::new(Stage::Serving),
            open: Rc::default(),
            closed: watch::Sender::new(()),
        }
    }

    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    pub fn enter(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Waits until idle connections are to be closed.
    pub async fn closing(&self) {
        let mut stage = self.stage.subscribe();
        // The sender is part of self, so waiting can only end by the stage.
        let _ = stage.wait_for(|stage| *stage == Stage::Closing).await;
    }

    /// Counts a connection.
    pub fn connected(&self) -> Connected {
        self.open.set(self.open.get() + 1);
        Connected { drain: self.clone() }
    }

    /// Waits until no connection is open.
    pub async fn all_closed(&self) {
        let mut closed = self.closed.subscribe();
        while self.open.get() > 0 && closed.changed().await.is_ok() {}
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.drain.open.set(self.drain.open.get() - 1);
        self.drain.closed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn the_last_connection_ends_the_wait() {
        let drain = Drain::new();
        drain.all_closed().await;
        let (first, second) = (drain.connected(), drain.connected());
        let (waiting, ()) = tokio::join!(drain.all_closed(), async {
            drop(first);
            tokio::task::yield_now().await;
            assert_eq!(drain.open.get(), 1);
            drop(second);
        });
        let () = waiting;
        drain.enter(Stage::Closing);
        drain.closing().await;
    }
}
