//! Caches that other machines made, and images for several platforms.

use gantry_image::{ManifestKind, Platform, Store};
use gantry_model::build::{BuildEvent, BuildOutputKind};
use gantry_model::{Digest, ImageReference};

use crate::support::{Lab, Seen, can_run};

const DOCKERFILE: &str = "FROM busybox AS tool\nRUN echo tool > /tool\n\
    FROM busybox\nRUN echo one > /one\nCOPY late /late\nCOPY --from=tool /tool /tool\n";

fn reference(name: &str) -> ImageReference {
    name.parse().expect("a reference")
}

/// Gives an image or index to another store, as a registry in between would.
fn give(from: &Store, to: &Store, name: &str) {
    let target = from.target(&reference(name)).expect("it is here");
    give_all(from, to, target);
    to.commit_image(target).expect("complete");
    to.tag(&reference(name), target).expect("tagged");
}

fn give_all(from: &Store, to: &Store, digest: Digest) {
    loop {
        let missing = to.missing(digest).expect("a manifest");
        for blob in &missing {
            let source = from.open_blob(blob.digest).expect("it is here");
            to.put_blob(blob, source).expect("taken");
        }
        if missing.is_empty() {
            break;
        }
    }
    let (info, _) = to.manifest(digest).expect("a manifest");
    if info.kind == ManifestKind::Index {
        info.manifests
            .iter()
            .for_each(|listed| give_all(from, to, listed.digest));
    }
}

fn warnings(seen: &Seen) -> Vec<String> {
    let warnings = seen.events.iter().filter_map(|event| match event {
        BuildEvent::Warning { message, .. } => Some(message.clone()),
        _ => None,
    });
    warnings.collect()
}

/// A machine that built with `cache_to`, and one that has nothing but the base and what came of the cache.
fn two(cache_to: &str, cache: &str) -> (Lab, Lab) {
    let mut first = Lab::with_busybox();
    first.write("late/a", "a");
    first.request.spec.cache_to = vec![cache_to.to_string()];
    assert_eq!(first.build(DOCKERFILE).seen.worked().len(), 4);
    let mut second = Lab::new();
    second.write("late/a", "a");
    give(&first.store, &second.store, "busybox");
    give(&first.store, &second.store, cache);
    second.request.spec.cache_from = vec![format!("type=registry,ref={cache}")];
    (first, second)
}

#[test]
fn a_second_machine_does_not_repeat_what_a_first_did() {
    if !can_run() {
        return;
    }
    let (first, second) = two(
        "type=registry,ref=reg.example/cache:v1,mode=max",
        "reg.example/cache:v1",
    );
    let built = second.build(DOCKERFILE);
    assert_eq!(built.seen.worked(), Vec::<String>::new(), "{:?}", built.seen.steps());
    assert_eq!(built.result.digest, first.build(DOCKERFILE).result.digest);
    assert_eq!((built.read("tool").trim(), built.read("late/a").trim()), ("tool", "a"));
    assert_eq!(warnings(&built.seen), Vec::<String>::new());
    // What came is its own cache now.
    let mut second = second;
    second.request.spec.cache_from.clear();
    assert_eq!(second.build(DOCKERFILE).seen.worked(), Vec::<String>::new());
}

#[test]
fn the_result_alone_knows_its_own_steps() {
    if !can_run() {
        return;
    }
    let (_first, second) = two("type=inline", "test");
    let built = second.build(DOCKERFILE);
    // The stage beside it is no part of the result; its files are the same again.
    assert_eq!(
        built.seen.worked(),
        ["RUN echo tool > /tool"],
        "{:?}",
        built.seen.steps()
    );
}

#[test]
fn other_input_takes_nothing_of_a_cache() {
    if !can_run() {
        return;
    }
    let (_first, mut second) = two("type=inline", "test");
    second.write("late/a", "other");
    let worked = second.build(DOCKERFILE).seen.worked();
    assert!(worked.contains(&"COPY late /late".to_string()) && !worked.contains(&"RUN echo one > /one".to_string()));
    second.request.spec.no_cache = true;
    assert_eq!(second.build(DOCKERFILE).seen.worked().len(), 4);
}

#[test]
fn a_cache_that_is_not_there_is_warned_of_and_one_of_another_kind_refused() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::with_busybox();
    lab.request.spec.cache_from = vec!["reg.example/nothing:v1".to_string()];
    let built = lab.build("FROM busybox\nRUN echo one > /one\n");
    let said = warnings(&built.seen);
    assert!(
        said.len() == 1 && said[0].contains("reg.example/nothing:v1"),
        "{said:?}"
    );
    assert_eq!(built.read("one").trim(), "one");
    lab.request.spec.cache_from = vec!["type=gha,scope=x".to_string()];
    let (built, _) = lab.try_build("FROM busybox\n");
    let problem = built.expect_err("no such cache");
    assert!(
        problem.reason.contains("gha") && problem.remedy.contains("--cache-from"),
        "{problem}"
    );
}

#[test]
fn an_image_for_several_platforms_is_an_index() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::new();
    lab.write("a", "a");
    lab.request.spec.platforms = vec!["linux/amd64".to_string(), "linux/arm64".to_string()];
    let dockerfile = "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY a /\n";
    let (built, seen) = lab.try_build(dockerfile);
    let digest: Digest = built.expect("built").digest.parse().expect("a digest");
    assert_eq!(lab.store.manifest(digest).expect("here").0.kind, ManifestKind::Index);
    assert_eq!(lab.store.target(&reference("test")), Some(digest));
    for platform in ["linux/amd64", "linux/arm64"] {
        let image = lab.store.for_platform(digest, &Platform::parse(platform));
        let config = lab.store.config(image.expect("one for each")).expect("configured");
        assert_eq!(format!("linux/{}", config.labels["arch"]), platform);
    }
    let titles: Vec<String> = seen.steps().into_iter().map(|(title, _)| title).collect();
    assert!(
        titles.iter().any(|title| title.starts_with("[linux/arm64 1/1]")),
        "{titles:?}"
    );
    lab.request.output = BuildOutputKind::Tar;
    assert!(lab.try_build(dockerfile).0.is_err(), "one tar of two trees");
}

#[test]
fn commands_for_a_foreign_processor_are_refused_with_a_way_out() {
    if !can_run() || std::path::Path::new("/proc/sys/fs/binfmt_misc/qemu-riscv64").exists() {
        return;
    }
    let mut lab = Lab::new();
    lab.request.spec.platforms = vec!["linux/riscv64".to_string()];
    let (built, _) = lab.try_build("FROM scratch\nRUN [\"/x\"]\n");
    let problem = built.expect_err("no such processor here");
    assert!(problem.reason.contains("linux/riscv64"), "{problem}");
    assert!(
        problem.remedy.contains("--node") && problem.remedy.contains("qemu-user-static"),
        "{problem}"
    );
}
