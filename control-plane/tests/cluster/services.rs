//! Applications are applied, scaled, rolled and deleted, with agents that acknowledge.

use std::collections::BTreeSet;
use std::time::Duration;

use gantry_api::v1::cluster_client::ClusterClient;
use gantry_api::v1::{
    ApplyReply, ApplyRequest, DeleteRequest, PlanReply, PlanRequest, ScaleServiceRequest, UpdateServiceRequest, change,
};
use gantry_model::object::{Replica, RolloutState, Service};
use gantry_model::spec::{Application, ContainerSpec, Mode, NetworkAttachment, ServiceSpec};
use gantry_model::{Class, Name, Problem};
use gantry_rpc::{Repeat, WithLimits};

use crate::agent::FakeAgent;
use crate::servers::{Cluster, DEADLINE};

fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

fn application(replicas: u32, image: &str) -> Application {
    let spec: ServiceSpec = serde_json::from_value(serde_json::json!({
        "mode": Mode::Replicated { replicas },
        "container": ContainerSpec { image: image.into(), ..ContainerSpec::default() },
        "networks": { "default": NetworkAttachment { network: "shop_default".into(), ..Default::default() } },
        "ports": [{ "target": 80, "published": 8080, "protocol": "tcp", "mode": "ingress" }],
    }))
    .expect("a valid spec");
    Application {
        namespace: name("shop"),
        services: [(name("web"), spec)].into(),
        networks: Default::default(),
        volumes: Default::default(),
        configs: Default::default(),
        secrets: Default::default(),
    }
}

fn request(application: &Application) -> ApplyRequest {
    ApplyRequest {
        application: Some(gantry_api::encode("application", application)),
        keep_missing: false,
    }
}

impl Cluster {
    async fn apply(&self, application: &Application) -> Result<ApplyReply, Problem> {
        let request = request(application);
        self.pool
            .call(Repeat::Harmless, |channel| {
                let request = request.clone();
                async move { ClusterClient::new(channel).with_limits().apply(request).await }
            })
            .await
    }

    async fn replicas(&self) -> Vec<Replica> {
        let documents = self
            .read("replica")
            .await
            .map(|documents| documents.items)
            .unwrap_or_default();
        documents
            .iter()
            .map(|document| gantry_api::decode(document, "replica").expect("a replica"))
            .collect()
    }

    async fn service(&self) -> Option<Service> {
        let documents = self
            .read("service")
            .await
            .map(|documents| documents.items)
            .unwrap_or_default();
        documents
            .first()
            .map(|document| gantry_api::decode(document, "service").expect("a service"))
    }

    async fn ready(&self, wanted: usize) -> Vec<Replica> {
        let mut last = Vec::new();
        let waited = tokio::time::timeout(DEADLINE, async {
            loop {
                last = self.replicas().await;
                let ready = last.iter().filter(|replica| replica.is_endpoint()).count();
                if ready == wanted && last.iter().filter(|replica| replica.is_active()).count() == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(
            waited.await.is_ok(),
            "{wanted} replicas should be ready, but: {last:#?}"
        );
        last
    }
}

async fn with_agents(servers: usize, agents: usize) -> (Cluster, Vec<FakeAgent>) {
    let cluster = Cluster::start(servers).await;
    let addresses: Vec<String> = cluster
        .servers
        .iter()
        .map(|server| server.address.to_string())
        .collect();
    let mut started = Vec::new();
    for index in 0..agents {
        let token = cluster.report.agent_token.clone();
        started.push(FakeAgent::start(addresses.clone(), &token, &format!("node{index}")).await);
    }
    let nodes = u32::try_from(agents).expect("a few agents");
    cluster.until(|status| status.nodes_ready == nodes).await;
    let image = tokio::time::timeout(DEADLINE, async {
        while cluster.read("tag").await.is_ok_and(|tags| tags.items.is_empty()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    image.await.expect("the agents report their image");
    (cluster, started)
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_is_idempotent_and_scaling_keeps_the_revision() {
    let (cluster, agents) = with_agents(1, 2).await;
    let reply = cluster.apply(&application(3, "app:v1")).await.expect("it applies");
    assert_eq!(reply.changes[0].action(), change::Action::Create);
    let replicas = cluster.ready(3).await;
    let nodes: BTreeSet<_> = replicas.iter().filter_map(|replica| replica.node).collect();
    assert_eq!(nodes.len(), 2, "both nodes are used");

    let again = cluster.apply(&application(3, "app:v1")).await.expect("it applies");
    assert_eq!(again.changes[0].action(), change::Action::Unchanged);

    let scale = ScaleServiceRequest {
        namespace: "shop".into(),
        service: "web".into(),
        replicas: 7,
    };
    let call = |channel| {
        let scale = scale.clone();
        async move { ClusterClient::new(channel).with_limits().scale_service(scale).await }
    };
    cluster.pool.call(Repeat::Harmless, call).await.expect("it scales");
    cluster.ready(7).await;
    assert_eq!(cluster.service().await.map(|service| service.revision), Some(1));
    for agent in &agents {
        agent
            .until(|told| told.services.get("web").is_some_and(|web| web.endpoints.len() == 7))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_replaces_every_replica_and_stops_none_that_is_routed_to() {
    let (cluster, agents) = with_agents(3, 3).await;
    cluster.apply(&application(4, "app:v1")).await.expect("it applies");
    let before: Vec<_> = cluster.ready(4).await.iter().map(|replica| replica.id).collect();
    let update = UpdateServiceRequest {
        namespace: "shop".into(),
        service: "web".into(),
        environment: vec!["VERSION=2".into()],
        update_config: Some(gantry_api::encode(
            "update_config",
            &gantry_model::spec::UpdateConfig {
                parallelism: 2,
                monitor: gantry_model::DurationMs(50),
                ..gantry_model::spec::UpdateConfig::default()
            },
        )),
        ..UpdateServiceRequest::default()
    };
    let call = |channel| {
        let update = update.clone();
        async move { ClusterClient::new(channel).with_limits().update_service(update).await }
    };
    cluster.pool.call(Repeat::OnlyUnsent, call).await.expect("it updates");
    let leader = cluster.leader().await;
    let mut cluster = cluster;
    cluster.servers[leader].stop().await;
    let done = tokio::time::timeout(DEADLINE, async {
        loop {
            let service = cluster.service().await;
            let rollout = service.and_then(|service| service.rollout);
            if rollout.is_some_and(|rollout| rollout.state == RolloutState::Completed) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(
        done.await.is_ok(),
        "the rollout ends: {:#?} {:#?}",
        cluster.service().await,
        cluster.replicas().await
    );
    let after = cluster.ready(4).await;
    assert!(
        after
            .iter()
            .filter(|replica| replica.is_active())
            .all(|replica| !before.contains(&replica.id))
    );
    for agent in &agents {
        let told = agent.told.lock().expect("no panic");
        assert_eq!(told.stopped_while_routed, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_service_leaves_nothing_behind() {
    let (cluster, agents) = with_agents(1, 2).await;
    cluster.apply(&application(2, "app:v1")).await.expect("it applies");
    cluster.ready(2).await;
    let request = DeleteRequest {
        namespace: "shop".into(),
        services: Vec::new(),
    };
    let call = |channel| {
        let request = request.clone();
        async move { ClusterClient::new(channel).with_limits().delete(request).await }
    };
    cluster.pool.call(Repeat::Harmless, call).await.expect("it deletes");
    let gone = tokio::time::timeout(DEADLINE, async {
        while cluster.service().await.is_some() || !cluster.replicas().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(
        gone.await.is_ok(),
        "{:#?} {:#?}",
        cluster.service().await,
        cluster.replicas().await
    );
    // The servers know before the agents are told.
    for agent in &agents {
        agent
            .until(|told| told.replicas.is_empty() && told.services.is_empty())
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_heartbeat_loses_its_replicas_to_others() {
    let (cluster, mut agents) = with_agents(1, 2).await;
    cluster.apply(&application(4, "app:v1")).await.expect("it applies");
    cluster.ready(4).await;
    drop(agents.pop());
    cluster.until(|status| status.nodes_down == 1).await;
    // A node is down before its replicas are replaced.
    let moved = tokio::time::timeout(DEADLINE, async {
        loop {
            let replicas = cluster.ready(4).await;
            let active = replicas.iter().filter(|replica| replica.is_active());
            let nodes: BTreeSet<_> = active.filter_map(|replica| replica.node).collect();
            if nodes.len() == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(
        moved.await.is_ok(),
        "all run on the node that is left: {:#?}",
        cluster.replicas().await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_applied_is_refused_as_a_whole() {
    let (cluster, _agents) = with_agents(1, 1).await;
    let refused = cluster
        .apply(&application(1, "nothing:here"))
        .await
        .expect_err("there is no such image");
    assert_eq!(refused.class, Class::NotFound);
    assert!(
        refused.reason.contains("nothing:here") && !refused.remedy.is_empty(),
        "{refused}"
    );
    assert!(cluster.service().await.is_none(), "nothing is half applied");

    cluster.apply(&application(1, "app:v1")).await.expect("it applies");
    let mut other = application(1, "app:v1");
    other.namespace = name("other");
    let refused = cluster.apply(&other).await.expect_err("the port is taken");
    assert_eq!(refused.class, Class::Conflict);
    assert!(
        refused.reason.contains("8080") && refused.reason.contains("shop/web"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_shows_where_replicas_would_go_and_changes_nothing() {
    let (cluster, _agents) = with_agents(1, 2).await;
    let request = PlanRequest {
        application: request(&application(4, "app:v1")).application,
        room: true,
        without_nodes: vec!["node0".to_string()],
        ..PlanRequest::default()
    };
    let call = |channel| {
        let request = request.clone();
        async move { ClusterClient::new(channel).with_limits().plan(request).await }
    };
    let plan: PlanReply = cluster.pool.call(Repeat::Harmless, call).await.expect("it plans");
    assert_eq!(plan.placements.iter().map(|placement| placement.count).sum::<u32>(), 4);
    assert!(
        plan.placements
            .iter()
            .all(|placement| placement.node.starts_with("node")),
        "{plan:?}"
    );
    let on = |node: &str| {
        plan.placements
            .iter()
            .filter(|one| one.node == node)
            .map(|one| one.count)
            .sum::<u32>()
    };
    let [loss] = plan.losses.as_slice() else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (loss.service.as_str(), loss.moved, loss.stranded),
        ("web", on("node0"), 0)
    );
    assert!(
        loss.moved > 0 && plan.room.len() == 1 && plan.room[0].more > 0,
        "{plan:?}"
    );
    assert!(cluster.service().await.is_none());
}
