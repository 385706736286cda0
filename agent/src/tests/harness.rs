//! An agent without a server or without a real machine.

use std::path::Path;
use std::sync::Arc;

use gantry_api::v1;
use gantry_env::System;
use gantry_model::assignment::{Item, ItemKey, ReplicaItem};
use gantry_model::object::{NodeFacts, Role};
use gantry_model::phase::{Desired, Observed, Phase};
use gantry_model::{DurationMs, NodeId, ReplicaId};
use gantry_rpc::{Channels, Credentials, ServerPool};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::board::{Board, Told};
use crate::clock::Clock;
use crate::core::{self, Ack, Core, Incoming};
use crate::datapath::{Datapath, SetNumber, Wanted};
use crate::disk::Disk;
use crate::limits::INCOMING;
use crate::session::{self, Introduction, Session};
use crate::shared::Shared;
use crate::testing::machine::Machine;
use crate::testing::server::Cluster;
use crate::testing::{node, replica, until};
use gantry_lifecycle::Update;

/// A disk and a machine, which outlive agents.
pub(super) struct Place {
    data: TempDir,
    run: TempDir,
    pub(super) machine: Machine,
}

impl Place {
    pub(super) fn new() -> Self {
        Self {
            data: tempfile::tempdir().expect("a folder"),
            run: tempfile::tempdir().expect("a folder"),
            machine: Machine::new(),
        }
    }

    pub(super) fn data_dir(&self) -> &Path {
        self.data.path()
    }

    fn shared(&self) -> Arc<Shared> {
        Arc::new(Shared {
            drivers: self.machine.drivers(),
            board: Board::default(),
            disk: Disk::open(self.data.path(), self.run.path()).expect("the former agent has ended"),
            clock: Clock::new(Arc::new(System)),
            surroundings: Default::default(),
            ingress: Default::default(),
        })
    }

    /// Core and data path, without a session.
    pub(super) fn start(&self) -> Agent {
        self.start_with(self.shared())
    }

    fn start_with(&self, shared: Arc<Shared>) -> Agent {
        let (incoming, from_session) = mpsc::channel(INCOMING);
        let (acks, to_session) = watch::channel(Ack::default());
        let (wanted, to_datapath) = watch::channel(Wanted::default());
        let (applied, from_datapath) = watch::channel(SetNumber::default());
        let shutdown = CancellationToken::new();
        let ports = core::Ports {
            incoming: from_session,
            acks,
            wanted,
            applied: from_datapath,
        };
        let saved = shared.disk.load_set();
        let records = shared.disk.records().expect("readable");
        let core = Core::new(Arc::clone(&shared), ports, saved, records, shutdown.clone());
        let core = tokio::spawn(async move { core.run().await.expect("no worker crashes") });
        let datapath = tokio::spawn(Datapath::new(Arc::clone(&shared), to_datapath, applied).run());
        Agent {
            shared,
            incoming,
            acks: to_session,
            shutdown,
            tasks: vec![core, datapath],
            epoch: 0,
            number: 0,
        }
    }

    /// Core, data path, and a session with the servers.
    pub(super) fn start_in(&self, cluster: &Cluster, servers: Vec<String>) -> Agent {
        let shared = self.shared();
        let mut agent = self.start_with(Arc::clone(&shared));
        let identity = cluster.identity(Role::Agent, &NodeId(1).to_string());
        let credentials = Credentials::new(identity).expect("usable");
        let servers = ServerPool::with_channels(servers, Channels::new(credentials));
        let introduction = Introduction {
            name: "alpha".into(),
            address: "127.0.0.1:1".into(),
            facts: NodeFacts::default(),
        };
        let image = v1::ImageInfo {
            digest: "sha256:0".into(),
            ..v1::ImageInfo::default()
        };
        let (inventory, to_session) = watch::channel(Arc::new(vec![image]));
        let ports = session::Ports {
            incoming: agent.incoming.clone(),
            acks: agent.acks.clone(),
            inventory: to_session,
        };
        let session = Session::new(shared, servers, introduction, ports, agent.shutdown.clone());
        agent.tasks.push(tokio::spawn(async move {
            session.run().await;
            drop(inventory);
        }));
        agent
    }
}

/// One life of an agent.
pub(super) struct Agent {
    pub(super) shared: Arc<Shared>,
    incoming: mpsc::Sender<Incoming>,
    pub(super) acks: watch::Receiver<Ack>,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    epoch: u64,
    pub(super) number: u64,
}

impl Agent {
    pub(super) async fn begin(&mut self) {
        self.epoch += 1;
        self.number = 0;
        let began = Incoming::Began {
            epoch: self.epoch,
            lease: DurationMs::secs(5),
        };
        self.incoming.send(began).await.expect("the core runs");
    }

    pub(super) async fn complete(&mut self, items: Vec<Item>) {
        self.number += 1;
        let update = Update {
            applies_to: 0,
            results_in: self.number,
            put: std::iter::once(Item::Node(node())).chain(items).collect(),
            remove: Vec::new(),
        };
        self.update(update).await;
    }

    pub(super) async fn increment(&mut self, put: Vec<Item>, remove: Vec<ItemKey>) {
        let applies_to = self.number;
        self.number += 1;
        let update = Update {
            applies_to,
            results_in: self.number,
            put,
            remove,
        };
        self.update(update).await;
    }

    pub(super) async fn update(&mut self, update: Update) {
        let epoch = self.epoch;
        let assignments = Incoming::Assignments { epoch, update };
        self.incoming.send(assignments).await.expect("the core runs");
    }

    pub(super) fn acknowledged(&self) -> u64 {
        let applied = self.acks.borrow().applied;
        if applied.epoch == self.epoch { applied.number } else { 0 }
    }

    pub(super) async fn until_acknowledged(&self) {
        until("an acknowledgement of the last set", || {
            self.acknowledged() == self.number
        })
        .await;
    }

    pub(super) async fn until_phase(&self, id: u64, phase: Phase) {
        let what = format!("replica {id} is {phase}");
        until(&what, || self.shared.board.phase(ReplicaId(id)) == Some(phase)).await;
    }

    /// The last report of a replica.
    pub(super) fn observed(&self, id: u64) -> Observed {
        self.shared.board.tell_all();
        let told = self
            .shared
            .board
            .take(usize::MAX)
            .into_iter()
            .find_map(|told| match told {
                Told::Observed(of, observed) if of == ReplicaId(id) => Some(observed),
                Told::Observed(..) | Told::Removed(_) => None,
            });
        told.expect("there is a report")
    }

    /// Ends the agent as a service manager does, and waits until its disk is free.
    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            task.await.expect("no part crashes");
        }
        drop(self.incoming);
        until("nobody uses the disk", || Arc::strong_count(&self.shared) == 1).await;
    }
}

pub(super) fn item(slot: u32) -> Item {
    Item::Replica(replica(slot))
}

pub(super) fn wanted(slot: u32, desired: Desired) -> Item {
    Item::Replica(ReplicaItem {
        desired,
        ..replica(slot)
    })
}
