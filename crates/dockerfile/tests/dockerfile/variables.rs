//! Variables: forms, scopes, and which instructions replace them.

use std::collections::BTreeSet;

use gantry_dockerfile::{Base, Inherited, Operation};

use super::{graph, image, last, options};

/// The value of `X` after `ENV X=<text>`, with some variables around.
fn value(text: &str) -> String {
    let file = format!("FROM a\nENV A=alpha EMPTY= P=/usr/local/lib.so.1 S=\"a b\"\nENV X={text}");
    last(&file, options()).config.variable("X").expect("set").to_string()
}

#[test]
fn forms_of_substitution() {
    for (text, expected) in [
        ("$A", "alpha"),
        ("${A}", "alpha"),
        ("$A$A", "alphaalpha"),
        ("x${A}y", "xalphay"),
        ("$NONE", ""),
        ("${NONE:-d}", "d"),
        ("${NONE-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${A:-d}", "alpha"),
        ("${A:+r}", "r"),
        ("${NONE:+r}", ""),
        ("${EMPTY:+r}", ""),
        ("${EMPTY+r}", "r"),
        ("${A:?e}", "alpha"),
        ("${EMPTY?e}", ""),
        ("${NONE:-${A}}", "alpha"),
        ("${NONE:-${NONE:-${A:+deep}}}", "deep"),
        ("${P#*/}", "usr/local/lib.so.1"),
        ("${P##*/}", "lib.so.1"),
        ("${P%.*}", "/usr/local/lib.so"),
        ("${P%%.*}", "/usr/local/lib"),
        ("${P%/nothing}", "/usr/local/lib.so.1"),
        ("${P#/u?r}", "/local/lib.so.1"),
        ("${A/a/b}", "blpha"),
        ("${A//a/b}", "blphb"),
        ("${A//l*h/-}", "a-a"),
        ("${P//\\//_}", "_usr_local_lib.so.1"),
        ("${A/x/y}", "alpha"),
        ("\\$A", "$A"),
        ("'$A'", "$A"),
        ("\"$A\"", "alpha"),
        ("\"\\$A\"", "$A"),
        ("\"a\\\"b\"", "a\"b"),
        ("\"a\\nb\"", "a\\nb"),
        ("a\\ b", "a b"),
        ("\"$S\"", "a b"),
        ("$S", "a b"),
        ("$", "$"),
        ("$$", "$"),
        ("a$.b", "a$.b"),
        ("$1x", "x"),
        ("${A}'q'\"$A\"", "alphaqalpha"),
    ] {
        let expected = if text == "$$" { "" } else { expected };
        assert_eq!(value(text), expected, "{text}");
    }
}

#[test]
fn an_instruction_sees_the_variables_from_before_it() {
    let stage = last("FROM a\nENV A=1\nENV A=2 B=$A\nENV C=$A", options());
    let value = |name: &str| stage.config.variable(name).expect("set").to_string();
    assert_eq!(
        (value("A"), value("B"), value("C")),
        ("2".into(), "1".into(), "2".into())
    );
}

#[test]
fn arguments_before_from_are_seen_only_where_declared() {
    let text = "ARG V=1\nARG W=$V.2\nFROM image:$W\nLABEL a=$V\nARG V\nLABEL b=$V\nARG W=own\nLABEL c=$W";
    let plan = graph(text, options());
    assert!(matches!(&plan.stages[0].base, Base::Image(image) if image.tag() == Some("1.2")));
    let labels = last(text, options()).config.labels;
    assert_eq!(
        (labels["a"].as_str(), labels["b"].as_str(), labels["c"].as_str()),
        ("", "1", "own")
    );
    let mut given = options();
    given.build_args.insert("V".into(), "9".into());
    let labels = last(text, given.clone()).config.labels;
    assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("", "9"));
    given.build_args.insert("UNKNOWN".into(), "x".into());
    assert_eq!(graph(text, given).unused_args, BTreeSet::from(["UNKNOWN".to_string()]));
}

#[test]
fn arguments_are_no_part_of_the_image_but_of_what_runs() {
    let stage = last("FROM a\nARG V=1\nENV E=2\nARG E=3\nENV V=4\nRUN x", options());
    assert_eq!(stage.config.variable("V"), Some("4"));
    assert_eq!(stage.config.variable("E"), Some("2"));
    let Operation::Run(run) = &stage.steps.last().expect("RUN").operation else {
        panic!("RUN comes last")
    };
    let value = |name: &str| {
        run.env
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!((value("V"), value("E")), (Some("4"), Some("3")));
    assert_eq!(
        stage.steps.last().map(|step| step.history.created_by.as_str()),
        Some("RUN |2 V=4 E=3 /bin/sh -c x # buildkit")
    );
}

#[test]
fn platforms_are_known_before_the_first_from_and_where_declared() {
    let mut cross = options();
    cross.target_platform = Some("linux/arm/v7".parse().expect("a platform"));
    let text = "FROM --platform=$BUILDPLATFORM a AS b\nARG TARGETARCH TARGETVARIANT BUILDARCH\n\
                LABEL x=$TARGETARCH-$TARGETVARIANT-$BUILDARCH-$TARGETOS";
    let plan = graph(text, cross.clone());
    assert_eq!(plan.stages[0].platform.to_string(), "linux/amd64");
    assert_eq!(plan.platform.to_string(), "linux/arm/v7");
    assert_eq!(last(text, cross).config.labels["x"], "arm-v7-amd64-");
}

#[test]
fn a_stage_goes_on_with_the_variables_of_its_base() {
    let stage = last(
        "FROM a AS one\nARG V=1\nENV E=2\nWORKDIR /w\nFROM one\nRUN $V $E",
        options(),
    );
    let Operation::Run(run) = &stage.steps[0].operation else {
        panic!("RUN is the only step")
    };
    assert!(run.env.contains(&("V".into(), "1".into())) && run.env.contains(&("E".into(), "2".into())));
    assert_eq!(run.working_dir, "/w");
}

#[test]
fn a_base_images_variables_count() {
    let plan = graph("FROM a\nENV PATH=/own:$PATH B=${V}", options());
    let stage = plan
        .resolve(plan.target, &image(&[("PATH", "/bin"), ("V", "x")]))
        .expect("resolved");
    assert_eq!(
        stage.config.env,
        [("PATH", "/own:/bin"), ("V", "x"), ("B", "x")].map(|(k, v)| (k.into(), v.into()))
    );
    assert!(stage.warnings.is_empty());
}

#[test]
fn undefined_variables_are_reported_where_the_base_is_known() {
    let plan = graph(
        "FROM a\nARG VERSION\nLABEL a=$VERSON b=$ELSEWHERE c=$VERSION",
        options(),
    );
    let messages = |inherited: &Inherited| -> Vec<String> {
        let warnings = plan.resolve(plan.target, inherited).expect("resolved").warnings;
        warnings.into_iter().map(|warning| warning.message).collect()
    };
    let misspelt = "usage of undefined variable '$VERSON' (did you mean $VERSION?)".to_string();
    let undefined = "usage of undefined variable '$ELSEWHERE'".to_string();
    assert_eq!(messages(&Inherited::default()), [misspelt.clone(), undefined]);
    // An image that was not looked up may define anything, but a misspelling is likely one all the same.
    assert_eq!(messages(&Inherited::unknown()), [misspelt]);
}

#[test]
fn commands_keep_their_variables() {
    let stage = last(
        "FROM a\nENV A=1\nCMD echo $A\nENTRYPOINT [\"sh\", \"$A\"]\nHEALTHCHECK CMD test $A\nRUN echo $A",
        options(),
    );
    assert_eq!(stage.config.cmd.expect("set")[2], "echo $A");
    assert_eq!(stage.config.entrypoint.expect("set")[1], "$A");
    assert_eq!(stage.config.healthcheck.expect("set").test[1], "test $A");
    assert!(matches!(&stage.steps.last().expect("RUN").operation, Operation::Run(run) if run.args[2] == "echo $A"));
}

#[test]
fn values_cannot_grow_without_end() {
    let mut text = "FROM a\nENV A=0123456789\n".to_string();
    text.push_str(&"ENV A=$A$A$A$A$A$A$A$A\n".repeat(30));
    let plan = graph(&text, options());
    let errors = plan.resolve(plan.target, &Inherited::default()).expect_err("too long");
    assert!(errors[0].message.contains("longer than"));
}

#[test]
fn named_contexts_take_the_place_of_stages_and_images() {
    let mut options = options();
    options.named_contexts = ["src", "docker.io/library/debian:12"].map(String::from).into();
    let plan = graph(
        "FROM debian:12 AS one\nRUN x\nFROM alpine AS src\nRUN y\nFROM scratch\nCOPY --from=src a /\nCOPY --from=one b /",
        options.clone(),
    );
    assert!(matches!(&plan.stages[0].base, Base::Context { replaces: false, .. }));
    assert!(matches!(&plan.stages[1].base, Base::Context { replaces: true, .. }));
    let replaced = plan
        .resolve(plan.stages[1].id, &Inherited::default())
        .expect("resolved");
    assert!(replaced.steps.is_empty());
    assert_eq!(plan.needed.len(), 3);
    let outside = graph("FROM scratch\nCOPY --from=src a /", options);
    assert_eq!(outside.stages[0].sources.len(), 1);
}

#[test]
fn labels_of_the_command_line_are_the_targets_alone() {
    let mut options = options();
    options.labels.insert("k".into(), "v".into());
    options.target = Some("one".into());
    let plan = graph("FROM a AS one\nLABEL k=own\nFROM a AS two", options);
    let of = |index: usize| {
        let stage = plan
            .resolve(plan.stages[index].id, &Inherited::default())
            .expect("resolved");
        stage.config.labels.get("k").cloned()
    };
    assert_eq!((of(0).as_deref(), of(1)), (Some("v"), None));
}
