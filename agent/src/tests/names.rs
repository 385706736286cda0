//! What images are called on a node whose cluster could not be told, or could not tell it, as root.

use gantry_api::kind;
use gantry_api::v1::{Empty, TagImageRequest};
use gantry_model::object::LocalImage;

use super::by_hand::engine;
use super::real::{Host, apart};
use crate::testing::{DEADLINE, until};

const BUSYBOX: &str = "docker.io/library/busybox:test";
const NEW: &str = "docker.io/library/new:v1";

/// What the node calls images.
async fn called(host: &Host) -> Vec<String> {
    let listed = engine(host).list_images(Empty {}).await.expect("listed").into_inner();
    let images = listed.items.iter().map(|document| {
        let image: LocalImage = gantry_api::decode(document, kind::LOCAL_IMAGE).expect("an image");
        image.references
    });
    images.flatten().collect()
}

async fn until_called(host: &Host, names: &[&str]) {
    let waiting = async {
        while called(host).await != names {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let settled = tokio::time::timeout(DEADLINE, waiting).await.is_ok();
    assert!(settled, "{:?} instead of {names:?}", called(host).await);
}

async fn until_told(host: &Host, name: &str) {
    until(name, || host.server.state().names.contains(name)).await;
}

#[test]
fn a_name_that_was_removed_while_the_node_was_down_goes_from_it_and_no_other() {
    apart(|| async {
        let host = Host::new("names-gone").await;
        let agent = host.start();
        host.with_image().await;
        until_told(&host, BUSYBOX).await;
        let tag = TagImageRequest {
            source: BUSYBOX.to_string(),
            reference: NEW.to_string(),
        };
        engine(&host).tag_image(tag).await.expect("named");
        until_told(&host, NEW).await;
        agent.stop().await;
        host.server.state().names.remove(NEW);
        let agent = host.start();
        until("a second session", || host.server.state().sessions >= 2).await;
        until_called(&host, &[BUSYBOX]).await;
        assert!(!host.server.state().names.contains(NEW), "nothing brings it back");
        agent.stop().await;
    });
}

#[test]
fn a_name_that_was_made_while_the_cluster_could_not_be_told_is_told_later() {
    apart(|| async {
        let host = Host::new("names-made").await;
        let agent = host.start();
        host.with_image().await;
        until_told(&host, BUSYBOX).await;
        host.server.state().refuses_names = true;
        let tag = TagImageRequest {
            source: BUSYBOX.to_string(),
            reference: NEW.to_string(),
        };
        engine(&host).tag_image(tag).await.expect("named");
        assert!(!host.server.state().names.contains(NEW));
        agent.stop().await;
        host.server.state().refuses_names = false;
        let agent = host.start();
        until_told(&host, NEW).await;
        assert_eq!(called(&host).await, [BUSYBOX, NEW]);
        agent.stop().await;
    });
}
