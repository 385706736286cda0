//! What is wrong is found, and the message points at it. One line per mistake.

use gantry_manifest::render;

/// Loads a manifest and compares all its diagnostics.
fn check(text: &str, expected: &[&str]) {
    let loaded = super::common::load_texts(&[text]);
    let lines: Vec<String> = loaded.diagnostics.iter().map(super::common::line).collect();
    assert_eq!(lines, expected, "in:\n{text}");
    assert_eq!(loaded.application.is_none(), loaded.has_errors(), "in:\n{text}");
}

/// One field of a service `a`, whose value starts at column `COLUMN` of line 3.
fn field(field: &str, expected: &str) {
    let text = format!("services:\n  a:\n    {{image: i, {field}}}\n  b: {{image: i}}\nvolumes: {{data: }}\n");
    check(&text, &[expected]);
}

#[test]
fn yaml_that_is_none() {
    check("", &["error 1:1: the file is empty"]);
    check("# only a comment\n", &["error 1:1: the file is empty"]);
    check("- a\n", &["error 1:1: a manifest is a mapping, this is a list"]);
    check("text", &["error 1:1: a manifest is a mapping, this is a single value"]);
    check(
        "services: {a: {image: x}}\n---\nb: c\n",
        &[
            "error 2:1: a second YAML document starts here, a manifest is exactly one (put it into a file of its own and give both files)",
        ],
    );
    check(
        "services:\n  a:\n    image: x\n    image: y\n  a: {image: z}\n",
        &[
            "error 4:5: duplicate key 'image' (it is already given in line 3)",
            "error 5:3: duplicate key 'a' (it is already given in line 2)",
        ],
    );
    check(
        "services: {a: *nowhere}",
        &["error 1:15: while parsing node, found unknown anchor"],
    );
    check(
        "services: &s {a: *s}",
        &["error 1:18: the alias refers to a value it is part of"],
    );
    check(
        "services: {[a]: b}",
        &["error 1:12: a key must be a text, this is a list (quote it if it is meant as a text)"],
    );
    check(
        "services: {a: {<<: text}}",
        &[
            "error 1:20: a merge key takes a mapping or a list of mappings (write `<<: *anchor`, where the anchor stands at a mapping)",
        ],
    );
    check(
        "services: {a: !custom {image: x}}",
        &["error 1:15: unknown tag '!custom' (a Compose file has the tags !reset and !override)"],
    );
}

#[test]
fn malformed_yaml_points_at_the_line() {
    for (text, line) in [
        ("services:\n  a:\n\t  image: x\n", 3),
        ("services:\n  a: [b\n", 3),
        ("services:\n  a: \"open\n", 2),
        ("services:\n  a: b: c\n", 2),
        ("services:\n  a:\n   image: x\n  b: y\n z: 1\n", 5),
    ] {
        let loaded = super::common::load_texts(&[text]);
        assert_eq!(loaded.diagnostics.len(), 1, "{text}");
        let span = loaded.diagnostics[0].span.expect("a place");
        assert_eq!(span.line, line, "{text}: {}", loaded.diagnostics[0].message);
    }
}

#[test]
fn keys_that_nobody_knows() {
    check(
        "services:\n  a:\n    imgae: x\n",
        &[
            "error 2:3 services.a: 'image' is missing",
            "error 3:5 services.a.imgae: unknown key 'imgae' (did you mean 'image'?)",
        ],
    );
    check(
        "service: {}\nservices: {a: {image: x}}\n",
        &["error 1:1 service: unknown key 'service' (did you mean 'services'?)"],
    );
    check(
        "x-gantry: {autoscale: 1}\nservices: {a: {image: x, x-gantry: {y: 1}}}\n",
        &[
            "error 1:12 x-gantry.autoscale: unknown key 'autoscale' (known here: placement)",
            "error 2:37 services.a.x-gantry.y: unknown key 'y' (known here: placement, reserve, disruption, rollout, job, cron, stateful, policy, autoscale, ingress)",
        ],
    );
    field(
        "deploy: {replica: 1}",
        "error 3:25 services.a.deploy.replica: unknown key 'replica' (did you mean 'replicas'?)",
    );
    check(
        "services: {a: {build: {contxt: .}}}",
        &["error 1:24 services.a.build.contxt: unknown key 'contxt' (did you mean 'context'?)"],
    );
}

#[test]
fn shapes_that_do_not_fit() {
    check(
        "services: []",
        &["error 1:1 services: expected a mapping, found a list"],
    );
    check(
        "services: {a: }",
        &["error 1:12 services.a: expected a mapping, found nothing"],
    );
    check("services: {}", &["error 1:1 services: no service is active"]);
    check(
        "services: {a: {image: i, profiles: [off]}}",
        &["error 1:1 services: no service is active (all services have profiles, activate one of them)"],
    );
    check(
        "version: '3'",
        &["error 1:1: there are no services (a manifest has at least one under 'services:')"],
    );
    field(
        "ports: 80",
        "error 3:23 services.a.ports: expected a list, found a single value",
    );
    field(
        "restart: [always]",
        "error 3:16 services.a.restart: expected a single value, found a list",
    );
    field(
        "environment: x",
        "error 3:29 services.a.environment: expected a mapping or a list of KEY=value, found a single value",
    );
}

#[test]
fn values_that_mean_nothing() {
    for (text, expected) in [
        (
            "tty: maybe",
            "error 3:21 services.a.tty: 'maybe' is neither true nor false",
        ),
        (
            "command: \"'open\"",
            "error 3:25 services.a.command: cannot split the command: the single quote is not closed (write it as a list)",
        ),
        (
            "user: ':x'",
            "error 3:22 services.a.user: ':x' is not a user (write USER or USER:GROUP, names or numbers)",
        ),
        (
            "working_dir: src",
            "error 3:29 services.a.working_dir: 'src' must be an absolute path",
        ),
        (
            "hostname: a_b..c",
            "error 3:26 services.a.hostname: 'a_b..c' is not a host name",
        ),
        (
            "stop_signal: SIGFOO",
            "error 3:29 services.a.stop_signal: 'SIGFOO' is not a signal (use a name such as SIGTERM or a number)",
        ),
        (
            "stop_grace_period: 10",
            "error 3:35 services.a.stop_grace_period: '10' is not a duration: write numbers with us, ms, s, m or h, such as 1m30s",
        ),
        (
            "shm_size: big",
            "error 3:26 services.a.shm_size: 'big' is not a byte size: write a number with b, k, m, g or t, such as 64m",
        ),
        (
            "oom_score_adj: 1001",
            "error 3:31 services.a.oom_score_adj: '1001' is not a whole number from -1000 to 1000",
        ),
        (
            "restart: sometimes",
            "error 3:25 services.a.restart: 'sometimes' is not a restart policy (use no, always, unless-stopped, on-failure or on-failure:N)",
        ),
        (
            "restart: 'always:3'",
            "error 3:25 services.a.restart: 'always:3' is not a restart policy (a number of attempts goes with on-failure only)",
        ),
        ("dns: x", "error 3:21 services.a.dns: invalid IP address syntax"),
        (
            "extra_hosts: [a]",
            "error 3:30 services.a.extra_hosts[0]: 'a' is not a host (write NAME:ADDRESS, such as db:10.0.0.5)",
        ),
        (
            "extra_hosts: {a: b}",
            "error 3:33 services.a.extra_hosts.a: 'b' is neither an IP address nor 'host-gateway'",
        ),
        (
            "ulimits: {nofiles: 1}",
            "error 3:26 services.a.ulimits.nofiles: 'nofiles' is not a limit (known: as, core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack)",
        ),
        (
            "ulimits: {nofile: {soft: 2, hard: 1}}",
            "error 3:26 services.a.ulimits.nofile: the soft limit 2 is above the hard limit 1",
        ),
        ("sysctls: [a]", "error 3:16 services.a.sysctls: 'a' has no value"),
        (
            "cap_add: [NET-ADMIN]",
            "error 3:26 services.a.cap_add[0]: 'NET-ADMIN' is not a capability",
        ),
        (
            "security_opt: [x]",
            "error 3:31 services.a.security_opt[0]: 'x' is not a security option (use no-new-privileges, seccomp:FILE, seccomp:unconfined, apparmor:PROFILE or systempaths=unconfined)",
        ),
        (
            "pull_policy: sometimes",
            "error 3:29 services.a.pull_policy: 'sometimes' is not a pull policy (use missing, always, never or build)",
        ),
        (
            "pull_policy: build",
            "error 3:29 services.a.pull_policy: the service has nothing to build (add 'build', or use missing)",
        ),
        (
            "devices: [sda]",
            "error 3:26 services.a.devices[0]: is not a device (write /dev/NAME[:/dev/INSIDE[:rwm]], or a CDI name such as vendor.com/class=name)",
        ),
        (
            "device_cgroup_rules: ['x 1:2 r']",
            "error 3:38 services.a.device_cgroup_rules[0]: 'x 1:2 r' is not a device rule (write TYPE MAJOR:MINOR PERMISSIONS, such as c 42:* rmw)",
        ),
        (
            "cpuset: 3-1",
            "error 3:24 services.a.cpuset: '3-1' names no processors (write a list such as 0-3,7)",
        ),
        (
            "memswap_limit: 1g",
            "error 3:31 services.a.memswap_limit: needs a memory limit (give mem_limit or deploy.resources.limits.memory)",
        ),
        (
            "userns_mode: keep-id",
            "error 3:29 services.a.userns_mode: 'keep-id' is not a mode of user namespaces (use host, auto, or auto:size=65536)",
        ),
        (
            "security_opt: ['seccomp:gone.json']",
            "error 3:31 services.a.security_opt[0]: cannot read '/srv/shop/gone.json': entity not found",
        ),
        (
            "build: {network: shop}",
            "error 3:33 services.a.build.network: builds cannot join the network 'shop' (use default, host or none: networks of the cluster exist only for its services)",
        ),
        (
            "platform: windows/amd64",
            "error 3:26 services.a.platform: platform 'windows/amd64' is not supported (use linux/ARCHITECTURE, such as linux/amd64)",
        ),
        (
            "env_file: gone.env",
            "error 3:26 services.a.env_file: cannot read '/srv/shop/gone.env': entity not found",
        ),
        (
            "healthcheck: {interval: 1s}",
            "error 3:16 services.a.healthcheck: 'test' is missing (repeat the command of the image: changing only the times of its own check is not supported yet)",
        ),
        (
            "healthcheck: {test: [curl, x]}",
            "error 3:30 services.a.healthcheck.test: the list is not a health test (write [CMD, program, argument…], [CMD-SHELL, line] or [NONE])",
        ),
        (
            "environment: [=x]",
            "error 3:30 services.a.environment[0]: '=x' has no name before '='",
        ),
        (
            "command: '${X:?give it}'",
            "error 3:25 services.a.command: required variable 'X' is not set: give it",
        ),
        (
            "command: 'a $ b'",
            "error 3:25 services.a.command: '$ b' is not a variable reference (write $$ for a single $)",
        ),
    ] {
        field(text, expected);
    }
}

#[test]
fn ports_that_cannot_be() {
    for (port, expected) in [
        ("0", "'0' is not a port from 1 to 65535 or a range of them"),
        ("65536", "'65536' is not a port from 1 to 65535 or a range of them"),
        ("'80:0'", "'0' is not a port from 1 to 65535 or a range of them"),
        ("'x:80'", "'x' is not a port from 1 to 65535 or a range of them"),
        ("'5-4'", "'5-4' is not a port from 1 to 65535 or a range of them"),
        ("'80/sctp'", "'sctp' is not a supported protocol"),
        ("'1.2.3:80:80'", "'1.2.3' is not an IP address"),
    ] {
        let help = "write [ADDRESS:][PUBLISHED:]TARGET[/tcp|udp], such as 8080:80";
        field(
            &format!("ports: [{port}]"),
            &format!("error 3:24 services.a.ports[0]: {expected} ({help})"),
        );
    }
    field(
        "ports: ['1-3:80']",
        "error 3:24 services.a.ports[0]: 3 published ports do not fit 1 target ports (give ranges of one length: which port of a longer range is taken would be left to chance)",
    );
    field(
        "ports: [{published: 80}]",
        "error 3:24 services.a.ports[0]: 'target' is missing",
    );
    field(
        "ports: [{target: 80, published: 65536}]",
        "error 3:48 services.a.ports[0].published: '65536' is not a port from 1 to 65535 or a range of them",
    );
    field(
        "expose: [x]",
        "error 3:25 services.a.expose[0]: 'x' is not a port (write a number from 1 to 65535, or 3000-3005)",
    );
}

#[test]
fn one_port_is_published_once() {
    let two = |left: &str, right: &str| {
        let text = format!("services:\n  a: {{image: i, ports: [{left}]}}\n  b: {{image: i, ports: [{right}]}}\n");
        super::common::load_texts(&[&text])
            .diagnostics
            .iter()
            .map(super::common::line)
            .collect::<Vec<_>>()
    };
    for (left, right) in [
        ("'80:80'", "'80:81'"),
        ("'80:80'", "'127.0.0.1:80:81'"),
        ("'0.0.0.0:80:80'", "'127.0.0.1:80:81'"),
        ("'80:80'", "{target: 80, published: 80, mode: host}"),
        ("'79-81:79-81'", "'80:1'"),
    ] {
        assert_eq!(
            two(left, right),
            ["error 3:25 services.b.ports[0]: port 80/tcp is published by service 'a' already"],
            "{left} {right}"
        );
    }
    for (left, right) in [
        ("'80:80'", "'80:80/udp'"),
        ("'127.0.0.2:80:80'", "'127.0.0.1:80:80'"),
        (
            "{target: 80, published: 80, mode: host}",
            "{target: 80, published: 80, mode: host}",
        ),
        ("80", "80"),
    ] {
        assert_eq!(two(left, right), [""; 0], "{left} {right}");
    }
    field(
        "ports: ['80:80', '80:80']",
        "error 3:33 services.a.ports[1]: port 80/tcp is published by service 'a' already",
    );
}

#[test]
fn mounts_that_cannot_be() {
    for (volume, expected) in [
        ("'dta:/x'", "volume 'dta' is not declared (did you mean 'data'?)"),
        (
            "'other:/x'",
            "volume 'other' is not declared (declare it under 'volumes:' at the top level)",
        ),
        (
            "'${EMPTY}:/x'",
            "the source before ':' is empty (is a variable not set?)",
        ),
        ("'data:x'", "target 'x' must be an absolute path other than /"),
        ("'data:/'", "target '/' must be an absolute path other than /"),
        (
            "'data:/x:rx'",
            "'rx' is not an option of this mount (use ro, rw, nocopy (volumes) or a propagation such as rslave (bind mounts))",
        ),
        (
            "'a:b:c:d'",
            "'a:b:c:d' is not a volume (write [SOURCE:]TARGET[:OPTIONS], such as ./data:/data:ro)",
        ),
        (
            "'a/b:/x'",
            "'a/b' is not a valid name: use 1 to 63 of a-z, A-Z, 0-9, '_', '.', '-', starting with a letter or digit (write './a/b' if a folder is meant)",
        ),
        (
            "{type: bind, target: /x}",
            "'source' is missing, a bind mount needs one",
        ),
        ("{source: data, target: /x}", "'type' and 'target' are needed"),
    ] {
        field(
            &format!("volumes: [{volume}]"),
            &format!("error 3:26 services.a.volumes[0]: {expected}"),
        );
    }
    field(
        "volumes: [/x, 'data:/x/']",
        "error 3:30 services.a.volumes[1]: something is mounted at '/x/' already",
    );
    field(
        "tmpfs: ['/x:exec']",
        "error 3:24 services.a.tmpfs[0]: option 'exec' of a tmpfs is not supported yet (use size=, mode= or ro)",
    );
    field(
        "volumes: [{type: volume, source: data, target: /x, volume: {subpath: ../up}}]",
        "error 3:85 services.a.volumes[0].volume.subpath: '../up' must be a path inside the volume",
    );
}

#[test]
fn references_into_nothing() {
    field(
        "networks: [frnt]",
        "error 3:27 services.a.networks[0]: network 'frnt' is not declared (declare it under 'networks:' at the top level)",
    );
    field(
        "configs: [c]",
        "error 3:26 services.a.configs[0]: config 'c' is not declared (declare it under 'configs:' at the top level)",
    );
    field(
        "secrets: [{source: s}]",
        "error 3:35 services.a.secrets[0].source: secret 's' is not declared (declare it under 'secrets:' at the top level)",
    );
    field(
        "depends_on: [bb]",
        "error 3:29 services.a.depends_on[0]: there is no service 'bb' (did you mean 'b'?)",
    );
    field(
        "extends: c",
        "error 3:25 services.a.extends: there is no service 'c' to extend",
    );
    field(
        "extends: {service: b, file: x.yaml}",
        "error 3:16 services.a.extends: cannot read '/srv/shop/x.yaml': entity not found",
    );
    check(
        "services:\n  a: {image: i, depends_on: [b]}\n  b: {image: i, profiles: [off]}\n",
        &[
            "error 2:30 services.a.depends_on[0]: service 'b' is not in an active profile (activate one of its profiles, or write required: false)",
        ],
    );
}

#[test]
fn circles_are_named() {
    check(
        "services:\n  a: {image: i, depends_on: [b, d]}\n  b: {image: i, depends_on: {c: }}\n  c: {image: i, depends_on: [b]}\n  d: {image: i}\n",
        &["error 3:30 services.b.depends_on.c: services depend on each other in a cycle: b → c → b"],
    );
    check(
        "services: {a: {image: i, depends_on: [a]}}",
        &["error 1:39 services.a.depends_on[0]: services depend on each other in a cycle: a → a"],
    );
    check(
        "services:\n  a: {image: i, extends: b}\n  b: {image: i, extends: a}\n",
        &["error 2:3 services.a: extends itself, or more than 16 in a row"],
    );
}

#[test]
fn conditions_that_never_hold() {
    check(
        "services:\n  a: {image: i, depends_on: {b: {condition: service_healthy}, c: {condition: service_completed_successfully}}}\n  b: {image: i, healthcheck: {disable: true}}\n  c: {image: i, restart: always}\n",
        &[
            "error 2:30 services.a.depends_on.b: service 'b' never becomes healthy, its health check is disabled",
            "error 2:63 services.a.depends_on.c: service 'c' is always restarted and so never completes (use restart: on-failure there)",
        ],
    );
}

#[test]
fn resources_that_contradict() {
    for (text, expected) in [
        (
            "mem_limit: 5m",
            "error 3:27 services.a.mem_limit: a memory limit of 5 MiB is below the smallest, 6 MiB (give at least that much, a container cannot start with less)",
        ),
        (
            "deploy: {resources: {limits: {memory: 64m}, reservations: {memory: 65m}}}",
            "error 3:54 services.a.deploy.resources.limits.memory: the memory reservation of 65 MiB is above the limit of 64 MiB",
        ),
        (
            "mem_limit: 64m, deploy: {resources: {limits: {memory: 65m}}}",
            "error 3:70 services.a.deploy.resources.limits.memory: differs from the older key of the service that means the same (remove cpus, mem_limit, mem_reservation or pids_limit)",
        ),
        (
            "cpus: 0.0001",
            "error 3:22 services.a.cpus: '0.0001' is not a number of processor cores: write decimal cores such as 0.5 or 2, at least 0.001",
        ),
        (
            "cpus: 1, deploy: {resources: {reservations: {cpus: 2}}}",
            "error 3:3 services.a: the reservation of 2 cpus is above the limit of 1",
        ),
        (
            "deploy: {resources: {reservations: {devices: [{capabilities: [tpu]}]}}}",
            "error 3:62 services.a.deploy.resources.reservations.devices[0]: nothing on a node is known by the capabilities tpu (use gpu, or name devices by their CDI names in device_ids)",
        ),
    ] {
        let expected = expected.replace("error 3:3 services.a:", "error 2:3 services.a:");
        field(text, &expected);
    }
}

#[test]
fn deployments_that_cannot_be() {
    for (deploy, expected) in [
        (
            "mode: globl",
            "error 3:31 services.a.deploy.mode: 'globl' is not known here (did you mean 'global'?)",
        ),
        (
            "mode: global, replicas: 2",
            "error 3:49 services.a.deploy.replicas: a global service has one replica per node (remove it, or use mode: replicated)",
        ),
        (
            "placement: {constraints: [node.role=manager]}",
            "error 3:51 services.a.deploy.placement.constraints[0]: 'node.role=manager' is not a constraint: write ATTRIBUTE==VALUE or ATTRIBUTE!=VALUE",
        ),
        (
            "placement: {preferences: [{spread: rack}]}",
            "error 3:60 services.a.deploy.placement.preferences[0].spread: 'rack' is not a node attribute: use node.id, node.hostname, node.ip, node.role, node.platform.os, node.platform.arch, node.kernel, node.labels.KEY or engine.labels.KEY",
        ),
        (
            "update_config: {max_failure_ratio: 1.5}",
            "error 3:60 services.a.deploy.update_config.max_failure_ratio: '1.5' is not a ratio from 0 to 1",
        ),
        (
            "update_config: {order: start}",
            "error 3:48 services.a.deploy.update_config.order: 'start' is not known here (use one of: stop-first, start-first)",
        ),
        (
            "rollback_config: {failure_action: rollback}",
            "error 3:59 services.a.deploy.rollback_config.failure_action: 'rollback' is not known here (use one of: pause, continue)",
        ),
        (
            "mode: replicated-job, restart_policy: {condition: any}",
            "error 2:3 services.a: a job cannot be restarted after it succeeded (use restart_policy.condition on-failure or none)",
        ),
        (
            "mode: global, placement: {max_replicas_per_node: 1}",
            "error 3:74 services.a.deploy.placement.max_replicas_per_node: a global service has one replica per node anyway (remove it)",
        ),
    ] {
        field(&format!("deploy: {{{deploy}}}"), expected);
    }
    field(
        "scale: 2, deploy: {replicas: 3}",
        "error 3:23 services.a.scale: scale 2 differs from deploy.replicas 3",
    );
}

#[test]
fn what_is_not_supported_yet_is_refused() {
    for key in [
        "cgroup_parent: x",
        "volumes_from: [b]",
        "external_links: [b]",
        "runtime: runsc",
        "mac_address: x",
        "post_start: [{command: x}]",
        "pre_stop: [{command: x}]",
        "models: [x]",
        "provider: {type: x}",
        "storage_opt: {size: 1G}",
    ] {
        let loaded = super::common::load_texts(&[&format!("services: {{a: {{image: i, {key}}}, b: {{image: i}}}}")]);
        let name = key.split(':').next().expect("a key");
        assert!(loaded.application.is_none(), "{key}");
        assert!(
            loaded.diagnostics[0]
                .message
                .starts_with(&format!("'{name}' is not supported yet")),
            "{key}"
        );
        assert!(loaded.diagnostics[0].help.is_some(), "{key}");
    }
    for mode in ["host", "service:b", "container:x"] {
        let loaded = super::common::load_texts(&[&format!(
            "services: {{a: {{image: i, network_mode: '{mode}'}}, b: {{image: i}}}}"
        )]);
        assert_eq!(
            loaded.diagnostics[0].message,
            format!("network_mode '{mode}' is not supported yet")
        );
    }
    for (key, path) in [("include: [x.yaml]", "include[0]"), ("models: {x: y}", "models")] {
        let loaded = super::common::load_texts(&[&format!("{key}\nservices: {{a: {{image: i}}}}")]);
        assert_eq!(
            loaded.diagnostics.first().map_or("", |found| &found.path),
            path,
            "{key}"
        );
    }
    for mode in ["service:b", "container:x"] {
        for key in ["pid", "ipc"] {
            let text = format!("services: {{a: {{image: i, {key}: '{mode}'}}, b: {{image: i}}}}");
            let loaded = super::common::load_texts(&[&text]);
            let expected = format!("{key} '{mode}' is not supported: the other container may run on another node");
            assert_eq!(loaded.diagnostics[0].message, expected);
        }
    }
}

#[test]
fn configs_and_secrets_need_exactly_one_source() {
    let top = |body: &str| format!("services: {{a: {{image: i, secrets: [s]}}}}\nsecrets:\n  s: {{{body}}}\n");
    for (body, expected) in [
        (
            "",
            "error 3:3 secrets.s: the secret has no content (give one of: file, content, environment, external)",
        ),
        (
            "file: a, content: b",
            "error 3:3 secrets.s: the content of the secret has more than one source",
        ),
        (
            "file: a, external: true",
            "error 3:3 secrets.s: the content of the secret has more than one source",
        ),
        (
            "file: a",
            "error 3:13 secrets.s.file: cannot read '/srv/shop/a': entity not found",
        ),
        (
            "environment: NOPE",
            "error 3:20 secrets.s.environment: variable 'NOPE' is not set",
        ),
    ] {
        check(&top(body), &[expected]);
    }
}

#[test]
fn a_secret_is_never_shown() {
    let content = "hunter2".repeat(80_000);
    let text = format!("services: {{a: {{image: i, secrets: [s]}}}}\nsecrets:\n  s:\n    content: {content}\n");
    let loaded = super::common::load_texts(&[&text]);
    assert_eq!(
        loaded.diagnostics.iter().map(super::common::line).collect::<Vec<_>>(),
        [
            "error 3:3 secrets.s: the secret has 560000 bytes, at most 512000 are kept (put large files into the image or a volume)"
        ]
    );
    let source = gantry_manifest::Source {
        name: "compose.yaml".to_string(),
        text,
    };
    assert!(!render(&loaded.diagnostics, &[source], true).contains("hunter2"));
}

#[test]
fn names_follow_their_rules() {
    check(
        "name: My Shop\nservices: {a: {image: i}}\n",
        &["error 1:7 name: 'My Shop' is not a valid project name ('myshop' would be one)"],
    );
    let rule = "use 1 to 63 of a-z, A-Z, 0-9, '_', '.', '-', starting with a letter or digit";
    check(
        "services: {-a: {image: i}, b: {image: i}}",
        &[&format!("error 1:12 services.-a: '-a' is not a valid name: {rule}")],
    );
    check(
        "services: {b: {image: i}}\nvolumes: {'a b': }\nnetworks: {_: }\n",
        &[
            &format!("error 2:11 volumes[\"a b\"]: 'a b' is not a valid name: {rule}"),
            &format!("error 3:12 networks._: '_' is not a valid name: {rule}"),
        ],
    );
}

#[test]
fn diagnostics_are_data_too() {
    let loaded = super::common::load_texts(&["services: {a: {imgae: x, image: i}}"]);
    let json = serde_json::to_value(&loaded.diagnostics).expect("diagnostics serialise");
    let expected = serde_json::json!([{
        "severity": "error",
        "source": "compose.yaml",
        "span": {"line": 1, "column": 16, "end_line": 1, "end_column": 21},
        "path": "services.a.imgae",
        "message": "unknown key 'imgae'",
        "help": "did you mean 'image'?",
    }]);
    assert_eq!(json, expected);
}

#[test]
fn placement_rules_that_cannot_be() {
    let rule = |text: &str, expected: &str| field(&format!("x-gantry: {{placement: {{{text}}}}}"), expected);
    rule(
        "strategy: pack",
        "error 3:49 services.a.x-gantry.placement.strategy: 'pack' is not a strategy: use binpack or spread",
    );
    rule(
        "priority: 1001",
        "error 3:49 services.a.x-gantry.placement.priority: '1001' is not a whole number from -1000 to 1000",
    );
    rule(
        "neighbours: [{service: nobody, rule: apart}]",
        "error 3:62 services.a.x-gantry.placement.neighbours[0].service: there is no service 'nobody'",
    );
    rule(
        "neighbours: [{service: a, rule: apart}]",
        "error 3:62 services.a.x-gantry.placement.neighbours[0].service: a service is no neighbour of itself (use \
         max_replicas_per_node, or spread with max_skew)",
    );
    rule(
        "affinities: [{constraint: node.labels.a==b}]",
        "error 3:52 services.a.x-gantry.placement.affinities[0]: 'constraint' and 'weight' are needed",
    );
    rule(
        "spread: [{by: node.labels.zone, max_skew: 0}]",
        "error 3:81 services.a.x-gantry.placement.spread[0].max_skew: '0' is not a whole number from 1 to 4294967295",
    );
    rule(
        "tolerations: [some]",
        "error 3:53 services.a.x-gantry.placement.tolerations[0]: 'some' is not known here (use one of: all)",
    );
    field(
        "x-gantry: {reserve: {memory: 5}}",
        "error 3:37 services.a.x-gantry.reserve.memory: 'memory' is not reserved here (use deploy.resources.reservations)",
    );
}
