//! The applications that are applied: services of several sizes that share a network, without published ports.

use anyhow::Result;
use gantry_api::v1::ApplyRequest;
use gantry_api::{encode, kind};
use gantry_model::{ByteSize, MilliCpu};
use serde_json::{Map, Value, json};

/// The image that every agent claims to hold.
pub const IMAGE: &str = "docker.io/library/app:v1";

/// Its digest.
pub const IMAGE_DIGEST: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";

/// One namespace with a service per size.
#[must_use]
pub fn application(namespace: &str, sizes: &[u32]) -> ApplyRequest {
    let services: Map<String, Value> = sizes
        .iter()
        .enumerate()
        .map(|(index, size)| (format!("s{index}"), service(namespace, *size)))
        .collect();
    let application = json!({ "namespace": namespace, "services": services, "networks": { "default": {} } });
    ApplyRequest {
        application: Some(encode(kind::APPLICATION, &application)),
        keep_missing: false,
    }
}

/// About what `docker compose config` makes of a small web service.
fn service(namespace: &str, replicas: u32) -> Value {
    json!({
        "mode": { "replicated": { "replicas": replicas } },
        "container": {
            "image": IMAGE,
            "command": ["serve", "--listen", "0.0.0.0:8080"],
            "environment": { "LOG_LEVEL": "info", "DATABASE_URL": "postgres://db:5432/app", "WORKERS": "4" },
        },
        "resources": { "cpu_reservation": MilliCpu(100), "memory_reservation": ByteSize::mib(64) },
        "networks": { "default": { "aliases": [], "network": format!("{namespace}_default") } },
    })
}

/// Sizes as `60,20,12,6,2`.
///
/// # Errors
/// When one is not a number.
pub fn sizes(text: &str) -> Result<Vec<u32>> {
    Ok(text.split(',').map(str::parse).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::spec::{Application, Mode};

    #[test]
    fn an_application_is_one_to_the_model() {
        let request = application("a", &sizes("3,1").expect("two numbers"));
        let document = request.application.expect("it has one");
        let application: Application = gantry_api::decode(&document, kind::APPLICATION).expect("an application");
        let modes: Vec<Mode> = application.services.values().map(|spec| spec.mode).collect();
        assert_eq!(
            modes,
            [Mode::Replicated { replicas: 3 }, Mode::Replicated { replicas: 1 }]
        );
        assert!(
            application
                .services
                .values()
                .all(|spec| spec.resources.cpu_reservation.0 == 100)
        );
        assert!(sizes("3,x").is_err());
    }
}
