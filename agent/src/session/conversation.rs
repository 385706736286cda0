//! One open session.

use std::sync::Arc;

use gantry_api::v1::session_client::SessionClient;
use gantry_api::v1::{
    self, AgentMessage, Assignments, ServerMessage, Status as StatusItem, Statuses, Welcome, agent_message,
    server_message,
};
use gantry_api::{decode, encode, kind};
use gantry_model::spec::Usage;
use gantry_model::{Class, DurationMs, Problem, ReplicaId, Timestamp};
use gantry_rpc::{Remote, WithLimits, status};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{End, Ports, Session};
use crate::board::Told;
use crate::core::{Ack, Incoming};
use crate::limits::{COALESCE, OPEN_TIMEOUT, OUTGOING, STATUSES_PER_MESSAGE};
use crate::shared::Shared;
use gantry_lifecycle::Update;

/// Shortest time between heartbeats, whatever the leader asks for.
const HEARTBEAT_MIN: DurationMs = DurationMs(50);

/// See the module.
pub(super) struct Conversation {
    shared: Arc<Shared>,
    ports: Ports,
    shutdown: CancellationToken,
    whom: String,
    outgoing: mpsc::Sender<AgentMessage>,
    incoming: Streaming<ServerMessage>,
    epoch: u64,
    told: Ack,
    flush_at: Option<Timestamp>,
    beat_at: Timestamp,
    heartbeat: DurationMs,
}

enum Wake {
    Heard(Result<Option<ServerMessage>, Status>, mpsc::OwnedPermit<Incoming>),
    Beat,
    News,
    Flush,
    Acks,
    Inventory,
    Deaf,
    Shutdown,
}

impl Conversation {
    /// Says hello and waits for the welcome.
    pub(super) async fn open(session: &Session, address: &str) -> Result<(Self, Welcome), Status> {
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let full = |_| Status::internal("a new channel has room");
        outgoing.try_send(session.hello()).map_err(full)?;
        let mut client = SessionClient::new(session.servers.channel(address)).with_limits();
        let opening = async {
            let mut incoming = client.open(ReceiverStream::new(messages)).await?.into_inner();
            let first = incoming.message().await?.and_then(|first| first.message);
            match first {
                Some(server_message::Message::Welcome(welcome)) => Ok((incoming, welcome)),
                Some(server_message::Message::Assignments(_)) | None => {
                    Err(Status::unavailable("the session ended before its welcome"))
                }
            }
        };
        let opened = tokio::time::timeout(OPEN_TIMEOUT.to_std(), opening).await;
        let (incoming, welcome) = opened.unwrap_or_else(|_| Err(Status::unavailable("no welcome in time")))?;
        let conversation = Self {
            shared: Arc::clone(&session.shared),
            ports: session.ports.clone(),
            shutdown: session.shutdown.clone(),
            whom: Remote::AnyServer.object(address),
            outgoing,
            incoming,
            epoch: 0,
            told: *session.ports.acks.borrow(),
            flush_at: None,
            beat_at: session.shared.clock.now(),
            heartbeat: DurationMs(welcome.heartbeat_ms).max(HEARTBEAT_MIN),
        };
        Ok((conversation, welcome))
    }

    /// Holds the session until it ends.
    pub(super) async fn hold(&mut self, epoch: u64, welcome: &Welcome) -> End {
        self.epoch = epoch;
        let began = Incoming::Began {
            epoch,
            lease: DurationMs(welcome.lease_ms),
        };
        if self.ports.incoming.send(began).await.is_err() {
            return End::Shutdown;
        }
        self.shared.board.tell_all();
        self.ports.inventory.mark_changed();
        loop {
            let wake = self.select().await;
            match self.apply(wake) {
                Ok(true) => {}
                Ok(false) => return End::Shutdown,
                Err(problem) => return End::Lost(problem),
            }
        }
    }

    async fn select(&mut self) -> Wake {
        let clock = &self.shared.clock;
        let (flush_at, beat_at) = (self.flush_at, self.beat_at);
        // The next message is only read when the core has room for it.
        let hear = async {
            match self.ports.incoming.clone().reserve_owned().await {
                Ok(permit) => Wake::Heard(self.incoming.message().await, permit),
                Err(_) => Wake::Deaf,
            }
        };
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Wake::Shutdown,
            () = clock.sleep_until(Some(beat_at)) => Wake::Beat,
            () = clock.sleep_until(flush_at), if flush_at.is_some() => Wake::Flush,
            () = self.shared.board.news(), if flush_at.is_none() => Wake::News,
            Ok(()) = self.ports.acks.changed() => Wake::Acks,
            Ok(()) = self.ports.inventory.changed() => Wake::Inventory,
            wake = hear => wake,
        }
    }

    /// Returns whether the session goes on.
    fn apply(&mut self, wake: Wake) -> Result<bool, Problem> {
        let now = self.shared.clock.now();
        match wake {
            Wake::Shutdown | Wake::Deaf => return Ok(false),
            Wake::Heard(Ok(Some(message)), permit) => self.hear(message, permit)?,
            Wake::Heard(Ok(None), _) => return Err(self.lost("the server ended the session")),
            Wake::Heard(Err(status), _) => return Err(status::to_problem(&status, &self.whom)),
            Wake::Beat => {
                self.beat_at = now.after(self.heartbeat);
                self.send(agent_message::Message::Heartbeat(v1::Heartbeat {}))?;
            }
            Wake::News => self.flush_at = Some(now.after(COALESCE)),
            Wake::Flush => {
                self.flush_at = None;
                self.report()?;
            }
            Wake::Acks => self.acknowledge()?,
            Wake::Inventory => {
                let images = self.ports.inventory.borrow_and_update().as_ref().clone();
                self.send(agent_message::Message::Inventory(v1::Inventory { images }))?;
            }
        }
        Ok(true)
    }

    fn hear(&mut self, message: ServerMessage, permit: mpsc::OwnedPermit<Incoming>) -> Result<(), Problem> {
        match message.message {
            Some(server_message::Message::Assignments(assignments)) => {
                let update = update(&assignments)?;
                permit.send(Incoming::Assignments {
                    epoch: self.epoch,
                    update,
                });
            }
            // A later server may say more than this agent understands.
            Some(server_message::Message::Welcome(_)) | None => {}
        }
        Ok(())
    }

    fn report(&mut self) -> Result<(), Problem> {
        let usage = self.shared.board.take_usage();
        if !usage.is_empty() {
            let items = usage.iter().map(usage_item).collect();
            self.send(agent_message::Message::Measured(v1::Measured { items }))?;
        }
        let told = self.shared.board.take(STATUSES_PER_MESSAGE);
        if told.is_empty() {
            return Ok(());
        }
        let items = told.into_iter().map(status_item).collect();
        self.send(agent_message::Message::Statuses(Statuses { items }))
    }

    fn acknowledge(&mut self) -> Result<(), Problem> {
        let ack = *self.ports.acks.borrow_and_update();
        let before = std::mem::replace(&mut self.told, ack);
        if ack.resyncs != before.resyncs {
            let set = ack.applied.number;
            self.send(agent_message::Message::Applied(v1::Applied { set, resync: true }))?;
        }
        let is_ours = ack.applied.epoch == self.epoch && ack.applied.number > 0;
        if is_ours && ack.applied != before.applied {
            let set = ack.applied.number;
            self.send(agent_message::Message::Applied(v1::Applied { set, resync: false }))?;
        }
        Ok(())
    }

    fn send(&self, message: agent_message::Message) -> Result<(), Problem> {
        let message = AgentMessage { message: Some(message) };
        self.outgoing.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => self.lost("the server does not read"),
            mpsc::error::TrySendError::Closed(_) => self.lost("the connection broke"),
        })
    }

    fn lost(&self, reason: &str) -> Problem {
        Problem::new(Class::Unavailable, self.whom.clone(), reason)
    }
}

fn update(assignments: &Assignments) -> Result<Update, Problem> {
    let put = assignments.put.iter().map(|document| decode(document, kind::ITEM));
    let remove = assignments
        .remove
        .iter()
        .map(|document| decode(document, kind::ITEM_KEY));
    Ok(Update {
        applies_to: assignments.applies_to,
        results_in: assignments.results_in,
        put: put.collect::<Result<_, _>>()?,
        remove: remove.collect::<Result<_, _>>()?,
    })
}

fn usage_item((replica, usage): (&ReplicaId, &Usage)) -> v1::ReplicaUsage {
    v1::ReplicaUsage {
        replica: replica.to_string(),
        cpu_milli: usage.cpu.0,
        memory_bytes: usage.memory.0,
    }
}

fn status_item(told: Told) -> StatusItem {
    match told {
        Told::Observed(replica, observed) => StatusItem {
            replica: replica.to_string(),
            observed: Some(encode(kind::OBSERVED, &observed)),
            removed: false,
        },
        Told::Removed(replica) => StatusItem {
            replica: replica.to_string(),
            observed: None,
            removed: true,
        },
    }
}
