//! How many nodes keep what: the leader compares what should be kept with what is, and asks agents for the difference.
//!
//! Kept is what has a name, what a service runs or may be rolled back to, and what was pushed by digest; with everything that
//! an index of it lists. Each manifest is kept by as many nodes as the cluster's settings say. A node that is away for a moment
//! keeps counting; after a while another one takes its part, and when it comes back, the surplus goes.
//! **Invariant:** [`plan`] is pure; what an agent did comes back through its inventory, and is planned on anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use gantry_api::v1::node_agent_client::NodeAgentClient;
use gantry_api::v1::{KeepImageRequest, RemoveImageRequest};
use gantry_model::object::{ClusterConfig, ImageRecord, Node, NodeStatus};
use gantry_model::spec::ContainerSpec;
use gantry_model::{Digest, DurationMs, NodeId, Timestamp};
use gantry_state::{Key, Op, Precondition, RegistryKey, State, Transaction};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::contents::by_load;
use super::nodes::{agent, problem};
use super::uploads::UPLOAD_KEPT;
use crate::context::Context;

/// The state is looked at this often, if it changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What failed is tried again after this time.
const RETRY_AFTER: DurationMs = DurationMs::secs(15);

/// A node that is down for so long has lost its copies, as far as anybody knows.
const GIVEN_UP_AFTER: DurationMs = DurationMs::secs(30);

/// Whoever removes an image has asked all nodes by then, or died.
const REMOVAL_TAKEN_OVER_AFTER: DurationMs = DurationMs::secs(60);

/// Requests to agents at once: each may move gigabytes.
const ASKED_AT_ONCE: usize = 8;

/// An agent that does not get an image within this time is asked again, or another one.
const KEEP_TIMEOUT: Duration = Duration::from_secs(1800);

/// How deep indexes are followed.
const INDEX_DEPTH_MAX: usize = 4;

/// What a node is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ask {
    /// Keep this manifest.
    Keep(NodeId, Digest),
    /// Keep it no longer.
    Drop(NodeId, Digest),
    /// Remove it with its names: that was asked for while the node was down, or by a server that died over it.
    Remove(NodeId, Digest),
}

/// What should be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) asks: Vec<Ask>,
    /// Records of uploads whose time is over, and of manifests that speak about nothing any more.
    pub(crate) ops: Vec<Op>,
}

/// Decides from the state alone.
pub(crate) fn plan(state: &State, now: Timestamp) -> Plan {
    let copies = state.cluster().map_or_else(
        || ClusterConfig::default().image_copies,
        |cluster| cluster.config.image_copies,
    );
    let wanted = wanted(state);
    let mut plan = Plan {
        ops: expired(state, now, &wanted),
        asks: Vec::new(),
    };
    let ready = |node: &&Node| node.status == NodeStatus::Ready;
    let ready_count = state.nodes().filter(ready).count();
    let copies = usize::try_from(copies.max(1)).unwrap_or(usize::MAX).min(ready_count);
    for image in state.images() {
        let Ok(digest) = image.digest.parse::<Digest>() else {
            continue;
        };
        let keepers = image.keepers.iter().filter_map(|id| state.node(*id));
        let Some(root) = wanted.get(&digest) else {
            if let Some(since) = image.leaving {
                let left = left_over(state, image, since, now);
                plan.asks.extend(left.map(|node| Ask::Remove(node.id, digest)));
                continue;
            }
            let ready = keepers.filter(ready);
            plan.asks.extend(ready.map(|node| Ask::Drop(node.id, digest)));
            continue;
        };
        let counted: Vec<&Node> = keepers
            .filter(|node| node.status == NodeStatus::Ready || now.since(node.status_since) < GIVEN_UP_AFTER)
            .collect();
        let ready_keepers: Vec<&Node> = by_load(counted.iter().copied().filter(ready), root);
        if counted.len() < copies
            && image
                .nodes
                .iter()
                .any(|id| state.node(*id).is_some_and(|node| ready(&node)))
        {
            let is_new = |node: &&Node| ready(node) && !image.keepers.contains(&node.id);
            let mut others = by_load(state.nodes().filter(is_new), root);
            // Those that have it need not fetch it.
            others.sort_by_key(|node| !image.nodes.contains(&node.id));
            let missing = copies - counted.len();
            plan.asks
                .extend(others.into_iter().take(missing).map(|node| Ask::Keep(node.id, digest)));
        }
        let surplus = ready_keepers.into_iter().skip(copies);
        plan.asks.extend(surplus.map(|node| Ask::Drop(node.id, digest)));
    }
    plan
}

/// Nodes that still have what is being removed, and that whoever removes it does not ask: they came back since, or it takes too long.
fn left_over<'a>(
    state: &'a State,
    image: &'a ImageRecord,
    since: Timestamp,
    now: Timestamp,
) -> impl Iterator<Item = &'a Node> {
    let nodes = image.nodes.iter().filter_map(|id| state.node(*id));
    let is_over = now.since(since) >= REMOVAL_TAKEN_OVER_AFTER;
    nodes.filter(move |node| node.status == NodeStatus::Ready && (is_over || node.status_since > since))
}

/// Every manifest that is to be kept, with the name by which nodes are chosen: what belongs together goes together.
fn wanted(state: &State) -> BTreeMap<Digest, String> {
    let tagged = state.tags().map(|tag| tag.digest.clone());
    let specs = state.services().map(|service| &service.spec.container);
    let kept = state.revisions().map(|revision| &revision.spec.container);
    let digests = |container: &ContainerSpec| container.image_digest.clone();
    // What was removed although an earlier revision needs it is not brought back for that.
    let stays = |digest: &String| state.image(digest).is_none_or(|image| image.leaving.is_none());
    let kept = kept.filter_map(digests).filter(stays);
    let run = specs.filter_map(digests).chain(kept);
    let pushed = state
        .registry_manifests()
        .filter(|manifest| subject_lives(state, manifest.digest))
        .map(|manifest| manifest.digest.to_string());
    let mut wanted = BTreeMap::new();
    for root in tagged.chain(run).chain(pushed) {
        if let Ok(digest) = root.parse() {
            add(state, digest, &root, INDEX_DEPTH_MAX, &mut wanted);
        }
    }
    wanted
}

/// What is said about nothing is not kept.
fn subject_lives(state: &State, digest: Digest) -> bool {
    let image = state.image(&digest.to_string());
    let subject = image.and_then(|image| image.manifest.subject);
    subject.is_none_or(|subject| state.image(&subject.to_string()).is_some())
}

fn add(state: &State, digest: Digest, root: &str, depth: usize, wanted: &mut BTreeMap<Digest, String>) {
    if wanted.contains_key(&digest) || depth == 0 {
        return;
    }
    wanted.insert(digest, root.to_string());
    let Some(image) = state.image(&digest.to_string()) else {
        return;
    };
    for child in &image.manifest.manifests {
        add(state, *child, root, depth - 1, wanted);
    }
}

fn expired(state: &State, now: Timestamp, wanted: &BTreeMap<Digest, String>) -> Vec<Op> {
    let blobs = state
        .uploaded_blobs()
        .filter(|blob| blob.repositories.values().all(|end| *end <= now))
        .map(|blob| RegistryKey::Blob(blob.digest));
    let manifests = state
        .registry_manifests()
        .filter(|manifest| !wanted.contains_key(&manifest.digest) && now.since(manifest.pushed_at) >= UPLOAD_KEPT)
        .map(|manifest| RegistryKey::Manifest(manifest.repository.clone(), manifest.digest));
    blobs
        .chain(manifests)
        .map(|key| Op::Delete(Key::Registry(key)))
        .collect()
}

/// Keeps copies for as long as this server leads the term.
pub(crate) async fn keep_copies(context: Arc<Context>, term: u64, ended: CancellationToken) {
    let mut keeper = Keeper {
        context,
        term,
        failed: BTreeMap::new(),
        seen: 0,
    };
    let keeping = async {
        loop {
            keeper.round().await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    ended.run_until_cancelled(keeping).await;
}

struct Keeper {
    context: Arc<Context>,
    term: u64,
    /// What failed, and when it may be tried again.
    failed: BTreeMap<Ask, DurationMs>,
    /// The revision after which nothing was left to do.
    seen: u64,
}

impl Keeper {
    async fn round(&mut self) {
        let state = self.context.raft.state();
        let is_waiting = !self.failed.is_empty()
            || state.nodes().any(|node| node.status == NodeStatus::Down)
            || state.images().any(|image| image.leaving.is_some());
        if state.revision() == self.seen && !is_waiting {
            return;
        }
        let plan = plan(&state, self.context.env.now());
        self.seen = state.revision();
        if !plan.ops.is_empty() {
            let transaction =
                Transaction::new(self.context.env.now(), plan.ops).requiring(Precondition::Term(self.term));
            if let Err(error) = self.context.raft.propose(transaction).await {
                tracing::debug!(%error, "records of the registry could not be dropped");
            }
        }
        let monotonic = self.context.env.monotonic();
        self.failed.retain(|_, until| *until > monotonic);
        let due: Vec<Ask> = plan
            .asks
            .into_iter()
            .filter(|ask| !self.failed.contains_key(ask))
            .collect();
        self.ask_all(&state, due).await;
    }

    async fn ask_all(&mut self, state: &State, asks: Vec<Ask>) {
        // What an index lists comes before it would be missed; the rest in any order.
        let context = &self.context;
        let answers: Vec<(Ask, bool)> = futures::stream::iter(asks)
            .map(|ask| async move {
                let done = perform(context, state, &ask).await;
                (ask, done)
            })
            .buffer_unordered(ASKED_AT_ONCE)
            .collect()
            .await;
        let until = self.context.env.monotonic() + RETRY_AFTER;
        // Also what was done: until the node's inventory has come, it would be asked again.
        self.failed.extend(
            answers
                .into_iter()
                .filter(|(_, done)| !done)
                .map(|(ask, _)| (ask, until)),
        );
    }
}

async fn perform(context: &Context, state: &State, ask: &Ask) -> bool {
    let (Ask::Keep(node, digest) | Ask::Drop(node, digest) | Ask::Remove(node, digest)) = ask;
    let Some(node) = state.node(*node) else { return true };
    let request = KeepImageRequest {
        digest: digest.to_string(),
    };
    let mut agent = agent(context, node);
    let call = async {
        match ask {
            Ask::Keep(..) => agent.keep_image(request).await.map(drop),
            Ask::Drop(..) => agent.drop_image(request).await.map(drop),
            Ask::Remove(..) => remove(&mut agent, request.digest).await,
        }
    };
    match tokio::time::timeout(KEEP_TIMEOUT, call).await {
        Ok(Ok(())) => {
            tracing::debug!(?ask, "copies of images");
            true
        }
        Ok(Err(status)) => {
            let problem = problem(&status, node);
            tracing::info!(%problem, ?ask, "a copy of an image could not be arranged");
            false
        }
        Err(_) => false,
    }
}

async fn remove(agent: &mut NodeAgentClient<Channel>, image: String) -> Result<(), Status> {
    let asked = agent.remove_image(RemoveImageRequest { image, force: true }).await;
    match asked {
        // It went meanwhile.
        Err(status) if status.code() == Code::NotFound => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ByteSize;
    use gantry_model::net::Ipv4Net;
    use gantry_model::object::{
        Availability, ImageRecord, ManifestFacts, ManifestKind, NodeFacts, RepositoryManifest, TagRecord, UploadedBlob,
    };
    use gantry_state::{Object, RegistryObject};

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn digest(number: u8) -> Digest {
        Digest::from_bytes([number; 32])
    }

    fn node(id: u64, status: NodeStatus, since: Timestamp) -> Object {
        Object::Node(Node {
            id: NodeId(id),
            name: format!("n{id}"),
            address: format!("10.0.0.{id}:7601"),
            subnet: Ipv4Net::new(std::net::Ipv4Addr::new(10, 128, id as u8, 0), 24),
            labels: BTreeMap::new(),
            availability: Availability::Active,
            status,
            status_since: since,
            facts: NodeFacts::default(),
            joined_at: Timestamp(1),
        })
    }

    fn image(number: u8, nodes: &[u64], keepers: &[u64], manifest: ManifestFacts) -> Object {
        Object::Image(ImageRecord {
            digest: digest(number).to_string(),
            config_digest: String::new(),
            size: ByteSize(1),
            platform: String::new(),
            created_at: None,
            nodes: nodes.iter().copied().map(NodeId).collect(),
            keepers: keepers.iter().copied().map(NodeId).collect(),
            leaving: None,
            manifest,
        })
    }

    fn tag(name: &str, number: u8) -> Object {
        Object::Tag(TagRecord {
            reference: format!("docker.io/library/{name}:1"),
            digest: digest(number).to_string(),
            updated_at: Timestamp(1),
        })
    }

    fn state(objects: Vec<Object>) -> State {
        let mut state = State::default();
        let ops = objects.into_iter().map(|object| Op::Put(Box::new(object))).collect();
        state.apply(1, 1, &Transaction::new(Timestamp(1), ops));
        state
    }

    fn nodes(count: u64) -> Vec<Object> {
        (1..=count)
            .map(|id| node(id, NodeStatus::Ready, Timestamp(1)))
            .collect()
    }

    fn kept(plan: &Plan) -> Vec<u64> {
        let keeps = plan.asks.iter().filter_map(|ask| match ask {
            Ask::Keep(node, _) => Some(node.0),
            Ask::Drop(..) | Ask::Remove(..) => None,
        });
        keeps.collect()
    }

    #[test]
    fn a_named_image_is_kept_twice_first_where_it_is() {
        let mut objects = nodes(4);
        objects.extend([image(1, &[3], &[], ManifestFacts::default()), tag("web", 1)]);
        let asked = kept(&plan(&state(objects.clone()), NOW));
        assert_eq!((asked.len(), asked[0]), (2, 3));
        // Nothing is left to do once both keep it.
        objects[4] = image(1, &[3, asked[1]], &[3, asked[1]], ManifestFacts::default());
        assert_eq!(plan(&state(objects), NOW), Plan::default());
    }

    #[test]
    fn a_cluster_of_one_node_keeps_one_copy() {
        let mut objects = nodes(1);
        objects.extend([image(1, &[1], &[1], ManifestFacts::default()), tag("web", 1)]);
        assert_eq!(plan(&state(objects), NOW), Plan::default());
    }

    #[test]
    fn what_nobody_has_or_names_is_not_asked_for() {
        let mut objects = nodes(2);
        objects.extend([image(1, &[1], &[], ManifestFacts::default()), tag("gone", 2)]);
        assert_eq!(plan(&state(objects), NOW), Plan::default());
    }

    #[test]
    fn a_copy_is_made_good_after_a_while_and_the_surplus_goes_when_its_node_is_back() {
        let with = |since: Timestamp, status| {
            let mut objects = nodes(2);
            objects.push(node(3, status, since));
            objects.extend([image(1, &[2, 3], &[2, 3], ManifestFacts::default()), tag("web", 1)]);
            state(objects)
        };
        let just_now = with(NOW, NodeStatus::Down);
        assert_eq!(plan(&just_now, NOW.after(DurationMs::secs(5))), Plan::default());
        assert_eq!(kept(&plan(&just_now, NOW.after(GIVEN_UP_AFTER))), [1]);
        let mut objects = nodes(3);
        objects.extend([
            image(1, &[1, 2, 3], &[1, 2, 3], ManifestFacts::default()),
            tag("web", 1),
        ]);
        let surplus = plan(&state(objects), NOW);
        assert!(
            matches!(surplus.asks.as_slice(), [Ask::Drop(_, one)] if *one == digest(1)),
            "{surplus:?}"
        );
    }

    #[test]
    fn what_lost_its_name_is_dropped_with_all_that_its_index_lists() {
        let index = ManifestFacts {
            kind: ManifestKind::Index,
            manifests: vec![digest(2)],
            ..ManifestFacts::default()
        };
        let mut objects = nodes(2);
        objects.extend([
            image(1, &[1, 2], &[1, 2], index),
            image(2, &[1, 2], &[1, 2], ManifestFacts::default()),
        ]);
        let unnamed = plan(&state(objects.clone()), NOW);
        assert_eq!(
            unnamed.asks.iter().filter(|ask| matches!(ask, Ask::Drop(..))).count(),
            4
        );
        objects.push(tag("web", 1));
        assert_eq!(plan(&state(objects), NOW), Plan::default());
    }

    #[test]
    fn uploads_and_words_about_nothing_expire() {
        let about_nothing = ManifestFacts {
            subject: Some(digest(9)),
            ..ManifestFacts::default()
        };
        let mut objects = nodes(1);
        objects.extend([
            image(1, &[1], &[], about_nothing),
            Object::Registry(RegistryObject::Manifest(RepositoryManifest {
                repository: "docker.io/library/web".to_string(),
                digest: digest(1),
                pushed_at: NOW,
            })),
            Object::Registry(RegistryObject::Blob(UploadedBlob {
                digest: digest(3),
                size: ByteSize(1),
                nodes: [NodeId(1)].into(),
                repositories: [("docker.io/library/web".to_string(), NOW.after(UPLOAD_KEPT))].into(),
            })),
        ]);
        let state = state(objects);
        assert_eq!(plan(&state, NOW).ops, []);
        assert_eq!(plan(&state, NOW.after(UPLOAD_KEPT)).ops.len(), 2);
    }
}
