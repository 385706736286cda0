//! Every folder of `tests/cases`: its Dockerfile, and what it comes to in `plan.txt`. `UPDATE_EXPECT=1` writes that anew.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use gantry_dockerfile::{
    AddSource, Base, Diagnostic, Graph, IgnoreRules, Inherited, Operation, ResolvedStage, Rule, check, parse, plan,
};

use super::options;

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let entries = fs::read_dir(root)
        .expect("the cases")
        .map(|entry| entry.expect("an entry").path());
    let mut folders: Vec<PathBuf> = entries.collect();
    folders.sort();
    assert!(folders.len() >= 12);
    folders
}

#[test]
fn dockerfiles_come_to_what_is_expected() {
    let mut different = Vec::new();
    for folder in folders() {
        let shown = show(&folder);
        let file = folder.join("plan.txt");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&file, &shown).expect("written");
        }
        if fs::read_to_string(&file).unwrap_or_default() != shown {
            different.push(format!("{}:\n{shown}", folder.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn what_is_shown_reads_as_the_same() {
    for folder in folders() {
        let text = fs::read_to_string(folder.join("Dockerfile")).expect("a Dockerfile");
        let first = parse(&text).expect("valid").to_string();
        let second = parse(&first).expect("still valid").to_string();
        assert_eq!(first, second, "{}", folder.display());
        // Lines moved, but the operations did not change.
        let keys = |text: &str| -> Vec<String> {
            let graph = plan(&parse(text).expect("valid"), options()).expect("a plan");
            let stages = resolve_all(&graph).into_iter();
            let operations = stages
                .flat_map(|stage| stage.steps)
                .map(|step| format!("{:?}", step.operation));
            operations.collect()
        };
        assert_eq!(keys(&text), keys(&first), "{}", folder.display());
    }
}

fn resolve_all(graph: &Graph) -> Vec<ResolvedStage> {
    let mut resolved: Vec<ResolvedStage> = Vec::new();
    for stage in &graph.stages {
        let inherited = match &stage.base {
            Base::Stage(id) => resolved[id.0 as usize].inherited.clone(),
            Base::Scratch | Base::Image(_) | Base::Context { .. } => Inherited::default(),
        };
        resolved.push(graph.resolve(stage.id, &inherited).expect("resolved"));
    }
    resolved
}

fn show(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("Dockerfile")).expect("a Dockerfile");
    let mut options = options();
    if let Ok(rules) = fs::read_to_string(folder.join("dockerignore")) {
        options.ignore = Some(IgnoreRules::parse(&rules).expect("rules"));
    }
    let dockerfile = parse(&text).unwrap_or_else(|errors| panic!("{}: {errors:?}", folder.display()));
    let mut shown = String::new();
    match plan(&dockerfile, options.clone()) {
        Ok(graph) => {
            for stage in resolve_all(&graph) {
                show_stage(&mut shown, &graph, &stage);
            }
        }
        Err(errors) => {
            for error in errors {
                writeln!(shown, "error {error}").expect("a String");
            }
        }
    }
    let warnings = check(&dockerfile, options);
    for warning in &warnings {
        show_warning(&mut shown, warning);
    }
    if let Some(refusal) = gantry_dockerfile::refusal(&dockerfile.directives.check, &warnings) {
        writeln!(shown, "refused: {}", refusal.message).expect("a String");
    }
    shown
}

fn show_warning(shown: &mut String, warning: &Diagnostic) {
    let span = warning.span.expect("a place");
    let rule = warning.rule.map_or("error", Rule::name);
    writeln!(
        shown,
        "{}:{}-{}:{} {rule}: {}",
        span.line, span.column, span.end_line, span.end_column, warning.message
    )
    .expect("a String");
}

fn show_stage(shown: &mut String, graph: &Graph, resolved: &ResolvedStage) {
    let stage = graph.stage(resolved.id);
    let needed = if graph.needed.contains(&stage.id) {
        ""
    } else {
        " (not needed)"
    };
    let base = match &stage.base {
        Base::Scratch => "scratch".to_string(),
        Base::Stage(id) => format!("stage {}", id.0),
        Base::Image(image) => image.to_string(),
        Base::Context { name, .. } => format!("context {name}"),
    };
    let needs: Vec<u32> = stage.needs.iter().map(|id| id.0).collect();
    writeln!(
        shown,
        "stage {} {} from {base} for {} needs {needs:?}{needed}",
        stage.id.0, stage.name, stage.platform
    )
    .expect("a String");
    if let Some(title) = &resolved.base_title {
        writeln!(shown, "  {title}").expect("a String");
    }
    for step in &resolved.steps {
        writeln!(
            shown,
            "  {} | {}",
            step.title.replace('\n', "⏎"),
            step.history.created_by.replace('\n', "⏎")
        )
        .expect("a String");
        show_operation(shown, &step.operation);
    }
    writeln!(
        shown,
        "  config {}",
        serde_json::to_string(&resolved.config).expect("text keys")
    )
    .expect("a String");
}

fn show_operation(shown: &mut String, operation: &Operation) {
    let mut line = |text: String| writeln!(shown, "      {text}").expect("a String");
    match operation {
        Operation::Config => {}
        Operation::MakeFolder(folder) => line(format!("folder {} of '{}'", folder.path, folder.user)),
        Operation::Run(run) => {
            line(format!("{:?} in {} as '{}'", run.args, run.working_dir, run.user));
            line(format!("env {:?} {:?} {:?}", run.env, run.network, run.security));
            if let Some(script) = &run.script {
                line(format!("{script:?}"));
            }
            for mount in &run.mounts {
                line(format!("{mount:?}"));
            }
        }
        Operation::Copy(copy) => line(format!("{copy:?}")),
        Operation::Add(add) => {
            for source in &add.sources {
                match source {
                    AddSource::Path(path) => line(format!("path {path}")),
                    AddSource::Http {
                        url,
                        file_name,
                        checksum,
                    } => line(format!("{url} as {file_name} {checksum:?}")),
                    AddSource::Git(git) => line(format!("{git:?}")),
                }
            }
            line(format!(
                "to {} {:?} {:?} {:?}",
                add.destination, add.chown, add.exclude, add.unpack
            ));
        }
    }
}
