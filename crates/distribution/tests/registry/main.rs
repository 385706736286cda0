//! The client against a registry in this process that misbehaves on command.

mod auth;
mod credentials;
mod fake;
mod faults;
mod image;
mod transfer;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_distribution::{Client, Keychain, Options, Phase, Step, Timing};
use gantry_env::System;
use gantry_image::Store;
use gantry_model::ImageReference;
use tempfile::TempDir;

/// Longer than anything takes that comes at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Faults are tried again at once; what only takes time on a busy machine is waited for.
fn options() -> Options {
    Options {
        timing: Timing {
            connect: PATIENCE,
            stall: PATIENCE,
            commit: PATIENCE,
            backoff_min: Duration::from_millis(4),
            backoff_max: Duration::from_millis(20),
            retry_after_max: Duration::from_secs(2),
            attempts_max: 5,
        },
        certs_dirs: Vec::new(),
        ..Options::default()
    }
}

/// For tests of silence: long enough for a busy machine to answer what is answered at all.
fn impatient(mut options: Options) -> Options {
    options.timing.stall = Duration::from_secs(3);
    options
}

/// For registries of these tests, without the attempt at TLS.
fn plain(registries: &[&fake::Fake]) -> Options {
    Options {
        plain_http: registries.iter().map(|registry| registry.name()).collect(),
        ..options()
    }
}

fn client(options: Options) -> Client {
    Client::new(options, Arc::new(System))
}

fn store() -> (TempDir, Arc<Store>) {
    let dir = TempDir::new().expect("a temporary folder");
    let store = Store::open(dir.path().join("images")).expect("a fresh store");
    (dir, Arc::new(store))
}

fn reference(registry: &fake::Fake, rest: &str) -> ImageReference {
    format!("{}/{rest}", registry.name()).parse().expect("a reference")
}

fn nobody() -> Keychain {
    Keychain::default()
}

/// Collects all steps.
#[derive(Default)]
struct Steps(Mutex<Vec<Step>>);

impl Steps {
    fn hear(&self) -> impl Fn(Step) + Send + Sync {
        |step| self.0.lock().expect("no panic while held").push(step)
    }

    /// The phases of one thing, repeats left out.
    fn phases(&self, what: &str) -> Vec<Phase> {
        let steps = self.0.lock().expect("no panic while held");
        let mut phases: Vec<_> = steps
            .iter()
            .filter(|step| step.what == what)
            .map(|step| step.phase)
            .collect();
        phases.dedup();
        phases
    }
}
