//! What cannot be done is refused with its reason, quickly, and leaves nothing half done.

use std::time::Duration;

use gantry_tests::{Cluster, Shape, Stopwatch, until};

const SHAPE: Shape = Shape {
    servers: 1,
    agents: 1,
    lease_s: 3,
};

/// Exit code of a command that failed.
const FAILED: i32 = 1;

/// Exit code of a command line that is wrong.
const USAGE: i32 = 2;

/// No answer about a manifest takes longer, however large or malicious it is.
const CHECK_MAX: Duration = Duration::from_secs(3);

#[test]
fn bad_input_is_refused_with_its_reason_and_changes_nothing() {
    let cluster = Cluster::start(SHAPE);
    cluster.import_busybox(&["busybox:v1"]);
    manifests(&cluster);
    images(&cluster);
    ports(&cluster);
    impossible_constraint(&cluster);
    identities(&cluster);
    let usage = cluster.gantry(&["service", "scale"]).refused(USAGE);
    assert!(usage.contains("Usage"), "{usage}");
    let unknown = cluster.gantry(&["service", "inspect", "nothing"]).refused(FAILED);
    assert!(
        unknown.contains("nothing") && unknown.contains("does not exist"),
        "{unknown}"
    );
}

/// Each manifest has one fault beside a service that would be fine.
fn manifests(cluster: &Cluster) {
    let good = "name: bad\nservices:\n  good: {image: 'busybox:v1'}\n";
    let bomb: String = (1..=9)
        .map(|level| {
            format!(
                "x-{level}: &a{level} [{}]\n",
                vec![format!("*a{}", level - 1); 10].join(",")
            )
        })
        .collect();
    let cases: [(&str, String, &[&str]); 7] = [
        (
            "malformed",
            format!("{good}  web: {{image: \"x\n"),
            &["malformed.yaml:4", "quoted scalar"],
        ),
        (
            "cycle",
            format!("{good}  a: {{image: b, depends_on: [b]}}\n  b: {{image: b, depends_on: [a]}}\n"),
            &["cycle", "a → b → a"],
        ),
        (
            "memory",
            format!("{good}  a: {{image: b, mem_limit: 1m}}\n"),
            &["memory limit", "6 MiB"],
        ),
        (
            "ports",
            format!("{good}  a: {{image: b, ports: ['80:80']}}\n  b: {{image: b, ports: ['80:81']}}\n"),
            &["port 80/tcp", "already"],
        ),
        (
            "imageless",
            format!("{good}  a: {{}}\n"),
            &["'image' is missing", "services.a"],
        ),
        (
            "typing",
            format!("{good}  a: {{image: b, replicsa: 3}}\n"),
            &["replicsa"],
        ),
        (
            "bomb",
            format!("x-0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{bomb}{good}"),
            &["aliases"],
        ),
    ];
    for (name, text, words) in cases {
        let path = cluster.manifest(&format!("{name}.yaml"), &text);
        let watch = Stopwatch::start();
        let error = cluster.gantry(&["apply", "-f", &path]).refused(FAILED);
        for word in words {
            assert!(error.contains(word), "{name} should say {word:?}:\n{error}");
        }
        assert!(watch.elapsed() < CHECK_MAX, "{name} took {:?}", watch.elapsed());
    }
    let huge = cluster.manifest("huge.yaml", &format!("{good}{}", "# filler\n".repeat(100 << 17)));
    let watch = Stopwatch::start();
    let error = cluster.gantry(&["apply", "-f", &huge]).refused(FAILED);
    assert!(error.contains("too large"), "{error}");
    println!(
        "FIGURE refusals: a manifest of 112 MiB is refused after {} ms",
        watch.ms()
    );
    assert!(watch.elapsed() < CHECK_MAX, "{:?}", watch.elapsed());
    nothing_of(cluster, "bad");
}

fn images(cluster: &Cluster) {
    let path = cluster.manifest(
        "image.yaml",
        "name: bad\nservices:\n  good: {image: 'busybox:v1'}\n  web: {image: 'no-such-image:v7'}\n",
    );
    let error = cluster.gantry(&["apply", "-f", &path]).refused(FAILED);
    assert!(error.contains("no-such-image:v7"), "{error}");
    nothing_of(cluster, "bad");
}

fn ports(cluster: &Cluster) {
    let text = |name: &str| {
        format!(
            "name: {name}\nservices:\n  a: {{image: 'busybox:v1', command: sleep 10000, stop_grace_period: 0s, ports: ['81:80']}}\n"
        )
    };
    let _ = cluster
        .gantry(&["apply", "-f", &cluster.manifest("first.yaml", &text("first"))])
        .ok();
    let error = cluster
        .gantry(&["apply", "-f", &cluster.manifest("bad.yaml", &text("bad"))])
        .refused(FAILED);
    assert!(error.contains("port 81/tcp") && error.contains("first/a"), "{error}");
    nothing_of(cluster, "bad");
}

fn impossible_constraint(cluster: &Cluster) {
    let path = cluster.manifest(
        "moon.yaml",
        "name: moon\nservices:\n  a:\n    image: busybox:v1\n    deploy: {placement: {constraints: [node.labels.zone == moon]}}\n",
    );
    let error = cluster
        .gantry(&["apply", "-f", &path, "--wait", "--timeout", "2s"])
        .refused(FAILED);
    assert!(error.contains("node.labels.zone") || error.contains("2s"), "{error}");
    let why = cluster.gantry(&["explain", "a", "-n", "moon"]).ok();
    assert!(why.contains("node.labels.zone") && why.contains("moon"), "{why}");
    let _ = cluster
        .gantry(&["node", "update", "h2", "--label-add", "zone=moon"])
        .ok();
    let _ = cluster.gantry(&["delete", "-f", &path, "--wait"]).ok();
}

fn identities(cluster: &Cluster) {
    let wrong = cluster.token("agent").replace("-agent-", "-server-");
    let joined = |token: &str| {
        let command = [
            "agent",
            "--data-dir",
            "/run/gantry/other",
            "--join",
            "10.77.0.1:7600",
            "--token",
            token,
            "--name",
            "h9",
        ];
        cluster.gantry_on(
            "h2",
            &[
                &command[..],
                &["--listen", "0.0.0.0:7699", "--advertise", "10.77.0.2:7699"],
            ]
            .concat(),
        )
    };
    let error = joined(&wrong).refused(FAILED);
    assert!(error.contains("token"), "{error}");
    let forged = format!("{}0", &cluster.token("agent")[..cluster.token("agent").len() - 1]);
    let error = joined(&forged).refused(FAILED);
    assert!(error.contains("token"), "{error}");

    let token = cluster
        .json(&["cluster", "token", "create", "agent", "--ttl", "1s"])
        .expect("a token");
    let token = token["token"].as_str().expect("the token is printed").to_string();
    until("a short token runs out", || {
        let list = cluster.gantry(&["cluster", "token", "ls"]);
        let expired = |line: &str| line.matches(" ago").count() == 2;
        if list.out.lines().any(expired) {
            Ok(())
        } else {
            Err(list.out)
        }
    });
    let error = joined(&token).refused(FAILED);
    assert!(error.contains("token") && error.contains("expired"), "{error}");

    // Without a certificate only joining is possible. The body is one empty message.
    let ask = r"printf '\0\0\0\0\0' | curl -s -k -i -m 5 --http2 -H 'content-type: application/grpc' -H 'te: trailers' \
        --data-binary @- https://10.77.0.1:7600/gantry.v1.Cluster/ClusterStatus";
    let answer = cluster.lab.exec("h2", &["bash", "-c", ask]);
    assert!(
        answer.code != 0 || answer.out.contains("grpc-status: 16"),
        "a client without a certificate is unauthenticated: {answer:?}"
    );
    let nodes = cluster.json(&["node", "ls"]).expect("nodes are listed");
    assert_eq!(nodes.as_array().map(Vec::len), Some(1), "nobody joined: {nodes}");
}

fn nothing_of(cluster: &Cluster, namespace: &str) {
    let services = cluster
        .json(&["service", "ls", "-n", namespace])
        .expect("services are listed");
    assert_eq!(services.as_array().map(Vec::len), Some(0), "{services}");
}
