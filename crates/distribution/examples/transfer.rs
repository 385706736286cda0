//! Pulls or pushes one image and says how long it took and how much memory: what `tests/bench/registry_transfer.py` measures.
//!
//! `transfer pull|push STORE REFERENCE`; a plain-HTTP registry on loopback needs no more.

use std::process::ExitCode;
use std::sync::Arc;

use gantry_distribution::{Client, Keychain, Options, Platforms, PullRequest, PushRequest};
use gantry_env::{Env, System};
use gantry_image::Store;
use gantry_model::{ImageReference, Problem};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [act, store, reference] = arguments.as_slice() else {
        eprintln!("usage: transfer pull|push STORE REFERENCE");
        return ExitCode::from(2);
    };
    match transfer(act, store, reference).await {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

async fn transfer(act: &str, store: &str, reference: &str) -> Result<String, Problem> {
    let store = Arc::new(Store::open(store)?);
    let reference: ImageReference = reference
        .parse()
        .map_err(|error| Problem::new(gantry_model::Class::Invalid, "reference", format!("{error}")))?;
    let client = Client::new(Options::default(), Arc::new(System));
    let keychain = Keychain::default();
    let begin = System.monotonic();
    let digest = match act {
        "pull" => {
            let request = PullRequest {
                reference: &reference,
                platforms: Platforms::Own,
                keychain: &keychain,
                unpack: true,
            };
            client.pull(&store, request, &|_| {}).await?.image
        }
        _ => {
            let request = PushRequest {
                reference: &reference,
                image: None,
                keychain: &keychain,
            };
            client.push(&store, request, &|_| {}).await?.digest
        }
    };
    let took = System.monotonic() - begin;
    Ok(format!(
        "{{\"digest\":\"{digest}\",\"ms\":{},\"peak_kib\":{}}}",
        took.0,
        peak_kib()
    ))
}

/// Peak of resident memory, from the kernel.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
