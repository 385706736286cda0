//! The example's Compose file does what it says.

use std::collections::BTreeMap;

use gantry_manifest::{MemoryFiles, Options, Source, load};
use gantry_model::spec::{Application, DependencyCondition, FailureAction, HealthTest, Mode, ServiceSpec, UpdateOrder};
use gantry_model::{DurationMs, Name};

fn application(version: Option<&str>) -> Application {
    let source = Source {
        name: "compose.yaml".to_string(),
        text: include_str!("../../compose.yaml").to_string(),
    };
    let variables = version.map(|version| ("WEB_VERSION".to_string(), version.to_string()));
    let options = Options {
        base_dir: "/shop".into(),
        environment: BTreeMap::from_iter(variables),
        ..Options::default()
    };
    let loaded = load(&[source], &options, &MemoryFiles::default());
    assert!(loaded.diagnostics.is_empty(), "{:?}", loaded.diagnostics);
    loaded.application.expect("no diagnostics")
}

fn service<'a>(application: &'a Application, name: &str) -> &'a ServiceSpec {
    &application.services[&Name::new(name).expect("a name")]
}

#[test]
fn the_web_service_is_rolled_out_one_by_one_and_back() {
    let application = application(None);
    let web = service(&application, "web");
    assert_eq!(web.container.image, "web-redis:v1");
    assert!(
        matches!(web.mode, Mode::Replicated { replicas: 2, .. }),
        "{:?}",
        web.mode
    );
    assert_eq!((web.update.parallelism, web.update.order), (1, UpdateOrder::StartFirst));
    assert_eq!(
        (web.update.monitor, web.update.failure_action),
        (DurationMs::secs(1), FailureAction::Rollback)
    );
    assert_eq!(
        web.ports
            .iter()
            .map(|port| (port.published, port.target))
            .collect::<Vec<_>>(),
        [(Some(8080), 8080)]
    );
    let redis = web.depends_on.values().next().expect("a dependency");
    assert_eq!(redis.condition, DependencyCondition::Healthy);
    assert_eq!(web.container.environment["REPLICA"].as_deref(), Some("{{.Task.Name}}"));
    let check = web.container.healthcheck.as_ref().expect("a check");
    assert_eq!(
        (check.interval, &check.test),
        (
            DurationMs::secs(1),
            &HealthTest::Exec(vec!["/web-redis".into(), "healthcheck".into()]),
        )
    );
}

#[test]
fn versions_differ_in_the_image_alone() {
    let (one, mut two) = (application(Some("v1")), application(Some("v2")));
    let web = two
        .services
        .get_mut(&Name::new("web").expect("a name"))
        .expect("the service");
    assert_eq!(web.container.image, "web-redis:v2");
    web.container.image = "web-redis:v1".to_string();
    assert_eq!(one, two);
}

#[test]
fn redis_keeps_its_data_in_a_volume() {
    let application = application(None);
    let redis = service(&application, "redis");
    assert_eq!(redis.container.image, "gantry/redis:debian");
    assert_eq!(
        redis
            .container
            .mounts
            .iter()
            .map(|mount| mount.target.as_str())
            .collect::<Vec<_>>(),
        ["/data"]
    );
    assert!(
        application
            .volumes
            .contains_key(&Name::new("redis-data").expect("a name"))
    );
}
