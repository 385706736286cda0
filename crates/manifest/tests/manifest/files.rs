//! Manifests that name others: `include`, and `extends` with a file.

use std::path::PathBuf;

use gantry_manifest::{Loaded, MemoryFiles, Source, load};
use gantry_model::Name;
use gantry_model::spec::MountKind;

use super::common;

fn loaded(main: &str, files: &[(&str, &str)]) -> Loaded {
    let files = files
        .iter()
        .map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec()));
    let source = Source {
        name: "compose.yaml".to_string(),
        text: main.to_string(),
    };
    load(&[source], &common::options(), &MemoryFiles(files.collect()))
}

fn messages(loaded: &Loaded) -> Vec<String> {
    loaded.diagnostics.iter().map(common::line).collect()
}

#[test]
fn an_included_project_keeps_its_folder_and_variables() {
    let loaded = loaded(
        "include: [db/compose.yaml]\nservices: {web: {image: w, depends_on: [db]}}\n",
        &[
            ("/srv/shop/db/.env", "VERSION=17\nTAG=ignored\n"),
            (
                "/srv/shop/db/compose.yaml",
                "include: [more/extra.yaml]\nservices:\n  db: {image: 'db:${VERSION}-${TAG}', build: ., volumes: ['./data:/data']}\n",
            ),
            (
                "/srv/shop/db/more/extra.yaml",
                "services: {extra: {image: e, volumes: ['../x:/x']}}\n",
            ),
        ],
    );
    assert_eq!(messages(&loaded), Vec::<String>::new());
    let application = loaded.application.expect("valid");
    let service = |name| &application.services[&Name::new(name).expect("a name")];
    assert_eq!(service("db").container.image, "db:17-1.2");
    let source = |name| match &service(name).container.mounts[0].kind {
        MountKind::Bind { source, .. } => source.clone(),
        other => panic!("a bind mount, not {other:?}"),
    };
    assert_eq!(
        (source("db").as_str(), source("extra").as_str()),
        ("/srv/shop/db/data", "/srv/shop/db/x")
    );
    let build = loaded.images[&Name::new("db").expect("a name")]
        .build
        .clone()
        .expect("a build");
    assert_eq!(build.context, "/srv/shop/db");
}

#[test]
fn what_two_projects_declare_must_be_the_same() {
    let other = [("/srv/shop/o.yaml", "services: {web: {image: o}}\n")];
    let conflict = loaded("include: [o.yaml]\nservices: {web: {image: w}}\n", &other);
    assert_eq!(
        conflict.diagnostics[0].message,
        "'web' is declared by an included file already"
    );
    let agreed = loaded("include: [o.yaml]\nservices: {web: {image: o}}\n", &other);
    assert_eq!(messages(&agreed), Vec::<String>::new());
}

#[test]
fn circles_of_files_end() {
    let including = loaded(
        "include: [a.yaml]\nservices: {web: {image: w}}\n",
        &[("/srv/shop/a.yaml", "include: [a.yaml]\nservices: {a: {image: a}}\n")],
    );
    assert!(
        messages(&including).concat().contains("included more than 16 deep"),
        "{:?}",
        messages(&including)
    );
    let extending = loaded(
        "services: {web: {extends: {service: a, file: a.yaml}}}\n",
        &[(
            "/srv/shop/a.yaml",
            "services: {a: {extends: {service: a, file: a.yaml}}}\n",
        )],
    );
    assert!(
        messages(&extending).concat().contains("more than 16 in a row"),
        "{:?}",
        messages(&extending)
    );
}

#[test]
fn a_service_of_another_file_is_extended_with_its_own_bases() {
    let loaded = loaded(
        "services:\n  web:\n    extends: {service: base, file: shared/base.yaml}\n    environment: {B: own}\n",
        &[
            (
                "/srv/shop/shared/base.yaml",
                "services:\n  base: {extends: root, environment: {A: a, B: b}, env_file: base.env}\n  root: {image: r}\n  broken: {extends: nobody}\n",
            ),
            ("/srv/shop/shared/base.env", "C=c\n"),
        ],
    );
    assert_eq!(messages(&loaded), Vec::<String>::new());
    let application = loaded.application.expect("valid");
    let container = &application.services.values().next().expect("one").container;
    assert_eq!(container.image, "r");
    let variables: Vec<_> = container
        .environment
        .iter()
        .map(|(key, value)| format!("{key}={}", value.clone().unwrap_or_default()))
        .collect();
    assert_eq!(variables, ["A=a", "B=own", "C=c"]);
}

#[test]
fn a_mistake_in_an_included_file_points_there() {
    let loaded = loaded(
        "include: [o.yaml]\nservices: {web: {image: w}}\n",
        &[("/srv/shop/o.yaml", "services:\n  other: {image: o, tty: perhaps}\n")],
    );
    assert_eq!(loaded.diagnostics[0].source, "/srv/shop/o.yaml");
    assert!(loaded.sources.iter().any(|source| source.name == "/srv/shop/o.yaml"));
    assert_eq!(
        messages(&loaded),
        ["error 2:26 services.other.tty: 'perhaps' is neither true nor false"]
    );
}
