//! What builds, images, devices, namespaces and limits of the kernel become in the model.

use gantry_manifest::PullPolicy;
use gantry_model::spec::{NamespaceMode, SwapLimit, UserNamespace};
use gantry_model::{ByteSize, Name};

use super::common::load_texts;

#[test]
fn a_build_names_its_image_and_is_told_apart_from_the_spec() {
    let loaded = load_texts(&["\
services:
  web:
    platform: linux/amd64
    build:
      context: ./web
      dockerfile: docker/Dockerfile
      args: [A=1, TAG]
      additional_contexts: {base: ../base, other: 'service:api', i: 'docker-image://x'}
      secrets: [token, {source: token, target: renamed}]
      entitlements: [security.insecure]
      extra_hosts: ['db:10.0.0.1']
  api: {build: 'https://example.com/api.git', image: 'api:1', pull_policy: never}
secrets:
  token: {file: token.txt}
"]);
    assert!(!loaded.has_errors(), "{:?}", loaded.diagnostics);
    let application = loaded.application.expect("valid");
    let web = Name::new("web").expect("a name");
    assert_eq!(application.services[&web].container.image, "shop-web");
    let spec = loaded.images[&web].build.clone().expect("it is built");
    assert_eq!(spec.context, "/srv/shop/web");
    assert_eq!(spec.dockerfile.as_deref(), Some("/srv/shop/web/docker/Dockerfile"));
    assert_eq!(spec.args["TAG"].as_deref(), Some("1.2"));
    assert_eq!(spec.additional_contexts["base"], "/srv/base");
    assert_eq!(spec.additional_contexts["other"], "service:api");
    assert_eq!(spec.platforms, ["linux/amd64"]);
    let ids: Vec<&str> = spec.secrets.iter().map(|secret| secret.id.as_str()).collect();
    assert_eq!(ids, ["token", "renamed"]);
    assert_eq!(spec.secrets[0].file.as_deref(), Some("/srv/shop/token.txt"));
    assert!(spec.privileged);
    let api = &loaded.images[&Name::new("api").expect("a name")];
    assert_eq!(api.policy, PullPolicy::Never);
    assert_eq!(
        api.build.as_ref().expect("built").context,
        "https://example.com/api.git"
    );
}

#[test]
fn builds_of_two_files_become_one() {
    let loaded = load_texts(&[
        "services: {web: {build: ./web}}",
        "services: {web: {build: {args: {A: 1}, target: dev}}}",
    ]);
    let build = loaded
        .images
        .values()
        .next()
        .and_then(|source| source.build.clone())
        .expect("a build");
    assert_eq!(
        (build.context.as_str(), build.target.as_deref()),
        ("/srv/shop/web", Some("dev"))
    );
    assert_eq!(build.args["A"].as_deref(), Some("1"));
}

#[test]
fn limits_devices_and_namespaces_reach_the_spec() {
    let loaded = load_texts(&["\
services:
  a:
    image: i
    cpuset: 0-3,7
    cpu_shares: 512
    cpu_period: 50000
    cpu_quota: 25000
    cpu_rt_runtime: 400ms
    mem_limit: 512m
    memswap_limit: 1g
    mem_swappiness: 10
    oom_kill_disable: true
    blkio_config: {weight: 300, device_read_bps: [{path: /dev/sda, rate: 12mb}]}
    devices: ['/dev/fuse', '/dev/a:/dev/b:r', 'vendor.com/net=one']
    device_cgroup_rules: ['c 42:* rmw']
    gpus: all
    pid: host
    ipc: shareable
    userns_mode: auto:size=1000
    domainname: example.com
    security_opt: ['apparmor:mine', 'systempaths=unconfined']
"]);
    assert!(!loaded.has_errors(), "{:?}", loaded.diagnostics);
    let application = loaded.application.expect("valid");
    let service = application.services.values().next().expect("one");
    let (resources, container) = (&service.resources, &service.container);
    assert_eq!(resources.cpuset_cpus.as_deref(), Some("0-3,7"));
    assert_eq!(resources.cpu_shares, Some(512));
    assert_eq!(resources.cpu_limit.map(|limit| limit.0), Some(500));
    assert_eq!(resources.cpu_rt_runtime_us, Some(400_000));
    assert_eq!(resources.memory_swap_limit, Some(SwapLimit::Total(ByteSize::mib(1024))));
    assert_eq!(resources.memory_swappiness, Some(10));
    assert!(resources.oom_kill_disable);
    assert_eq!(resources.block_io.device_read_bps["/dev/sda"], 12 << 20);
    assert_eq!(container.devices[1].permissions, "r");
    assert_eq!(container.cdi_devices, ["vendor.com/net=one", "nvidia.com/gpu=all"]);
    assert_eq!(container.device_cgroup_rules, ["c 42:* rmw"]);
    assert_eq!(
        (&container.pid, &container.ipc),
        (&NamespaceMode::Host, &NamespaceMode::Shareable)
    );
    assert_eq!(container.userns, UserNamespace::Auto { size: Some(1000) });
    assert_eq!(container.apparmor_profile.as_deref(), Some("mine"));
    assert!(container.system_paths_unconfined);
    assert_eq!(container.domainname.as_deref(), Some("example.com"));
}
