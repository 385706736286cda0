//! Servers in temporary folders, and the network between them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use gantry_model::object::TagRecord;
use gantry_model::{ServerId, Timestamp};
use gantry_raft::{Method, Options, Peer, ProposeError, Proposed, Replicated, Transport, TransportError};
use gantry_state::{Key, NewEvent, Object, Op, State, Transaction};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Longer than anything here may take, and short enough to fail by itself.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Who is up, and who cannot reach whom.
#[derive(Default)]
pub struct Net {
    servers: Mutex<BTreeMap<ServerId, Replicated>>,
    cut: Mutex<BTreeSet<(ServerId, ServerId)>>,
    answers_lost: Mutex<Option<Method>>,
}

impl Net {
    fn is_cut(&self, from: ServerId, to: ServerId) -> bool {
        self.cut.lock().unwrap().contains(&(from, to))
    }

    fn server(&self, from: ServerId, to: ServerId) -> Result<Replicated, TransportError> {
        let refused = || TransportError::NotSent(format!("no way from {from} to {to}"));
        if self.is_cut(from, to) {
            return Err(refused());
        }
        self.servers.lock().unwrap().get(&to).cloned().ok_or_else(refused)
    }

    /// Cuts both ways between the two groups.
    pub fn part(&self, left: &[ServerId], right: &[ServerId]) {
        let mut cut = self.cut.lock().unwrap();
        for one in left {
            for other in right {
                cut.insert((*one, *other));
                cut.insert((*other, *one));
            }
        }
    }

    pub fn heal(&self) {
        self.cut.lock().unwrap().clear();
    }

    /// From now on requests of this kind arrive, and their answers get lost.
    pub fn lose_answers(&self, method: Option<Method>) {
        *self.answers_lost.lock().unwrap() = method;
    }
}

struct Wire {
    net: Arc<Net>,
    from: ServerId,
}

impl Transport for Wire {
    fn call<'a>(
        &'a self,
        peer: &'a Peer,
        method: Method,
        payload: Vec<u8>,
        _timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, TransportError>> {
        Box::pin(async move {
            let server = self.net.server(self.from, peer.id)?;
            // On a task of its own, as a server behind a real network would go on when the caller gives up.
            let handled = tokio::spawn(async move { server.handle(method, payload).await }).await;
            let answer = handled
                .expect("handling does not panic")
                .map_err(|error| TransportError::NotSent(error.to_string()))?;
            let lost = *self.net.answers_lost.lock().unwrap() == Some(method);
            if lost || self.net.is_cut(peer.id, self.from) {
                return Err(TransportError::Lost("the answer was lost".to_string()));
            }
            Ok(answer)
        })
    }

    fn send_snapshot<'a>(
        &'a self,
        peer: &'a Peer,
        frames: mpsc::Receiver<Vec<u8>>,
    ) -> BoxFuture<'a, Result<Vec<u8>, TransportError>> {
        Box::pin(async move {
            let server = self.net.server(self.from, peer.id)?;
            let stream = futures::stream::unfold(frames, |mut frames| async {
                frames.recv().await.map(|frame| (frame, frames))
            });
            let handled = server.handle_snapshot(Box::pin(stream)).await;
            handled.map_err(|error| TransportError::NotSent(error.to_string()))
        })
    }
}

pub struct Cluster {
    pub net: Arc<Net>,
    dirs: BTreeMap<ServerId, TempDir>,
    adjust: fn(&mut Options),
}

pub fn id(number: u64) -> ServerId {
    ServerId(number)
}

impl Cluster {
    /// `count` servers, numbered from 1, all voters.
    pub async fn of(count: u64, adjust: fn(&mut Options)) -> Self {
        let mut cluster = Self {
            net: Arc::default(),
            dirs: BTreeMap::new(),
            adjust,
        };
        let first = cluster.start(id(1)).await;
        first.bootstrap().await.unwrap();
        for number in 2..=count {
            cluster.start(id(number)).await;
            first.add_server(id(number), format!("server-{number}")).await.unwrap();
            first.promote(id(number)).await.unwrap();
        }
        cluster.leader().await;
        cluster
    }

    /// Opens a server on its folder, new or not.
    pub async fn start(&mut self, id: ServerId) -> Replicated {
        let dir = self.dirs.entry(id).or_insert_with(|| TempDir::new().unwrap());
        let mut options = Options::new(id, format!("server-{}", id.0), dir.path());
        (self.adjust)(&mut options);
        let wire = Wire {
            net: self.net.clone(),
            from: id,
        };
        let server = Replicated::open(options, Arc::new(wire)).await.unwrap();
        self.net.servers.lock().unwrap().insert(id, server.clone());
        server
    }

    pub async fn stop(&self, id: ServerId) {
        let server = self.server(id);
        server.shutdown().await;
        self.net.servers.lock().unwrap().remove(&id);
    }

    pub fn server(&self, id: ServerId) -> Replicated {
        self.net.servers.lock().unwrap()[&id].clone()
    }

    pub fn servers(&self) -> Vec<Replicated> {
        self.net.servers.lock().unwrap().values().cloned().collect()
    }

    pub fn ids(&self) -> Vec<ServerId> {
        self.net.servers.lock().unwrap().keys().copied().collect()
    }

    pub fn others(&self, than: ServerId) -> Vec<ServerId> {
        self.ids().into_iter().filter(|other| *other != than).collect()
    }

    pub fn dir(&self, id: ServerId) -> &std::path::Path {
        self.dirs[&id].path()
    }

    /// Waits for the one server that may act as leader.
    pub async fn leader(&self) -> ServerId {
        self.leader_among(&self.ids()).await
    }

    pub async fn leader_among(&self, ids: &[ServerId]) -> ServerId {
        let look = || {
            ids.iter()
                .copied()
                .find(|id| self.server(*id).leadership().borrow().is_leader)
        };
        eventually("a leader", || async { look() }).await
    }

    /// Waits for a leader of a later term: what a deposed one says of itself may be a moment old.
    pub async fn leader_after(&self, term: u64) -> ServerId {
        let look = || {
            self.ids().into_iter().find(|id| {
                let seen = self.server(*id).leadership().borrow().clone();
                seen.is_leader && seen.term > term
            })
        };
        eventually("a leader of a later term", || async { look() }).await
    }

    /// Waits until all servers have applied the same entries, and checks that they hold the same state.
    pub async fn converged(&self) -> State {
        let servers = self.servers();
        eventually("all servers at one revision", || async {
            let states: Vec<State> = servers.iter().map(Replicated::state).collect();
            let newest = states.iter().map(State::revision).max()?;
            let last = servers.iter().map(|server| server.members().last_index).max()?;
            (newest == last && states.iter().all(|state| state.revision() == newest)).then_some(())
        })
        .await;
        let states: Vec<State> = servers.iter().map(Replicated::state).collect();
        for state in &states {
            assert_eq!(state.fingerprint(), states[0].fingerprint());
            assert!(keys(state) == keys(&states[0]));
        }
        states.into_iter().next().unwrap()
    }

    pub async fn stop_all(self) {
        for id in self.ids() {
            self.stop(id).await;
        }
    }
}

/// Polls until there is something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let polling = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polling)
        .await
        .unwrap_or_else(|_| panic!("no {what} within {PATIENCE:?}"))
}

/// Writes one object named by a number.
pub fn put(number: u64) -> Transaction {
    let record = TagRecord {
        reference: tag(number),
        digest: format!("sha256:{number:064}"),
        updated_at: Timestamp(number),
    };
    let event = NewEvent::new(tag(number), "tagged", "");
    Transaction::new(
        Timestamp(number),
        vec![Op::Put(Box::new(Object::Tag(record))), Op::Record(event)],
    )
}

pub fn tag(number: u64) -> String {
    format!("registry/image:{number}")
}

pub fn key(number: u64) -> Key {
    Key::Tag(tag(number))
}

pub fn keys(state: &State) -> Vec<(String, u64)> {
    state
        .tags()
        .map(|tag| (tag.reference.clone(), state.modified(&Key::Tag(tag.reference.clone()))))
        .collect()
}

pub async fn put_all(server: &Replicated, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        committed(server.propose(put(number)).await);
    }
}

pub fn committed(proposed: Result<Proposed, ProposeError>) -> u64 {
    match proposed.expect("it was proposed").outcome {
        gantry_state::Outcome::Committed { revision } => revision,
        refused @ gantry_state::Outcome::Refused(_) => panic!("{refused:?}"),
    }
}
