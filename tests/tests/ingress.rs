//! HTTP from outside: rules by host and path through every node, TLS from secrets, what is refused, and not one request dropped
//! by what is planned.
//!
//! nginx says which replica answered, by the address it was asked at, so that what the ingress did is known from its other end.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_tests::{Cluster, Lab, Shape, Stream, under_load, until, web_rootfs};

const SHAPE: Shape = Shape {
    servers: 1,
    agents: 2,
    lease_s: 5,
};

const REPLICAS: usize = 4;

/// Requests of the least busy stream in the shortest event; fewer would prove nothing.
const REQUESTS_MIN: u64 = 3;

/// The page `/slow` takes about half a second. SIGTERM makes nginx cut what is under way.
const SHOP: &str = r#"
name: shop
x-web: &web
  image: web:v1
  command: ["/usr/sbin/nginx", "-c", "/etc/nginx.conf"]
  configs: [{ source: site, target: /etc/nginx.conf }]
  environment: { VERSION: "${VERSION}" }
  stop_grace_period: 3s
  healthcheck:
    { test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/"], interval: 5s, start_period: 20s, start_interval: 100ms }
services:
  web:
    <<: *web
    deploy:
      replicas: ${REPLICAS}
      update_config: { parallelism: 2, order: "${ORDER}", monitor: 300ms, delay: 0s }
    x-gantry:
      ingress:
        - { host: "*", path: /load, port: 80 }
        - { host: "*", path: =/slow, port: 80 }
        - { host: shop.test, port: 80 }
        - { host: sticky.test, port: 80, sticky: true }
        - { host: safe.test, port: 80, tls: { secret: certificate }, redirect: https }
  api:
    <<: *web
    deploy: { replicas: 1 }
    x-gantry: { ingress: { host: shop.test, path: /api, port: 80 } }
  nobody:
    <<: *web
    deploy: { replicas: 0 }
    x-gantry: { ingress: { host: nobody.test, port: 80 } }
configs:
  site:
    content: |
      daemon off;
      user root;
      worker_processes 1;
      error_log stderr;
      pid /tmp/nginx.pid;
      events {}
      http {
        access_log off;
        server {
          listen 80;
          root /www;
          location / { return 200 "$$server_addr\n"; }
          location = /slow { limit_rate 128k; }
        }
      }
secrets:
  certificate: { file: ./certificate.pem }
"#;

const BANK: &str = r#"
name: bank
services:
  teller: { image: "web:v1", x-gantry: { ingress: { host: Shop.test, path: /api/, port: 80 } } }
"#;

/// What the manifest is filled in with.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    version: &'a str,
    order: &'a str,
    replicas: usize,
}

struct Site {
    cluster: Cluster,
    program: PathBuf,
    manifest: String,
}

/// What a request came to.
#[derive(Debug)]
struct Page {
    status: String,
    text: String,
    cookie: Option<String>,
}

#[test]
fn requests_go_where_the_rules_say_and_none_is_dropped() {
    let mut wanted = Wanted {
        version: "1",
        order: "start-first",
        replicas: REPLICAS,
    };
    let site = Site::start(wanted);
    site.rules_hold_on_every_node();
    site.certificates_are_shown_and_renewed(wanted);
    site.a_client_comes_back_to_its_replica();
    site.what_another_service_has_is_refused();

    let mut failed = 0;
    for (version, order) in [("2", "start-first"), ("3", "stop-first")] {
        wanted = Wanted {
            version,
            order,
            ..wanted
        };
        failed += site.under_load(&format!("rolling update, {order}"), || site.apply(wanted));
    }
    failed += site.under_load("scale to 1 and back", || {
        site.apply(Wanted { replicas: 1, ..wanted });
        site.apply(wanted);
    });
    assert_eq!(failed, 0, "see above");
    site.figures_count_what_was_served();
}

impl Site {
    fn start(wanted: Wanted<'_>) -> Self {
        let cluster = Cluster::start(SHAPE);
        let program = PathBuf::from(env!("CARGO_BIN_EXE_load"));
        let tar = web_rootfs(cluster.folder(), &program);
        let _ = cluster
            .gantry(&["image", "import", &tar.to_string_lossy(), "web:v1"])
            .ok();
        let manifest = cluster.manifest("compose.yaml", SHOP);
        let site = Self {
            cluster,
            program,
            manifest,
        };
        site.new_certificate();
        site.apply(wanted);
        let _ = site.cluster.until_ready("api", 1);
        site
    }

    /// A certificate for `safe.test` that signs itself, where the manifest has it from.
    fn new_certificate(&self) {
        let folder = self.cluster.folder();
        let (key, chain) = (folder.join("key.pem"), folder.join("chain.pem"));
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ])
            .args(["-subj", "/CN=safe.test", "-addext", "subjectAltName=DNS:safe.test"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&chain)
            .output()
            .expect("openssl can be run");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let read = |path: &Path| std::fs::read_to_string(path).expect("openssl wrote it");
        let both = read(&chain) + &read(&key);
        std::fs::write(folder.join("certificate.pem"), both).expect("the certificate can be written");
    }

    fn apply(&self, wanted: Wanted<'_>) {
        let replicas = wanted.replicas.to_string();
        let variables = [
            ("VERSION", wanted.version),
            ("ORDER", wanted.order),
            ("REPLICAS", &replicas),
        ];
        let _ = self
            .cluster
            .gantry_with(&variables, &["apply", "-f", &self.manifest])
            .ok();
        self.cluster.until_settled("web", wanted.replicas);
    }

    /// The addresses of a service's replicas.
    fn addresses(&self, service: &str) -> BTreeSet<String> {
        let replicas = self.cluster.replicas(service).expect("replicas can be listed");
        let address = |replica: &serde_json::Value| Some(replica["address"].as_str()?.to_string());
        replicas.iter().filter_map(address).collect()
    }

    /// Asks a node's ingress, from the first host.
    fn ask(&self, node: &str, url: &str, more: &[&str]) -> Result<Page, String> {
        let address = Lab::address(node);
        let resolve = ["shop", "sticky", "safe", "nobody", "unknown"]
            .map(|host| [80, 443].map(|port| format!("{host}.test:{port}:{address}")));
        let mut arguments = vec!["curl", "-s", "-S", "-i", "-m", "10"];
        for entry in resolve.iter().flatten() {
            arguments.extend(["--resolve", entry]);
        }
        arguments.extend(more);
        arguments.push(url);
        let answer = self.cluster.lab.exec("h1", &arguments);
        if answer.code != 0 {
            return Err(format!("{url} at {node}: {}", answer.err.trim()));
        }
        let (head, text) = answer.out.split_once("\r\n\r\n").ok_or("no head")?;
        let cookie = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let is_cookie = name.eq_ignore_ascii_case("set-cookie");
            is_cookie.then(|| value.split(';').next().unwrap_or_default().to_string())
        });
        Ok(Page {
            status: head.split(' ').nth(1).unwrap_or_default().to_string(),
            text: text.trim().to_string(),
            cookie,
        })
    }

    /// The same, of what must be answered.
    fn page(&self, node: &str, url: &str, more: &[&str]) -> Page {
        self.ask(node, url, more).unwrap_or_else(|error| panic!("{error}"))
    }

    fn rules_hold_on_every_node(&self) {
        let (web, api) = (self.addresses("web"), self.addresses("api"));
        assert_eq!((web.len(), api.len()), (REPLICAS, 1));
        for node in self.cluster.agents() {
            let mut seen = BTreeSet::new();
            until("every replica gets requests", || {
                seen.insert(self.ask(&node, "http://shop.test/apis", &[])?.text);
                if seen.len() < REPLICAS {
                    Err(format!("{seen:?}"))
                } else {
                    Ok(())
                }
            });
            assert_eq!(seen, web, "a prefix ends where a segment does");
            for url in ["http://shop.test/api", "http://shop.test/x/../api/y"] {
                let page = self.page(&node, url, &["--path-as-is"]);
                assert!(api.contains(&page.text), "{url}: {page:?}");
            }
            for (url, status, text) in [
                ("http://unknown.test/", "404", "no route is for this host and path"),
                ("http://nobody.test/", "503", "no replica is ready"),
                ("http://safe.test/x?y", "308", ""),
            ] {
                let page = self.page(&node, url, &[]);
                assert_eq!((page.status.as_str(), page.text.as_str()), (status, text), "{url}");
            }
        }
        let rules = self.cluster.gantry(&["ingress", "ls"]).ok();
        for words in ["shop.test", "/api", "shop/nobody", "certificate"] {
            assert!(rules.contains(words), "{words}: {rules}");
        }
    }

    fn certificates_are_shown_and_renewed(&self, wanted: Wanted<'_>) {
        let chain = self.cluster.folder().join("chain.pem");
        let trusted = ["--cacert", &chain.to_string_lossy()];
        let by_https = |node: &str| self.ask(node, "https://safe.test/", &trusted);
        let nodes = self.cluster.agents();
        for node in &nodes {
            let page = by_https(node).unwrap_or_else(|error| panic!("{error}"));
            assert!(self.addresses("web").contains(&page.text), "{page:?}");
            let other = self.ask(node, "https://shop.test/", &["-k"]);
            assert!(
                other.is_err(),
                "a host without a certificate gets no other's: {other:?}"
            );
        }
        let before = self.cluster.replicas("web").expect("replicas can be listed");
        self.new_certificate();
        self.apply(wanted);
        for node in &nodes {
            until("the new certificate is shown", || by_https(node));
        }
        let ids = |list: &[serde_json::Value]| list.iter().map(|one| one["id"].to_string()).collect::<BTreeSet<_>>();
        let after = self.cluster.replicas("web").expect("replicas can be listed");
        assert_eq!(ids(&before), ids(&after), "a certificate replaces no replica");
    }

    fn a_client_comes_back_to_its_replica(&self) {
        let nodes = self.cluster.agents();
        let first = self.page(&nodes[0], "http://sticky.test/", &[]);
        let cookie = first.cookie.clone().unwrap_or_else(|| panic!("no cookie: {first:?}"));
        assert!(cookie.starts_with("gantry-web="), "{cookie}");
        for turn in 0..3 * REPLICAS {
            let again = self.page(&nodes[turn % nodes.len()], "http://sticky.test/", &["-b", &cookie]);
            assert_eq!((&again.text, again.cookie), (&first.text, None), "by any node");
        }
    }

    fn what_another_service_has_is_refused(&self) {
        let path = self.cluster.manifest("bank.yaml", BANK);
        let error = self.cluster.gantry(&["apply", "-f", &path]).refused(1);
        for words in ["bank/teller", "shop/api", "shop.test/api"] {
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    /// Lets `event` happen while every node's ingress is asked, and returns how many requests failed.
    fn under_load(&self, what: &str, event: impl FnOnce()) -> u64 {
        let hosts = self.cluster.agents();
        let stream = |host: &String, kind: &str, path, keep| Stream {
            name: format!("{host} {kind}"),
            host: "h1",
            inside: None,
            target: format!("{}:80", Lab::address(host)),
            path,
            keep,
            connections: 2,
        };
        let streams = hosts.iter().flat_map(|host| {
            [
                stream(host, "fresh", "/load", false),
                stream(host, "kept", "/load/x", true),
                stream(host, "slow", "/slow", false),
            ]
        });
        let streams: Vec<Stream<'_>> = streams.collect();
        let tallies = under_load(&self.cluster, &self.program, &streams, ("ingress", what), event);
        for tally in &tallies {
            assert!(tally.requests >= REQUESTS_MIN, "{what}: hardly any load: {tally:?}");
        }
        tallies.iter().map(|tally| tally.failed).sum()
    }

    fn figures_count_what_was_served(&self) {
        let rows = self.cluster.json(&["ingress", "stats"]).expect("the nodes report");
        let rows = rows.as_array().cloned().unwrap_or_default();
        for node in self.cluster.agents() {
            let row = rows.iter().find(|row| row["node"] == *node && row["path"] == "/load");
            let row = row.unwrap_or_else(|| panic!("no figures of {node}: {rows:?}"));
            assert_eq!(
                (&row["replicas"], &row["unserved"]),
                (&REPLICAS.into(), &0.into()),
                "{row}"
            );
            assert!(
                row["requests"].as_u64() >= Some(REQUESTS_MIN) && row["p50_us"].as_u64() > Some(0),
                "{row}"
            );
        }
    }
}
