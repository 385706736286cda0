//! Where the project's name comes from, and what belongs to several files.

use std::path::PathBuf;

use gantry_manifest::{MemoryFiles, Options, Source, load};

use super::common;

const SERVICES: &str = "services: {a: {image: 'i:${COMPOSE_PROJECT_NAME}'}}\n";

/// The namespace, which the image's tag repeats.
fn namespace(texts: &[String], options: &Options) -> Result<String, String> {
    let sources: Vec<Source> = texts
        .iter()
        .map(|text| Source {
            name: "compose.yaml".to_string(),
            text: text.clone(),
        })
        .collect();
    let loaded = load(&sources, options, &MemoryFiles::default());
    let Some(application) = loaded.application else {
        return Err(loaded.diagnostics.iter().map(common::line).collect());
    };
    let namespace = application.namespace.to_string();
    let image = &application.services.values().next().expect("a service").container.image;
    assert_eq!(image, &format!("i:{namespace}"));
    Ok(namespace)
}

#[test]
fn the_name_is_taken_from_the_strongest_place() {
    let mut options = common::options();
    let named = |name: &str| format!("name: {name}\n{SERVICES}");
    let plain = [SERVICES.to_string()];
    assert_eq!(namespace(&plain, &options).as_deref(), Ok("shop"));
    options.base_dir = PathBuf::from("/home/Ann/My Great.App");
    assert_eq!(namespace(&plain, &options).as_deref(), Ok("mygreatapp"));
    assert_eq!(namespace(&[named("one")], &options).as_deref(), Ok("one"));
    assert_eq!(namespace(&[named("one"), named("two")], &options).as_deref(), Ok("two"));
    assert_eq!(namespace(&[named("v${TAG_X:-7}")], &options).as_deref(), Ok("v7"));
    options.project_name = Some("given".to_string());
    assert_eq!(namespace(&[named("one")], &options).as_deref(), Ok("given"));
}

#[test]
fn a_name_that_is_none_says_so() {
    let mut options = common::options();
    options.base_dir = PathBuf::from("/");
    assert_eq!(
        namespace(&[SERVICES.to_string()], &options),
        Err(
            "error: the folder '/' gives no project name (write `name: NAME` at the top of the manifest, or give a name on the \
             command line)"
                .to_string()
        )
    );
    options.project_name = Some("Not Valid".to_string());
    assert_eq!(
        namespace(&[SERVICES.to_string()], &options),
        Err("error: 'Not Valid' is not a valid project name ('notvalid' would be one)".to_string())
    );
}

#[test]
fn mistakes_of_all_files_are_shown_with_their_file() {
    let loaded = common::load_texts(&["services: {a: {image: [}}", "services: {a: {image: i}}", "- a"]);
    let found: Vec<(&str, u32)> = loaded
        .diagnostics
        .iter()
        .map(|found| (found.source.as_str(), found.span.map_or(0, |span| span.line)))
        .collect();
    assert_eq!(found, [("compose.yaml", 1), ("3.yaml", 1)]);
}

#[test]
fn a_mistake_of_a_later_file_is_shown_there() {
    let loaded = common::load_texts(&[
        "services: {a: {image: i, tty: true}}",
        "services:\n  a: {tty: perhaps}\n",
    ]);
    assert_eq!(loaded.diagnostics[0].source, "2.yaml");
    assert_eq!(
        common::line(&loaded.diagnostics[0]),
        "error 2:12 services.a.tty: 'perhaps' is neither true nor false"
    );
}

#[test]
fn no_file_at_all_is_a_mistake() {
    let loaded = common::load_texts(&[]);
    assert_eq!(
        loaded.diagnostics.iter().map(common::line).collect::<Vec<_>>(),
        ["error: no manifest is given"]
    );
}
