//! Docker's registry from the distribution's packages, on loopback with TLS and a password; stopped when dropped.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gantry_distribution::Keychain;
use gantry_model::ImageReference;
use gantry_model::build::RegistryAuth;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

pub const USER: &str = "ada";
pub const PASSWORD: &str = "correct horse";
/// It takes a few hundred milliseconds.
const START_ATTEMPTS: usize = 300;
const START_PAUSE: Duration = Duration::from_millis(50);

/// A running registry.
pub struct Registry {
    dir: TempDir,
    port: u16,
    process: Child,
}

impl Registry {
    /// Starts one; none where the packages are missing.
    pub fn start() -> Option<Self> {
        if !crate::have(&["docker-registry", "htpasswd"]) {
            return None;
        }
        let dir = TempDir::new().expect("a temporary folder");
        let port = free_port();
        write_certificates(dir.path(), port);
        let password = crate::run(Command::new("htpasswd").args(["-Bbn", USER, PASSWORD])).stdout;
        fs::write(dir.path().join("htpasswd"), password).expect("a file in it");
        fs::write(dir.path().join("config.yml"), config(dir.path(), port)).expect("a file in it");
        let log = fs::File::create(dir.path().join("log")).expect("a file in it");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdout(log.try_clone().expect("a file twice"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("docker-registry starts");
        let mut registry = Self { dir, port, process };
        registry.wait();
        Some(registry)
    }

    fn wait(&mut self) {
        for _ in 0..START_ATTEMPTS {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            let ended = self.process.try_wait().expect("it is our child");
            assert!(ended.is_none(), "docker-registry ended: {}", self.log());
            std::thread::sleep(START_PAUSE);
        }
        panic!("docker-registry does not answer: {}", self.log());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn reference(&self, rest: &str) -> ImageReference {
        format!("{}/{rest}", self.name()).parse().expect("a reference")
    }

    /// A folder of folders of certificates by registry.
    pub fn certs_dir(&self) -> PathBuf {
        self.dir.path().join("certs.d")
    }

    /// The folder of certificates of this registry.
    pub fn own_certs_dir(&self) -> PathBuf {
        self.certs_dir().join(self.name())
    }

    pub fn keychain(&self) -> Keychain {
        self.keychain_of(PASSWORD)
    }

    pub fn keychain_of(&self, password: &str) -> Keychain {
        let auth = RegistryAuth::Basic {
            user: USER.to_string(),
            password: password.to_string(),
        };
        Keychain::of(&self.name(), auth)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback takes listeners");
    listener.local_addr().expect("it is bound").port()
}

fn config(dir: &Path, port: u16) -> String {
    let dir = dir.display();
    format!(
        "version: 0.1
log: {{ level: info }}
storage:
  filesystem: {{ rootdirectory: {dir}/data }}
  delete: {{ enabled: true }}
http:
  addr: 127.0.0.1:{port}
  tls: {{ certificate: {dir}/server.crt, key: {dir}/server.key }}
auth:
  htpasswd: {{ realm: test, path: {dir}/htpasswd }}
"
    )
}

/// An authority, and a certificate of it for 127.0.0.1.
fn write_certificates(dir: &Path, port: u16) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).expect("a certificate");
    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(vec!["127.0.0.1".to_string()]).expect("parameters");
    let cert = server.signed_by(&key, &Issuer::new(ca, ca_key)).expect("a certificate");
    let certs = dir.join("certs.d").join(format!("127.0.0.1:{port}"));
    fs::create_dir_all(&certs).expect("a folder in it");
    for (path, text) in [
        (certs.join("ca.crt"), ca_cert.pem()),
        (dir.join("server.crt"), cert.pem()),
        (dir.join("server.key"), key.serialize_pem()),
    ] {
        let mut file = fs::File::create(path).expect("a file in it");
        file.write_all(text.as_bytes()).expect("the disk takes it");
    }
}
