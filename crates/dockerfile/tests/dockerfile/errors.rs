//! Broken Dockerfiles: what is said, where, and what is advised.

use gantry_dockerfile::{Diagnostic, Inherited, PlanOptions, parse, plan};

use super::options;

/// Everything wrong, from whichever step finds it.
fn errors(text: &str, options: PlanOptions) -> Vec<Diagnostic> {
    let dockerfile = match parse(text) {
        Ok(dockerfile) => dockerfile,
        Err(errors) => return errors,
    };
    let graph = match plan(&dockerfile, options) {
        Ok(graph) => graph,
        Err(errors) => return errors,
    };
    let mut found = Vec::new();
    for stage in &graph.stages {
        found.extend(
            graph
                .resolve(stage.id, &Inherited::default())
                .err()
                .into_iter()
                .flatten(),
        );
    }
    found
}

#[test]
fn errors_say_what_where_and_what_to_do() {
    // Text after FROM, line:column of the first error, part of its message, part of its advice.
    for (text, place, message, help) in [
        ("", "", "no instructions", "FROM IMAGE"),
        ("# only a comment", "", "no instructions", "FROM IMAGE"),
        ("ARG A=1", "1:1", "no FROM", "FROM IMAGE"),
        ("RUN x\nFROM a", "1:1", "before the first FROM", "ARG"),
        (
            "FROM a\nRNU make",
            "2:1",
            "'RNU' is no instruction",
            "did you mean 'RUN'?",
        ),
        ("FROM a\n  COPPY a b", "2:3", "'COPPY'", "'COPY'"),
        ("FROM a\nhello world", "2:1", "'hello'", ""),
        ("FROM", "1:1", "FROM takes", "FROM IMAGE AS NAME"),
        ("FROM a b c", "1:1", "FROM takes", ""),
        ("FROM a AS 1st", "1:11", "cannot name a stage", "letter"),
        (
            "FROM --platfrom=x a",
            "1:6",
            "no flag --platfrom",
            "did you mean --platform?",
        ),
        ("FROM a\nCOPY --form=b c d", "2:6", "no flag --form", "--from"),
        ("FROM a\nRUN --mount true", "2:5", "needs a value", "--mount=VALUE"),
        ("FROM a\nCOPY --link=maybe a b", "2:6", "write true or false", ""),
        ("FROM a\nCOPY --chown=a --chown=b c d", "2:16", "twice", ""),
        ("FROM a\nCOPY a", "2:1", "no destination", "COPY SOURCE DESTINATION"),
        ("FROM a\nCOPY a b c", "2:10", "folder", "c/"),
        ("FROM a\nCOPY --chmod=9 a b", "2:6", "'9' is no mode", "octal"),
        ("FROM a\nCOPY https://x.y/z /", "2:6", "cannot take a URL", "ADD"),
        ("FROM a\nCOPY <<EOF /x\nbody", "2:6", "not ended by a line 'EOF'", "EOF"),
        ("FROM a\nCOPY x <<EOF\nEOF\n", "2:8", "cannot be the destination", ""),
        ("FROM a\nADD --checksum=sha256:1 a b", "2:5", "--checksum needs", ""),
        ("FROM a\nADD --checksum=md5:1 https://x.y/z b", "2:5", "not a valid", ""),
        ("FROM a\nENV", "2:1", "needs a name and a value", "ENV NAME=VALUE"),
        ("FROM a\nENV A", "2:1", "no value", "ENV A=VALUE"),
        ("FROM a\nENV A=1 B", "2:9", "'B' has no '='", "quotes"),
        ("FROM a\nENV =1", "2:5", "name before '='", ""),
        ("FROM a\nENV A='x", "2:5", "single quote is not closed", ""),
        ("FROM a\nENV A=${B", "2:5", "'}' is missing", ""),
        ("FROM a\nENV A=${}", "2:5", "names no variable", ""),
        ("FROM a\nENV A=${B^}", "2:5", "no known way", ""),
        ("FROM a\nENV A=${B:?\"set B\"}", "2:5", "B: set B", ""),
        ("FROM a\nWORKDIR", "2:1", "needs an argument", "WORKDIR /path"),
        ("FROM a\nEXPOSE 80/http", "2:8", "no protocol", "EXPOSE"),
        ("FROM a\nEXPOSE 99999", "2:8", "no port", ""),
        ("FROM a\nSTOPSIGNAL SIGTREM", "2:12", "no signal", "'SIGTERM'"),
        ("FROM a\nSHELL bash", "2:1", "JSON array", "SHELL ["),
        ("FROM a\nCMD [1, 2]", "2:5", "strings only", "double quotes"),
        ("FROM a\nVOLUME [\"\"]", "2:8", "empty", ""),
        ("FROM a\nHEALTHCHECK CURL x", "2:13", "CMD or NONE", ""),
        ("FROM a\nHEALTHCHECK --interval=5 CMD x", "2:13", "no duration", "30s"),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x", "2:13", "--retries=-1", ""),
        ("FROM a\nONBUILD", "2:1", "needs an instruction", ""),
        ("FROM a\nONBUILD FROM b", "2:9", "cannot be a trigger", ""),
        ("FROM a\nONBUILD ONBUILD RUN b", "2:9", "cannot be a trigger", ""),
        ("FROM a\nRUN --network=bridge x", "2:5", "no network", "host"),
        (
            "FROM a\nRUN --mount=type=bnd,target=/x y",
            "2:5",
            "no type of mount",
            "'bind'",
        ),
        ("FROM a\nRUN --mount=type=cache y", "2:5", "needs a target", "target="),
        ("FROM a\nRUN --mount=type=bind,target=/ y", "2:5", "root", ""),
        (
            "FROM a\nRUN --mount=type=cache,targt=/x y",
            "2:5",
            "no 'targt'",
            "'target'",
        ),
        (
            "FROM a\nRUN --mount=type=tmpfs,target=/x,mode=1 y",
            "2:5",
            "means nothing",
            "",
        ),
        ("FROM a\nRUN --mount=from=$X,target=/x y", "2:5", "not replaced", "FROM"),
        ("FROM a\nCOPY --from=$X a b", "2:6", "not replaced", "FROM"),
        ("FROM $NOTHING", "1:6", "is empty", "ARG NOTHING"),
        ("ARG VERSION\nFROM $VERSON", "2:6", "is empty", "$VERSION"),
        ("FROM UPPER/Case", "1:6", "no stage before this one", ""),
        ("FROM --platform=toaster a", "1:6", "no platform", ""),
        ("FROM a AS x\nCOPY --from=x a b", "2:6", "takes from itself", ""),
        (
            "FROM a AS x\nCOPY --from=y a b\nFROM a AS y",
            "2:6",
            "comes later, on line 3",
            "move 'y'",
        ),
        (
            "FROM a AS x\nCOPY --from=y a b\nFROM x AS y",
            "2:6",
            "take from each other",
            "third stage",
        ),
        ("FROM a\nCOPY --from=1 a b", "2:6", "stage 1 is not before", ""),
        (
            "FROM a AS build\nFROM b\nCOPY --from=Buil! a b",
            "3:6",
            "no stage",
            "'build'",
        ),
        ("# escape=x\nFROM a", "1:10", "no escape character", ""),
        ("# escape=`\n# escape=`\nFROM a", "2:10", "twice", ""),
        ("# check=colour=red\nFROM a", "1:9", "no check option", ""),
    ] {
        let found = errors(text, options());
        let first = found.first().unwrap_or_else(|| panic!("no error in {text:?}"));
        let at = first
            .span
            .map(|span| format!("{}:{}", span.line, span.column))
            .unwrap_or_default();
        assert_eq!(at, place, "{text:?}: {first}");
        assert!(first.message.contains(message), "{text:?}: {first}");
        assert!(
            first.help.as_deref().unwrap_or_default().contains(help),
            "{text:?}: {first}"
        );
    }
}

#[test]
fn one_error_does_not_hide_the_next() {
    let found = errors("FROM a\nRNU x\nCOPY a\nENV\nRUN ok\nFROM a b", options());
    let lines: Vec<u32> = found
        .iter()
        .filter_map(|error| error.span)
        .map(|span| span.line)
        .collect();
    assert_eq!(lines, [2, 3, 4, 6]);
}

#[test]
fn an_unknown_target_names_the_stages() {
    let mut wrong = options();
    wrong.target = Some("tset".to_string());
    let found = errors("FROM a AS build\nFROM a AS test", wrong.clone());
    assert_eq!(found[0].help.as_deref(), Some("did you mean 'test'?"));
    wrong.target = Some("deploy".to_string());
    let found = errors("FROM a AS build\nFROM a AS test", wrong);
    assert_eq!(found[0].help.as_deref(), Some("the stages are build, test"));
}

#[test]
fn problems_name_the_file_and_line() {
    let found = errors("FROM a\nRNU x", options());
    assert_eq!(
        found[0].problem("Dockerfile").to_string(),
        "Dockerfile:2: 'RNU' is no instruction (did you mean 'RUN'?)"
    );
}

#[test]
fn a_time_that_is_none_is_refused() {
    let mut wrong = options();
    wrong
        .build_args
        .insert("SOURCE_DATE_EPOCH".to_string(), "yesterday".to_string());
    assert!(errors("FROM a", wrong)[0].message.contains("no time"));
}
