//! The cluster's registry, by the clients that people use: skopeo, the docker CLI with a daemon of its own, curl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gantry_tests::{Answer, Cluster, Lab, Shape, until, within};
use serde_json::Value;
use tempfile::TempDir;

const HOST: &str = "10.77.0.1:7600";

fn cluster() -> Cluster {
    Cluster::start(Shape {
        servers: 1,
        agents: 2,
        lease_s: 2,
    })
}

/// A folder with what a registry client needs: the authority's certificate and a login.
struct Client<'a> {
    cluster: &'a Cluster,
    folder: TempDir,
}

impl<'a> Client<'a> {
    fn new(cluster: &'a Cluster, token: &str) -> Self {
        let client = Self {
            cluster,
            folder: TempDir::new().expect("a temporary folder"),
        };
        fs::create_dir(client.certificates()).expect("a folder in it");
        let authority = cluster.gantry(&["registry", "ca"]).ok();
        fs::write(client.certificates().join("ca.crt"), authority).expect("a file in it");
        let auth = base64(&format!("anybody:{token}"));
        let login = format!("{{\"auths\":{{\"{HOST}\":{{\"auth\":\"{auth}\"}}}}}}");
        fs::write(client.login(), login).expect("a file in it");
        client
    }

    fn certificates(&self) -> PathBuf {
        self.folder.path().join("certs")
    }

    fn login(&self) -> PathBuf {
        self.folder.path().join("auth.json")
    }

    fn run(&self, command: &[&str]) -> Answer {
        let mut run = self.cluster.lab.command("h1");
        let output = run.args(["timeout", "120"]).args(command).stdin(Stdio::null()).output();
        Answer::of(&output.expect("the client can be run"))
    }

    fn copy(&self, options: &[&str], from: &str, to: &str) -> Answer {
        let (login, certificates) = (self.login(), self.certificates());
        let (login, certificates) = (login.to_string_lossy(), certificates.to_string_lossy());
        let side = |place: &str, side: &str| {
            if place.starts_with("docker://") {
                vec![
                    format!("--{side}-authfile={login}"),
                    format!("--{side}-cert-dir={certificates}"),
                ]
            } else {
                Vec::new()
            }
        };
        let sides = [side(from, "src"), side(to, "dest")].concat();
        let mut command = vec!["skopeo", "--insecure-policy", "copy", "--quiet"];
        command.extend(options);
        command.extend(sides.iter().map(String::as_str));
        command.extend([from, to]);
        self.run(&command)
    }

    /// A request by curl: status and body.
    fn curl(&self, arguments: &[&str], path: &str) -> (u32, String) {
        let authority = self.certificates().join("ca.crt");
        let url = format!("https://{HOST}{path}");
        let mut command = vec!["curl", "-sS", "--cacert"];
        let authority = authority.to_string_lossy();
        command.extend([&*authority, "-w", "\n%{http_code}"]);
        command.extend(arguments);
        command.push(&url);
        let out = self.run(&command).ok();
        let (body, code) = out.rsplit_once('\n').expect("curl prints the status last");
        (code.parse().expect("a status"), body.to_string())
    }
}

fn base64(text: &str) -> String {
    let mut command = Command::new("base64");
    let mut child = command
        .arg("-w0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("base64 runs");
    let mut input = child.stdin.take().expect("its input");
    std::io::Write::write_all(&mut input, text.as_bytes()).expect("it takes it");
    drop(input);
    String::from_utf8(child.wait_with_output().expect("it ends").stdout).expect("base64 is ASCII")
}

fn token(cluster: &Cluster, arguments: &[&str]) -> String {
    let made = cluster.gantry(&[&["registry", "token", "create"], arguments].concat());
    made.ok().trim().to_string()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The image as an archive of `docker save`.
fn layout(cluster: &Cluster, image: &str, name: &str) -> PathBuf {
    let archive = cluster.folder().join(format!("{name}.tar"));
    let _ = cluster.gantry(&["image", "save", "--to", &text(&archive), image]).ok();
    archive
}

fn layers_of(client: &Client<'_>, place: &str) -> Value {
    let (login, certificates) = (text(&client.login()), text(&client.certificates()));
    let command = [
        "skopeo",
        "inspect",
        "--authfile",
        &login,
        "--cert-dir",
        &certificates,
        place,
    ];
    let out = client.run(&command).ok();
    serde_json::from_str::<Value>(&out).expect("skopeo prints JSON")["Layers"].clone()
}

#[test]
fn skopeo_pushes_and_pulls_and_the_cluster_runs_what_it_pushed() {
    let cluster = cluster();
    cluster.import_busybox(&["base:v1"]);
    let client = Client::new(&cluster, &token(&cluster, &["ci", "--push", "--delete"]));
    let archive = layout(&cluster, "base:v1", "base");
    let from = format!("docker-archive:{}", text(&archive));

    // What the cluster has can be pulled at once.
    let pulled = text(&client.folder.path().join("pulled"));
    let _ = client
        .copy(&[], &format!("docker://{HOST}/base:v1"), &format!("oci:{pulled}:x"))
        .ok();

    // In all formats, and back.
    for (format, name) in [("oci", "web"), ("v2s2", "ghcr.io/team/web")] {
        let place = format!("docker://{HOST}/{name}:v1");
        let _ = client.copy(&["--format", format], &from, &place).ok();
        let back = text(&client.folder.path().join(format!("back-{format}")));
        let _ = client.copy(&[], &place, &format!("dir:{back}")).ok();
        assert!(
            layers_of(&client, &place)
                .as_array()
                .is_some_and(|layers| !layers.is_empty())
        );
    }
    let tags = cluster
        .json(&["image", "ls"])
        .expect("images can be listed")
        .to_string();
    assert!(tags.contains("ghcr.io/team/web"), "{tags}");

    // A manifest names it by the server's address, and it is pinned.
    let manifest =
        format!("services: {{web: {{image: '{HOST}/web:v1', command: ['sleep', '1000'], stop_grace_period: 1s}}}}");
    let manifest = cluster.manifest("web.yaml", &manifest);
    let _ = cluster.gantry(&["apply", "-f", &manifest, "-n", "shop"]).ok();
    let _ = cluster.until_ready("web", 1);
    let service = cluster.json(&["service", "inspect", "shop/web"]).expect("the service");
    assert!(service.to_string().contains("sha256:"), "{service}");

    // Deleted, it is gone.
    let (code, _) = client.curl(
        &["-u", &format!("x:{}", token(&cluster, &["--delete"])), "-X", "DELETE"],
        "/v2/ghcr.io/team/web/manifests/v1",
    );
    assert_eq!(code, 202);
    let gone = client.copy(&[], &format!("docker://{HOST}/ghcr.io/team/web:v1"), "dir:/tmp/never");
    assert_ne!(gone.code, 0, "{gone:?}");
}

#[test]
fn who_may_what_is_said_by_tokens() {
    let cluster = cluster();
    cluster.import_busybox(&["team/a:1", "other:1"]);
    let reader = token(&cluster, &["reader", "--repository", "team/*"]);
    let client = Client::new(&cluster, &reader);
    let login = |token: &str| format!("anybody:{token}");
    assert_eq!(client.curl(&[], "/v2/").0, 401);
    assert_eq!(client.curl(&["-u", "a:wrong"], "/v2/").0, 401);
    assert_eq!(client.curl(&["-u", &login(&reader)], "/v2/").0, 200);
    assert_eq!(client.curl(&["-u", &login(&reader)], "/v2/team/a/manifests/1").0, 200);
    assert_eq!(client.curl(&["-u", &login(&reader)], "/v2/other/manifests/1").0, 403);
    assert_eq!(
        client
            .curl(&["-u", &login(&reader), "-X", "POST"], "/v2/team/a/blobs/uploads/")
            .0,
        403
    );
    let (_, catalog) = client.curl(&["-u", &login(&reader)], "/v2/_catalog");
    assert_eq!(catalog, r#"{"repositories":["team/a"]}"#);

    // By the flow of clients: a challenge, a token for a while, and its end with the token it was made of.
    let (_, headers) = client.curl(&["-D", "-"], "/v2/team/a/tags/list");
    assert!(
        headers.to_lowercase().contains("www-authenticate: bearer realm="),
        "{headers}"
    );
    let path = format!("/v2/token?service={HOST}&scope=repository:team/a:pull,push");
    let (code, issued) = client.curl(&["-u", &login(&reader)], &path);
    assert_eq!(code, 200);
    let issued: Value = serde_json::from_str(&issued).expect("a token");
    let bearer = format!("Authorization: Bearer {}", issued["token"].as_str().expect("its text"));
    assert_eq!(client.curl(&["-H", &bearer], "/v2/team/a/tags/list").0, 200);
    assert_eq!(
        client
            .curl(&["-H", &bearer, "-X", "POST"], "/v2/team/a/blobs/uploads/")
            .0,
        401
    );
    assert_eq!(client.curl(&["-H", &bearer], "/v2/other/tags/list").0, 401);
    let _ = cluster.gantry(&["registry", "token", "revoke", "reader"]).ok();
    assert_eq!(client.curl(&["-H", &bearer], "/v2/team/a/tags/list").0, 401);
    assert_eq!(client.curl(&["-u", &login(&reader)], "/v2/").0, 401);
    let listed = cluster.gantry(&["registry", "token", "ls"]).ok();
    assert!(!listed.contains("reader"), "{listed}");
}

#[test]
fn an_upload_goes_on_after_a_broken_connection() {
    let cluster = cluster();
    let login = format!("x:{}", token(&cluster, &["--push"]));
    let client = Client::new(&cluster, "unused");
    let content = client.folder.path().join("content");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    fs::write(&content, &bytes).expect("a file");
    let digest = client.run(&["sha256sum", &text(&content)]).ok();
    let digest = digest.split(' ').next().expect("a digest").to_string();
    let (code, headers) = client.curl(&["-u", &login, "-X", "POST", "-D", "-"], "/v2/app/blobs/uploads/");
    assert_eq!(code, 202, "{headers}");
    let location = headers
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("location: ").map(str::to_string));
    let location = location.expect("a location").trim().to_string();

    // A client that announces more than it sends, and hangs up.
    let announced = format!("Content-Length: {}", bytes.len());
    let half = client.folder.path().join("half");
    fs::write(&half, &bytes[..1_000_000]).expect("a file");
    let authority = text(&client.certificates().join("ca.crt"));
    let url = format!("https://{HOST}{location}");
    let broken = client.run(&[
        "curl",
        "-sS",
        "--http1.1",
        "--max-time",
        "3",
        "--cacert",
        &authority,
        "-u",
        &login,
        "-X",
        "PATCH",
        "-H",
        &announced,
        "-H",
        "Content-Type: application/octet-stream",
        "--data-binary",
        &format!("@{}", text(&half)),
        &url,
    ]);
    assert_ne!(broken.code, 0, "{broken:?}");

    // What came is there, and the rest follows; a piece at another place is refused.
    let came = within(std::time::Duration::from_secs(30), "what came is known", || {
        let (code, headers) = client.curl(&["-u", &login, "-D", "-"], &location);
        let range = headers
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("range: 0-").map(str::to_string));
        let came = range
            .and_then(|range| range.trim().parse::<usize>().ok())
            .map(|last| last + 1);
        came.filter(|came| code == 204 && *came > 1).ok_or(headers)
    });
    assert!(came <= 1_000_000, "{came}");
    let wrong = [
        "-u",
        &login,
        "-X",
        "PATCH",
        "-H",
        "Content-Range: 5-9",
        "--data-binary",
        "abcde",
    ];
    assert_eq!(client.curl(&wrong, &location).0, 416);
    let rest = client.folder.path().join("rest");
    fs::write(&rest, &bytes[came..]).expect("a file");
    let range = format!("Content-Range: {came}-{}", bytes.len() - 1);
    let from_rest = format!("@{}", text(&rest));
    let (code, body) = client.curl(
        &["-u", &login, "-X", "PATCH", "-H", &range, "--data-binary", &from_rest],
        &location,
    );
    assert_eq!(code, 202, "{body}");
    let (code, body) = client.curl(
        &["-u", &login, "-X", "PUT"],
        &format!("{location}?digest=sha256:{digest}"),
    );
    assert_eq!(code, 201, "{body}");
    let back = text(&client.folder.path().join("back"));
    let (code, _) = client.curl(&["-u", &login, "-o", &back], &format!("/v2/app/blobs/sha256:{digest}"));
    assert_eq!((code, fs::read(&back).expect("the blob")), (200, bytes));
}

/// A daemon in a host of the lab, without network of its own; stopped when dropped.
struct Docker<'a> {
    lab: &'a Lab,
    folder: TempDir,
    process: Child,
}

impl<'a> Docker<'a> {
    fn start(cluster: &'a Cluster) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let dir = folder.path();
        let certificates = dir.join("certs.d").join(HOST);
        fs::create_dir_all(&certificates).expect("a folder in it");
        let authority = cluster.gantry(&["registry", "ca"]).ok();
        fs::write(certificates.join("ca.crt"), authority).expect("a file in it");
        let script = format!(
            "mkdir -p /etc/docker && mount -t tmpfs none /etc/docker && cp -r {dir}/certs.d /etc/docker/ && exec dockerd \
             --bridge=none --iptables=false --ip-masq=false --data-root={dir}/data --exec-root={dir}/exec \
             --pidfile={dir}/pid --host=unix://{dir}/sock",
            dir = dir.display()
        );
        let log = fs::File::create(dir.join("log")).expect("a file in it");
        let process = cluster
            .lab
            .command("h1")
            .args(["unshare", "-m", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file twice"))
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        let docker = Self {
            lab: &cluster.lab,
            folder,
            process,
        };
        until("dockerd answers", || {
            let answer = docker.run(&["version"]);
            let log = fs::read_to_string(docker.folder.path().join("log")).unwrap_or_default();
            if answer.code == 0 { Ok(()) } else { Err(log) }
        });
        docker
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        let dir = self.folder.path().display();
        let mut command = self.lab.command("h1");
        command.args([
            "timeout",
            "120",
            "docker",
            "--config",
            &format!("{dir}/config"),
            "--host",
            &format!("unix://{dir}/sock"),
        ]);
        let output = command.args(arguments).stdin(Stdio::null()).output();
        Answer::of(&output.expect("docker can be run"))
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.folder.path().join("pid")).unwrap_or_default();
        let _ = self.lab.exec(
            "h1",
            &[
                "sh",
                "-c",
                &format!("kill {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.1; done"),
            ],
        );
        let _ = self.process.wait();
    }
}

#[test]
fn docker_pushes_and_pulls() {
    if Command::new("dockerd").arg("--version").output().is_err() {
        eprintln!("skipped: there is no dockerd on this machine");
        return;
    }
    let cluster = cluster();
    cluster.import_busybox(&["base:v1"]);
    let docker = Docker::start(&cluster);
    let secret = token(&cluster, &["--push"]);
    let _ = docker.run(&["login", "-u", "anybody", "-p", &secret, HOST]).ok();
    let _ = docker.run(&["pull", &format!("{HOST}/base:v1")]).ok();
    let _ = docker
        .run(&["tag", &format!("{HOST}/base:v1"), &format!("{HOST}/team/copy:v2")])
        .ok();
    let _ = docker.run(&["push", &format!("{HOST}/team/copy:v2")]).ok();
    let tags = cluster
        .json(&["image", "ls"])
        .expect("images can be listed")
        .to_string();
    assert!(tags.contains("team/copy"), "{tags}");
    let _ = docker
        .run(&["rmi", &format!("{HOST}/team/copy:v2"), &format!("{HOST}/base:v1")])
        .ok();
    let _ = docker.run(&["pull", &format!("{HOST}/team/copy:v2")]).ok();
    let refused = docker.run(&["login", "-u", "anybody", "-p", "wrong", HOST]);
    assert_ne!(refused.code, 0, "{refused:?}");
}

/// The nodes that keep each image with a tag of the repository.
fn keepers(cluster: &Cluster, repository: &str) -> Result<Vec<String>, String> {
    let images = cluster.gantry(&["image", "ls", "-o", "json"]);
    let images: Value = serde_json::from_str(&images.out).map_err(|error| format!("{error}: {}", images.err))?;
    let image = images
        .as_array()
        .into_iter()
        .flatten()
        .find(|image| image.to_string().contains(repository));
    let image = image.ok_or_else(|| images.to_string())?;
    let keepers = image["keepers"].as_array().into_iter().flatten();
    Ok(keepers.filter_map(|id| id.as_str().map(str::to_string)).collect())
}

#[test]
fn a_pull_goes_on_when_the_node_that_sends_dies() {
    let cluster = cluster();
    let secret = token(&cluster, &["--push"]);
    let client = Client::new(&cluster, &secret);
    let login = format!("x:{secret}");

    // 64 MiB that no compression makes small.
    let root = client.folder.path().join("root");
    fs::create_dir(&root).expect("a folder");
    let _ = client
        .run(&[
            "dd",
            "if=/dev/urandom",
            &format!("of={}/noise", text(&root)),
            "bs=1M",
            "count=64",
        ])
        .ok();
    let tar = text(&client.folder.path().join("root.tar"));
    let _ = client.run(&["tar", "-C", &text(&root), "-cf", &tar, "."]).ok();
    let _ = cluster.gantry(&["image", "import", &tar, "big:v1"]).ok();
    until("two nodes keep it", || {
        let keepers = keepers(&cluster, "big")?;
        if keepers.len() == 2 {
            Ok(())
        } else {
            Err(format!("{keepers:?}"))
        }
    });
    let (_, manifest) = client.curl(&["-u", &login], "/v2/big/manifests/v1");
    let manifest: Value = serde_json::from_str(&manifest).expect("a manifest");
    let layer = &manifest["layers"][0];
    let digest = layer["digest"].as_str().expect("a digest").to_string();

    // A slow client, so that the node dies in the middle; whichever it reads from, one of the two remains.
    let authority = text(&client.certificates().join("ca.crt"));
    let back = text(&client.folder.path().join("back"));
    let mut command = cluster.lab.command("h1");
    let pull = command
        .args([
            "curl",
            "-sS",
            "--limit-rate",
            "8M",
            "--max-time",
            "120",
            "--cacert",
            &authority,
            "-u",
            &login,
            "-o",
            &back,
        ])
        .arg(format!("https://{HOST}/v2/big/blobs/{digest}"))
        .stdin(Stdio::null())
        .spawn()
        .expect("curl runs");
    until("the pull is under way", || {
        let length = fs::metadata(&back).map_or(0, |metadata| metadata.len());
        if length > 1 << 20 {
            Ok(())
        } else {
            Err(length.to_string())
        }
    });
    for host in ["h2", "h3"] {
        cluster.process("agent", host).kill();
        if host == "h2" {
            // Both die one after the other, and the first is back before the second goes.
            cluster.start_agent("h2");
            cluster.until_nodes_ready(2);
        }
    }
    let ended = pull.wait_with_output().expect("curl ends");
    assert!(ended.status.success(), "{ended:?}");
    let found = client.run(&["sha256sum", &back]).ok();
    assert!(found.starts_with(digest.trim_start_matches("sha256:")), "{found}");
}
