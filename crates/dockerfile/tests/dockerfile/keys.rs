//! Which changes make a step run again.

use gantry_dockerfile::{Inherited, Key, Operation, PlanOptions, ResolvedStage};
use gantry_model::Digest;

use super::{graph, image, last, options};

/// Keys of all layers on top of each other, where every input has this content.
fn keys(stage: &ResolvedStage, content: u8) -> Vec<Key> {
    let mut tree = Key::scratch();
    let mut keys = Vec::new();
    for step in &stage.steps {
        let digests = vec![Digest::from_bytes([content; 32]); step.operation.inputs().len()];
        if let Some(layer) = step.operation.key(tree, &digests) {
            tree = tree.with_layer(layer);
            keys.push(tree);
        }
    }
    keys
}

fn keys_of(text: &str) -> Vec<Key> {
    keys(&last(text, options()), 1)
}

fn with_arg(name: &str, value: &str) -> PlanOptions {
    let mut options = options();
    options.build_args.insert(name.to_string(), value.to_string());
    options
}

#[test]
fn what_cannot_change_the_result_changes_no_key() {
    let plain = keys_of("FROM a\nRUN make  all\nCOPY a b /x/\nWORKDIR /y\n");
    for same in [
        "# comment\nFROM a\n\n# more\nrun make  all\ncopy a b /x/\nworkdir /y",
        "FROM a\nRUN make \\\n all\nCOPY [\"a\", \"b\", \"/x/\"]\nWORKDIR /y\n",
        "FROM a\nLABEL x=y\nRUN make  all\nEXPOSE 80\nCOPY a b /x/\nCMD [\"x\"]\nWORKDIR /y\n",
        "FROM a AS name\nRUN make  all\nCOPY ./a ./b /x/\nWORKDIR /y\n",
    ] {
        assert_eq!(keys_of(same), plain, "{same}");
    }
    let unused = last(
        "FROM a\nRUN make  all\nCOPY a b /x/\nWORKDIR /y\n",
        with_arg("OTHER", "1"),
    );
    assert_eq!(keys(&unused, 1), plain);
    let proxy = last(
        "FROM a\nRUN make  all\nCOPY a b /x/\nWORKDIR /y\n",
        with_arg("http_proxy", "x"),
    );
    assert_eq!(keys(&proxy, 1), plain);
    let Operation::Run(run) = &proxy.steps[0].operation else {
        panic!("RUN comes first")
    };
    assert_eq!(run.proxy["HTTP_PROXY"], "x");
    assert!(!proxy.steps[0].history.created_by.contains("proxy"));
}

#[test]
fn what_can_change_the_result_changes_the_key_and_those_after_it() {
    let plain = keys_of("FROM a\nRUN one\nRUN two\nRUN three");
    for (changed, same) in [
        ("FROM a\nRUN one\nRUN 2\nRUN three", 1),
        ("FROM a\nRUN one\nENV A=1\nRUN two\nRUN three", 1),
        ("FROM a\nRUN one\nUSER x\nRUN two\nRUN three", 1),
        ("FROM a\nRUN one\nRUN two\nRUN --network=none three", 2),
        ("FROM a\nRUN one\nRUN two\nRUN --mount=type=cache,target=/c three", 2),
        ("FROM a\nSHELL [\"bash\", \"-c\"]\nRUN one\nRUN two\nRUN three", 0),
    ] {
        let keys = keys_of(changed);
        let unchanged = keys.iter().zip(&plain).take_while(|(new, old)| new == old).count();
        assert_eq!(unchanged, same, "{changed}");
        assert!(
            keys.iter().zip(&plain).skip(same).all(|(new, old)| new != old),
            "{changed}"
        );
    }
}

#[test]
fn copied_content_counts_and_so_does_where_it_goes() {
    let text = "FROM a\nCOPY x /x\nRUN make";
    let stage = last(text, options());
    let (one, two) = (keys(&stage, 1), keys(&stage, 2));
    assert!(one.iter().zip(&two).all(|(one, two)| one != two));
    for changed in [
        "FROM a\nCOPY x /y\nRUN make",
        "FROM a\nCOPY --chown=1 x /x\nRUN make",
        "FROM a\nCOPY --chmod=700 x /x\nRUN make",
        "FROM a\nCOPY x /x/\nRUN make",
    ] {
        assert_ne!(keys_of(changed), one, "{changed}");
    }
}

#[test]
fn a_declared_argument_counts_from_its_declaration_on() {
    let text = "FROM a\nRUN one\nARG V=1\nRUN two";
    let (old, new) = (
        keys(&last(text, options()), 1),
        keys(&last(text, with_arg("V", "2")), 1),
    );
    assert_eq!(old[0], new[0]);
    assert_ne!(old[1], new[1]);
    assert_eq!(old, keys(&last(text, with_arg("V", "1")), 1));
}

#[test]
fn a_linked_layer_is_the_same_on_every_base() {
    let layer = |parent: Key, text: &str| {
        let stage = last(text, options());
        stage.steps[0]
            .operation
            .key(parent, &[Digest::from_bytes([1; 32])])
            .expect("a layer")
    };
    let bases = [Key::scratch(), Key::image(Digest::from_bytes([7; 32]))];
    let linked = bases.map(|base| layer(base, "FROM a\nCOPY --link x /x"));
    assert_eq!(linked[0], linked[1]);
    let plain = bases.map(|base| layer(base, "FROM a\nCOPY x /x"));
    assert_ne!(plain[0], plain[1]);
}

#[test]
fn triggers_of_a_base_image_come_first_and_bring_their_stages() {
    let graph = graph("FROM b AS tools\nFROM base\nRUN own", options());
    assert_eq!(graph.needed.len(), 1);
    let mut base = image(&[]);
    base.config.on_build = vec!["COPY --from=tools /t /t".into(), "RUN <<EOF\nhi\nEOF".into()];
    let stage = graph.resolve(graph.target, &base).expect("resolved");
    let titles: Vec<&str> = stage.steps.iter().map(|step| step.title.as_str()).collect();
    assert_eq!(
        titles,
        [
            "[stage-1 2/4] ONBUILD COPY --from=tools /t /t",
            "[stage-1 3/4] ONBUILD RUN <<EOF (hi)",
            "[stage-1 4/4] RUN own"
        ]
    );
    assert_eq!(stage.needs.iter().map(|id| id.0).collect::<Vec<_>>(), [0]);
    assert!(stage.config.on_build.is_empty());
    base.config.on_build = vec!["RNU x".into()];
    let errors = graph.resolve(graph.target, &base).expect_err("no instruction");
    assert_eq!(errors[0].span, Some(graph.stage(graph.target).span));
    assert!(graph.resolve(graph.target, &Inherited::default()).is_ok());
}
