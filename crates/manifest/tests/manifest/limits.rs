//! Hostile and huge manifests end in a clear error, not in a machine without memory.

use gantry_manifest::limits::{DEPTH_MAX, DIAGNOSTICS_MAX, DOCUMENT_BYTES_MAX};

fn messages(text: &str) -> Vec<String> {
    super::common::load_texts(&[text])
        .diagnostics
        .iter()
        .map(super::common::line)
        .collect()
}

#[test]
fn a_billion_laughs_are_not_laughed() {
    let mut text = "x-0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_string();
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        text += &format!("x-{level}: &a{level} [{aliases}]\n");
    }
    text += "services: {a: {image: i}}\n";
    let found = messages(&text);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("more than 1000000 values once its aliases are expanded"),
        "{}",
        found[0]
    );
}

#[test]
fn merge_keys_are_no_way_around() {
    let mut text = String::from("x-0: &a0 {");
    for key in 0..1000 {
        text += &format!("k{key}: v, ");
    }
    text += "}\n";
    for level in 0..1000 {
        text += &format!("x-m{level}: {{<<: [*a0, *a0]}}\n");
    }
    let found = messages(&text);
    assert!(found[0].contains("more than 1000000 values"), "{}", found[0]);
}

#[test]
fn extends_is_no_way_around() {
    let mut text = String::from("services:\n  base:\n    image: i\n    environment: {");
    for key in 0..2000 {
        text += &format!("k{key}: v, ");
    }
    text += "}\n";
    for service in 0..1000 {
        text += &format!("  s{service}: {{extends: base}}\n");
    }
    let found = messages(&text);
    assert!(
        found[0].contains("too large once its services are extended"),
        "{}",
        found[0]
    );
}

#[test]
fn depth_is_limited_in_every_style() {
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(10_000),
        "- ".repeat(100_000),
        (0..500).map(|level| " ".repeat(level) + "a:\n").collect(),
        "? ".repeat(100_000),
    ] {
        let found = messages(&text);
        let expected = format!("nested deeper than {DEPTH_MAX} levels");
        assert!(found[0].contains(&expected), "{}", found[0]);
    }
    let mut chain = "x-0: &a0 [x]\n".to_string();
    for level in 1..100 {
        chain += &format!("x-{level}: &a{level} [*a{}]\n", level - 1);
    }
    assert!(messages(&chain)[0].contains("nested deeper"));
}

#[test]
fn size_is_checked_before_anything_else() {
    let text = "[".repeat(DOCUMENT_BYTES_MAX + 1);
    assert_eq!(
        messages(&text),
        ["error 1:1: the file has 16 MiB, at most 16 MiB are read (put large content into files and refer to them)"]
    );
}

#[test]
fn the_first_diagnostics_are_enough() {
    let keys: String = (0..5000).map(|key| format!("    unknown{key}: 1\n")).collect();
    let found = messages(&format!("services:\n  a:\n    image: i\n{keys}"));
    assert_eq!(found.len(), DIAGNOSTICS_MAX);
}

#[test]
fn an_error_is_never_pushed_out_by_warnings() {
    let warnings: String = (0..500).map(|key| format!("    E{key}: $U{key}\n")).collect();
    let loaded = super::common::load_texts(&[&format!(
        "services:\n a:\n   image: i\n   environment:\n{warnings}   runtime: runsc\n"
    )]);
    assert!(loaded.has_errors());
    assert!(loaded.application.is_none());
}

#[test]
fn a_service_publishes_a_bounded_number_of_ports() {
    let found = messages("services: {a: {image: i, ports: ['1-60000:1-60000']}}");
    assert_eq!(
        found,
        ["error 1:34 services.a.ports[0]: the service publishes more than 16384 ports"]
    );
}

#[test]
fn long_texts_are_not_multiplied() {
    let text = format!(
        "x-long: &long {}\nx-all: [{}]\nservices: {{a: {{image: i}}}}\n",
        "l".repeat(1 << 20),
        vec!["*long"; 9_000].join(", ")
    );
    assert!(messages(&text)[0].contains("more than 1000000 values"));
}

#[test]
fn lists_and_services_are_counted() {
    let list = vec!["a"; 10_001].join(", ");
    assert_eq!(
        messages(&format!("x-a: [{list}]")),
        ["error 1:30007: the list has more than 10000 items"]
    );
    let services: String = (0..10_001)
        .map(|service| format!("  s{service}: {{image: i, extends: s0}}\n"))
        .collect();
    assert_eq!(
        messages(&format!("services:\n{services}")),
        ["error 1:1 services: there are 10001 services, at most 10000 are read"]
    );
}

#[test]
fn variables_are_no_way_around() {
    let mut options = super::common::options();
    options.environment.insert("BIG".to_string(), "b".repeat(1 << 20));
    let values = vec!["$BIG"; 9_000].join(", ");
    let source = gantry_manifest::Source {
        name: "compose.yaml".to_string(),
        text: format!("services: {{a: {{image: i, command: [{values}]}}}}"),
    };
    let loaded = gantry_manifest::load(&[source], &options, &gantry_manifest::MemoryFiles::default());
    assert!(
        loaded.diagnostics[0]
            .message
            .contains("once their variables are replaced")
    );
}

#[test]
fn an_application_publishes_a_bounded_number_of_ports() {
    let services: String = (0..10)
        .map(|service| format!("  s{service}: {{image: i, ports: ['1-16384']}}\n"))
        .collect();
    assert_eq!(
        messages(&format!("services:\n{services}")),
        ["error 8:3 services.s6: the services publish more than 100000 ports"]
    );
}
