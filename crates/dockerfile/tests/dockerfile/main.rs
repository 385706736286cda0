//! What Dockerfiles as people write them come to.

mod cases;
mod errors;
mod keys;
mod robust;
mod variables;

use gantry_dockerfile::{Config, Graph, Inherited, PlanOptions, ResolvedStage, StageId, parse, plan};

/// Options of a build for the platform that the cases expect.
fn options() -> PlanOptions {
    PlanOptions::new("linux/amd64".parse().expect("a platform"))
}

/// A base image's configuration with variables.
fn image(env: &[(&str, &str)]) -> Inherited {
    let mut config = Config::default();
    for (name, value) in env {
        config.set_variable(name, value);
    }
    Inherited::image(config)
}

fn graph(text: &str, options: PlanOptions) -> Graph {
    let dockerfile = parse(text).unwrap_or_else(|errors| panic!("{text}\n{errors:?}"));
    plan(&dockerfile, options).unwrap_or_else(|errors| panic!("{text}\n{errors:?}"))
}

/// The last stage, where every stage starts from an image without anything.
fn last(text: &str, options: PlanOptions) -> ResolvedStage {
    let graph = graph(text, options);
    let mut resolved: Vec<ResolvedStage> = Vec::new();
    for stage in &graph.stages {
        let inherited = match &stage.base {
            gantry_dockerfile::Base::Stage(StageId(base)) => resolved[*base as usize].inherited.clone(),
            _ => Inherited::default(),
        };
        let stage = graph.resolve(stage.id, &inherited);
        resolved.push(stage.unwrap_or_else(|errors| panic!("{text}\n{errors:?}")));
    }
    resolved.pop().expect("a stage")
}
