//! Checks that need the whole file but no plan: casing of keywords, names of stages, comments that describe.

use crate::ast::{Dockerfile, Instruction, Kind};
use crate::diagnostic::Rule;
use crate::lint::Lints;

/// Words that mean something as a stage's name.
const RESERVED: &[&str] = &["scratch", "context"];

pub(crate) fn check(dockerfile: &Dockerfile, lints: &mut Lints) {
    casing(dockerfile, lints);
    stage_names(dockerfile, lints);
    let stages = dockerfile
        .stages
        .iter()
        .flat_map(|stage| std::iter::once(&stage.from).chain(&stage.instructions));
    for instruction in dockerfile.arguments.iter().chain(stages) {
        one_instruction(instruction, lints);
    }
}

fn casing(dockerfile: &Dockerfile, lints: &mut Lints) {
    let stages = dockerfile
        .stages
        .iter()
        .flat_map(|stage| std::iter::once(&stage.from).chain(&stage.instructions));
    let instructions: Vec<&Instruction> = stages.collect();
    let is_lower = |text: &str| text == text.to_lowercase();
    let is_upper = |text: &str| text == text.to_uppercase();
    let count = |test: &dyn Fn(&str) -> bool| instructions.iter().filter(|one| test(&one.keyword.text)).count();
    let lower_wins = count(&is_lower) > count(&is_upper);
    for instruction in instructions {
        let keyword = instruction.keyword.text.as_str();
        let (consistent, casing) = if lower_wins {
            (is_lower(keyword), "lowercase")
        } else {
            (is_upper(keyword), "uppercase")
        };
        if !consistent {
            let message = format!("command '{keyword}' should match the case of the command majority ({casing})");
            let options = lints.for_instruction(&instruction.comments);
            lints.add(
                &options,
                Rule::ConsistentInstructionCasing,
                instruction.keyword.span,
                message,
            );
        }
    }
}

fn stage_names(dockerfile: &Dockerfile, lints: &mut Lints) {
    let mut seen: Vec<String> = Vec::new();
    for stage in &dockerfile.stages {
        let Some(name) = &stage.base.name else { continue };
        let options = lints.for_instruction(&stage.from.comments);
        let lower = name.text.to_lowercase();
        if lower != name.text {
            let message = format!("stage name '{}' should be lowercase", name.text);
            lints.add(&options, Rule::StageNameCasing, name.span, message);
        }
        if RESERVED.contains(&lower.as_str()) {
            let message = format!("stage name should not use the same name as reserved stage \"{lower}\"");
            lints.add(&options, Rule::ReservedStageName, name.span, message);
        }
        if seen.contains(&lower) {
            let message = format!("duplicate stage name \"{lower}\", stage names should be unique");
            lints.add(&options, Rule::DuplicateStageName, name.span, message);
        }
        seen.push(lower);
        let (from, word) = (&stage.from.keyword.text, stage.base.as_keyword.as_ref());
        let Some(word) = word else { continue };
        let matches = if *from == from.to_lowercase() {
            word.text == word.text.to_lowercase()
        } else {
            *from != from.to_uppercase() || word.text == word.text.to_uppercase()
        };
        if !matches {
            let message = format!("'{}' and '{from}' keywords' casing do not match", word.text);
            lints.add(&options, Rule::FromAsCasing, word.span, message);
        }
    }
}

fn one_instruction(instruction: &Instruction, lints: &mut Lints) {
    let options = lints.for_instruction(&instruction.comments);
    let (word, names): (&str, Vec<&str>) = match &instruction.kind {
        Kind::Maintainer(_) => {
            let message = "maintainer instruction is deprecated in favor of using label";
            lints.add(&options, Rule::MaintainerDeprecated, instruction.span, message);
            return;
        }
        Kind::From(from) => ("FROM", from.name.iter().map(|name| name.text.as_str()).collect()),
        Kind::Arg(arguments) => ("ARG", arguments.iter().map(|one| one.name.text.as_str()).collect()),
        _ => return,
    };
    let (Some(comment), Some(first)) = (instruction.comments.last(), names.first()) else {
        return;
    };
    let begins = comment.text.split(' ').next().unwrap_or_default();
    if !names.contains(&begins) && !comment.text.starts_with("check=") {
        let name = if names.len() > 1 { "<arg_key>" } else { first };
        let message = format!("comment for {word} should follow the format: `# {name} <description>`");
        lints.add(&options, Rule::InvalidDefinitionDescription, instruction.span, message);
    }
}
