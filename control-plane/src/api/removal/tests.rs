//! What can come in between a removal's steps: late inventories, copies under way, nodes that are down, refusals.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gantry_api::v1::{ImageInfo, Inventory, NamedImage, SettleNamesRequest};
use gantry_model::net::Ipv4Net;
use gantry_model::object::{Availability, ManifestFacts, NodeFacts};
use gantry_model::{ByteSize, DurationMs, NodeId};

use super::*;
use crate::api::record::{holds, settle};
use crate::registry::copies::{Ask, plan};
use crate::session::report::{Held, held, inventory};

const NOW: Timestamp = Timestamp(1_000_000);
const WEB: &str = "docker.io/library/web:1";

fn digest(number: u8) -> Digest {
    Digest::from_bytes([number; 32])
}

fn node(id: u64, status: NodeStatus, since: Timestamp) -> Object {
    Object::Node(Node {
        id: NodeId(id),
        name: format!("n{id}"),
        address: format!("10.0.0.{id}:7601"),
        subnet: Ipv4Net::new(Ipv4Addr::new(10, 128, id as u8, 0), 24),
        labels: BTreeMap::new(),
        availability: Availability::Active,
        status,
        status_since: since,
        facts: NodeFacts::default(),
        joined_at: Timestamp(1),
    })
}

fn image(nodes: &[u64]) -> ImageRecord {
    let nodes = nodes.iter().copied().map(NodeId);
    ImageRecord {
        digest: digest(1).to_string(),
        config_digest: String::new(),
        size: ByteSize(1),
        platform: String::new(),
        created_at: None,
        keepers: nodes.clone().collect(),
        nodes: nodes.collect(),
        leaving: None,
        manifest: ManifestFacts::default(),
    }
}

fn tag(reference: &str, number: u8) -> TagRecord {
    TagRecord {
        reference: reference.to_string(),
        digest: digest(number).to_string(),
        updated_at: Timestamp(1),
    }
}

fn commit(state: &mut State, transaction: &Transaction) {
    let (outcome, _) = state.apply(state.revision() + 1, 1, transaction);
    assert!(
        matches!(outcome, gantry_state::Outcome::Committed { .. }),
        "{outcome:?}"
    );
}

fn put(state: &mut State, objects: Vec<Object>) {
    let ops = objects.into_iter().map(|object| Op::Put(Box::new(object))).collect();
    commit(state, &Transaction::new(Timestamp(1), ops));
}

/// Two ready nodes that keep `web:1`.
fn cluster() -> State {
    let mut state = State::default();
    let nodes = [1, 2].map(|id| node(id, NodeStatus::Ready, Timestamp(1)));
    put(&mut state, nodes.into());
    put(
        &mut state,
        vec![Object::Image(image(&[1, 2])), Object::Tag(tag(WEB, 1))],
    );
    state
}

fn begin(state: &mut State, asked: &str) -> Removal {
    let removal = Removal::decide(state, asked).expect("it may go");
    let transaction = removal.begin(state, NOW);
    commit(state, &transaction);
    removal
}

/// What a node says that has the image, under a name as agents of an earlier version say it.
fn with_image() -> Inventory {
    Inventory {
        images: vec![ImageInfo {
            digest: digest(1).to_string(),
            references: vec![WEB.to_string()],
            kept: true,
            ..ImageInfo::default()
        }],
    }
}

fn hear(state: &mut State, node: u64, before: Option<&Held>, said: &Inventory) {
    let ops = inventory(state, NodeId(node), before, said, NOW);
    commit(state, &Transaction::new(NOW, ops));
}

#[test]
fn an_inventory_from_before_the_removal_brings_nothing_back() {
    let mut state = cluster();
    let before = held(&with_image());
    let _ = begin(&mut state, "web:1");
    // Both were under way: one from before the node removed it, one from before the removal began.
    for late in [1, 2, 1] {
        hear(&mut state, late, Some(&before), &with_image());
        assert!(state.tag(WEB).is_none());
        assert!(state.image(&digest(1).to_string()).expect("held").leaving.is_some());
    }
    for node in [1, 2] {
        hear(&mut state, node, Some(&before), &Inventory::default());
    }
    assert_eq!(state.images().count(), 0);
}

#[test]
fn what_is_being_removed_is_not_copied_and_not_handed_on() {
    let mut state = cluster();
    let _ = begin(&mut state, "web:1");
    // The first node has removed it: one keeper is left where two are wanted.
    hear(&mut state, 1, Some(&held(&with_image())), &Inventory::default());
    assert_eq!(plan(&state, NOW).asks, []);
    assert!(!crate::registry::is_known(&state, &digest(1).to_string()));
}

#[test]
fn the_leader_goes_on_with_a_removal_whose_server_died() {
    let mut state = cluster();
    let _ = begin(&mut state, "web:1");
    let later = NOW.after(DurationMs::secs(60));
    let asks = [1, 2].map(|id| Ask::Remove(NodeId(id), digest(1)));
    assert_eq!(plan(&state, later).asks, asks);
}

#[test]
fn a_node_that_was_down_drops_what_was_removed_meanwhile_with_its_name() {
    let mut state = cluster();
    put(&mut state, vec![node(2, NodeStatus::Down, Timestamp(2))]);
    let removal = begin(&mut state, "web:1");
    assert_eq!(removal.holders(&state).len(), 1);
    hear(&mut state, 1, Some(&held(&with_image())), &Inventory::default());
    let left = state.image(&removal.digest).expect("the node that is down has it");
    assert!(!is_shown(&state, left));
    assert_eq!(plan(&state, NOW).asks, []);

    put(&mut state, vec![node(2, NodeStatus::Ready, NOW.after(DurationMs(1)))]);
    hear(&mut state, 2, None, &with_image());
    assert!(state.tag(WEB).is_none());
    assert_eq!(plan(&state, NOW).asks, [Ask::Remove(NodeId(2), digest(1))]);
    let request = SettleNamesRequest {
        known: vec![WEB.to_string()],
        made: Vec::new(),
    };
    assert_eq!(settle(&state, NodeId(2), &request, NOW).1.gone, [WEB]);
}

#[test]
fn a_refused_removal_leaves_everything_as_it_was() {
    let mut state = cluster();
    let link = RepositoryManifest {
        repository: "docker.io/library/web".to_string(),
        digest: digest(1),
        pushed_at: Timestamp(1),
    };
    put(
        &mut state,
        vec![Object::Registry(RegistryObject::Manifest(link.clone()))],
    );
    let removal = begin(&mut state, &digest(1).to_string());
    assert!(state.registry_manifest(&link.repository, link.digest).is_none());
    let undone = removal.undo(&state, NOW);
    commit(&mut state, &undone);
    assert_eq!(state.tag(WEB), Some(&tag(WEB, 1)));
    assert_eq!(state.registry_manifest(&link.repository, link.digest), Some(&link));
    assert_eq!(state.image(&digest(1).to_string()), Some(&image(&[1, 2])));
}

#[test]
fn a_name_that_was_given_anew_meanwhile_is_not_taken_back() {
    let mut state = cluster();
    let removal = begin(&mut state, "web:1");
    put(&mut state, vec![Object::Tag(tag(WEB, 9))]);
    let undone = removal.undo(&state, NOW);
    commit(&mut state, &undone);
    assert_eq!(state.tag(WEB), Some(&tag(WEB, 9)));
}

#[test]
fn a_name_that_moves_while_it_is_decided_is_not_lost() {
    let mut state = cluster();
    let decided = Removal::decide(&state, "web:1").expect("it may go").begin(&state, NOW);
    put(&mut state, vec![Object::Tag(tag(WEB, 9))]);
    let (outcome, _) = state.apply(state.revision() + 1, 1, &decided);
    assert!(matches!(outcome, gantry_state::Outcome::Refused(_)), "{outcome:?}");
    assert_eq!(state.tag(WEB), Some(&tag(WEB, 9)));
}

#[test]
fn of_an_image_with_several_names_only_the_one_that_is_asked_for_goes() {
    let mut state = cluster();
    put(&mut state, vec![Object::Tag(tag("docker.io/library/web:2", 1))]);
    let removal = begin(&mut state, "web:1");
    assert!(state.tag(WEB).is_none());
    assert!(state.tag("docker.io/library/web:2").is_some());
    assert_eq!(state.image(&digest(1).to_string()), Some(&image(&[1, 2])));
    assert_eq!(removal.requests()[0].image, WEB);
    // The late inventory of an agent of today says no names.
    let mut late = with_image();
    late.images[0].references.clear();
    hear(&mut state, 1, None, &late);
    assert!(state.tag(WEB).is_none());
}

#[test]
fn an_image_that_comes_anew_is_not_leaving_any_more() {
    let mut state = cluster();
    let _ = begin(&mut state, "web:1");
    let mut transaction = Transaction::new(NOW, vec![Op::Put(Box::new(Object::Tag(tag(WEB, 1))))]);
    holds(&state, image(&[1]), NodeId(1), &mut transaction);
    commit(&mut state, &transaction);
    let later = NOW.after(DurationMs::secs(600));
    assert_eq!(state.image(&digest(1).to_string()).expect("held").leaving, None);
    assert_eq!(plan(&state, later).asks, []);
}

#[test]
fn an_inventory_counts_although_the_one_before_has_not_taken_effect() {
    let mut state = cluster();
    let said = held(&with_image());
    // Gone, and back before anybody wrote down that it was gone.
    let mut ops = inventory(&state, NodeId(1), Some(&said), &Inventory::default(), NOW);
    ops.extend(inventory(
        &state,
        NodeId(1),
        Some(&held(&Inventory::default())),
        &with_image(),
        NOW,
    ));
    commit(&mut state, &Transaction::new(NOW, ops));
    let nodes = &state.image(&digest(1).to_string()).expect("held").nodes;
    assert_eq!(nodes.len(), 2, "{nodes:?}");
}

#[test]
fn names_made_while_no_server_could_be_told_are_entered_unless_they_mean_something_else() {
    let mut state = cluster();
    let made = |reference: &str, number: u8| NamedImage {
        reference: reference.to_string(),
        digest: digest(number).to_string(),
    };
    let request = SettleNamesRequest {
        known: vec![WEB.to_string()],
        made: vec![
            made("docker.io/library/new:1", 1),
            // Nobody has it yet.
            made("docker.io/library/early:1", 5),
            made(WEB, 1),
        ],
    };
    let (transaction, reply) = settle(&state, NodeId(1), &request, NOW);
    commit(&mut state, &transaction);
    assert_eq!(reply.recorded, ["docker.io/library/new:1", WEB]);
    assert_eq!(reply.gone, Vec::<String>::new());
    assert_eq!(
        state.tag("docker.io/library/new:1").expect("entered").digest,
        digest(1).to_string()
    );
    put(&mut state, vec![Object::Tag(tag("docker.io/library/new:1", 9))]);
    let (transaction, reply) = settle(&state, NodeId(1), &request, NOW);
    assert_eq!((transaction.ops, reply.recorded), (Vec::new(), vec![WEB.to_string()]));
}
