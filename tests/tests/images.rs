//! Images as a person keeps them: named, sent to a registry and brought back, looked at, damaged and repaired, removed; the cache
//! of builds in a registry. The registry is Docker's own, with a password.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gantry_tests::{Answer, Cluster, Shape, program_rootfs, until};
use serde_json::Value;

const SHAPE: Shape = Shape {
    servers: 1,
    agents: 1,
    lease_s: 3,
};

/// The host of the agent, and of the registry, which listens on loopback: plain HTTP is allowed there alone.
const NODE: &str = "h2";
const REGISTRY: &str = "127.0.0.1:5000";
const USER: &str = "ada";
const PASSWORD: &str = "lovelace";

#[test]
fn a_person_keeps_images_in_a_registry() {
    if !["docker-registry", "htpasswd"].iter().all(|program| is_there(program)) {
        return;
    }
    let cluster = Cluster::start(SHAPE);
    cluster.import_busybox(&["busybox:v1"]);
    start_registry(&cluster);
    let person = Person::new(&cluster, "person");
    credentials_are_checked_before_they_are_kept(&person);
    an_image_goes_out_and_comes_back(&person);
    what_is_wrong_is_said(&cluster, &person);
    an_image_is_looked_at(&person);
    damage_is_found_and_repaired(&person);
    a_cache_in_the_registry_saves_a_build(&person);
    an_ssh_agent_is_lent_to_a_step(&person);
    what_nothing_uses_goes(&person);
}

fn is_there(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED: {program} is missing: apt-get install docker-registry apache2-utils");
    }
    found
}

fn start_registry(cluster: &Cluster) {
    let folder = cluster.folder().join("registry");
    fs::create_dir_all(&folder).expect("a folder");
    let password = Command::new("htpasswd")
        .args(["-Bbn", USER, PASSWORD])
        .output()
        .expect("htpasswd runs");
    fs::write(folder.join("htpasswd"), password.stdout).expect("a file");
    let config = format!(
        "version: 0.1\nlog: {{ level: error }}\nhttp: {{ addr: '{REGISTRY}' }}\n\
         storage: {{ filesystem: {{ rootdirectory: {0}/data }}, delete: {{ enabled: true }} }}\n\
         auth: {{ htpasswd: {{ realm: test, path: {0}/htpasswd }} }}\n",
        folder.display()
    );
    let path = folder.join("config.yml");
    fs::write(&path, config).expect("a file");
    let path = path.display().to_string();
    let _ = cluster
        .lab
        .spawn(NODE, "registry.log", &["docker-registry", "serve", &path]);
    until("the registry asks for a password", || {
        let asked = cluster.lab.exec(
            NODE,
            &["busybox", "wget", "-q", "-O", "-", &format!("http://{REGISTRY}/v2/")],
        );
        if asked.err.contains("401") {
            Ok(())
        } else {
            Err(asked.err)
        }
    });
}

/// Somebody on the node, with credentials of their own.
struct Person<'c> {
    cluster: &'c Cluster,
    folder: PathBuf,
}

impl<'c> Person<'c> {
    fn new(cluster: &'c Cluster, name: &str) -> Self {
        let folder = cluster.folder().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        Self { cluster, folder }
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        self.with("SSH_AUTH_SOCK", Path::new(""), arguments)
    }

    fn with(&self, name: &str, value: &Path, arguments: &[&str]) -> Answer {
        let output = self
            .cluster
            .command(NODE, arguments)
            .env(name, value)
            .env("DOCKER_CONFIG", &self.folder)
            .env("XDG_CACHE_HOME", self.folder.join("cache"))
            .stdin(Stdio::null())
            .output();
        Answer::of(&output.expect("gantry can be run"))
    }

    fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let out = self.ok(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }
}

fn named(name: &str) -> String {
    format!("{REGISTRY}/{name}")
}

fn credentials_are_checked_before_they_are_kept(person: &Person<'_>) {
    let wrong = person.run(&["login", "-u", USER, "-p", "babbage", REGISTRY]).refused(1);
    assert!(wrong.contains(REGISTRY) && wrong.contains("password"), "{wrong}");
    assert!(!person.folder.join("config.json").exists(), "nothing is kept of it");
    let nobody = person.run(&["login", "-u", USER, "-p", PASSWORD, "127.0.0.1:5999"]);
    assert!(
        nobody.code != 0 && nobody.err.contains("cannot connect"),
        "{}",
        nobody.err
    );
    let _ = person.ok(&["login", "-u", USER, "-p", PASSWORD, REGISTRY]);
    let kept = fs::read_to_string(person.folder.join("config.json")).expect("kept");
    assert!(kept.contains(REGISTRY), "{kept}");
}

fn an_image_goes_out_and_comes_back(person: &Person<'_>) {
    let name = named("shop/box:v1");
    let _ = person.ok(&["image", "tag", "busybox:v1", &name]);
    let digest = person.json(&["image", "inspect", &name])["Id"].clone();
    assert!(
        digest.as_str().is_some_and(|digest| digest.starts_with("sha256:")),
        "{digest}"
    );
    let _ = person.ok(&["image", "push", &name]);
    let _ = person.ok(&["image", "rm", &name]);
    let _ = person.ok(&["image", "rm", "busybox:v1"]);
    assert_ne!(person.run(&["image", "inspect", &name]).code, 0);
    let _ = person.ok(&["image", "pull", &name]);
    assert_eq!(person.json(&["image", "inspect", &name])["Id"], digest);
    assert_eq!(person.ok(&["run", "--rm", &name, "echo", "back"]), "back\n");
    // A person who names what is not here gets it as well.
    let _ = person.ok(&["image", "rm", &name]);
    assert_eq!(person.ok(&["run", "--rm", &name, "echo", "again"]), "again\n");
    let tags = person.ok(&["image", "ls"]);
    assert!(tags.contains("shop/box:v1"), "{tags}");
}

fn what_is_wrong_is_said(cluster: &Cluster, person: &Person<'_>) {
    let missing = person.run(&["image", "pull", &named("shop/box:v9")]);
    assert!(
        missing.code != 0 && missing.err.contains("shop/box:v9"),
        "{}",
        missing.err
    );
    let stranger = Person::new(cluster, "stranger");
    let denied = stranger.run(&["image", "pull", &named("shop/box:v1")]);
    assert!(
        denied.code != 0 && denied.err.contains("gantry login"),
        "{}",
        denied.err
    );
    let unknown = person.run(&["image", "push", &named("shop/other:v1")]);
    assert!(
        unknown.code != 0 && unknown.err.contains("shop/other:v1"),
        "{}",
        unknown.err
    );
    let nobody = person.run(&["image", "inspect", "nobody:v1"]);
    assert!(nobody.code != 0 && nobody.err.contains("nobody:v1"), "{}", nobody.err);
}

fn an_image_is_looked_at(person: &Person<'_>) {
    let name = named("shop/box:v1");
    let history = person.json(&["image", "history", &name]);
    assert!(history.as_array().is_some_and(|steps| !steps.is_empty()), "{history}");
    let used = person.json(&["image", "du"]);
    assert!(
        used["images_size"].as_u64().is_some_and(|size| size > 100_000),
        "{used}"
    );
    assert!(person.ok(&["image", "du"]).contains("shop/box:v1"));
    let verified = person.run(&["image", "verify"]);
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
}

fn damage_is_found_and_repaired(person: &Person<'_>) {
    let name = named("shop/box:v1");
    let blobs = person.cluster.lab.folder(NODE).join("data/agent/images/blobs/sha256");
    let blob = largest(&blobs);
    let mut bytes = fs::read(&blob).expect("a layer");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&blob, bytes).expect("damaged");
    let found = person.run(&["image", "verify"]);
    let file = blob
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a digest")
        .to_string();
    assert!(
        found.code == 1 && found.out.contains(&file),
        "{}{}",
        found.out,
        found.err
    );
    // What is damaged does not leave the node.
    let pushed = person.run(&["image", "push", &name.replace("shop", "elsewhere")]);
    assert_ne!(pushed.code, 0);
    let _ = person.run(&["image", "verify", "--repair"]);
    let _ = person.ok(&["image", "pull", &name]);
    let verified = person.run(&["image", "verify"]);
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
    assert_eq!(person.ok(&["run", "--rm", &name, "echo", "whole"]), "whole\n");
}

fn largest(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder).expect("the store's blobs").flatten();
    let largest = entries.max_by_key(|entry| entry.metadata().map_or(0, |metadata| metadata.len()));
    largest.expect("a blob").path()
}

fn a_cache_in_the_registry_saves_a_build(person: &Person<'_>) {
    let context = person.folder.join("context");
    fs::create_dir_all(&context).expect("a folder");
    fs::write(context.join("late"), "late\n").expect("a file");
    let dockerfile = format!(
        "FROM {} AS tool\nRUN echo tool > /tool\nFROM {0}\nRUN echo one > /one\nCOPY late /\nCOPY --from=tool /tool /\n",
        named("shop/box:v1")
    );
    fs::write(context.join("Dockerfile"), dockerfile).expect("a file");
    let context = context.display().to_string();
    let cache = format!("type=registry,ref={},mode=max", named("shop/cache:main"));
    let build = |option: &str| {
        let answer = person.run(&[
            "build",
            "--progress",
            "plain",
            option,
            &cache,
            "-t",
            "made:v1",
            &context,
        ]);
        assert_eq!(answer.code, 0, "{}", answer.err);
        answer.err
    };
    let first = build("--cache-to");
    assert!(!first.contains("CACHED"), "{first}");
    let _ = person.ok(&["image", "rm", "made:v1"]);
    let _ = person.ok(&["image", "prune", "--build-cache", "--all", "--force"]);
    let _ = person.ok(&["image", "prune", "--force"]);
    let second = build("--cache-from");
    assert!(second.matches("CACHED").count() >= 4, "{second}");
    assert_eq!(
        person.ok(&["run", "--rm", "made:v1", "cat", "/tool", "/one", "/late"]),
        "tool\none\nlate\n"
    );
    let listed = person.ok(&["image", "ls"]);
    assert!(!listed.contains("shop/cache"), "a cache is no image to run: {listed}");
}

/// The agent of OpenSSH and its client, which asks it through the node from within a step.
fn an_ssh_agent_is_lent_to_a_step(person: &Person<'_>) {
    if !["ssh-agent", "ssh-add", "ssh-keygen"]
        .iter()
        .all(|program| is_there(program))
    {
        return;
    }
    let folder = person.folder.join("ssh");
    fs::create_dir_all(&folder).expect("a folder");
    let (key, socket) = (folder.join("key"), folder.join("agent"));
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "of-the-person", "-f"])
        .arg(&key)
        .status();
    assert!(made.is_ok_and(|status| status.success()));
    let agent = Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn();
    let mut agent = agent.expect("ssh-agent runs");
    until("the agent has the key", || {
        let added = Command::new("ssh-add")
            .arg("-q")
            .arg(&key)
            .env("SSH_AUTH_SOCK", &socket)
            .output();
        let added = Answer::of(&added.expect("ssh-add runs"));
        if added.code == 0 { Ok(()) } else { Err(added.err) }
    });
    let client = Command::new("sh")
        .args(["-c", "command -v ssh-add"])
        .output()
        .expect("a shell")
        .stdout;
    let client = PathBuf::from(String::from_utf8_lossy(&client).trim());
    let root = program_rootfs(&folder, &client).display().to_string();
    let _ = person.ok(&["image", "import", &root, "ssh-add:v1"]);
    let context = folder.join("context");
    fs::create_dir_all(&context).expect("a folder");
    let dockerfile = "FROM ssh-add:v1\nRUN --mount=type=ssh,required=true [\"/program\", \"-l\"]\n";
    fs::write(context.join("Dockerfile"), dockerfile).expect("a file");
    let build = [
        "build",
        "--progress",
        "plain",
        "--ssh",
        "default",
        &context.display().to_string(),
    ];
    let answer = person.with("SSH_AUTH_SOCK", &socket, &build);
    let _ = agent.kill();
    let _ = agent.wait();
    assert!(
        answer.code == 0 && answer.err.contains("of-the-person"),
        "{}",
        answer.err
    );
    let withheld = person.run(&["build", "--no-cache", &context.display().to_string()]);
    assert!(withheld.code == 1 && withheld.err.contains("--ssh"), "{}", withheld.err);
}

fn what_nothing_uses_goes(person: &Person<'_>) {
    let _ = person.ok(&["run", "-d", "--name", "user", &named("shop/box:v1"), "sleep", "100000"]);
    let shown = person.run(&["image", "prune", "--all", "--dry-run"]);
    assert!(
        shown.out.contains("made:v1") && !shown.out.contains("shop/box:v1"),
        "{}{}",
        shown.out,
        shown.err
    );
    let pruned = person.run(&["image", "prune", "--all", "--force"]);
    assert!(
        pruned.code == 0 && pruned.out.contains("made:v1"),
        "{}{}",
        pruned.out,
        pruned.err
    );
    assert_eq!(person.ok(&["exec", "user", "echo", "still here"]), "still here\n");
    let _ = person.ok(&["rm", "-f", "user"]);
    let verified = person.run(&["image", "verify"]);
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
    let _ = person.ok(&["logout", REGISTRY]);
    let gone = fs::read_to_string(person.folder.join("config.json")).unwrap_or_default();
    assert!(!gone.contains(REGISTRY), "{gone}");
}
